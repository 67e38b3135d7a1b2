/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fenced member's slots are not found, nor what lies behind them; no new ones are given out
 * there; blocks that are reserved again go elsewhere; the rest is found as before, and all of it
 * when the fence is lifted. With every member fenced nothing is evicted for nothing.
 *
 * Seen to fail with find() that does not walk up, with choose() and choose_longest() that do not
 * look at the fence, with reserve() that takes a fenced slot for present, with a pin that does not
 * look, and without the early return in directory_place().
 */
#include "world.h"

#include <errno.h>

#define MEMBERS 2u
#define EXTENTS 8u
#define PER_EXTENT 64u

static uint32_t member_of(const struct tutti_directory *d, uint32_t number)
{
    return number / d->stride % d->members;
}

/** Blocks before the first one on a member, of a chain that was stored in one go. */
static uint32_t before_member(const struct tutti_directory *d, const struct chain_of *c,
                              uint32_t blocks, uint32_t member)
{
    uint32_t i = 0;

    while (i < blocks && member_of(d, c->out[i].slot) != member)
        i++;
    return i;
}

static void hidden_and_back(void **state)
{
    struct tutti_directory *d = directory_of(EXTENTS, PER_EXTENT, MEMBERS, 1);
    struct chain_of *c = chain_new(1, 120), *other = chain_new(2, 120);
    struct tutti_transfer items[120];
    struct tutti_match match;
    uint32_t whole;

    (void)state;
    assert_int_equal(put_blocks(d, c, 0, 120, false), 120);
    match = match_of(d, c, 120);
    whole = before_member(d, c, 120, 1);
    assert_in_range(whole, 1, 119); /* it goes over both members */
    assert_int_equal(tutti_directory_fence_members(d, 2), 1);
    assert_int_equal(tutti_directory_fence_members(d, 2), 0);
    assert_int_equal(tutti_directory_fence_members(d, 4), -EINVAL);
    audit(d);
    assert_int_equal(stats_of(d).fenced_members, 2);
    assert_int_equal(hit(d, c, 120), whole);
    assert_int_equal(hit(d, c, whole + 1), whole);
    assert_int_equal(tutti_directory_pin(d, &match, 0, items), -ESTALE);
    match = match_of(d, c, 120);
    assert_int_equal(tutti_directory_pin(d, &match, 0, items), 0);
    assert_int_equal(tutti_directory_unpin(d, match.slot, match.generation), 0);

    assert_int_equal(put_blocks(d, other, 0, 120, false), 120);
    assert_int_equal(before_member(d, other, 120, 1), 120);
    assert_int_equal(hit(d, other, 120), 120);
    audit(d);

    assert_int_equal(tutti_directory_fence_members(d, 0), 1);
    audit(d);
    assert_int_equal(hit(d, c, 120), 120);
    assert_int_equal(hit(d, other, 120), 120);
    tutti_directory_free(d);
    free(c);
    free(other);
}

static void stored_again_elsewhere(void **state)
{
    struct tutti_directory *d = directory_of(EXTENTS, PER_EXTENT, MEMBERS, 1);
    struct chain_of *c = chain_new(1, 120);
    uint32_t whole;
    int given;

    (void)state;
    assert_int_equal(put_blocks(d, c, 0, 120, false), 120);
    whole = before_member(d, c, 120, 1);
    tutti_directory_fence_members(d, 2);
    /* Behind a block that cannot be had there is nothing to extend: from the start, then. */
    assert_int_equal(reserve(d, c, 119, 1, true), -ENOENT);
    given = reserve(d, c, 0, 120, false);
    assert_int_equal(given, 120 - whole);
    assert_int_equal(before_member(d, c, (uint32_t)given, 1), given);
    report_all(d, c, given);
    audit(d);
    assert_int_equal(hit(d, c, 120), 120);
    tutti_directory_fence_members(d, 0);
    audit(d);
    assert_int_equal(hit(d, c, 120), 120);
    tutti_directory_free(d);
    free(c);
}

static void nothing_goes_for_nothing(void **state)
{
    struct tutti_directory *d = directory_of(EXTENTS, PER_EXTENT, MEMBERS, 1);
    struct chain_of *c = chain_new(1, 500), *other = chain_new(2, 10);

    (void)state;
    assert_int_equal(put_blocks(d, c, 0, 500, false), 500);
    tutti_directory_fence_members(d, 3);
    assert_int_equal(hit(d, c, 500), 0);
    assert_int_equal(reserve(d, other, 0, 10, false), 0);
    assert_int_equal(stats_of(d).evicted, 0);
    audit(d);
    tutti_directory_fence_members(d, 0);
    assert_int_equal(hit(d, c, 500), 500);
    tutti_directory_free(d);
    free(c);
    free(other);
}

/** A slot whose record is bad has no generation that could be named. */
static void dropped_by_number(void **state)
{
    struct tutti_directory *d = directory_of(EXTENTS, PER_EXTENT, MEMBERS, 1);
    struct chain_of *c = chain_new(1, 10);

    (void)state;
    assert_int_equal(reserve(d, c, 0, 10, false), 10);
    assert_int_equal(tutti_directory_drop(d, c->out[4].slot, 0), 0); /* being written: not bad */
    report_all(d, c, 10);
    assert_int_equal(tutti_directory_drop(d, c->out[4].slot + 300, 0), 0); /* nobody's */
    assert_int_equal(tutti_directory_drop(d, c->out[4].slot, 0), 6);
    assert_int_equal(hit(d, c, 10), 4);
    audit(d);
    tutti_directory_free(d);
    free(c);
}

/** Anything in any order: what is found is healthy to the root, what is given out is too. */
static void at_random(void **state)
{
    struct tutti_directory *d = directory_of(16, 32, 4, 1);
    struct chain_of *c = chain_new(1, 200);
    uint64_t seed = 11;
    uint32_t fenced = 0;

    (void)state;
    for (uint32_t round = 0; round < 3000; round++) {
        uint32_t blocks = 1 + below(&seed, 200);
        struct tutti_transfer items[200];
        struct tutti_match match;
        int given;

        if (below(&seed, 20) == 0) {
            fenced = below(&seed, 16);
            tutti_directory_fence_members(d, fenced);
        }
        chain_name(c, below(&seed, 12), below(&seed, blocks), blocks);
        match = match_of(d, c, blocks);
        if (match.blocks > 0) {
            assert_int_equal(tutti_directory_pin(d, &match, 0, items), 0);
            for (uint32_t i = 0; i < match.blocks; i++)
                assert_false(fenced >> member_of(d, items[i].slot) & 1);
        }
        given = reserve(d, c, 0, blocks, below(&seed, 2));
        for (int i = 0; i < given; i++) {
            assert_false(fenced >> member_of(d, c->out[i].slot) & 1);
            assert_int_equal(tutti_directory_report(d, 0, c->out[i].slot, c->out[i].generation,
                                                    below(&seed, 50) != 0),
                             0);
        }
        if (match.blocks > 0)
            assert_int_equal(tutti_directory_unpin(d, match.slot, match.generation), 0);
        if (round % 16 == 0)
            audit(d);
    }
    tutti_directory_fence_members(d, 0);
    audit(d);
    tutti_directory_free(d);
    free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hidden_and_back),
        cmocka_unit_test(stored_again_elsewhere),
        cmocka_unit_test(nothing_goes_for_nothing),
        cmocka_unit_test(dropped_by_number),
        cmocka_unit_test(at_random),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
