/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Capacity is exact: every slot can be used, none twice, and free + writing +
 * visible + foreign + leaving is the pool at any time (stats_of() asserts it).
 * Slot numbers that name no slot (an extent has more records than slots) are
 * never given. A reservation that gets no room ends there: what it gave is a
 * prefix. (cases.md row 18.)
 *
 * Seen to fail with slot_number() without the gap, with a placed piece not
 * given back, and with all of the allowance evicted by the first call.
 */
#include "world.h"

#include <errno.h>

static void every_slot_once(void **state)
{
    struct tutti_directory_options o = options_of(5, 9, 2, 1);
    struct tutti_directory *d;
    struct chain_of *c = chain_new(1, 100);
    bool seen[5 * 16] = {false};
    int i;

    (void)state;
    o.placement.records_per_extent = 16;
    assert_int_equal(tutti_directory_new(&o, &d, NULL), 0);
    assert_int_equal(tutti_directory_begin_epoch(d, 1, false, NULL, NULL), 0);
    assert_int_equal(reserve(d, c, 0, 100, false), 45);
    for (i = 0; i < 45; i++) {
        assert_true(tutti_slot_valid(&o.placement, c->out[i].slot));
        assert_false(seen[c->out[i].slot]);
        seen[c->out[i].slot] = true;
        assert_int_equal(c->index[i], i);
    }
    assert_int_equal(stats_of(d).writing, 45);
    assert_int_equal(stats_of(d).refused, 1);
    assert_int_equal(reserve(d, c, 45, 10, false), 0);
    report_all(d, c, 45);
    assert_int_equal(stats_of(d).visible, 45);
    assert_int_equal(hit(d, c, 100), 45);
    audit(d);
    tutti_directory_free(d);
    free(c);
}

static void turned_over(void **state)
{
    struct tutti_directory *d = directory_of(4, 10, 1, 1);
    struct chain_of *c = chain_new(1, 60);
    uint64_t seed = 5;
    uint32_t i;

    (void)state;
    for (i = 1; i < 2000; i++) {
        uint32_t blocks = 1 + below(&seed, 40);

        chain_name(c, i, 0, blocks);
        assert_int_equal(put_blocks(d, c, 0, blocks, below(&seed, 2)), blocks);
        assert_int_equal(hit(d, c, blocks), blocks);
        assert_true(stats_of(d).visible <= 40);
    }
    audit(d);
    tutti_directory_free(d);
    free(c);
}

/* Eviction ahead of need is paid for a bit at a time, not by the first call. */
static void allowance_by_and_by(void **state)
{
    struct tutti_directory *d = directory_of(64, 1000, 1, 1);
    struct chain_of *c = chain_new(1, 1000);
    uint32_t i;

    (void)state;
    d->spare = 0;
    for (i = 1; i <= 64; i++) {
        chain_name(c, i, 0, 1000);
        assert_int_equal(put_blocks(d, c, 0, 1000, false), 1000);
    }
    assert_int_equal(stats_of(d).free, 0);
    d->spare = 2000; /* as after a start with a full pool */
    chain_name(c, 100, 0, 1000);
    assert_int_equal(put_blocks(d, c, 0, 1, false), 1);
    assert_in_range(stats_of(d).evicted, 1, 4 * d->run_slots);
    for (i = 200; i < 210; i++) {
        chain_name(c, i, 0, 500);
        assert_int_equal(put_blocks(d, c, 0, 500, false), 500);
    }
    assert_in_range(stats_of(d).free, 1500, 2500);
    audit(d);
    tutti_directory_free(d);
    free(c);
}

/* The same hash twice is no chain: it ends before, and nothing leaks. */
static void no_chain(void **state)
{
    struct tutti_directory *d = directory_of(4, 10, 1, 1);
    struct chain_of *c = chain_new(1, 10);

    (void)state;
    memcpy(c->hash + 6 * HASH_BYTES, c->hash + 2 * HASH_BYTES, HASH_BYTES);
    assert_int_equal(reserve(d, c, 0, 10, false), 6);
    audit(d);
    assert_int_equal(stats_of(d).free, 34);
    assert_int_equal(reserve(d, c, 7, 1, false), -ENOENT);
    report_all(d, c, 6);
    assert_int_equal(hit(d, c, 10), 6);
    audit(d);
    tutti_directory_free(d);
    free(c);
}

static void nothing_asked(void **state)
{
    struct tutti_directory *d = directory_of(4, 10, 1, 1);
    struct chain_of *c = chain_new(1, 10);
    struct tutti_match match;

    (void)state;
    assert_int_equal(reserve(d, c, 0, 0, true), 0);
    assert_int_equal(hit(d, c, 0), 0);
    assert_int_equal(tutti_directory_find(d, c->hash, 0, 1, &match), -EINVAL);
    assert_int_equal(tutti_directory_find(d, c->hash, 33, 1, &match), -EINVAL);
    assert_int_equal(reserve(d, c, UINT32_MAX, 2, false), -EINVAL);
    assert_int_equal(reserve(d, c, 1, 2, false), -ENOENT);
    assert_int_equal(stats_of(d).free, 40);
    audit(d);
    tutti_directory_free(d);
    free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_slot_once),
                                       cmocka_unit_test(turned_over),
                                       cmocka_unit_test(allowance_by_and_by),
                                       cmocka_unit_test(no_chain), cmocka_unit_test(nothing_asked)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
