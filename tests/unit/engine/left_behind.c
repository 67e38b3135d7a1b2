/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Close has a bound while a command is out: the engine is left behind with a message, and when the
 * command ends after all, its thread finds everything that it touches, completes and goes.
 * Once, close waited for such a command without a bound. Seen to fail (ASan) with an engine that is
 * freed after the bound, and to hang without one.
 */
#include "rig.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static const char *engine;
static struct rig rig; /* it outlives the test, as its engine does */
static struct tutti_map *map;

static void close_has_a_bound(void **state)
{
    struct tutti_error err = {0};
    uint32_t index, queued;
    (void)state;

    alarm(60);
    rig_open(&rig, &(struct rig_options){.engine = engine, .members = 2});
    map = rig_map_range(&rig, 0, 32, 1);
    rig_fill(&rig, map, 1);
    assert_int_equal(rig_store(&rig, map), 0);
    rig_reopen(&rig, "fault", "read:delay:member=1:ns=1200000000", engine);
    index =
        rig_issue(&rig, map, TUTTI_LAYER_RECORDS, TUTTI_READ, TUTTI_CLASS_LOAD_NOW, TUTTI_NO_IOCB);
    while (rig_counters(&rig).commands < 2) /* one of each member: the late one is out */
        usleep(1000);
    assert_int_equal(rig_counters(&rig).commands, 2);
    queued = rig_issue(&rig, map, 0, TUTTI_READ, TUTTI_CLASS_LOAD_NOW, TUTTI_NO_IOCB);
    assert_int_equal(tutti_engine_close_within(rig.engine, 400000000, &err), -ETIMEDOUT);
    rig.engine = NULL;
    assert_int_equal(err.code, -ETIMEDOUT);
    /* The late member, or on a busy machine the first whose thread has not ended yet. */
    assert_true(strstr(err.message, rig.path[1]) || strstr(err.message, rig.path[0]));
    /* The late command ends; nobody was told that its memory is free. */
    tutti_ring_wait(rig.ring, index, RIG_WAIT);
    assert_int_equal(tutti_ring_done(rig.ring, index), 1);
    tutti_ring_wait(rig.ring, queued, RIG_WAIT);
    assert_int_equal(tutti_ring_done(rig.ring, queued), 1);
    usleep(50000); /* for its thread to go, under a sanitizer's eyes; nothing depends on it */
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(close_has_a_bound)};

    engine = argc > 1 ? argv[1] : "uring";
    return cmocka_run_group_tests_name(engine, tests, NULL, NULL);
}
