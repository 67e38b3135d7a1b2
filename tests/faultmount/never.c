/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads and writes that never complete: every wait ends at its bound, others
 * go on, and neither the slot, the blocks nor the staging are anybody else's
 * before the device has answered. When it has, everything is as before.
 * Seen to fail with sessions that end as soon as they are cancelled.
 */
#include "pool.h"

enum { BLOCKS = 16, VICTIM = 5, LAYER = 2, OTHER = 2, AFTERWARDS = 100 };

#define BOUND (SECOND / 5)

static const char *engine;
static const struct {
    bool staged;
    int layer;
} cases[] = {{false, LAYER}, {true, LAYER}, {false, RECORD}};

/** The device has answered: all ends, right; and what ended is left alone from then on. */
static void lifted(struct mounted *p, struct tutti_retrieve *retrieve)
{
    struct tutti_result result;

    fault_mount_lift(&p->mount);
    assert_int_equal(tutti_retrieve_wait(retrieve, 60 * SECOND), 0);
    tutti_retrieve_result(retrieve, &result);
    for (uint32_t b = 0; b < BLOCKS; b++) {
        if (result.position[b] == 0)
            assert_int_equal(rig_wrong(&p->rig, 0, b, 40 + b), 0);
        else
            assert_int_equal(result.position[b], ECANCELED);
    }
    assert_int_equal(tutti_retrieve_end(retrieve), 0);
    for (uint32_t b = 0; b < BLOCKS; b++)
        rig_fill(&p->rig, 30, b, 40 + b);
}

/** More than the ring and the staging hold, had something been lost. */
static void as_before(struct mounted *p)
{
    for (uint32_t i = 0; i < AFTERWARDS; i++)
        mounted_expect_all(p, i % 2 ? OTHER : 0, BLOCKS);
    for (uint32_t b = 0; b < BLOCKS; b++)
        assert_int_equal(rig_wrong(&p->rig, 30, b, 40 + b), 0);
}

static void retrieve_never_ends(bool in_step, bool staged, int layer)
{
    struct tutti_transfer items[64];
    struct tutti_retrieve *retrieve;
    struct tutti_match match;
    struct tutti_error err = {0};
    struct mounted p;
    uint32_t rule;

    mounted_make(&p, engine, UINT64_C(64) << 20, staged);
    assert_int_equal(rig_store(&p.rig, 0, 0, BLOCKS), BLOCKS);
    assert_int_equal(rig_find(&p.rig, 0, BLOCKS, 40, &match, items), BLOCKS);
    rule = mounted_rule(&p, "read:hold", items[VICTIM].slot, layer, ":count=1");
    rig_ok(tutti_retrieve_begin(p.rig.serve, 0, items, BLOCKS, in_step, 0, &retrieve, &err), &err);
    for (uint32_t l = 0; in_step && layer != RECORD && l < LAYER; l++)
        assert_int_equal(tutti_retrieve_layer(retrieve, l, 60 * SECOND), 0);
    fault_mount_await_waiting(&p.mount, rule, 1);
    if (in_step)
        assert_int_equal(tutti_retrieve_layer(retrieve, LAYER, BOUND), -ETIMEDOUT);
    else
        assert_int_equal(tutti_retrieve_wait(retrieve, BOUND), -ETIMEDOUT);
    tutti_retrieve_cancel(retrieve);
    assert_int_equal(tutti_retrieve_wait(retrieve, BOUND), -ETIMEDOUT);
    assert_int_equal(tutti_retrieve_poll(retrieve), 0);
    assert_int_equal(tutti_retrieve_end(retrieve), -EBUSY);
    assert_int_equal(rig_store(&p.rig, OTHER, 0, BLOCKS), BLOCKS);
    for (uint32_t i = 0; i < 10; i++)
        assert_int_equal(mounted_load(&p, OTHER, BLOCKS, NULL), BLOCKS);
    assert_int_equal(tutti_retrieve_end(retrieve), -EBUSY);
    assert_int_equal(fault_mount_rule_count(&p.mount, rule, "waiting"), 1);
    lifted(&p, retrieve);
    tutti_directory_unpin(p.rig.directory, match.slot, match.generation);
    as_before(&p);
    mounted_remove(&p);
}

static void preload(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        retrieve_never_ends(false, cases[i].staged, cases[i].layer);
}

static void in_step(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        retrieve_never_ends(true, cases[i].staged, cases[i].layer);
}

static bool among(const struct tutti_transfer *items, uint32_t count, uint32_t slot)
{
    for (uint32_t i = 0; i < count; i++)
        if (items[i].slot == slot)
            return true;
    return false;
}

/**
 * As the engine does after a fence in vain. The store may still read it, and writes no record of
 * what it reads then: a race that is meant, hence unseen by ThreadSanitizer.
 */
__attribute__((no_sanitize("thread"))) static void overwrite(unsigned char *memory, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        memory[i] ^= 0x5A;
}

/** A fence of a store that is stuck says so at its bound; its slots stay its own. */
static void store_never_ends(bool staged, int layer)
{
    struct tutti_transfer items[64], others[64];
    struct tutti_result result;
    struct tutti_store *store, *other;
    struct mounted p;
    uint32_t rule, block = VICTIM;
    uint64_t writes;
    int n;

    mounted_make(&p, engine, UINT64_C(64) << 20, staged);
    assert_int_equal(fault_mount_try(&p.mount, "zero"), 0);
    assert_int_equal(rig_store(&p.rig, 4, 0, BLOCKS), BLOCKS);
    writes = fault_mount_count(&p.mount, "write", "operations");
    rule = fault_mount_rule(&p.mount, "write:hold:file=*.tutti:after=%u:count=1",
                            (unsigned)(layer == RECORD ? writes - 1 : writes / 2));
    store = rig_store_begin(&p.rig, 0, 0, BLOCKS, items, &n);
    assert_int_equal(n, BLOCKS);
    while (fault_mount_rule_count(&p.mount, rule, "waiting") == 0) {
        assert_int_equal(tutti_store_poll(store), 0);
        fault_mount_pause();
    }
    assert_int_equal(tutti_serve_fence(p.rig.serve, &block, 1, BOUND), -ETIMEDOUT);
    assert_int_equal(tutti_store_end(store), -EBUSY);
    overwrite(p.rig.kv, p.rig.kv_bytes);
    for (uint32_t b = 0; b < BLOCKS; b++)
        rig_fill(&p.rig, OTHER, b, 64 + b);
    other = mounted_begin(&p, OTHER, BLOCKS, 64, RIG_LAYERS, others);
    for (uint32_t i = 0; i < BLOCKS; i++)
        assert_false(among(others, BLOCKS, items[i].slot));
    assert_int_equal(rig_store_end(&p.rig, other, others), BLOCKS);
    assert_int_equal(tutti_store_end(store), -EBUSY);
    fault_mount_lift(&p.mount);
    assert_int_equal(tutti_store_wait(store, 60 * SECOND), 0);
    tutti_store_result(store, &result);
    assert_true(layer == RECORD || result.good == 0); /* its record is not written any more */
    rig_store_end(&p.rig, store, items);
    mounted_load(&p, 0, BLOCKS, NULL); /* what is found is what was stored, or refused */
    assert_int_equal(tutti_serve_fence(p.rig.serve, &block, 1, 0), 0);
    mounted_expect_all(&p, OTHER, BLOCKS);
    mounted_remove(&p);
}

static void store(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        store_never_ends(cases[i].staged, cases[i].layer);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(preload),
        cmocka_unit_test(in_step),
        cmocka_unit_test(store),
    };

    engine = argc > 1 ? argv[1] : "uring";
    return cmocka_run_group_tests_name(engine, tests, NULL, NULL);
}
