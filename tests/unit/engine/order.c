/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whose turn it is: classes before order of issue, what an IOCB waits for
 * before the IOCB, the three outcomes of a cancel; and who is not ready is in
 * nobody's way.
 * Seen to fail with classes walked backwards, tutti_ring_ready() without either
 * of its conditions, a cancel that is not looked at under way, and a task that is
 * not ready ending the look at the others; nothing_to_do_waits_too with the code
 * as it was.
 */
#include "rig.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLOW "any:delay:ns=100000000"

static const char *engine;

/** IOCBs that wait for a gate become ready together, and none of them before all are issued. */
struct gate {
    struct tutti_map *map;
    uint32_t index;
    uint32_t word;
};

static void gate_close(struct gate *g, struct rig *rig)
{
    struct tutti_iocb *iocb;

    g->word = 0;
    g->map = rig_map_range(rig, 0, 1, 99);
    iocb = rig_get(rig, g->map, TUTTI_LAYER_EMPTY, TUTTI_WRITE, TUTTI_CLASS_LOAD_NOW, &g->index);
    iocb->ready = &g->word;
    iocb->ready_value = 1;
    assert_int_equal(tutti_ring_issue(rig->ring, g->index), 0);
}

static void gate_open(struct gate *g)
{
    __atomic_store_n(&g->word, 1, __ATOMIC_RELEASE); /* pairs with the acquire in ready() */
}

static void gate_away(struct gate *g, struct rig *rig)
{
    assert_int_equal(rig_wait(rig, g->index, NULL), 0);
    rig_map_free(g->map);
}

static uint32_t behind(struct rig *rig, const struct gate *g, const struct tutti_map *map,
                       uint32_t layer, enum tutti_class class_)
{
    enum tutti_direction direction = class_ == TUTTI_CLASS_STORE ? TUTTI_WRITE : TUTTI_READ;

    return rig_issue(rig, map, layer, direction, class_, g->index);
}

static void open_one_at_a_time(struct rig *rig, uint32_t members_)
{
    rig_open(rig, &(struct rig_options){.engine = engine,
                                        .command_bytes = 8192,
                                        .queue_bytes = 8192,
                                        .members = members_});
}

/** Slots 16 to 16 + count of a rig whose slot 0 is the gate's, stored. */
static struct tutti_map *stored(struct rig *rig, uint32_t count)
{
    struct tutti_map *map = rig_map_range(rig, 16, count, 1);

    rig_fill(rig, map, 1);
    assert_int_equal(rig_store(rig, map), 0);
    return map;
}

static void classes_before_issue(void **state)
{
    static const enum tutti_class order[] = {TUTTI_CLASS_PROBE, TUTTI_CLASS_STORE,
                                             TUTTI_CLASS_LOAD_AHEAD, TUTTI_CLASS_SCRUB,
                                             TUTTI_CLASS_LOAD_NOW};
    static const uint32_t away[] = {32, 33, 34, 35}, apart[] = {40, 41, 42, 43};
    struct tutti_completion done[TUTTI_CLASSES];
    uint32_t index[TUTTI_CLASSES];
    struct tutti_map *map[TUTTI_CLASSES], *old;
    struct gate gate;
    struct rig rig;
    (void)state;

    open_one_at_a_time(&rig, 1);
    old = stored(&rig, 4);
    gate_close(&gate, &rig);
    for (uint32_t i = 0; i < TUTTI_CLASSES; i++) {
        uint32_t c = order[i];

        map[c] = c == TUTTI_CLASS_STORE ? rig_map(&rig, away, apart, 4, 1)
                                        : rig_map_range(&rig, 16, 4, 1);
        map[c]->verify = false; /* no records are read here */
        index[c] = behind(&rig, &gate, map[c], 0, c);
    }
    gate_open(&gate);
    for (uint32_t c = 0; c < TUTTI_CLASSES; c++)
        assert_int_equal(rig_wait(&rig, index[c], &done[c]), 0);
    for (uint32_t c = 1; c < TUTTI_CLASSES; c++) {
        assert_true(done[c - 1].started <= done[c].started);
        assert_true(done[c - 1].ended <= done[c].ended);
        assert_true(done[c].issued <= done[c].started && done[c].started <= done[c].ended);
    }
    gate_away(&gate, &rig);
    for (uint32_t c = 0; c < TUTTI_CLASSES; c++)
        rig_map_free(map[c]);
    rig_map_free(old);
    rig_close(&rig);
}

/** Within a class the order of issue counts. A deadline is a hint: nothing is lost by any. */
static void issue_within_a_class(void **state)
{
    static const uint64_t deadlines[] = {0, UINT64_MAX, 1, 5, 0, 1};
    enum { MANY = 6 };
    struct tutti_completion done[MANY];
    uint32_t index[MANY];
    struct tutti_map *old;
    struct gate gate;
    struct rig rig;
    (void)state;

    for (uint32_t with = 0; with < 2; with++) {
        open_one_at_a_time(&rig, 1);
        old = stored(&rig, 4);
        gate_close(&gate, &rig);
        for (uint32_t i = 0; i < MANY; i++) {
            struct tutti_iocb *iocb =
                rig_get(&rig, old, i % 3, TUTTI_READ, TUTTI_CLASS_LOAD_AHEAD, &index[i]);

            iocb->wait_for = gate.index;
            iocb->deadline = with ? deadlines[i] : 0;
            iocb->tag = 1000 + i;
            assert_int_equal(tutti_ring_issue(rig.ring, index[i]), 0);
        }
        gate_open(&gate);
        for (uint32_t i = 0; i < MANY; i++) {
            assert_int_equal(tutti_ring_iocb(rig.ring, index[i])->tag, 1000 + i);
            assert_int_equal(rig_wait(&rig, index[i], &done[i]), 0);
            assert_true(with || i == 0 || done[i - 1].started <= done[i].started);
        }
        assert_int_equal(rig_good(&rig, old, 1), 4);
        gate_away(&gate, &rig);
        rig_map_free(old);
        rig_close(&rig);
    }
}

/** A chain over two members, of IOCBs whose class would have them go first, from last to first. */
static void waits_for(void **state)
{
    enum { MANY = 12 };
    struct tutti_completion done[MANY];
    uint32_t index[MANY];
    struct tutti_map *map;
    struct gate gate;
    struct rig rig;
    (void)state;

    rig_open(&rig, &(struct rig_options){.engine = engine, .members = 2});
    map = stored(&rig, 32);
    map->verify = false; /* its records are drafts again once a layer is written */
    gate_close(&gate, &rig);
    for (uint32_t i = 0; i < MANY; i++)
        index[i] =
            rig_issue(&rig, map, i % 3, i % 2 ? TUTTI_READ : TUTTI_WRITE,
                      (enum tutti_class)(TUTTI_CLASS_PROBE - i % 5), i ? index[i - 1] : gate.index);
    gate_open(&gate);
    for (uint32_t i = 0; i < MANY; i++)
        assert_int_equal(tutti_ring_wait(rig.ring, index[i], RIG_WAIT), 0);
    for (uint32_t i = 0; i < MANY; i++) {
        rig_wait(&rig, index[i], &done[i]);
        assert_true(i == 0 || done[i - 1].ended <= done[i].started);
    }
    gate_away(&gate, &rig);
    rig_map_free(map);
    rig_close(&rig);
}

/**
 * What has nothing left to do still completes after what it waits for: who waits for the last of
 * a chain may reuse its memory. It once completed at once.
 */
static void nothing_to_do_waits_too(void **state)
{
    struct tutti_map *map;
    struct gate gate;
    struct rig rig;
    uint32_t index;
    (void)state;

    rig_open(&rig, &(struct rig_options){.engine = engine});
    map = rig_map_range(&rig, 16, 4, 1);
    memset(map->status, EIO, 4); /* all failed before */
    gate_close(&gate, &rig);
    index = behind(&rig, &gate, map, 0, TUTTI_CLASS_STORE);
    /* An IOCB that was issued later has gone by: this one was looked at. */
    assert_int_equal(rig_wait(&rig,
                              rig_issue(&rig, gate.map, TUTTI_LAYER_EMPTY, TUTTI_WRITE,
                                        TUTTI_CLASS_PROBE, TUTTI_NO_IOCB),
                              NULL),
                     0);
    assert_int_equal(tutti_ring_done(rig.ring, index), 0);
    gate_open(&gate);
    assert_int_equal(rig_wait(&rig, index, NULL), -EIO);
    gate_away(&gate, &rig);
    rig_map_free(map);
    rig_close(&rig);
}

/** A store whose source is not ready is stepped over; loads that came later go by. */
static void not_ready_is_in_nobodys_way(void **state)
{
    struct tutti_map *map, *in, *late;
    struct tutti_iocb *iocb;
    uint32_t word = 0, index;
    struct rig rig;
    (void)state;

    open_one_at_a_time(&rig, 1);
    map = stored(&rig, 4);
    late = rig_map_range(&rig, 32, 4, 2);
    iocb = rig_get(&rig, late, 0, TUTTI_WRITE, TUTTI_CLASS_LOAD_NOW, &index);
    iocb->ready = &word;
    iocb->ready_value = 7;
    assert_int_equal(tutti_ring_issue(rig.ring, index), 0);
    for (uint32_t i = 0; i < 3; i++) {
        in = rig_map_range(&rig, 16, 4, 1);
        assert_int_equal(rig_load(&rig, in), 0);
        rig_map_free(in);
    }
    assert_int_equal(tutti_ring_done(rig.ring, index), 0);
    __atomic_store_n(&word, 6, __ATOMIC_RELEASE);
    assert_int_equal(tutti_ring_wait(rig.ring, index, RIG_SECOND / 500), -ETIMEDOUT);
    __atomic_store_n(&word, 8, __ATOMIC_RELEASE); /* behind it counts as reached */
    assert_int_equal(rig_wait(&rig, index, NULL), 0);
    rig_map_free(late);
    rig_map_free(map);
    rig_close(&rig);
}

static void cancelled_before(void **state)
{
    struct tutti_completion done;
    struct tutti_map *map, *in;
    struct gate gate;
    struct rig rig;
    uint32_t index;
    (void)state;

    for (uint32_t members = 1; members <= 2; members++) {
        open_one_at_a_time(&rig, members);
        map = stored(&rig, 32);
        in = rig_map_range(&rig, 16, 32, 1);
        rig_wipe(&rig);
        gate_close(&gate, &rig);
        index = behind(&rig, &gate, in, 1, TUTTI_CLASS_LOAD_NOW);
        assert_int_equal(tutti_ring_cancel(rig.ring, index), TUTTI_CANCEL_NOT_STARTED);
        assert_int_equal(rig_wait(&rig, index, &done), -ECANCELED); /* and nobody opened the gate */
        assert_int_equal(done.started, 0);
        assert_int_equal(done.verified, 0);
        assert_int_equal(done.bytes[0] + done.bytes[1] + done.commands, 0);
        for (uint32_t i = 0; i < 32; i++)
            assert_int_equal(in->status[i], ECANCELED);
        gate_open(&gate);
        gate_away(&gate, &rig);
        assert_int_equal(rig_good(&rig, in, 1), 0);
        assert_memory_equal(rig.memory, rig.memory + 1, rig.memory_bytes - 1); /* untouched */
        rig_map_free(map);
        rig_map_free(in);
        rig_close(&rig);
    }
}

/** Under way: what is not submitted stays undone, and what is says truly what became of it. */
static void cancelled_under_way(enum tutti_direction direction)
{
    enum { MANY = 40 }; /* slow commands, one at a time: 4 seconds of them */
    uint32_t slots[MANY], blocks[MANY], cancelled = 0;
    struct tutti_map *map, *in;
    struct tutti_completion done;
    struct rig rig;
    uint32_t index;

    rig_open(&rig, &(struct rig_options){.engine = "fault",
                                         .inner = engine,
                                         .rules = "",
                                         .slots = 128,
                                         .command_bytes = 8192,
                                         .queue_bytes = 8192});
    for (uint32_t i = 0; i < MANY; i++) {
        slots[i] = 2 * i;
        blocks[i] = i;
    }
    map = rig_map(&rig, slots, blocks, MANY, 1);
    rig_fill(&rig, map, 1);
    if (direction == TUTTI_READ)
        assert_int_equal(rig_store(&rig, map), 0);
    rig_reopen(&rig, "fault", SLOW, engine);
    in = rig_map(&rig, slots, blocks, MANY, 1);
    in->verify = false;
    if (direction == TUTTI_READ)
        rig_wipe(&rig);
    index = rig_issue(&rig, in, 0, direction, TUTTI_CLASS_STORE, TUTTI_NO_IOCB);
    while (rig_counters(&rig).commands == 0)
        sched_yield();
    assert_int_equal(tutti_ring_cancel(rig.ring, index), TUTTI_CANCEL_FENCED);
    assert_int_equal(rig_wait(&rig, index, &done), -ECANCELED);
    for (uint32_t i = 0; i < MANY; i++) {
        assert_true(in->status[i] == 0 || in->status[i] == ECANCELED);
        assert_true(in->status[i] || rig_holds(&rig, in, i, 0, 1));
        cancelled += in->status[i] == ECANCELED;
    }
    assert_true(cancelled > 0 && cancelled < MANY);
    assert_int_equal(done.verified, MANY - cancelled);
    assert_int_equal(done.commands, MANY - cancelled);
    assert_int_equal(done.bytes[0], done.commands * 8192);
    assert_int_equal(tutti_engine_last_error(rig.engine, NULL), 0); /* a cancel is no error */
    rig_map_free(map);
    rig_map_free(in);
    rig_close(&rig);
}

static void fenced(void **state)
{
    (void)state;
    cancelled_under_way(TUTTI_READ);
    cancelled_under_way(TUTTI_WRITE);
}

static void cancelled_after(void **state)
{
    struct tutti_map *map;
    struct rig rig;
    uint32_t index;
    (void)state;

    rig_open(&rig, &(struct rig_options){.engine = engine});
    map = stored(&rig, 16);
    index = rig_issue(&rig, map, 0, TUTTI_READ, TUTTI_CLASS_LOAD_NOW, TUTTI_NO_IOCB);
    assert_int_equal(tutti_ring_wait(rig.ring, index, RIG_WAIT), 0);
    assert_int_equal(tutti_ring_cancel(rig.ring, index), TUTTI_CANCEL_ENDED);
    assert_int_equal(rig_wait(&rig, index, NULL), 0);
    assert_int_equal(rig_good(&rig, map, 1), 16);
    rig_map_free(map);
    rig_close(&rig);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classes_before_issue),
        cmocka_unit_test(issue_within_a_class),
        cmocka_unit_test(waits_for),
        cmocka_unit_test(nothing_to_do_waits_too),
        cmocka_unit_test(not_ready_is_in_nobodys_way),
        cmocka_unit_test(cancelled_before),
        cmocka_unit_test(fenced),
        cmocka_unit_test(cancelled_after),
    };

    engine = argc > 1 ? argv[1] : "uring";
    return cmocka_run_group_tests_name(engine, tests, NULL, NULL);
}
