/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decode does not make runs of one: sequences that grow in turn, a block at a
 * time, each find the slots behind their last one held for them, in a pool with
 * room and in a full one. Holds give way: when nothing else can, when their
 * sequence has stopped growing, and with the sequence that they belong to.
 *
 * Seen to fail with hold_behind() empty (runs of one), with every hold let go
 * before anything is evicted (runs of 3 in the full pool), with holds that never
 * give way (refused), with holds of sequences that ended kept, with pieces taken
 * at once in the small pool (runs of 3), and with the
 * hold left behind by make_free() (audit).
 */
#include "world.h"

#define SEQUENCES 8u

static double mean_run(const struct tutti_directory *d)
{
    struct tutti_directory_stats s = stats_of(d);

    return (double)s.visible / (double)s.runs;
}

static void grow_in_turn(struct tutti_directory *d, uint64_t name, uint32_t blocks)
{
    struct chain_of *c[SEQUENCES];
    uint32_t i;
    uint32_t b;

    for (i = 0; i < SEQUENCES; i++)
        c[i] = chain_new(name + i, blocks);
    for (b = 0; b < blocks; b++)
        for (i = 0; i < SEQUENCES; i++)
            assert_int_equal(put_blocks(d, c[i], b, 1, true), 1);
    audit(d);
    for (i = 0; i < SEQUENCES; i++) {
        assert_int_equal(hit(d, c[i], blocks), blocks);
        free(c[i]);
    }
}

static void with_room(void **state)
{
    struct tutti_directory *d = directory_of(8, 256, 1, 1);

    (void)state;
    grow_in_turn(d, 1, 64);
    assert_true(mean_run(d) >= 16);
    tutti_directory_free(d);
}

static void over_members(void **state)
{
    struct tutti_directory *d = directory_of(8, 256, 4, 1);

    (void)state;
    grow_in_turn(d, 1, 64);
    assert_true(mean_run(d) >= (double)d->run_cap / 2);
    tutti_directory_free(d);
}

static void in_a_full_pool(void **state)
{
    struct tutti_directory *d = directory_of(16, 256, 1, 1);
    uint64_t name;

    (void)state;
    for (name = 1; name < 1000; name += SEQUENCES)
        grow_in_turn(d, name, 64); /* 15 times the pool */
    assert_true(stats_of(d).evicted > 14u * d->slots);
    print_message("mean run in a full pool %.1f slots\n", mean_run(d));
    assert_true(mean_run(d) >= 8);
    tutti_directory_free(d);
}

/* No room to evict ahead in: pieces are evicted until they make a run's worth. */
static void in_a_small_full_pool(void **state)
{
    struct tutti_directory *d = directory_of(4, 200, 1, 1);
    struct chain_of *c[4];
    uint32_t at[4] = {0};
    uint32_t length[4] = {0};
    uint64_t seed = 1;
    uint64_t name = 0;
    uint32_t i;

    (void)state;
    for (i = 0; i < 4; i++)
        c[i] = chain_new(0, 1);
    while (stats_of(d).evicted < 20u * d->slots) {
        i = below(&seed, 4);
        if (at[i] == length[i]) {
            at[i] = 0;
            length[i] = 16 + below(&seed, 64);
            chain_name(c[i], ++name, 0, length[i]);
        }
        assert_int_equal(put_blocks(d, c[i], at[i]++, 1, true), 1);
    }
    audit(d);
    print_message("mean run in a small full pool %.1f slots\n", mean_run(d));
    assert_true(mean_run(d) >= 6);
    for (i = 0; i < 4; i++)
        free(c[i]);
    tutti_directory_free(d);
}

static void holds_give_way(void **state)
{
    struct tutti_directory *d = directory_of(2, 20, 1, 1);
    struct chain_of *growing = chain_new(1, 20);
    struct chain_of *other = chain_new(2, 40);

    (void)state;
    assert_int_equal(put_blocks(d, growing, 0, 4, true), 4);
    assert_true(d->held > 0);
    assert_int_equal(put_blocks(d, other, 0, 36, false), 36); /* all the rest */
    audit(d);
    assert_int_equal(d->held, 0);
    assert_int_equal(stats_of(d).evicted, 0);
    assert_int_equal(hit(d, growing, 20), 4);
    tutti_directory_free(d);
    free(growing);
    free(other);
}

/* Sequences that ended leave no more than a few holds behind. */
static void ended_ones_hold_nothing(void **state)
{
    struct tutti_directory *d = directory_of(16, 256, 1, 1);
    struct chain_of *c = chain_new(0, 64);
    uint64_t name;
    uint32_t b;

    (void)state;
    for (name = 1; name < 500; name++) {
        chain_name(c, name, 0, 33);
        for (b = 0; b < 33; b++)
            assert_int_equal(put_blocks(d, c, b, 1, true), 1);
    }
    audit(d);
    assert_true(d->held <= 8 * d->run_slots);
    assert_true(stats_of(d).visible >= d->slots * 15 / 16 - 8 * d->run_slots);
    tutti_directory_free(d);
    free(c);
}

static void hold_goes_with_its_sequence(void **state)
{
    struct tutti_directory *d = directory_of(2, 20, 1, 1);
    struct chain_of *growing = chain_new(1, 20);
    struct tutti_match match;

    (void)state;
    assert_int_equal(put_blocks(d, growing, 0, 4, true), 4);
    match = match_of(d, growing, 4);
    assert_true(d->held > 0);
    assert_int_equal(tutti_directory_drop(d, match.slot, match.generation), 1);
    assert_int_equal(tutti_directory_take_erased(d, growing->out, 8), 1);
    audit(d);
    assert_int_equal(d->held, 0);
    assert_int_equal(stats_of(d).free, 37);
    tutti_directory_free(d);
    free(growing);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(with_room),
                                       cmocka_unit_test(over_members),
                                       cmocka_unit_test(in_a_full_pool),
                                       cmocka_unit_test(in_a_small_full_pool),
                                       cmocka_unit_test(holds_give_way),
                                       cmocka_unit_test(ended_ones_hold_nothing),
                                       cmocka_unit_test(hold_goes_with_its_sequence)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
