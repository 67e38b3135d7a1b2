/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sums.h: the checksum of one slot's layer by a warp: the value that
 * base/checksum.h computes (docs/format.md, "Checksums").
 *
 * XXH3-64 with its default secret and seed 0, for lengths above 240 (which all
 * of ours are), from its published description: eight accumulators, each a
 * lane's, so that eight lanes hash a page together and read 64 bytes side by
 * side, and a warp hashes four pages at a time. All lanes call together.
 */
#ifndef TUTTI_DEVICE_KERNELS_SUMS_H
#define TUTTI_DEVICE_KERNELS_SUMS_H

#include <string.h>

#include "device/kernels/io.h"
#include "device/kernels/warp.h"

#define SUM_PAGE 4096u
#define SUM_LEAST_WORDS 32u
#define SUM_STRIPE 64u
#define SUM_BLOCK 1024u /* sixteen stripes, then the accumulators are scrambled */

#define SUM_P32_1 UINT64_C(0x9e3779b1)
#define SUM_P32_2 UINT64_C(0x85ebca77)
#define SUM_P32_3 UINT64_C(0xc2b2ae3d)
#define SUM_P64_1 UINT64_C(0x9e3779b185ebca87)
#define SUM_P64_2 UINT64_C(0xc2b2ae3d27d4eb4f)
#define SUM_P64_3 UINT64_C(0x165667b19e3779f9)
#define SUM_P64_4 UINT64_C(0x85ebca77c2b2ae63)
#define SUM_MIX UINT64_C(0x165667919e3779f9)
#define SUM_P64_5 UINT64_C(0x27d4eb2f165667c5)

/* The default secret, 192 bytes. */
TUTTI_TABLE uint64_t sum_secret[24] = {
    UINT64_C(0xbe4ba423396cfeb8), UINT64_C(0x1cad21f72c81017c), UINT64_C(0xdb979083e96dd4de),
    UINT64_C(0x1f67b3b7a4a44072), UINT64_C(0x78e5c0cc4ee679cb), UINT64_C(0x2172ffcc7dd05a82),
    UINT64_C(0x8e2443f7744608b8), UINT64_C(0x4c263a81e69035e0), UINT64_C(0xcb00c391bb52283c),
    UINT64_C(0xa32e531b8b65d088), UINT64_C(0x4ef90da297486471), UINT64_C(0xd8acdea946ef1938),
    UINT64_C(0x3f349ce33f76faa8), UINT64_C(0x1d4f0bc7c7bbdcf9), UINT64_C(0x3159b4cd4be0518a),
    UINT64_C(0x647378d9c97e9fc8), UINT64_C(0xc3ebd33483acc5ea), UINT64_C(0xeb6313faffa081c5),
    UINT64_C(0x49daf0b751dd0d17), UINT64_C(0x9e68d429265516d3), UINT64_C(0xfca1477d58be162b),
    UINT64_C(0xce31d07ad1b8f88f), UINT64_C(0x280416958f3acb45), UINT64_C(0x7e404bbbcafbd7af)};

TUTTI_TABLE uint64_t sum_begin[IO_GROUP] = {SUM_P32_3, SUM_P64_1, SUM_P64_2, SUM_P64_3,
                                            SUM_P64_4, SUM_P32_2, SUM_P64_5, SUM_P32_1};

/** Eight bytes of the secret, from any byte on. */
TUTTI_KERNEL uint64_t sum_secret_at(uint32_t at)
{
    uint32_t word = at / 8, shift = at % 8 * 8;

    return shift ? sum_secret[word] >> shift | sum_secret[word + 1] << (64 - shift)
                 : sum_secret[word];
}

/**
 * struct sum_source - what is hashed, in words
 * @data: bytes that a drive wrote, at any alignment; what lies beyond @valid counts as zero
 * @words: or, where @data is NULL, words that lanes of this warp wrote, zero from @valid on
 */
struct sum_source {
    const uint8_t *data;
    const uint64_t *words;
    uint64_t valid;
};

TUTTI_KERNEL uint64_t sum_word(const struct sum_source *s, uint64_t at)
{
    uint64_t value = 0;

    if (!s->data)
        return at / 8 < s->valid ? tutti_word64_load(s->words + at / 8) : 0;
    if (at + 8 <= s->valid && ((uintptr_t)s->data + at) % 8 == 0) {
        memcpy(&value, __builtin_assume_aligned(s->data + at, 8), 8);
        return value;
    }
    for (uint32_t i = 0; i < 8 && at + i < s->valid; i++)
        value |= (uint64_t)s->data[at + i] << (8 * i);
    return value;
}

/** Lane @j of eight takes its words of the stripe at @at. */
TUTTI_KERNEL uint64_t sum_stripe(const struct sum_source *s, uint64_t at, uint32_t secret,
                                 uint32_t j, uint64_t accumulator)
{
    uint64_t key = sum_word(s, at + 8 * j) ^ sum_secret_at(secret + 8 * j);

    return accumulator + sum_word(s, at + 8 * (j ^ 1)) + (key & 0xffffffff) * (key >> 32);
}

TUTTI_KERNEL uint64_t sum_fold(uint64_t a, uint64_t b)
{
    return (a * b) ^ warp_high64(a, b);
}

/** What is left of eight accumulators; the same for all lanes of a group. */
TUTTI_KERNEL uint64_t sum_merge(uint64_t accumulator, uint64_t bytes)
{
    uint32_t lane = warp_lane(), j = lane % IO_GROUP;
    uint64_t mine = accumulator ^ sum_secret_at(11 + 8 * j);
    uint64_t product = sum_fold(mine, warp_shuffle64(WARP_ALL, mine, lane ^ 1));
    uint64_t sum = bytes * SUM_P64_1;

    for (uint32_t i = 0; i < IO_GROUP; i += 2)
        sum += warp_shuffle64(WARP_ALL, product, lane - j + i);
    sum ^= sum >> 37;
    sum *= SUM_MIX;
    return sum ^ sum >> 32;
}

/** XXH3-64 of @bytes (a multiple of 8, above 240, the same in all lanes) of a source a group. */
TUTTI_KERNEL uint64_t sum_of(const struct sum_source *s, uint64_t bytes)
{
    uint32_t j = warp_lane() % IO_GROUP;
    uint64_t accumulator = sum_begin[j];
    uint64_t blocks = (bytes - 1) / SUM_BLOCK;
    uint64_t stripes = (bytes - 1) / SUM_STRIPE;

    for (uint64_t i = 0; i < stripes; i++) {
        uint32_t in_block = (uint32_t)(i % (SUM_BLOCK / SUM_STRIPE));

        accumulator = sum_stripe(s, i * SUM_STRIPE, 8 * in_block, j, accumulator);
        if (in_block == SUM_BLOCK / SUM_STRIPE - 1 && i / (SUM_BLOCK / SUM_STRIPE) < blocks)
            accumulator =
                (accumulator ^ accumulator >> 47 ^ sum_secret_at(128 + 8 * j)) * SUM_P32_1;
    }
    accumulator = sum_stripe(s, bytes - SUM_STRIPE, 121, j, accumulator);
    return sum_merge(accumulator, bytes);
}

/** Where a page of a position lies: pages of part 0, then of part 1, ... */
TUTTI_KERNEL struct sum_source sum_page(const struct tutti_kv_plane *planes, uint32_t block,
                                        uint64_t object_bytes, uint64_t page)
{
    uint64_t pages = (object_bytes + SUM_PAGE - 1) / SUM_PAGE;
    const struct tutti_kv_plane *plane = &planes[page / pages];
    uint64_t at = page % pages * SUM_PAGE;
    struct sum_source s;

    s.data = (const uint8_t *)(uintptr_t)(plane->base + block * plane->block_stride + at);
    s.words = NULL;
    s.valid = object_bytes - at < SUM_PAGE ? object_bytes - at : SUM_PAGE;
    return s;
}

/**
 * sum_layer() - the checksum of one slot's layer
 * @root: scratch of 1 + all pages words
 *
 * By the whole warp; @planes, @parts, @block and @object_bytes are the same in all lanes. Its data
 * was acquired, and warp_sync() called, before. Return: the same in all lanes.
 */
TUTTI_KERNEL uint64_t sum_layer(const struct tutti_kv_plane *planes, uint32_t parts, uint32_t block,
                                uint64_t object_bytes, uint64_t *root)
{
    uint32_t group = warp_lane() / IO_GROUP;
    uint64_t pages = (object_bytes + SUM_PAGE - 1) / SUM_PAGE * parts;
    uint64_t words = 1 + pages;
    struct sum_source s;

    if (warp_lane() == 0)
        tutti_word64_store(root, object_bytes * parts);
    for (uint64_t first = 0; first < pages; first += WARP_LANES / IO_GROUP) {
        uint64_t page = first + group, sum;

        s = sum_page(planes, block, object_bytes, page < pages ? page : 0);
        sum = sum_of(&s, SUM_PAGE);
        if (page < pages && warp_lane() % IO_GROUP == 0)
            tutti_word64_store(root + 1 + page, sum);
    }
    warp_sync(WARP_ALL); /* page sums, with their readers below */
    s.data = NULL;
    s.words = root;
    s.valid = words;
    if (words < SUM_LEAST_WORDS)
        words = SUM_LEAST_WORDS;
    words = sum_of(&s, 8 * words);
    warp_sync(WARP_ALL); /* all have read: the next position may write there */
    return words;
}

#endif
