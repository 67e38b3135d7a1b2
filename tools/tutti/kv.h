/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kv.h: KV memory as an engine would have it, with content that can be told.
 *
 * Every 8 bytes are a function of (seed, layer, part, block, place), so what
 * came back is compared without keeping a copy, and no two blocks are alike.
 */
#ifndef TOOLS_KV_H
#define TOOLS_KV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tutti/error.h"
#include "tutti/geometry.h"

/**
 * struct kv - memory of a number of blocks
 * @bytes: of KV (layers x parts x blocks x object_bytes)
 * @memory, @memory_bytes: what was allocated; may be larger
 * @huge: in huge pages
 * @planes: layers x parts
 */
struct kv {
    struct tutti_geometry geometry;
    uint32_t blocks;
    uint64_t bytes;
    uint8_t *memory;
    size_t memory_bytes;
    bool huge;
    struct tutti_kv_plane *planes;
};

/**
 * kv_open() - allocate, in huge pages where there are any
 * @least: bytes to have at least
 * @apart: a layer's parts in tensors of their own ([part][block]), else side
 *   by side in each block ([block][part])
 */
int kv_open(struct kv *kv, const struct tutti_geometry *geometry, uint32_t blocks, uint64_t least,
            bool apart, struct tutti_error *err);
void kv_close(struct kv *kv);

/** Content of blocks [first, first + count) of the chain into the memory blocks at @block. */
void kv_fill(const struct kv *kv, uint64_t seed, uint32_t first, uint32_t count,
             const uint32_t *block);

/** Overwrite all of it with what no block contains. */
void kv_poison(const struct kv *kv);

/** Bytes that are not what kv_fill() would put there. */
uint64_t kv_wrong(const struct kv *kv, uint64_t seed, uint32_t first, uint32_t count,
                  const uint32_t *block);

#endif
