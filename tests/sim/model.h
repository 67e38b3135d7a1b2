/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model.h: what must be where, kept beside the product.
 *
 * Bytes of a block follow from its node (a place in a tree of prompts), the
 * version of the weights that computed it, and the rank. Every (slot,
 * generation) that was given out is noted with what was to go there; what the
 * directory finds is compared with that, and what a load brings with the bytes.
 */
#ifndef TUTTI_TESTS_SIM_MODEL_H
#define TUTTI_TESTS_SIM_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tutti/directory.h"

struct rank;

enum block_state { BLOCK_JUNK, BLOCK_HOLDS, BLOCK_LOADING };

/** What a block of a rank's KV memory must hold. */
struct block {
    enum block_state state;
    uint32_t node;
    uint64_t version;
};

/** A slot's generation, as given out. @acked: ranks that said yes. */
struct given {
    struct given *older;
    uint64_t generation;
    uint64_t version;
    uint32_t node;
    uint32_t acked;
    bool refused;
    bool dropped;
    bool unsure; /* found again, but it was not to be: its record may have outlived its data */
};

/** A block's place in the tree of prompts: neighbouring chains share their first half. */
uint32_t model_node(uint32_t chain, uint32_t depth);
void model_hashes(uint32_t chain, uint32_t count, uint8_t *hashes);

void model_fill(struct rank *rank, uint32_t block, uint32_t node, uint64_t version);

/** The bytes of a block, all layers or one, are what they must be; else the run fails. */
void model_check_layer(const struct rank *rank, uint32_t block, uint32_t layer, uint32_t node,
                       uint64_t version, const char *when);
void model_check_block(const struct rank *rank, uint32_t block, const char *when);
void model_check_memory(const struct rank *rank);

/** A command of the rank's disks writes to memory: only a block that is being loaded may be hit. */
void model_memory_read_into(uint32_t rank, const void *memory, size_t bytes);

/** No command of the rank's disks still reads a block's memory. */
void model_check_not_read(const struct rank *rank, uint32_t block);

struct given *model_give(const struct tutti_transfer *t, uint32_t node, uint64_t version);
struct given *model_given(uint32_t slot, uint64_t generation);

/** Everything that must hold between two operations. */
void model_audit(void);

/** What find() says of a chain is right, and monotone. Return: blocks found. */
uint32_t model_check_chain(uint32_t chain, struct tutti_transfer *items);

/** Nothing moves: no pin, no staging, no session, no block being loaded. */
void model_check_idle(void);

#endif
