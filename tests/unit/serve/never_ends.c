/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device that never answers again: its member is fenced by the clock, the other one loads and
 * stores, erasures on the bad one hold nobody up, and closing ends with a message. What the command
 * may still touch stays: the pool is locked until the process ends.
 * Once, a store wrote its records only when no erasure at all was under way, and close had no
 * bound. Seen to hang so, and to fail with a pool that lets its lock go.
 */
#include "rig.h"

#include <errno.h>

enum { BLOCKS = 16 };

static const char *engine;
static struct rig r; /* it outlives the test, as what was left behind does */

static void the_other_serves_and_close_ends(void **state)
{
    struct tutti_pool_options options;
    struct tutti_transfer items[64], others[64];
    struct tutti_retrieve *retrieve;
    struct tutti_placement p;
    struct tutti_match match;
    struct tutti_error err = {0};
    struct tutti_pool *second;
    char rules[96];
    uint32_t bad;
    (void)state;

    alarm(100);
    rig_make(&r, engine, NULL);
    assert_int_equal(rig_store(&r, 0, 0, BLOCKS), BLOCKS);
    assert_int_equal(rig_store(&r, 2, 0, BLOCKS), BLOCKS);
    assert_int_equal(tutti_pool_placement(r.pool, 0, &p), 0);
    assert_int_equal(rig_find(&r, 2, BLOCKS, 40, &match, items), BLOCKS);
    bad = tutti_record_place(&p, items[0].slot).member;
    rig_close(&r);
    r.fence_errors = 4;
    r.late_ns = SECOND; /* a healthy disk that others use too is not so late */
    snprintf(rules, sizeof(rules), "any:delay:member=%u:ns=1000000000000", bad);
    rig_open(&r, engine, rules);

    assert_int_equal(rig_find(&r, 2, BLOCKS, 40, &match, items), BLOCKS);
    rig_ok(tutti_retrieve_begin(r.serve, 0, items, 4, false, 2, &retrieve, &err), &err);
    /* Slots of both members in one list, the last one of chain 0 among them. */
    assert_int_equal(rig_find(&r, 0, BLOCKS, 60, &match, others), BLOCKS);
    items[4] = others[BLOCKS - 1];
    rig_ok(tutti_serve_erase(r.serve, 0, items + 4, 8, &err), &err);
    while (tutti_serve_fenced(r.serve) == 0)
        assert_int_equal(tutti_retrieve_wait(retrieve, 1000000), -ETIMEDOUT);
    assert_int_equal(tutti_serve_fenced(r.serve), 1u << bad);
    tutti_directory_fence_members(r.directory, tutti_serve_fenced(r.serve));
    assert_int_equal(rig_load(&r, 0, BLOCKS, 60), BLOCKS - 1);
    assert_int_equal(rig_store(&r, 4, 0, BLOCKS), BLOCKS);
    assert_int_equal(rig_load(&r, 4, BLOCKS, 60), BLOCKS);
    assert_int_equal(tutti_retrieve_poll(retrieve), 0); /* its blocks are still the device's */

    assert_int_equal(tutti_serve_close_within(r.serve, 50000000, &err), -ETIMEDOUT);
    assert_non_null(strstr(err.message, "does not end"));
    tutti_directory_free(r.directory);
    tutti_pool_close(r.pool);
    options = rig_pool_options(&r);
    assert_int_equal(tutti_pool_open(&options, &second, &err), -EBUSY);
    alarm(0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_other_serves_and_close_ends)};
    int failed;

    engine = argc > 1 ? argv[1] : "auto";
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    r.kv_bytes = 0; /* KV memory stays mapped */
    rig_remove(&r);
    return failed;
}
