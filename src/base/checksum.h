/* SPDX-License-Identifier: Apache-2.0 */
/*
 * checksum.h: the two sums of the format (docs/format.md, "Checksums").
 *
 * Both are XXH3-64 with the default secret and seed 0. The layer sum is a tree
 * (pages, then the list of page sums), so that a CPU core and a GPU warp
 * compute the same value page by page; every hashed stretch is long enough
 * that XXH3 takes one code path.
 */
#ifndef TUTTI_BASE_CHECKSUM_H
#define TUTTI_BASE_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

#define TUTTI_SUM_PAGE 4096u
#define TUTTI_SUM_MIN_WORDS 32u

/** XXH3-64 of a stretch of memory. */
uint64_t tutti_sum64(const void *data, size_t bytes);

/**
 * tutti_layer_sum() - the checksum of one slot's layer
 * @part: @parts pointers, in order; any alignment
 * @parts: 1..TUTTI_MAX_PARTS
 * @part_bytes: data bytes of each part, strides not included
 *
 * Touches every byte once. Thread-safe, allocates nothing.
 */
uint64_t tutti_layer_sum(const void *const *part, uint32_t parts, uint64_t part_bytes);

#endif
