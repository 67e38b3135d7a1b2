/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocks that are about to be overwritten are left alone in time: a fence
 * cancels or ends the stores that read them; a cancelled retrieve ends; a close
 * in the middle of everything ends too, and every session comes to its end.
 * Slow I/O comes from engine "fault". Seen to fail with the fence returning
 * before it waited.
 */
#include "rig.h"

#include <errno.h>

static const char *engine;

static void fence_ends_the_stores_of_its_blocks(void **state)
{
    struct tutti_transfer first[64], second[64];
    struct tutti_store *a, *b;
    struct tutti_result result;
    uint32_t block = 3;
    struct rig r;
    int n, m;
    (void)state;

    rig_make(&r, engine, "write:delay:ns=30000000");
    a = rig_store_begin(&r, 0, 0, 10, first, &n);
    b = rig_store_begin(&r, 2, 20, 0, second, &m); /* nothing: prefix is missing */
    assert_null(b);
    assert_int_equal(n, 10);
    assert_int_equal(tutti_serve_fence(r.serve, &(uint32_t){77}, 1, 0), 0);
    assert_int_equal(tutti_serve_fence(r.serve, &block, 1, 20 * SECOND), 1);
    /* From here on the content may change, and must not be served. */
    memset(r.kv, 0x55, r.kv_bytes);
    assert_int_equal(tutti_store_poll(a), 1);
    tutti_store_result(a, &result);
    for (uint32_t i = 0; i < result.count; i++)
        tutti_directory_report(r.directory, 0, first[i].slot, first[i].generation,
                               result.position[i] == 0);
    if (result.good == 0)
        assert_int_equal(result.status, -ECANCELED);
    assert_int_equal(tutti_store_end(a), 0);
    /* Nobody reads the blocks any more. */
    assert_int_equal(tutti_serve_fence(r.serve, &block, 1, 0), 0);
    rig_close(&r);
    rig_remove(&r);
}

static void cancelled_retrieve_ends(void **state)
{
    struct tutti_transfer items[64];
    struct tutti_match match;
    struct tutti_retrieve *retrieve;
    struct tutti_result result;
    struct tutti_error err = {0};
    struct rig r;
    (void)state;

    rig_make(&r, engine, "read:delay:ns=20000000");
    assert_int_equal(rig_store(&r, 0, 0, 16), 16);
    assert_int_equal(rig_find(&r, 0, 16, 40, &match, items), 16);
    /* In step: layers beyond the look-ahead are not begun before somebody waits for one. */
    rig_ok(tutti_retrieve_begin(r.serve, 0, items, 16, true, 1, &retrieve, &err), &err);
    assert_int_equal(tutti_retrieve_end(retrieve), -EBUSY);
    tutti_retrieve_cancel(retrieve);
    assert_int_equal(tutti_retrieve_wait(retrieve, 20 * SECOND), 0);
    tutti_retrieve_result(retrieve, &result);
    assert_int_equal(result.good, 0);
    assert_int_equal(result.status, -ECANCELED);
    assert_int_equal(tutti_retrieve_end(retrieve), 0);
    rig_close(&r);
    rig_remove(&r);
}

static void close_in_the_middle_ends(void **state)
{
    struct tutti_transfer items[64], stored[64];
    struct tutti_match match;
    struct tutti_retrieve *retrieve;
    struct tutti_error err = {0};
    struct rig r;
    int n;
    (void)state;

    rig_make(&r, engine, "any:delay:ns=5000000");
    assert_int_equal(rig_store(&r, 0, 0, 16), 16);
    assert_int_equal(rig_find(&r, 0, 16, 40, &match, items), 16);
    rig_ok(tutti_retrieve_begin(r.serve, 0, items, 16, true, 1, &retrieve, &err), &err);
    assert_non_null(rig_store_begin(&r, 0, 16, 8, stored, &n));
    rig_ok(tutti_serve_erase(r.serve, 0, items, 1, &err), &err);
    rig_close(&r);
    rig_remove(&r);
}

/* A close right after an end: no bell gets lost between a thread's look and its sleep. */
static void close_right_after_an_end(void **state)
{
    struct rig r;
    (void)state;

    alarm(60);
    rig_make(&r, engine, NULL);
    for (uint32_t round = 0; round < 100; round++) {
        assert_int_equal(rig_store(&r, 2 * round, 0, 1), 1);
        rig_close(&r);
        rig_open(&r, engine, NULL);
    }
    alarm(0);
    rig_close(&r);
    rig_remove(&r);
}

/* More steps than the ring has entries: issued as room comes back, no deadlock. */
static void a_small_ring_is_enough(void **state)
{
    struct tutti_transfer items[64];
    struct tutti_retrieve *retrieve[30];
    struct tutti_match match;
    struct tutti_error err = {0};
    struct tutti_result result;
    struct rig r;
    (void)state;

    rig_make(&r, engine, NULL);
    assert_int_equal(rig_store(&r, 0, 0, 2), 2);
    for (uint32_t i = 0; i < 30; i++) {
        assert_int_equal(rig_find(&r, 0, 2, 40 + 2 * i, &match, items), 2);
        rig_ok(tutti_retrieve_begin(r.serve, 0, items, 2, false, i, &retrieve[i], &err), &err);
    }
    for (uint32_t i = 30; i-- > 0;) {
        assert_int_equal(tutti_retrieve_wait(retrieve[i], 20 * SECOND), 0);
        tutti_retrieve_result(retrieve[i], &result);
        assert_int_equal(result.good, 2);
        assert_int_equal(tutti_retrieve_end(retrieve[i]), 0);
        assert_int_equal(rig_wrong(&r, 0, 1, 41 + 2 * i), 0);
    }
    rig_close(&r);
    rig_remove(&r);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fence_ends_the_stores_of_its_blocks),
        cmocka_unit_test(cancelled_retrieve_ends),
        cmocka_unit_test(close_in_the_middle_ends),
        cmocka_unit_test(close_right_after_an_end),
        cmocka_unit_test(a_small_ring_is_enough),
    };

    engine = argc > 1 ? argv[1] : "auto";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
