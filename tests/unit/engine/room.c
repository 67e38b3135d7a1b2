/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When there is no room, what is open goes on and what is cancelled ends: an open batch of a lower
 * class does not keep staging from a higher one for ever, and a store that never started does not
 * wait for the loads before it. Seen to fail with fill_one() returning at the first FULL.
 */
#include "rig.h"

#include <errno.h>
#include <time.h>

static const char *engine_name = "uring";

static uint64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * RIG_SECOND + (uint64_t)t.tv_nsec;
}

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

/* Staging and queue of one command each; records in flight keep the store's batch from going. */
static void open_batch_gives_staging_back(void **state)
{
    struct rig rig;
    struct rig_options o = {.engine = engine_name,
                            .skew = 64,
                            .layout = RIG_GAPPED,
                            .command_bytes = 65536,
                            .staging_bytes = 65536,
                            .queue_bytes = 65536};
    struct tutti_map *in, *out;
    uint32_t records, store, load;
    (void)state;

    rig_open(&rig, &o);
    in = rig_map_range(&rig, 0, 16, 1);
    out = rig_map_range(&rig, 16, 16, 2);
    rig_fill(&rig, in, 1);
    assert_int_equal(rig_store(&rig, in), 0);
    rig_reopen(&rig, "fault", "read:delay:count=1:ns=200000000", engine_name);
    records =
        rig_issue(&rig, in, TUTTI_LAYER_RECORDS, TUTTI_READ, TUTTI_CLASS_LOAD_AHEAD, TUTTI_NO_IOCB);
    pause_ms(30);
    store = rig_issue(&rig, out, 0, TUTTI_WRITE, TUTTI_CLASS_STORE, TUTTI_NO_IOCB);
    pause_ms(30);
    load = rig_issue(&rig, in, 0, TUTTI_READ, TUTTI_CLASS_LOAD_NOW, TUTTI_NO_IOCB);
    assert_int_equal(tutti_ring_wait(rig.ring, records, 5 * RIG_SECOND), 0);
    assert_int_equal(tutti_ring_wait(rig.ring, load, 5 * RIG_SECOND), 0);
    assert_int_equal(tutti_ring_wait(rig.ring, store, 5 * RIG_SECOND), 0);
    rig_close(&rig);
    rig_map_free(in);
    rig_map_free(out);
}

static void cancelled_store_waits_for_no_load(void **state)
{
    struct rig rig;
    struct rig_options o = {.engine = engine_name, .command_bytes = 65536, .queue_bytes = 65536};
    struct tutti_map *in, *out;
    uint32_t loads[4], store;
    uint64_t began;
    (void)state;

    rig_open(&rig, &o);
    in = rig_map_range(&rig, 0, 40, 1);
    out = rig_map_range(&rig, 41, 8, 2);
    rig_fill(&rig, in, 1);
    assert_int_equal(rig_store(&rig, in), 0);
    rig_reopen(&rig, "fault", "read:delay:ns=100000000", engine_name);
    for (uint32_t i = 0; i < 4; i++)
        loads[i] = rig_issue(&rig, in, i == 0 ? TUTTI_LAYER_RECORDS : i - 1, TUTTI_READ,
                             TUTTI_CLASS_LOAD_AHEAD, TUTTI_NO_IOCB);
    store = rig_issue(&rig, out, 0, TUTTI_WRITE, TUTTI_CLASS_STORE, TUTTI_NO_IOCB);
    pause_ms(20);
    began = now();
    assert_int_equal(tutti_ring_cancel(rig.ring, store), TUTTI_CANCEL_NOT_STARTED);
    assert_int_equal(tutti_ring_wait(rig.ring, store, 20 * RIG_SECOND), -ECANCELED);
    assert_true(now() - began < RIG_SECOND / 2);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(tutti_ring_wait(rig.ring, loads[i], 20 * RIG_SECOND), 0);
    rig_close(&rig);
    rig_map_free(in);
    rig_map_free(out);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(open_batch_gives_staging_back),
        cmocka_unit_test(cancelled_store_waits_for_no_load),
    };

    if (argc > 1)
        engine_name = argv[1];
    return cmocka_run_group_tests_name(engine_name, tests, NULL, NULL);
}
