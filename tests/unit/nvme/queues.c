/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Case 16: queues of every kind of controller. Each command completes once,
 * under its own identifier, and moves its data; depth - 1 are out at most;
 * queue memory holds what a former queue left there; completions come in any
 * order, and in parts with the phase last; and no rule is broken, doorbells at
 * their stride among them (soft/rules.h).
 *
 * Seen to fail: with queue memory that is not cleared (completions of the former
 * life are taken), with a phase that does not change where the queue wraps, with
 * a stride of 4 taken for granted, and with a doorbell of completions that is
 * never rung (the controller stops posting).
 */
#include "drive.h"

enum { PAGES = 64 };

struct kind {
    uint32_t mqes;
    uint32_t dstrd;
    struct soft_ways ways;
};

static uint8_t pattern(uint32_t page, uint32_t round)
{
    return (uint8_t)(page * 7 + round * 31 + 1);
}

/** Put @batch commands, ring once, take them all; @count in total. */
static void go_round(struct drive *d, struct nvme_queue *q, uint8_t *memory, uint32_t count,
                     uint32_t batch, uint32_t opcode)
{
    uint32_t begun = 0, over = 0, id_page[1024];
    bool is_out[1024] = {false};
    struct nvme_done done;

    for (uint32_t steps = 0; over < count; steps++) {
        uint64_t words[NVME_SQE_WORDS];
        int32_t id;
        int rc;

        assert_true(steps < 100000000);
        for (uint32_t i = 0; i < batch && begun < count && (id = nvme_queue_take(q)) >= 0; i++) {
            assert_false(is_out[id]);
            is_out[id] = true;
            id_page[id] = begun % PAGES;
            drive_words(words, opcode, id, memory + id_page[id] * NVME_PAGE, id_page[id] * 8, 8);
            nvme_queue_put(q, words);
            begun++;
        }
        assert_true(nvme_queue_out(q) <= q->depth - 1);
        nvme_queue_ring(q);
        drive_step(d);
        while ((rc = nvme_queue_poll(q, &done)) == 1) {
            assert_int_equal(done.status, NVME_OK);
            assert_true(is_out[done.id]);
            is_out[done.id] = false;
            over++;
        }
        assert_int_equal(rc, 0);
        nvme_queue_ring_completed(q);
    }
    assert_int_equal(nvme_queue_out(q), 0);
}

static void write_and_read(struct drive *d, struct nvme_queue *q, uint8_t *memory, uint32_t round)
{
    uint32_t count = 3 * q->depth + 1;
    uint32_t used = count < PAGES ? count : PAGES;

    for (uint32_t p = 0; p < PAGES; p++)
        memset(memory + p * NVME_PAGE, pattern(p, round), NVME_PAGE);
    go_round(d, q, memory, count, round % 2 ? 1 : q->depth, NVME_WRITE);
    memset(memory, 0xee, PAGES * NVME_PAGE);
    go_round(d, q, memory, count, round % 2 ? q->depth : 1, NVME_READ);
    for (uint32_t p = 0; p < used; p++)
        for (uint32_t i = 0; i < NVME_PAGE; i++)
            assert_int_equal(memory[p * NVME_PAGE + i], pattern(p, round));
}

static void every_kind(void **state)
{
    static const uint32_t mqes[] = {1, 2, 63, 1022};
    static const struct soft_ways ways[] = {
        {0}, {.seed = 5}, {.halves = true}, {.seed = 9, .halves = true, .latency_ns = 7 * STEP_NS}};
    (void)state;

    for (uint32_t i = 0; i < 4; i++)
        for (uint32_t w = 0; w < 4; w++) {
            struct soft_options o = SOFT_USUAL;
            uint32_t depth = mqes[i] + 1;
            struct tutti_error err = {0};
            struct nvme_queue q;
            struct drive d;
            uint8_t *memory;

            o.mqes = mqes[i];
            o.dstrd = (i + w) % 5;
            o.ways = ways[w];
            drive_open(&d, &o);
            memory = drive_memory(&d, PAGES * NVME_PAGE);
            for (uint32_t round = 0; round < 3; round++) { /* a new life on the old memory */
                assert_int_equal(nvme_queue_open(d.controller, 1 + round, depth, &q, &err), 0);
                write_and_read(&d, &q, memory, round);
                assert_int_equal(nvme_queue_close(d.controller, &q, &err), 0);
            }
            drive_memory_free(&d, memory);
            drive_close(&d);
        }
}

/** A batch costs one doorbell, a lone command is told at once, and completions are counted apart.
 */
static void doorbells(void **state)
{
    struct tutti_error err = {0};
    struct soft_counters counters;
    struct nvme_queue q;
    uint64_t taken;
    struct drive d;
    uint8_t *memory;
    (void)state;

    drive_open(&d, &SOFT_USUAL);
    memory = drive_memory(&d, PAGES * NVME_PAGE);
    assert_int_equal(nvme_queue_open(d.controller, 1, 64, &q, &err), 0);
    go_round(&d, &q, memory, 32, 32, NVME_WRITE);
    assert_int_equal(q.sq_doorbells, 1);
    taken = q.cq_doorbells;
    assert_in_range(taken, 1, 4); /* the controller fetches eight at a time */
    nvme_queue_ring(&q);
    nvme_queue_ring_completed(&q);
    assert_int_equal(q.sq_doorbells, 1); /* nothing new: nothing is rung */
    assert_int_equal(q.cq_doorbells, taken);
    go_round(&d, &q, memory, 1, 1, NVME_WRITE);
    assert_int_equal(q.sq_doorbells, 2);
    soft_counters(d.soft, &counters);
    assert_int_equal(counters.writes, 33);
    assert_int_equal(nvme_queue_close(d.controller, &q, &err), 0);
    drive_memory_free(&d, memory);
    drive_close(&d);
}

/** Entries of a former life lie where the new queue's are: they are not taken for new. */
static void former_life(void **state)
{
    uint64_t word1 = NVME_CQE_PHASE | UINT64_C(1) << 16;
    struct tutti_error err = {0};
    struct nvme_done done;
    struct nvme_queue q;
    struct drive d;
    (void)state;

    drive_open(&d, &SOFT_USUAL);
    for (int i = 0; i < 20; i++) { /* allocators give back what was freed */
        uint64_t *used = aligned_alloc(NVME_PAGE, 2 * NVME_PAGE);

        for (uint32_t w = 0; w < NVME_PAGE / 4; w++)
            used[w] = w % 2 ? word1 : 0;
        free(used);
        assert_int_equal(nvme_queue_open(d.controller, 1, 4, &q, &err), 0);
        assert_true(nvme_queue_take(&q) >= 0);
        assert_int_equal(nvme_queue_poll(&q, &done), 0);
        assert_int_equal(nvme_queue_close(d.controller, &q, &err), 0);
    }
    drive_close(&d);
}

/** The controller beside us, in a thread: what each sees of the other's memory is ordered. */
static void beside_a_thread(void **state)
{
    struct soft_options o = SOFT_USUAL;
    struct tutti_error err = {0};
    struct nvme_queue q;
    struct drive d;
    uint8_t *memory;
    (void)state;

    o.ways.halves = true;
    drive_make(&d, &o);
    d.threaded = true;
    assert_int_equal(soft_start(d.soft), 0);
    assert_int_equal(nvme_open(&d.port, 0, 4, 10 * SECOND, &d.controller, &err), 0);
    memory = drive_memory(&d, PAGES * NVME_PAGE);
    assert_int_equal(nvme_queue_open(d.controller, 1, 33, &q, &err), 0);
    for (uint32_t round = 0; round < 4; round++)
        write_and_read(&d, &q, memory, round);
    assert_int_equal(nvme_queue_close(d.controller, &q, &err), 0);
    assert_int_equal(nvme_close(d.controller, &err), 0);
    soft_stop(d.soft);
    d.threaded = false;
    drive_memory_free(&d, memory);
    assert_string_equal(soft_first_broken(d.soft), "");
    soft_free(d.soft);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind),
        cmocka_unit_test(doorbells),
        cmocka_unit_test(former_life),
        cmocka_unit_test(beside_a_thread),
    };

    return cmocka_run_group_tests_name("queues", tests, NULL, NULL);
}
