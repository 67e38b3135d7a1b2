/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The serving level holds to the pool's epochs: what a reset voided is not served though its bytes
 * are whole, nothing is stored under an epoch that is not durable, and a store of more layers than
 * there are is refused. A store that is refused leaves the slot's record alone: once, it emptied
 * it. Seen to fail without refuse_void() in session.c, and with WRITE_EMPTY for refused positions
 * too.
 */
#include "rig.h"

#include <errno.h>

/** Under an epoch that is not durable here; what the slot holds is loaded afterwards. */
static void refused_store_spares_the_record(struct rig *r)
{
    struct tutti_origin origin = {.engine_hash_bytes = 32};
    struct tutti_transfer items[64];
    struct tutti_match match;
    struct tutti_store *store;
    struct tutti_result result;
    struct tutti_error err = {0};

    assert_int_equal(rig_find(r, 0, 4, 40, &match, items), 4);
    items[2].generation = (r->epoch + 9) << TUTTI_EPOCH_SHIFT | 1;
    rig_ok(tutti_store_begin(r->serve, 0, &items[2], &origin, 1, RIG_LAYERS, 1, &store, &err),
           &err);
    assert_int_equal(tutti_store_wait(store, 10 * SECOND), 0);
    tutti_store_result(store, &result);
    assert_int_equal(result.position[0], ESTALE);
    assert_int_equal(tutti_store_end(store), 0);
    assert_int_equal(rig_load(r, 0, 4, 40), 4);
}

static void epochs_bound_what_moves(void **state)
{
    struct tutti_origin origin = {.engine_hash_bytes = 32};
    struct tutti_transfer items[64];
    struct tutti_match match;
    struct tutti_retrieve *retrieve;
    struct tutti_store *store;
    struct tutti_result result;
    struct tutti_error err = {0};
    struct rig r;
    (void)state;

    rig_make(&r, "auto", NULL);
    assert_int_equal(rig_store(&r, 0, 0, 4), 4);
    refused_store_spares_the_record(&r);
    assert_int_equal(rig_find(&r, 0, 4, 40, &match, items), 4);
    rig_ok(tutti_pool_begin_epoch(r.pool, r.epoch + 1, r.epoch + 1, (const uint8_t *)RIG_IDENTITY,
                                  &err),
           &err);
    rig_ok(tutti_retrieve_begin(r.serve, 0, items, 4, false, 1, &retrieve, &err), &err);
    assert_int_equal(tutti_retrieve_wait(retrieve, 10 * SECOND), 0);
    tutti_retrieve_result(retrieve, &result);
    assert_int_equal(result.good, 0);
    assert_int_equal(result.position[0], ESTALE);
    assert_int_equal(tutti_retrieve_end(retrieve), 0);

    items[0].generation = (r.epoch + 2) << TUTTI_EPOCH_SHIFT | 1;
    items[0].block = 0;
    rig_ok(tutti_store_begin(r.serve, 0, items, &origin, 1, RIG_LAYERS, 1, &store, &err), &err);
    assert_int_equal(tutti_store_wait(store, 10 * SECOND), 0);
    tutti_store_result(store, &result);
    assert_int_equal(result.good, 0);
    assert_int_equal(tutti_store_end(store), 0);

    assert_int_equal(
        tutti_store_begin(r.serve, 0, items, &origin, 1, RIG_LAYERS + 1, 1, &store, &err), -EINVAL);
    rig_close(&r);
    rig_remove(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(epochs_bound_what_moves)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
