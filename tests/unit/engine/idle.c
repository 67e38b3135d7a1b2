/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An engine that can do nothing sleeps. Rounds of its loop are counted, where
 * each ends with a look whether to sleep, while one slow command is out: a few
 * wake-ups are right, thousands are a thread that burns a core.
 * Seen to fail with task_any_ready() as it was, which asked every task that had
 * not started, and with one that asks all that were ever found not ready.
 */
#include "rig.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

static const char *engine;
static uint64_t rounds;

bool __real_tutti_ring_sleep(struct tutti_ring *ring, uint32_t consumer, bool holding);
bool __wrap_tutti_ring_sleep(struct tutti_ring *ring, uint32_t consumer, bool holding);
bool __wrap_tutti_ring_sleep(struct tutti_ring *ring, uint32_t consumer, bool holding)
{
    __atomic_add_fetch(&rounds, 1, __ATOMIC_RELAXED);
    return __real_tutti_ring_sleep(ring, consumer, holding);
}

static struct tutti_map *open_slow(struct rig *rig)
{
    struct tutti_map *map;

    rig_open(rig, &(struct rig_options){.engine = "fault",
                                        .inner = engine,
                                        .rules = "read:delay:ns=200000000:count=1",
                                        .queue_bytes = 4096});
    map = rig_map_range(rig, 0, 4, 1);
    rig_fill(rig, map, 1);
    assert_int_equal(rig_store(rig, map), 0);
    return map;
}

static uint32_t issue(struct rig *rig, const struct tutti_map *map, uint32_t layer,
                      uint32_t wait_for)
{
    return rig_issue(rig, map, layer, TUTTI_READ, TUTTI_CLASS_LOAD_AHEAD, wait_for);
}

static void expect_few_rounds(struct rig *rig, struct tutti_map *map, const uint32_t *index,
                              uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(rig_wait(rig, index[i], NULL), 0);
    assert_true(__atomic_load_n(&rounds, __ATOMIC_RELAXED) < 200);
    rig_map_free(map);
    rig_close(rig);
}

/** One is stepped over, others are ready, and the queue is full: they once kept it awake. */
static void full_queue_and_one_not_ready(void **state)
{
    uint32_t index[5];
    struct tutti_map *map;
    struct rig rig;
    (void)state;

    map = open_slow(&rig);
    __atomic_store_n(&rounds, 0, __ATOMIC_RELAXED);
    index[0] = issue(&rig, map, 0, TUTTI_NO_IOCB);
    index[1] = issue(&rig, map, 1, index[0]);
    for (uint32_t i = 2; i < 5; i++)
        index[i] = issue(&rig, map, i % 3, TUTTI_NO_IOCB);
    expect_few_rounds(&rig, map, index, 5);
}

static void issue_and_see_it_asleep(struct rig *rig, const struct tutti_map *map, uint32_t wait_for,
                                    uint32_t *index)
{
    uint64_t before = __atomic_load_n(&rounds, __ATOMIC_RELAXED);

    *index = rig_issue(rig, map, 0, TUTTI_READ, TUTTI_CLASS_STORE, wait_for);
    while (__atomic_load_n(&rounds, __ATOMIC_RELAXED) < before + 1)
        sched_yield();
}

/** One that was stepped over earlier is ready by now, and stands behind the full queue. */
static void ready_since(void **state)
{
    struct tutti_map *map;
    uint32_t index[6];
    struct rig rig;
    (void)state;

    map = open_slow(&rig);
    rig_reopen(&rig, "fault", "read:delay:ns=100000000:count=2", engine);
    __atomic_store_n(&rounds, 0, __ATOMIC_RELAXED);
    index[0] = issue(&rig, map, 0, TUTTI_NO_IOCB); /* slow */
    issue_and_see_it_asleep(&rig, map, index[0], &index[1]);
    index[2] = issue(&rig, map, 1, TUTTI_NO_IOCB); /* slow, when the first is over */
    index[3] = rig_issue(&rig, map, 2, TUTTI_READ, TUTTI_CLASS_LOAD_NOW, index[2]);
    index[4] = issue(&rig, map, 1, TUTTI_NO_IOCB); /* finds the queue full */
    index[5] = issue(&rig, map, 2, TUTTI_NO_IOCB);
    expect_few_rounds(&rig, map, index, 6);
}

/** Layers are ready, and the records that they will be compared with are not. */
static void layers_without_records(void **state)
{
    struct tutti_map *map, *in;
    uint32_t index[4];
    struct rig rig;
    (void)state;

    map = open_slow(&rig);
    in = rig_map_range(&rig, 0, 4, 1);
    __atomic_store_n(&rounds, 0, __ATOMIC_RELAXED);
    index[0] = issue(&rig, map, 0, TUTTI_NO_IOCB);
    index[1] = issue(&rig, in, TUTTI_LAYER_RECORDS, index[0]);
    index[2] = issue(&rig, in, 0, TUTTI_NO_IOCB);
    index[3] = issue(&rig, in, 1, TUTTI_NO_IOCB);
    expect_few_rounds(&rig, map, index, 4);
    rig_map_free(in);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_queue_and_one_not_ready),
        cmocka_unit_test(ready_since),
        cmocka_unit_test(layers_without_records),
    };

    engine = argc > 1 ? argv[1] : "uring";
    return cmocka_run_group_tests_name(engine, tests, NULL, NULL);
}
