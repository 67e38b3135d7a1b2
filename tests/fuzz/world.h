/* SPDX-License-Identifier: Apache-2.0 */
/*
 * world.h: what the serving target serves: a small pool in memory, KV memory, and
 * what every block of every chain must hold.
 *
 * A block's bytes follow from its chain, its place in it, and the life: a reset
 * starts a new one, as new weights would, so that what an older life stored
 * shows when it is served.
 */
#ifndef TUTTI_TESTS_FUZZ_WORLD_H
#define TUTTI_TESTS_FUZZ_WORLD_H

#include "tutti/directory.h"
#include "tutti/pool.h"
#include "tutti/serve.h"

enum {
    WORLD_LAYERS = 2,
    WORLD_PARTS = 2,
    WORLD_OBJECT = 600,
    WORLD_BLOCKS = 20,
    WORLD_SLOTS = 6, /* of an extent */
    WORLD_EXTENTS = 4,
    WORLD_CHAINS = 4, /* 2c and 2c + 1 share their first blocks */
    WORLD_SHARED = 3,
    WORLD_LENGTH = 8,
    WORLD_HASH = 8,
};

/**
 * struct world
 * @rules: of engine "fault", or NULL
 * @staged: no engine reaches KV memory
 * @ring_depth: IOCBs
 */
struct world {
    const char *rules;
    bool staged;
    uint32_t ring_depth;
    struct tutti_pool *pool;
    struct tutti_serve *serve;
    struct tutti_directory *directory;
    struct tutti_placement placement;
    uint64_t epoch;
    uint64_t life;
};

/** Once: members, KV memory. Return: 0 or not. */
int world_make(void);
/** A fresh pool of before. */
void world_begin(struct world *w);
/** Open what is in the members, and begin an epoch. */
void world_open(struct world *w);
void world_close(struct world *w);
/** A new life, all before it void. */
void world_reset(struct world *w);

void world_hashes(uint32_t chain, uint8_t hashes[WORLD_LENGTH * WORLD_HASH]);
/** What a chain's block holds, as a number from which all its bytes follow. */
uint64_t world_content(uint64_t life, uint32_t chain, uint32_t index);
void world_fill(uint32_t block, uint64_t content);
/** Whether a layer of a block holds it, to the last byte. */
bool world_holds(uint32_t block, uint32_t layer, uint64_t content);
/** A slot's record, and an object of it, where they lie. */
uint8_t *world_record(const struct world *w, uint32_t slot);
uint8_t *world_object(const struct world *w, uint32_t slot, uint32_t layer, uint32_t part);
/** A slot number: one of those that exist. */
uint32_t world_slot(uint32_t any);

#endif
