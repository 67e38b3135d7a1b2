/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who only polls a retrieve makes progress with everything else too: a store that waits for its
 * age is issued. Once, tutti_retrieve_poll() looked at its own session alone.
 */
#include "rig.h"

#include "serve/internal.h"

static const char *engine;

static void polling_a_retrieve_moves_stores(void **state)
{
    struct tutti_transfer items[64], stored[64];
    struct tutti_match match;
    struct tutti_retrieve *retrieve;
    struct tutti_store *store;
    struct tutti_error err = {0};
    uint64_t polls = 0;
    struct rig r;
    int n;
    (void)state;

    rig_make(&r, engine, "read:delay:ns=300000000");
    assert_int_equal(rig_store(&r, 0, 0, 4), 4);
    assert_int_equal(rig_find(&r, 0, 4, 40, &match, items), 4);
    rig_ok(tutti_retrieve_begin(r.serve, 0, items, 4, false, 1, &retrieve, &err), &err);
    store = rig_store_begin(&r, 2, 0, 4, stored, &n);
    assert_non_null(store);
    while (!store->session.ended && polls++ < 40000) {
        tutti_retrieve_poll(retrieve);
        usleep(1000);
    }
    assert_true(store->session.ended);
    assert_int_equal(rig_store_end(&r, store, stored), 4);
    assert_int_equal(tutti_retrieve_wait(retrieve, 20 * SECOND), 0);
    assert_int_equal(tutti_retrieve_end(retrieve), 0);
    rig_close(&r);
    rig_remove(&r);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(polling_a_retrieve_moves_stores)};

    engine = argc > 1 ? argv[1] : "auto";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
