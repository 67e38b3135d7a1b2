/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A controller that takes the time of a drive, on a clock that is handed in: a
 * command alone, many side by side, both directions, and both mixed take what
 * timing.h says, through real queues; without a timing nothing takes any.
 *
 * Seen to fail: with a latency that the medium is held for (many take as long as
 * one after the other), with a medium that no command waits for, and with no turn
 * (the mix is 1.7 times as fast as the drive that it stands for).
 */
#include <stdio.h>

#include "drive.h"

enum { DEPTH = 256, KIB = 1024 };

struct bed {
    struct drive d;
    struct nvme_queue q;
    uint8_t *memory;
    uint64_t dice;
};

static void open_bed(struct bed *b, const struct soft_timing *timing)
{
    struct soft_options o = SOFT_USUAL;
    struct tutti_error err = {0};

    o.timing = *timing;
    drive_open(&b->d, &o);
    b->memory = drive_memory(&b->d, 64 * KIB);
    for (uint32_t i = 1; i < 16; i++) /* its first page is a list of the others */
        ((uint64_t *)(void *)b->memory)[i - 1] = (uint64_t)(uintptr_t)b->memory + i * NVME_PAGE;
    assert_int_equal(nvme_queue_open(b->d.controller, 1, DEPTH, &b->q, &err), 0);
    b->dice = 1;
}

static void close_bed(struct bed *b)
{
    struct tutti_error err = {0};

    assert_int_equal(nvme_queue_close(b->d.controller, &b->q, &err), 0);
    drive_memory_free(&b->d, b->memory);
    drive_close(&b->d);
}

static uint32_t percent(struct bed *b)
{
    b->dice = b->dice * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((b->dice >> 33) % 100);
}

/** @count commands, of which @reads in a hundred read, @depth at a time. Return: ns it took. */
static uint64_t run(struct bed *b, uint32_t count, uint32_t depth, uint32_t bytes, uint32_t reads)
{
    uint64_t began = b->d.clock, words[NVME_SQE_WORDS];
    uint32_t begun = 0, over = 0;
    struct nvme_done done;

    while (over < count) {
        while (begun < count && begun - over < depth) {
            drive_words(words, percent(b) < reads ? NVME_READ : NVME_WRITE, nvme_queue_take(&b->q),
                        b->memory + NVME_PAGE, 0, bytes / 512);
            if (bytes > 2 * NVME_PAGE)
                words[4] = (uint64_t)(uintptr_t)b->memory + 8;
            nvme_queue_put(&b->q, words);
            begun++;
        }
        nvme_queue_ring(&b->q);
        while (soft_step(b->d.soft, b->d.clock))
            ;
        while (nvme_queue_poll(&b->q, &done) == 1) {
            assert_int_equal(done.status, NVME_OK);
            over++;
        }
        nvme_queue_ring_completed(&b->q);
        if (over < count && (begun == count || begun - over == depth)) {
            assert_true(soft_next(b->d.soft) != UINT64_MAX);
            b->d.clock = soft_next(b->d.soft); /* nothing to do till then */
        }
    }
    return b->d.clock - began;
}

static void assert_about(double value, double expected, double within)
{
    if (value < expected * (1 - within) || value > expected * (1 + within))
        fail_msg("%.4g is not about %.4g", value, expected);
}

static void a_command_alone(void **state)
{
    struct bed b;
    (void)state;

    open_bed(&b, &SOFT_PCIE5);
    assert_int_equal(run(&b, 1, 1, 4 * KIB, 100), 60000 + 304); /* 3.3 M/s, whole ns */
    assert_int_equal(run(&b, 1, 1, 4 * KIB, 0), 15000 + 1220);  /* 820 k/s */
    assert_int_equal(run(&b, 1, 1, 60 * KIB, 100), 60000 + 4389);
    assert_int_equal(run(&b, 1, 1, 60 * KIB, 0), 15000 + 6144);
    close_bed(&b);
}

static void many_side_by_side(void **state)
{
    enum { COUNT = 20000 };
    struct bed b;
    (void)state;

    open_bed(&b, &SOFT_PCIE5);
    assert_about(1e9 * COUNT / (double)run(&b, COUNT, 250, 4 * KIB, 100), 3.3e6, 0.02);
    assert_about(1e9 * COUNT / (double)run(&b, COUNT, 250, 4 * KIB, 0), 820e3, 0.02);
    assert_about(60.0 * KIB * COUNT / (double)run(&b, COUNT, 64, 60 * KIB, 100), 14, 0.02);
    assert_about(60.0 * KIB * COUNT / (double)run(&b, COUNT, 64, 60 * KIB, 0), 10, 0.02);
    assert_about(soft_timing_limit(&SOFT_PCIE5, SOFT_READS, 60 * KIB), 14e9, 1e-4);
    assert_about(soft_timing_limit(&SOFT_PCIE5, SOFT_READS, 4 * KIB), 3.3e6 * 4096, 1e-4);
    assert_about(soft_timing_limit(&SOFT_PCIE5, SOFT_WRITES, 60 * KIB), 10e9, 1e-4);
    close_bed(&b);
}

/** 70 of 100 read: Micron measured 1.0 M commands a second, at random. */
static void reads_and_writes_mixed(void **state)
{
    enum { COUNT = 20000 };
    double mixed;
    struct bed b;
    (void)state;

    open_bed(&b, &SOFT_PCIE5);
    mixed = 1e9 * COUNT / (double)run(&b, COUNT, 250, 4 * KIB, 70);
    printf("70 reads of 100, 4 KiB: %.3f M commands/s in model time (the drive: 1.0 M)\n",
           mixed / 1e6);
    assert_about(mixed, 1.0e6, 0.05);
    close_bed(&b);
}

static void off_by_default(void **state)
{
    struct bed b;
    (void)state;

    open_bed(&b, &(struct soft_timing){0});
    assert_int_equal(run(&b, 1000, 32, 4 * KIB, 50), 0);
    close_bed(&b);
}

/** What misfortune adds comes on top, and what never ends holds the medium as long as any. */
static void with_misfortune(void **state)
{
    struct soft_fault late = {
        .kind = SOFT_LATE, .opcode = NVME_READ, .count = 1, .delay_ns = 1000000};
    struct bed b;
    (void)state;

    open_bed(&b, &SOFT_PCIE5);
    assert_int_equal(soft_inject(b.d.soft, &late), 0);
    assert_int_equal(run(&b, 1, 1, 4 * KIB, 100), 60000 + 304 + 1000000);
    close_bed(&b);
}

static void what_a_driver_pays(void **state)
{
    const struct soft_costs costs = {1, 20, 300, 4000, 50000};
    const struct soft_work work = {2, 3, 4, 5, 6 * KIB};
    (void)state;

    assert_int_equal(soft_costs_of(&costs, &work), 2 + 60 + 1200 + 20000 + 300000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_command_alone),        cmocka_unit_test(many_side_by_side),
        cmocka_unit_test(reads_and_writes_mixed), cmocka_unit_test(off_by_default),
        cmocka_unit_test(with_misfortune),        cmocka_unit_test(what_a_driver_pays),
    };

    return cmocka_run_group_tests_name("timing", tests, NULL, NULL);
}
