/* SPDX-License-Identifier: Apache-2.0 */
/*
 * world.h: small directories and chains of hashes for the tests of this folder.
 */
#ifndef TESTS_DIRECTORY_WORLD_H
#define TESTS_DIRECTORY_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "directory/internal.h"

#define HASH_BYTES 32u
#define MAX_CHAIN 4096u

/** A reproducible stream of numbers (splitmix64). */
static inline uint64_t draw(uint64_t *seed)
{
    uint64_t z = *seed += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static inline uint32_t below(uint64_t *seed, uint32_t limit)
{
    return (uint32_t)(draw(seed) % limit);
}

/** The engine's hash of a block: whatever @name and @depth make of it. */
static inline void hash_fill(uint8_t *hash, uint64_t name, uint32_t depth)
{
    uint64_t seed = name * 1000003u + depth;
    uint32_t i;

    for (i = 0; i < HASH_BYTES; i += 8) {
        uint64_t word = draw(&seed);

        memcpy(hash + i, &word, 8);
    }
}

/** A chain's hashes, and the arrays that calls want. */
struct chain_of {
    uint8_t hash[MAX_CHAIN * HASH_BYTES];
    struct tutti_transfer out[MAX_CHAIN];
    struct tutti_origin origin[MAX_CHAIN];
    uint32_t index[MAX_CHAIN];
};

/** Blocks [from, to) of the chain are those of sequence @name. */
static inline void chain_name(struct chain_of *c, uint64_t name, uint32_t from, uint32_t to)
{
    uint32_t i;

    assert_true(to <= MAX_CHAIN);
    for (i = from; i < to; i++)
        hash_fill(c->hash + (size_t)i * HASH_BYTES, name, i);
}

static inline struct chain_of *chain_new(uint64_t name, uint32_t blocks)
{
    struct chain_of *c = calloc(1, sizeof(*c));

    assert_non_null(c);
    chain_name(c, name, 0, blocks);
    return c;
}

static inline struct tutti_directory_options options_of(uint32_t extents, uint32_t per_extent,
                                                        uint32_t members, uint32_t ranks)
{
    struct tutti_directory_options o = {0};

    o.geometry = (struct tutti_geometry){
        .layers = 4, .parts = 2, .object_bytes = 16384, .block_tokens = 16, .layout_tag = 1};
    o.placement = (struct tutti_placement){.object_bytes = 16384,
                                           .object_stride = 16384,
                                           .record_stride = 512,
                                           .alignment = 512,
                                           .records_per_extent = per_extent,
                                           .slots_per_extent = per_extent,
                                           .extents = extents,
                                           .members = members,
                                           .layers = 4,
                                           .parts = 2};
    o.ranks = ranks;
    memset(o.secret, 7, sizeof(o.secret));
    memset(o.identity, 1, sizeof(o.identity));
    return o;
}

static inline void audit(const struct tutti_directory *d)
{
    struct tutti_error err = {0};

    if (tutti_directory_audit(d, &err) != 0)
        fail_msg("%s", err.message);
}

/** A directory in its first epoch. */
static inline struct tutti_directory *directory_of(uint32_t extents, uint32_t per_extent,
                                                   uint32_t members, uint32_t ranks)
{
    struct tutti_directory_options o = options_of(extents, per_extent, members, ranks);
    struct tutti_directory *d;

    assert_int_equal(tutti_directory_new(&o, &d, NULL), 0);
    assert_int_equal(tutti_directory_begin_epoch(d, 1, false, NULL, NULL), 0);
    audit(d);
    return d;
}

static inline int reserve(struct tutti_directory *d, struct chain_of *c, uint32_t first,
                          uint32_t count, bool grows)
{
    return tutti_directory_reserve(d, c->hash, HASH_BYTES, first, count, grows, c->out, c->origin,
                                   c->index);
}

/** Every rank says yes to the first @given entries of the chain's last reservation. */
static inline void report_all(struct tutti_directory *d, const struct chain_of *c, int given)
{
    uint32_t rank;
    int i;

    for (i = 0; i < given; i++)
        for (rank = 0; rank < d->options.ranks; rank++)
            assert_int_equal(
                tutti_directory_report(d, rank, c->out[i].slot, c->out[i].generation, true), 0);
}

/** Reserve and report: the chain's blocks [first, first + count) become visible. */
static inline int put_blocks(struct tutti_directory *d, struct chain_of *c, uint32_t first,
                             uint32_t count, bool grows)
{
    int given = reserve(d, c, first, count, grows);

    assert_true(given >= 0);
    report_all(d, c, given);
    return given;
}

static inline struct tutti_match match_of(const struct tutti_directory *d, const struct chain_of *c,
                                          uint32_t count)
{
    struct tutti_match match;

    assert_int_equal(tutti_directory_find(d, c->hash, HASH_BYTES, count, &match), 0);
    return match;
}

static inline uint32_t hit(const struct tutti_directory *d, const struct chain_of *c,
                           uint32_t count)
{
    return match_of(d, c, count).blocks;
}

static inline struct tutti_directory_stats stats_of(const struct tutti_directory *d)
{
    struct tutti_directory_stats s;

    tutti_directory_stats(d, &s);
    assert_int_equal(s.free + s.writing + s.visible + s.foreign + s.leaving, s.slots);
    return s;
}

#endif
