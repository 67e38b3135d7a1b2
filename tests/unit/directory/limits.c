/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A directory at its limits: numbers that stop at their maximum and do not wrap, 64 ranks, slots
 * that are nearly nothing, extents of another shape that are used before anything is evicted,
 * and what a call finds in a directory that is broken.
 * Seen to fail with marks of use that wrap, with all_ranks of 64 ranks shifted by 64, and without
 * directory_take_back() in the eviction ahead.
 */
#include "world.h"

#include <errno.h>

static void marks_of_use_stop(void **state)
{
    struct tutti_directory *d = directory_of(4, 10, 1, 1);
    struct chain_of *c = chain_new(1, 2);
    struct tutti_match m;
    (void)state;

    assert_int_equal(put_blocks(d, c, 0, 2, false), 2);
    m = match_of(d, c, 2);
    for (uint32_t i = 0; i < UINT16_MAX + 10u; i++) {
        assert_int_equal(tutti_directory_pin(d, &m, 0, c->out), 0);
        assert_int_equal(tutti_directory_unpin(d, m.slot, m.generation), 0);
    }
    assert_int_equal(d->slot[1].touches, UINT16_MAX);
    d->slot[0].touches = 5;
    assert_int_equal(tutti_directory_drop(d, c->out[1].slot, c->out[1].generation), 1);
    assert_int_equal(d->slot[0].touches, UINT16_MAX); /* handed on */
    audit(d);
    free(c);
    tutti_directory_free(d);
}

static void counters_do_not_wrap(void **state)
{
    struct tutti_directory *d = directory_of(4, 10, 1, 1);
    struct chain_of *c = chain_new(1, 4);
    struct tutti_match m;
    (void)state;

    assert_int_equal(put_blocks(d, c, 0, 2, false), 2);
    m = match_of(d, c, 2);
    d->slot[1].pins = UINT32_MAX;
    assert_int_equal(tutti_directory_pin(d, &m, 0, c->out), -EOVERFLOW);
    d->slot[1].pins = 0;
    d->counter = (UINT64_C(1) << TUTTI_EPOCH_SHIFT) - 2;
    assert_int_equal(put_blocks(d, c, 2, 2, false), 1); /* the last generation of this epoch */
    assert_int_equal(stats_of(d).refused, 1);
    assert_int_equal(tutti_generation_epoch(c->out[0].generation), 1);
    audit(d);
    assert_int_equal(tutti_directory_begin_epoch(d, 2, false, NULL, NULL), 0);
    assert_int_equal(put_blocks(d, c, 3, 1, false), 1);
    assert_int_equal(hit(d, c, 4), 4);
    free(c);
    tutti_directory_free(d);
}

/** A pin gives no transfer of a chain whose links are wrong; a key that is nowhere takes no other
 * with it. */
static void broken_is_not_followed(void **state)
{
    struct tutti_directory *d = directory_of(4, 10, 1, 1);
    struct chain_of *c = chain_new(1, 3);
    struct tutti_match m;
    (void)state;

    assert_int_equal(put_blocks(d, c, 0, 3, false), 3);
    m = match_of(d, c, 3);
    d->slot[1].depth = 5;
    assert_int_equal(tutti_directory_pin(d, &m, 0, c->out), -EUCLEAN);
    d->slot[1].depth = 1;
    d->slot[1].parent = NONE;
    assert_int_equal(tutti_directory_pin(d, &m, 0, c->out), -EUCLEAN);
    d->slot[1].parent = 0;
    audit(d);
    assert_int_equal(d->pinned, 0);

    d->slot[2].key.word[0] ^= 1;
    assert_int_equal(tutti_directory_drop(d, m.slot, m.generation), 1);
    assert_int_equal(d->cells_used, 3);
    assert_int_equal(tutti_directory_audit(d, NULL), -EUCLEAN);
    assert_int_equal(hit(d, c, 2), 2);
    free(c);
    tutti_directory_free(d);
}

static void all_of_64_ranks(void **state)
{
    struct tutti_directory *d = directory_of(4, 10, 1, 64);
    struct chain_of *c = chain_new(1, 1);
    (void)state;

    assert_int_equal(reserve(d, c, 0, 1, false), 1);
    for (uint32_t rank = 0; rank < 64; rank++) {
        assert_int_equal(hit(d, c, 1), 0);
        assert_int_equal(
            tutti_directory_report(d, rank, c->out[0].slot, c->out[0].generation, true), 0);
    }
    assert_int_equal(hit(d, c, 1), 1);
    audit(d);
    free(c);
    tutti_directory_free(d);
}

/** Slot numbers that name no slot, in extents of fewer slots than records. */
static void numbers_of_no_slot(void **state)
{
    struct tutti_directory_options o = options_of(4, 10, 1, 1);
    struct tutti_directory *d;
    (void)state;

    o.placement.records_per_extent = 12;
    assert_int_equal(tutti_directory_new(&o, &d, NULL), 0);
    assert_int_equal(tutti_directory_unpin(d, 10, 0), -EINVAL);
    assert_int_equal(tutti_directory_unpin(d, 48, 0), -EINVAL);
    assert_int_equal(tutti_directory_unpin(d, UINT32_MAX, 0), -EINVAL);
    tutti_directory_free(d);
}

static void sizes(void **state)
{
    struct tutti_directory_options o = options_of(64, 64, 1, 1);
    struct tutti_directory *d;
    struct tutti_error err = {0};
    const size_t counts[1] = {UINT32_MAX};
    const struct tutti_scan_entry *none[1] = {NULL};
    (void)state;

    o.placement.object_stride = o.placement.object_bytes = 512;
    assert_int_equal(tutti_directory_new(&o, &d, NULL), 0);
    assert_int_equal(d->run_slots, 64); /* an extent's: 128 were wanted */
    assert_int_equal(tutti_directory_load(d, none, counts, &err), -EINVAL);
    assert_non_null(strstr(err.message, "4294967295 entries"));
    tutti_directory_free(d);
    o.placement.object_stride = o.placement.object_bytes = 0; /* a slot of nothing is a slot */
    assert_int_equal(tutti_directory_new(&o, &d, NULL), 0);
    assert_int_equal(d->run_slots, 8);
    tutti_directory_free(d);
    o = options_of(64, 64, 2, 1);
    o.placement.object_stride = o.placement.object_bytes = 1u << 20;
    o.run_slots = 2;
    assert_int_equal(tutti_directory_new(&o, &d, NULL), 0);
    assert_int_equal(d->run_cap, 4); /* a stripe is no shorter, however large its slots */
    tutti_directory_free(d);
    o = options_of(1u << 20, 1, 1, 1);
    o.placement.records_per_extent = 4096;
    assert_int_equal(tutti_directory_new(&o, &d, &err), -EINVAL);
    assert_non_null(strstr(err.message, "4096 records"));
}

/** Ranks that hold a slot under one generation and two keys do not hold the same. */
static void keys_of_ranks_differ(void **state)
{
    struct tutti_directory_options o = options_of(4, 10, 1, 2);
    struct tutti_scan_entry e[2] = {0};
    const struct tutti_scan_entry *ranks[2] = {&e[0], &e[1]};
    const size_t counts[2] = {1, 1};
    struct tutti_directory *d;
    (void)state;

    for (uint32_t differ = 0; differ < 2; differ++) {
        assert_int_equal(tutti_directory_new(&o, &d, NULL), 0);
        for (int r = 0; r < 2; r++) {
            e[r] = (struct tutti_scan_entry){.generation = UINT64_C(1) << TUTTI_EPOCH_SHIFT | 1,
                                             .geometry = d->geometry_digest,
                                             .key = {{1, 2 + (uint64_t)r * differ}}};
            memcpy(e[r].identity, o.identity, sizeof(e[r].identity));
        }
        assert_int_equal(tutti_directory_load(d, ranks, counts, NULL), 0);
        assert_int_equal(stats_of(d).visible, 1 - differ);
        audit(d);
        tutti_directory_free(d);
    }
}

/** An extent of another shape is taken back before anything of ours is evicted. */
static void taken_back_first(void **state)
{
    enum { PER = 64, ALL = 32 };
    struct tutti_directory_options o = options_of(ALL, PER, 1, 1);
    struct tutti_scan_entry e = {.slot = 5, .geometry = 99, .generation = 1, .incarnation = 7};
    const struct tutti_scan_entry *ranks[1] = {&e};
    const size_t counts[1] = {1};
    struct chain_of *c = chain_new(1, 1);
    struct tutti_directory *d;
    (void)state;

    e.generation |= UINT64_C(1) << TUTTI_EPOCH_SHIFT;
    assert_int_equal(tutti_directory_new(&o, &d, NULL), 0);
    assert_int_equal(tutti_directory_load(d, ranks, counts, NULL), 0);
    assert_int_equal(stats_of(d).foreign, PER);
    assert_int_equal(tutti_directory_begin_epoch(d, 2, false, NULL, NULL), 0);
    for (uint32_t name = 1; d->open_count >= d->spare; name++) {
        chain_name(c, name, 0, 16);
        assert_int_equal(put_blocks(d, c, 0, 16, false), 16);
    }
    assert_int_equal(stats_of(d).foreign, PER);
    chain_name(c, 1000, 0, 16);
    assert_int_equal(put_blocks(d, c, 0, 16, false), 16);
    assert_int_equal(stats_of(d).foreign, 0);
    assert_int_equal(stats_of(d).evicted, 0);
    assert_int_equal(d->extent[0].incarnation, 8);
    audit(d);
    free(c);
    tutti_directory_free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(marks_of_use_stop),      cmocka_unit_test(counters_do_not_wrap),
        cmocka_unit_test(broken_is_not_followed), cmocka_unit_test(all_of_64_ranks),
        cmocka_unit_test(numbers_of_no_slot),     cmocka_unit_test(sizes),
        cmocka_unit_test(keys_of_ranks_differ),   cmocka_unit_test(taken_back_first),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
