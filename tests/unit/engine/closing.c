/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Close in the middle of everything: what runs is waited for, what is queued is
 * completed with -ECANCELED, nobody waits for ever, and afterwards neither
 * memory nor disk is touched.
 * Seen to fail with a thread that ends without waiting for its tasks, one that
 * gives up none, and a close that does not look whose child it is in.
 */
#include "rig.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SLOTS = 64, MAPS = 4, MOST = MAPS * 8 };

static const char *engine;

/** Slow commands on two members; maps 0 and 1 are stored, a slot of each is bad on disk. */
struct busy {
    struct rig rig;
    struct tutti_map *map[MAPS];
    uint32_t index[MOST];
    uint32_t issued;
};

static struct tutti_map *map_of(struct rig *rig, uint32_t m)
{
    uint32_t numbers[SLOTS / MAPS];

    for (uint32_t i = 0; i < SLOTS / MAPS; i++)
        numbers[i] = m + i * MAPS; /* no neighbours: a command for each */
    return rig_map(rig, numbers, numbers, SLOTS / MAPS, 1);
}

static void busy_open(struct busy *b, size_t queue_bytes, bool unreachable)
{
    struct rig_options o = {.engine = engine,
                            .members = 2,
                            .slots = 8,
                            .extents = 8,
                            .queue_bytes = queue_bytes,
                            .unreachable = unreachable};

    rig_open(&b->rig, &o);
    b->issued = 0;
    for (uint32_t m = 0; m < MAPS; m++) {
        b->map[m] = map_of(&b->rig, m);
        rig_fill(&b->rig, b->map[m], 1);
        assert_int_equal(m < 2 ? rig_store(&b->rig, b->map[m]) : 0, 0);
    }
    rig_flip(&b->rig, tutti_object_place(&b->rig.placement, 0, 0, 0), 7);
    rig_flip(&b->rig, tutti_object_place(&b->rig.placement, 9, 1, 0), 7);
    rig_reopen(&b->rig, "fault", "any:delay:ns=3000000", engine);
}

/** Loads of maps 0 and 1, stores of 2 and 3, all at once. */
static void busy_issue(struct busy *b)
{
    for (uint32_t m = 0; m < MAPS; m++) {
        enum tutti_direction direction = m < 2 ? TUTTI_READ : TUTTI_WRITE;
        enum tutti_class class_ = m < 2 ? TUTTI_CLASS_LOAD_AHEAD : TUTTI_CLASS_STORE;

        if (m < 2) {
            rig_map_free(b->map[m]);
            b->map[m] = map_of(&b->rig, m);
            b->index[b->issued++] = rig_issue(&b->rig, b->map[m], TUTTI_LAYER_RECORDS, direction,
                                              class_, TUTTI_NO_IOCB);
        }
        for (uint32_t l = 0; l < b->rig.options.layers; l++, b->issued++)
            b->index[b->issued] = rig_issue(&b->rig, b->map[m], l, direction, class_,
                                            m < 2 ? TUTTI_NO_IOCB : b->index[b->issued - 1]);
    }
}

static uint8_t *contents(const struct rig *rig, uint64_t bytes)
{
    void *all = NULL;

    assert_int_equal(posix_memalign(&all, 4096, 2 * bytes), 0);
    for (uint32_t m = 0; m < 2; m++)
        assert_int_equal(
            pread(rig->member[m].fd, (uint8_t *)all + m * bytes, bytes, TUTTI_FIRST_EXTENT), bytes);
    return all;
}

/** Time goes by: other engines live and die. */
static void lives(struct rig *rig, uint32_t count)
{
    while (count--) {
        rig_start(rig);
        tutti_engine_close(rig->engine);
        rig->engine = NULL;
    }
}

/** Close, and look that all is over and stays so. Return: IOCBs that were not cancelled. */
static uint32_t busy_close(struct busy *b)
{
    struct rig *rig = &b->rig;
    uint64_t bytes = 4 * rig->placement.extent_bytes;
    uint8_t *before, *after;
    uint32_t whole = 0;

    tutti_engine_close(rig->engine);
    rig->engine = NULL;
    for (uint32_t i = 0; i < b->issued; i++) {
        int status = tutti_ring_wait(rig->ring, b->index[i], 0);

        assert_int_equal(tutti_ring_done(rig->ring, b->index[i]), 1);
        assert_true(status == 0 || status == -ECANCELED || status == -EBADMSG);
        whole += status != -ECANCELED;
        assert_int_equal(tutti_ring_put(rig->ring, b->index[i]), 0);
    }
    for (uint32_t m = 0; m < MAPS; m++) {
        rig_good(rig, b->map[m], 1);
        rig_map_free(b->map[m]);
    }
    rig_wipe(rig);
    before = contents(rig, bytes);
    lives(rig, 2);
    after = contents(rig, bytes);
    assert_memory_equal(before, after, 2 * bytes);
    assert_memory_equal(rig->memory, rig->memory + 1, rig->memory_bytes - 1);
    free(before);
    free(after);
    rig_close(rig);
    return whole;
}

/** At any moment: nothing done yet, this or that many commands, nearly all. */
static void in_the_middle(void **state)
{
    static const uint64_t moments[] = {0, 9, 90};
    uint32_t some = 0, issued = 0;
    static struct busy b;
    (void)state;

    for (uint32_t i = 0; i < sizeof(moments) / sizeof(moments[0]); i++)
        for (uint32_t u = 0; u < 2; u++) {
            busy_open(&b, u ? 16384 : 0, u);
            busy_issue(&b);
            while (rig_counters(&b.rig).commands < moments[i] / (1 + u))
                sched_yield();
            issued += b.issued;
            some += busy_close(&b);
        }
    assert_true(some > 0 && some < issued);
}

/** What waits for a word that never comes, and what waits for that. */
static void never_ready(void **state)
{
    uint32_t word = 0, index[3];
    struct tutti_completion done;
    struct tutti_iocb *iocb;
    struct tutti_map *map;
    struct rig rig;
    (void)state;

    rig_open(&rig, &(struct rig_options){.engine = engine, .members = 2});
    map = rig_map_range(&rig, 0, 32, 1);
    iocb = rig_get(&rig, map, 0, TUTTI_WRITE, TUTTI_CLASS_STORE, &index[0]);
    iocb->ready = &word;
    iocb->ready_value = 1;
    assert_int_equal(tutti_ring_issue(rig.ring, index[0]), 0);
    for (uint32_t i = 1; i < 3; i++)
        index[i] = rig_issue(&rig, map, i, TUTTI_WRITE, TUTTI_CLASS_STORE, index[i - 1]);
    tutti_engine_close(rig.engine);
    rig.engine = NULL;
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(rig_wait(&rig, index[i], &done), -ECANCELED);
        assert_int_equal(done.commands, 0);
        assert_int_equal(done.started, 0);
    }
    rig_map_free(map);
    rig_close(&rig);
}

static void *waiter(void *argument)
{
    struct busy *b = argument;

    for (uint32_t i = b->issued; i-- > 0;)
        if (tutti_ring_wait(b->rig.ring, b->index[i], RIG_WAIT) == -ETIMEDOUT)
            return b;
    return NULL;
}

/** Who waits in another thread meanwhile gets an answer. */
static void waiters_are_answered(void **state)
{
    static struct busy b;
    pthread_t thread;
    void *late;
    (void)state;

    busy_open(&b, 16384, false);
    busy_issue(&b);
    assert_int_equal(pthread_create(&thread, NULL, waiter, &b), 0);
    tutti_engine_close(b.rig.engine);
    b.rig.engine = NULL;
    assert_int_equal(pthread_join(thread, &late), 0);
    assert_null(late);
    busy_close(&b);
}

/** The ring outlives its engine: the next one is woken by it as the first was. */
static void one_ring_many_engines(void **state)
{
    struct tutti_map *map;
    struct rig rig;
    (void)state;

    rig_open(&rig, &(struct rig_options){.engine = engine, .staging_bytes = 1 << 20});
    map = rig_map_range(&rig, 0, 4, 1);
    rig_fill(&rig, map, 1);
    assert_int_equal(rig_store(&rig, map), 0);
    for (uint32_t i = 0; i < 20; i++) {
        tutti_engine_close(rig.engine);
        rig_start(&rig);
        for (uint32_t k = 0; k < 4; k++) { /* one at a time: it sleeps before each */
            struct tutti_map *in = rig_map_range(&rig, 0, 4, 1);

            assert_int_equal(rig_load(&rig, in), 0);
            rig_map_free(in);
        }
    }
    rig_map_free(map);
    rig_close(&rig);
}

/** A child of fork() has none of the threads: close does nothing there, and harms nobody. */
static void in_a_child(void **state)
{
    struct tutti_map *map;
    struct rig rig;
    int status;
    pid_t child;
    (void)state;

    tutti_engine_close(NULL);
    rig_open(&rig, &(struct rig_options){.engine = engine});
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(20);
        tutti_engine_close(rig.engine);
        _exit(strcmp(tutti_engine_name(rig.engine), engine) != 0); /* it is still there */
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    map = rig_map_range(&rig, 0, 4, 1);
    rig_fill(&rig, map, 1);
    assert_int_equal(rig_store(&rig, map), 0);
    rig_map_free(map);
    rig_close(&rig);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_the_middle),        cmocka_unit_test(never_ready),
        cmocka_unit_test(waiters_are_answered), cmocka_unit_test(one_ring_many_engines),
        cmocka_unit_test(in_a_child),
    };

    engine = argc > 1 ? argv[1] : "uring";
    return cmocka_run_group_tests_name(engine, tests, NULL, NULL);
}
