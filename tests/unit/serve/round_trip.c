/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What was stored comes back, whole and layer by layer, in this life and in the
 * next, and nothing beside the named blocks is touched. Argument: the engine.
 * Seen to fail with the layer formula's parts swapped on the read side only, and
 * with a software controller whose file is mapped for itself alone.
 */
#include "rig.h"

static const char *engine;

static void expect_chain(struct rig *r, uint32_t chain, uint32_t count, bool in_step)
{
    struct tutti_transfer items[64];
    struct tutti_match match;
    struct tutti_retrieve *retrieve;
    struct tutti_result result;
    struct tutti_error err = {0};
    uint32_t into = 40;

    memset(r->kv, 0xee, r->kv_bytes);
    assert_int_equal(rig_find(r, chain, count, into, &match, items), count);
    rig_ok(tutti_retrieve_begin(r->serve, 0, items, count, in_step, 1, &retrieve, &err), &err);
    for (uint32_t l = 0; in_step && l < RIG_LAYERS; l++)
        assert_int_equal(tutti_retrieve_layer(retrieve, l, 10 * SECOND), 0);
    assert_int_equal(tutti_retrieve_wait(retrieve, 10 * SECOND), 0);
    tutti_retrieve_result(retrieve, &result);
    assert_int_equal(result.status, 0);
    assert_int_equal(result.good, count);
    assert_int_equal(result.verified, count);
    assert_int_equal(result.bytes, (uint64_t)count * RIG_LAYERS * RIG_PARTS * RIG_OBJECT);
    assert_int_equal(tutti_retrieve_end(retrieve), 0);
    assert_int_equal(tutti_directory_unpin(r->directory, match.slot, match.generation), 0);
    for (uint32_t b = 0; b < count; b++)
        assert_int_equal(rig_wrong(r, chain, b, into + b), 0);
    for (uint32_t b = 0; b < RIG_BLOCKS; b++)
        if (b < into || b >= into + count)
            for (uint32_t i = 0; i < RIG_LAYERS * RIG_PARTS; i++)
                for (uint32_t k = 0; k < RIG_OBJECT; k++)
                    assert_int_equal(rig_object(r, i / RIG_PARTS, i % RIG_PARTS, b)[k], 0xee);
}

static void comes_back_in_this_life_and_the_next(void **state)
{
    struct rig r;
    (void)state;

    rig_make(&r, engine, NULL);
    assert_int_equal(rig_store(&r, 0, 0, 24), 24);
    assert_int_equal(rig_store(&r, 1, 16, 20), 20); /* shares 16 blocks with chain 0 */
    expect_chain(&r, 0, 24, false);
    expect_chain(&r, 0, 24, true);
    expect_chain(&r, 1, 36, false);
    rig_close(&r);
    rig_open(&r, engine, NULL);
    expect_chain(&r, 1, 36, true);
    expect_chain(&r, 0, 24, false);
    assert_int_equal(rig_store(&r, 0, 0, 24), 0); /* there already: stored once */
    rig_close(&r);
    rig_remove(&r);
}

/* Layers are announced as they are ready: a store that follows a computation. */
static void store_follows_the_layers(void **state)
{
    struct tutti_transfer items[64];
    struct tutti_origin origins[64];
    uint8_t hashes[64 * 32];
    uint32_t index[64];
    struct tutti_store *store;
    struct tutti_error err = {0};
    struct rig r;
    int n;
    (void)state;

    rig_make(&r, engine, NULL);
    rig_hashes(4, 10, hashes);
    n = tutti_directory_reserve(r.directory, hashes, 32, 0, 10, false, items, origins, index);
    assert_int_equal(n, 10);
    for (int i = 0; i < n; i++)
        items[i].block = index[i];
    memset(r.kv, 0, r.kv_bytes);
    rig_ok(tutti_store_begin(r.serve, 0, items, origins, 10, 0, 1, &store, &err), &err);
    for (uint32_t i = 0; i < 10; i++)
        rig_fill(&r, 4, i, i); /* before any layer was said to be ready */
    for (uint32_t l = 1; l <= RIG_LAYERS; l++)
        assert_int_equal(tutti_store_ready(store, l), 0);
    assert_int_equal(rig_store_end(&r, store, items), 10);
    expect_chain(&r, 4, 10, false);
    rig_close(&r);
    rig_remove(&r);
}

/** What one engine wrote another reads, on the same bytes, both ways. */
static void other_engines_read_it(void **state)
{
    struct rig r;
    (void)state;

    if (strcmp(engine, "nvme") != 0)
        return;
    rig_make(&r, engine, NULL);
    assert_int_equal(rig_store(&r, 0, 0, 24), 24);
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t chain = 2 * (i + 1);

        rig_close(&r);
        r.plain = !r.plain;
        rig_open(&r, r.plain ? "threads" : "nvme", NULL);
        expect_chain(&r, 0, 24, i % 2);
        if (i > 0)
            expect_chain(&r, chain - 2, 20, false);
        assert_int_equal(rig_store(&r, chain, 0, 20), 20);
    }
    rig_close(&r);
    rig_remove(&r);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comes_back_in_this_life_and_the_next),
        cmocka_unit_test(store_follows_the_layers),
        cmocka_unit_test(other_engines_read_it),
    };

    engine = argc > 1 ? argv[1] : "auto";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
