/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Case 23: a load does not queue behind a backlog of stores. On a disk of
 * 50 MB/s, with 96 MiB of stores queued, one of them waiting for its source, a
 * retrieve of 32 MiB takes at most 1.5 times what it takes alone. Afterwards
 * each store has ended and its blocks come back.
 * Seen to fail when stores could fill their member's queue of 32 MiB: the backlog was written
 * before the loads had ended.
 */
#define RIG_OBJECT_BYTES 65536
#include "pool.h"

#include "base/clock.h"

enum { STORES = 4, STORED = 32, LOADED = 44, TRIES = 3 };

static const char *engine;
static struct mounted pool; /* every chain's block b is stored from engine block b, and equal */

struct storing {
    struct tutti_store *store;
    struct tutti_transfer items[64];
};

/** Bring a chain's first blocks back and compare them. Return: ns that it took. */
static uint64_t retrieve(uint32_t chain, uint32_t count)
{
    struct tutti_transfer items[64];
    struct tutti_retrieve *retrieve;
    struct tutti_result result;
    struct tutti_match match;
    struct tutti_error err = {0};
    uint64_t began = tutti_clock_now(), took;

    assert_int_equal(rig_find(&pool.rig, chain, count, 64, &match, items), count);
    rig_ok(tutti_retrieve_begin(pool.rig.serve, 0, items, count, false, 0, &retrieve, &err), &err);
    assert_int_equal(tutti_retrieve_wait(retrieve, 60 * SECOND), 0);
    took = tutti_clock_now() - began;
    tutti_retrieve_result(retrieve, &result);
    assert_int_equal(result.good, count);
    for (uint32_t b = 0; b < count; b++)
        assert_int_equal(rig_wrong(&pool.rig, 0, b, 64 + b), 0);
    assert_int_equal(tutti_retrieve_end(retrieve), 0);
    tutti_directory_unpin(pool.rig.directory, items[count - 1].slot, items[count - 1].generation);
    return took;
}

static void load_behind_a_backlog_of_stores(void **state)
{
    struct storing storing[STORES], target;
    uint64_t alone = UINT64_MAX, beside = UINT64_MAX;
    (void)state;

    target.store = mounted_begin(&pool, 100, LOADED, 0, RIG_LAYERS, target.items);
    assert_int_equal(rig_store_end(&pool.rig, target.store, target.items), LOADED);
    fault_mount_rule(&pool.mount, "any:limit:mb=50");
    for (uint32_t i = 0; i < TRIES; i++) {
        uint64_t took = retrieve(100, LOADED);

        alone = took < alone ? took : alone;
    }
    for (uint32_t i = 0; i < STORES; i++) /* the second one waits for its source */
        storing[i].store =
            mounted_begin(&pool, 2 * i, STORED, 0, i == 1 ? 0 : RIG_LAYERS, storing[i].items);
    for (uint32_t i = 0; i < TRIES; i++) {
        uint64_t written = fault_mount_count(&pool.mount, "write", "bytes"), took;

        /* Only a backlog that is under way shows something. */
        while (fault_mount_count(&pool.mount, "write", "bytes") < written + (2u << 20)) {
            assert_int_equal(tutti_store_poll(storing[STORES - 1].store), 0);
            fault_mount_pause();
        }
        took = retrieve(100, LOADED);
        beside = took < beside ? took : beside;
    }
    print_message("%s: 32 MiB took %.0f ms alone, %.0f ms with stores queued\n", engine,
                  (double)alone / 1e6, (double)beside / 1e6);
    assert_true(beside * 2 <= alone * 3);
    fault_mount_lift(&pool.mount);
    assert_int_equal(tutti_store_ready(storing[1].store, RIG_LAYERS), 0);
    for (uint32_t i = 0; i < STORES; i++)
        assert_int_equal(rig_store_end(&pool.rig, storing[i].store, storing[i].items), STORED);
    for (uint32_t i = 0; i < STORES; i++)
        retrieve(2 * i, 16);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(load_behind_a_backlog_of_stores)};
    int failed;

    engine = argc > 1 ? argv[1] : "uring";
    mounted_make(&pool, engine, UINT64_C(256) << 20, false);
    for (uint32_t b = 0; b < LOADED; b++)
        rig_fill(&pool.rig, 0, b, b);
    failed = cmocka_run_group_tests_name(engine, tests, NULL, NULL);
    mounted_remove(&pool);
    return failed;
}
