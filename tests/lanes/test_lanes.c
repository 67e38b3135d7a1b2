/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_lanes.c: host lanes catch what a warp may not do, for every seed that is
 * tried; and leave alone what it may.
 *
 * Each kernel below is right with its word 1 zero, and lacks one thing with
 * each other value. Seen to fail: with stores that go to memory at once
 * (lane_store() calling to_memory()) a shuffle in the place of warp_sync() is
 * caught in 0 of 200 seeds, and so is a doorbell without its fence; with a
 * warp_sync() that publishes to memory, the latter; with lanes picked in order,
 * that a seed is an order.
 */
#define TUTTI_LANES "lanes/side.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "device/kernels/warp.h"
#include "lanes/lanes.h"

enum { SEEDS = 200 };

static struct {
    uint32_t word[LANES];
    uint32_t doorbell;
    uint32_t seen[LANES];
    uint32_t wrong;
    uint32_t rung;
    uint32_t flag;
    uint32_t data;
} shared;

static struct machine *machine[5]; /* by warps */
static struct lanes_counters counters;
static struct tutti_error error;

static int run(void (*kernel)(const uint64_t *), uint64_t lacks, uint64_t seed, uint32_t warps,
               void (*world)(void *))
{
    const struct lanes_options o = {
        .seed = seed, .warps = warps, .world = world, .most_steps = warps == 4 ? 0 : 20000};
    const uint64_t word[] = {0, lacks};

    if (!machine[warps])
        machine[warps] = lanes_machine_new(warps);
    assert_non_null(machine[warps]);
    memset(&shared, 0, sizeof(shared));
    memset(&error, 0, sizeof(error));
    return lanes_run_on(machine[warps], &o, kernel, word, &counters, &error);
}

/** In how many seeds the kernel without something did wrong; with all of it, in none. */
static void expect_caught(void (*kernel)(const uint64_t *), uint64_t lacks, void (*world)(void *),
                          uint32_t least, const char *what)
{
    uint32_t caught = 0;

    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        assert_int_equal(run(kernel, 0, seed, 1, world), 0);
        assert_int_equal(shared.wrong, 0);
        caught += run(kernel, lacks, seed, 1, world) < 0 || shared.wrong > 0;
    }
    printf("%s: caught in %u of %d seeds\n", what, caught, SEEDS);
    assert_true(caught >= least);
}

/* One lane writes, another reads. */

enum { ALL, NO_SYNC, SHUFFLE_FOR_SYNC, BALLOT_FOR_SYNC };

static void neighbours(const uint64_t *word)
{
    uint32_t lane = warp_lane(), next = (lane + 1) % LANES;

    tutti_word32_store(&shared.word[lane], lane + 1);
    if (word[1] == ALL)
        warp_sync(WARP_ALL);
    else if (word[1] == SHUFFLE_FOR_SYNC)
        (void)warp_shuffle(WARP_ALL, lane, next);
    else if (word[1] == BALLOT_FOR_SYNC)
        (void)warp_ballot(WARP_ALL, 1);
    if (tutti_word32_load(&shared.word[next]) != next + 1)
        shared.wrong++;
}

static void a_sync_is_missing_before_a_read(void **state)
{
    (void)state;
    expect_caught(neighbours, NO_SYNC, NULL, SEEDS, "no warp_sync() before a read");
    expect_caught(neighbours, SHUFFLE_FOR_SYNC, NULL, SEEDS,
                  "a shuffle in the place of warp_sync()");
    expect_caught(neighbours, BALLOT_FOR_SYNC, NULL, SEEDS, "a ballot in the place of warp_sync()");
}

/** What a lane stored is there for itself at once. */
static void own_words(const uint64_t *word)
{
    uint32_t lane = warp_lane();

    (void)word;
    for (uint32_t i = 0; i < 5; i++) {
        tutti_word32_store(&shared.word[lane], i);
        if (tutti_word32_load(&shared.word[lane]) != i)
            shared.wrong++;
    }
}

static void a_lane_sees_its_own_stores(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        assert_int_equal(run(own_words, 0, seed, 2, NULL), 0);
        assert_int_equal(shared.wrong, 0);
    }
}

/* Entries and a doorbell. */

enum { NO_FENCE = 1, NO_SYNC_AFTER_FENCE, FENCE_BY_ONE_BEFORE_SYNC };

static void entries(const uint64_t *word)
{
    uint32_t lane = warp_lane();

    tutti_word32_store(&shared.word[lane], lane + 1);
    if (word[1] != NO_FENCE && (word[1] != FENCE_BY_ONE_BEFORE_SYNC || lane == 0))
        tutti_fence_system();
    if (word[1] != NO_SYNC_AFTER_FENCE)
        warp_sync(WARP_ALL);
    if (lane == 0)
        tutti_register32_store(&shared.doorbell, 1);
    for (uint32_t i = 0; i < 100; i++)
        warp_pause();
}

/** A drive that fetches as soon as it is told. */
static void fetch(void *self)
{
    (void)self;
    if (!__atomic_load_n(&shared.doorbell, __ATOMIC_ACQUIRE) || shared.rung)
        return;
    shared.rung = 1;
    for (uint32_t i = 0; i < LANES; i++)
        shared.wrong += __atomic_load_n(&shared.word[i], __ATOMIC_RELAXED) != i + 1;
}

static void a_doorbell_goes_before_its_entries(void **state)
{
    (void)state;
    expect_caught(entries, NO_FENCE, fetch, SEEDS, "no fence before a doorbell");
    expect_caught(entries, NO_SYNC_AFTER_FENCE, fetch, SEEDS / 2,
                  "no warp_sync() before a doorbell");
    expect_caught(entries, FENCE_BY_ONE_BEFORE_SYNC, fetch, SEEDS,
                  "a fence by the one lane, too early");
}

/** One fence by the lane that rings is enough where it stands behind warp_sync(). */
static void fence_after_sync(const uint64_t *word)
{
    (void)word;
    tutti_word32_store(&shared.word[warp_lane()], warp_lane() + 1);
    warp_sync(WARP_ALL);
    if (warp_lane() == 0) {
        tutti_fence_system();
        tutti_register32_store(&shared.doorbell, 1);
    }
}

static void a_fence_is_for_all_that_the_sync_ordered(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        assert_int_equal(run(fence_after_sync, 0, seed, 1, fetch), 0);
        assert_int_equal(shared.wrong, 0);
    }
}

/* From one warp to another. */

static void messages(const uint64_t *word)
{
    if (warp_lane() != 0)
        return;
    if (warp_number() == 0) {
        tutti_word32_store(&shared.data, 7);
        if (word[1])
            tutti_register32_store(&shared.flag, 1); /* no release */
        else
            tutti_word32_release(&shared.flag, 1);
        for (uint32_t i = 0; i < 100; i++)
            warp_pause();
    } else {
        while (!tutti_word32_acquire(&shared.flag))
            warp_pause();
        shared.wrong += tutti_word32_load(&shared.data) != 7;
    }
}

static void warps_interleave_and_release(void **state)
{
    uint32_t caught = 0;
    (void)state;

    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        assert_int_equal(run(messages, 0, seed, 2, NULL), 0);
        assert_int_equal(shared.wrong, 0);
        assert_int_equal(run(messages, 1, seed, 2, NULL), 0);
        caught += shared.wrong;
    }
    printf("a flag without its release: caught in %u of %d seeds\n", caught, SEEDS);
    assert_int_equal(caught, SEEDS);
}

/* Masks. */

enum { LEAVES = 1, OTHER_MASK, OTHER_PRIMITIVE, NOT_IN_MASK, SHUFFLE_FROM_OUTSIDE, NEVER_ENDS };

static void masks(const uint64_t *word)
{
    uint32_t lane = warp_lane();
    uint32_t half = lane < 16 ? 0x0000ffffu : 0xffff0000u;

    if (word[1] == LEAVES && lane == 5)
        return;
    if (word[1] == OTHER_PRIMITIVE && lane == 5)
        (void)warp_ballot(WARP_ALL, 1);
    warp_sync(word[1] == OTHER_MASK && lane == 5 ? half : WARP_ALL);
    if (word[1] == SHUFFLE_FROM_OUTSIDE)
        (void)warp_shuffle(half, lane, 31 - lane);
    warp_sync(word[1] == NOT_IN_MASK && lane == 5 ? 1u : half);
    if (warp_ballot(half, (int)(lane & 1)) != (half & 0xaaaaaaaau))
        shared.wrong++;
    while (word[1] == NEVER_ENDS)
        warp_pause();
}

static void masks_are_checked(void **state)
{
    static const char *const says[] = {
        [LEAVES] = "ended",
        [OTHER_MASK] = "0x0000ffff",
        [OTHER_PRIMITIVE] = "warp_ballot()",
        [NOT_IN_MASK] = "not one of",
        [SHUFFLE_FROM_OUTSIDE] = "not in",
        [NEVER_ENDS] = "no end",
    };
    (void)state;

    for (uint64_t lacks = LEAVES; lacks <= NEVER_ENDS; lacks++) {
        expect_caught(masks, lacks, NULL, SEEDS, says[lacks]);
        if (!strstr(error.message, says[lacks]))
            fail_msg("\"%s\" does not say \"%s\"", error.message, says[lacks]);
    }
}

static void sizes(const uint64_t *word)
{
    uint64_t *wide = (uint64_t *)(void *)shared.seen;

    (void)word;
    tutti_word64_store(wide, 1);
    (void)tutti_word32_load(&shared.seen[0]);
}

static void a_word_has_one_size(void **state)
{
    (void)state;
    assert_true(run(sizes, 0, 1, 1, NULL) < 0);
    assert_non_null(strstr(error.message, "different sizes"));
}

/* The order. */

static uint32_t order[LANES], arrived;

static void arrive(const uint64_t *word)
{
    (void)word;
    warp_pause();
    order[arrived++ % LANES] = warp_lane();
}

static void a_seed_is_an_order(void **state)
{
    uint32_t first[LANES], same = 0;
    (void)state;

    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        arrived = 0;
        assert_int_equal(run(arrive, 0, seed, 1, NULL), 0);
        memcpy(first, order, sizeof(first));
        arrived = 0;
        assert_int_equal(run(arrive, 0, seed, 1, NULL), 0);
        assert_memory_equal(first, order, sizeof(first));
        arrived = 0;
        assert_int_equal(run(arrive, 0, seed + 1, 1, NULL), 0);
        same += memcmp(first, order, sizeof(first)) == 0;
    }
    assert_int_equal(same, 0);
}

/* A figure for the record, not a test. */

static void many(const uint64_t *word)
{
    (void)word;
    for (uint32_t i = 0; i < 2000; i++)
        warp_pause();
}

static void what_a_switch_costs(void **state)
{
    struct timespec from, to;
    (void)state;

    clock_gettime(CLOCK_MONOTONIC, &from);
    assert_int_equal(run(many, 0, 1, 4, NULL), 0);
    clock_gettime(CLOCK_MONOTONIC, &to);
    printf("%.0f ns a switch there and back\n",
           ((double)(to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec)) /
               (double)counters.switches);
}

static int give_back(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < sizeof(machine) / sizeof(machine[0]); i++)
        lanes_machine_free(machine[i]);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sync_is_missing_before_a_read),
        cmocka_unit_test(a_lane_sees_its_own_stores),
        cmocka_unit_test(a_doorbell_goes_before_its_entries),
        cmocka_unit_test(a_fence_is_for_all_that_the_sync_ordered),
        cmocka_unit_test(warps_interleave_and_release),
        cmocka_unit_test(masks_are_checked),
        cmocka_unit_test(a_word_has_one_size),
        cmocka_unit_test(a_seed_is_an_order),
        cmocka_unit_test(what_a_switch_costs),
    };

    return cmocka_run_group_tests(tests, NULL, give_back);
}
