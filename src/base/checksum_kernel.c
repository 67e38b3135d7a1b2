/* SPDX-License-Identifier: Apache-2.0 */
/*
 * checksum_kernel.c: the sums for one instruction set.
 *
 * Compiled once per instruction set (src/meson.build gives -m flags and
 * TUTTI_SUM_VARIANT); checksum.c chooses at run time. Knows nothing but memory.
 */
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/checksum.h"

#define JOIN2(a, b) a##b
#define JOIN(a, b) JOIN2(a, b)
#define SUM64 JOIN(tutti_sum64_, TUTTI_SUM_VARIANT)
#define LAYER_SUM JOIN(tutti_layer_sum_, TUTTI_SUM_VARIANT)

enum { ROOT_WORDS = 512 };

uint64_t SUM64(const void *data, size_t bytes);
uint64_t LAYER_SUM(const void *const *part, uint32_t parts, uint64_t part_bytes);

uint64_t SUM64(const void *data, size_t bytes)
{
    return XXH3_64bits(data, bytes);
}

static uint64_t page_sum(const unsigned char *page, uint64_t bytes)
{
    unsigned char whole[TUTTI_SUM_PAGE];

    if (bytes >= TUTTI_SUM_PAGE)
        return XXH3_64bits(page, TUTTI_SUM_PAGE);
    memcpy(whole, page, bytes);
    memset(whole + bytes, 0, TUTTI_SUM_PAGE - bytes);
    return XXH3_64bits(whole, TUTTI_SUM_PAGE);
}

uint64_t LAYER_SUM(const void *const *part, uint32_t parts, uint64_t part_bytes)
{
    uint64_t root[ROOT_WORDS];
    uint64_t words = 1;
    uint32_t used = 0;
    XXH3_state_t state;

    XXH3_64bits_reset(&state);
    root[used++] = part_bytes * parts;
    for (uint32_t p = 0; p < parts; p++) {
        const unsigned char *at = part[p];

        for (uint64_t left = part_bytes; left > 0; words++) {
            uint64_t step = left < TUTTI_SUM_PAGE ? left : TUTTI_SUM_PAGE;

            if (used == ROOT_WORDS) {
                XXH3_64bits_update(&state, root, sizeof(root));
                used = 0;
            }
            root[used++] = page_sum(at, step);
            at += step;
            left -= step;
        }
    }
    for (; words < TUTTI_SUM_MIN_WORDS; words++)
        root[used++] = 0;
    XXH3_64bits_update(&state, root, used * sizeof(root[0]));
    return XXH3_64bits_digest(&state);
}
