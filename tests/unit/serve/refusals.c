/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KV memory that a formula cannot describe, and transfers that name what is not
 * there, are refused with a message before anything moves.
 * Seen to fail without check_distinct(), check_staging() and check_regions(), with plane_end() that
 * wraps, and (leak checker) with a refusal that forgets to free.
 */
#include "rig.h"

#include <errno.h>

static struct rig rig;

static void refuses_memory(struct tutti_kv_plane *plane, uint64_t bytes, const char *word)
{
    struct tutti_serve_options options = {.pool = rig.pool, .staging_bytes = 4u << 20};
    struct tutti_kv_region region = {(uint64_t)(uintptr_t)rig.kv, bytes};
    struct tutti_serve *serve;
    struct tutti_error err = {0};

    rig_ok(tutti_serve_open(&options, &serve, &err), &err);
    assert_int_equal(tutti_serve_register(serve, 0, plane, RIG_BLOCKS, &region, 1, &err), -EINVAL);
    if (!strstr(err.message, word))
        fail_msg("'%s' is not in: %s", word, err.message);
    tutti_serve_close(serve);
}

static void planes(struct tutti_kv_plane *plane, uint64_t apart, uint64_t stride)
{
    for (uint32_t i = 0; i < RIG_LAYERS * RIG_PARTS; i++)
        plane[i] = (struct tutti_kv_plane){(uint64_t)(uintptr_t)rig.kv + i * apart, stride};
}

static void memory_is_checked(void **state)
{
    struct tutti_kv_plane plane[RIG_LAYERS * RIG_PARTS];
    (void)state;

    planes(plane, (uint64_t)RIG_BLOCKS * RIG_OBJECT, RIG_OBJECT / 2);
    refuses_memory(plane, rig.kv_bytes, "apart");
    planes(plane, (uint64_t)RIG_BLOCKS * RIG_OBJECT, RIG_OBJECT);
    refuses_memory(plane, rig.kv_bytes - 1, "outside");
    planes(plane, (uint64_t)RIG_BLOCKS * RIG_OBJECT, RIG_OBJECT);
    plane[3].base -= 1;
    refuses_memory(plane, rig.kv_bytes, "share");
    /* Interleaved planes that do not overlap are a layout like any other. */
    planes(plane, RIG_OBJECT, (uint64_t)RIG_LAYERS * RIG_PARTS * RIG_OBJECT);
    plane[5].base += 512;
    refuses_memory(plane, rig.kv_bytes, "share");
}

/** Regions and planes whose ends are no addresses; nothing is kept of what was refused. */
static void wild_memory_is_refused(void **state)
{
    struct tutti_serve_options options = {.pool = rig.pool, .staging_bytes = 4u << 20};
    struct tutti_kv_region region[2] = {{(uint64_t)(uintptr_t)rig.kv, rig.kv_bytes},
                                        {(uint64_t)(uintptr_t)rig.kv, 0}};
    struct tutti_kv_plane plane[RIG_LAYERS * RIG_PARTS];
    struct tutti_serve *serve;
    struct tutti_error err = {0};
    (void)state;

    rig_ok(tutti_serve_open(&options, &serve, &err), &err);
    planes(plane, (uint64_t)RIG_BLOCKS * RIG_OBJECT, RIG_OBJECT);
    assert_int_equal(tutti_serve_register(serve, 0, plane, RIG_BLOCKS, region, 2, &err), -EINVAL);
    assert_non_null(strstr(err.message, "0 bytes"));
    region[1] = (struct tutti_kv_region){0, 4096};
    assert_int_equal(tutti_serve_register(serve, 0, plane, RIG_BLOCKS, region, 2, &err), -EINVAL);
    assert_non_null(strstr(err.message, "address 0x0"));
    region[1].base = region[0].base;
    region[1].bytes = UINT64_MAX;
    assert_int_equal(tutti_serve_register(serve, 0, plane, RIG_BLOCKS, region, 2, &err), -EINVAL);
    /* Ends that come round to where they look harmless. */
    plane[1].block_stride = (UINT64_MAX / (RIG_BLOCKS - 1)) + 1;
    assert_int_equal(tutti_serve_register(serve, 0, plane, RIG_BLOCKS, region, 1, &err), -EINVAL);
    assert_non_null(strstr(err.message, "outside"));
    planes(plane, (uint64_t)RIG_BLOCKS * RIG_OBJECT, RIG_OBJECT);
    plane[2].base = UINT64_MAX - RIG_OBJECT;
    assert_int_equal(tutti_serve_register(serve, 0, plane, RIG_BLOCKS, region, 1, &err), -EINVAL);
    assert_non_null(strstr(err.message, "outside"));
    plane[2].base = UINT64_MAX - (uint64_t)RIG_BLOCKS * RIG_OBJECT + 2; /* the last block's end */
    assert_int_equal(tutti_serve_register(serve, 0, plane, RIG_BLOCKS, region, 1, &err), -EINVAL);
    assert_non_null(strstr(err.message, "plane 2 reaches outside"));
    planes(plane, (uint64_t)RIG_BLOCKS * RIG_OBJECT, RIG_OBJECT);
    assert_true(tutti_serve_register(serve, 0, plane, RIG_BLOCKS, region, 1, &err) >= 0);
    tutti_serve_close(serve);
}

/** Once, a slot's layer larger than the staging was taken, and every transfer of it failed. */
static void small_staging_is_refused(void **state)
{
    enum { LAYERS = 2, BLOCKS = 2, OBJECT = 1 << 20 };
    const struct tutti_geometry geometry = {
        .layers = LAYERS, .parts = 2, .object_bytes = OBJECT, .block_tokens = 16, .layout_tag = 9};
    struct tutti_pool_options pool = {.home = "refusals-pool",
                                      .ranks = 1,
                                      .bytes = UINT64_C(64) << 20,
                                      .geometry = &geometry,
                                      .groups = 1};
    struct tutti_serve_options options = {.staging_bytes = 1u << 20};
    size_t bytes = (size_t)LAYERS * 2 * BLOCKS * OBJECT + 64;
    unsigned char *kv = malloc(bytes);
    struct tutti_kv_region region = {(uint64_t)(uintptr_t)kv, bytes};
    struct tutti_kv_plane plane[LAYERS * 2];
    struct tutti_pool_info info;
    struct tutti_serve *serve;
    struct tutti_error err = {0};
    (void)state;

    rig_ok(tutti_pool_format(&pool, &err), &err);
    rig_ok(tutti_pool_open(&pool, &options.pool, &err), &err);
    tutti_pool_info(options.pool, &info);
    for (uint32_t i = 0; i < LAYERS * 2; i++) /* one byte off: staged where I/O is direct */
        plane[i] = (struct tutti_kv_plane){
            region.base + (region.base % 2 ? 0 : 1) + (uint64_t)i * BLOCKS * OBJECT, OBJECT};
    for (uint32_t enough = 0; enough < 2; enough++) {
        options.staging_bytes = enough ? 2u << 20 : 1u << 20;
        rig_ok(tutti_serve_open(&options, &serve, &err), &err);
        assert_int_equal(tutti_serve_register(serve, 0, plane, BLOCKS, &region, 1, &err),
                         !info.direct ? 1
                         : enough     ? 0
                                      : -EINVAL);
        if (info.direct && !enough) {
            assert_non_null(strstr(err.message, "1048576"));
            assert_non_null(strstr(err.message, "give at least 2097152"));
            assert_int_equal(tutti_serve_register(serve, 0, plane, BLOCKS, &region, 1, NULL),
                             -EINVAL);
        }
        tutti_serve_close(serve);
    }
    tutti_pool_close(options.pool);
    unlink("refusals-pool/rank0.member0.tutti");
    unlink("refusals-pool/secret");
    rmdir("refusals-pool");
    free(kv);
}

/** Layouts in any order, over several stretches of memory, are fine as long as no byte is shared.
 */
static void any_order(void **state)
{
    struct tutti_serve_options options = {.pool = rig.pool, .staging_bytes = 4u << 20};
    const uint32_t count = RIG_LAYERS * RIG_PARTS;
    const uint64_t apart = (uint64_t)RIG_BLOCKS * RIG_OBJECT, half = apart * count / 2;
    struct tutti_kv_region region[2] = {{(uint64_t)(uintptr_t)rig.kv + half, half},
                                        {(uint64_t)(uintptr_t)rig.kv, half}};
    struct tutti_kv_plane plane[RIG_LAYERS * RIG_PARTS];
    struct tutti_serve *serve;
    struct tutti_error err = {0};
    uint32_t block[2] = {0, RIG_BLOCKS + 7};
    (void)state;

    planes(plane, apart, RIG_OBJECT);
    for (uint32_t i = 0; i < count; i++)
        plane[i].base = (uint64_t)(uintptr_t)rig.kv + (count - 1 - i) * apart;
    rig_ok(tutti_serve_open(&options, &serve, &err), &err);
    rig_ok(tutti_serve_register(serve, 0, plane, RIG_BLOCKS, region, 2, &err), &err);
    assert_int_equal(tutti_serve_fence(serve, block, 2, SECOND), 0); /* nobody reads them */
    tutti_serve_close(serve);
    planes(plane, apart, RIG_OBJECT);
    plane[0].block_stride = 2ull * RIG_OBJECT;
    refuses_memory(plane, rig.kv_bytes, "share");
    planes(plane, RIG_OBJECT, (uint64_t)count * RIG_OBJECT);
    plane[count - 1].base += 512; /* into the next block of the first */
    refuses_memory(plane, rig.kv_bytes + 512, "share");
}

/* What the line at start says is so: memory askew to the pool's alignment is staged, and why. */
static void askew_memory_is_said(void **state)
{
    struct tutti_serve_options options = {.pool = rig.pool, .staging_bytes = 4u << 20};
    struct tutti_kv_region region = {(uint64_t)(uintptr_t)rig.kv, rig.kv_bytes};
    struct tutti_kv_plane plane[RIG_LAYERS * RIG_PARTS];
    struct tutti_pool_info info;
    (void)state;

    tutti_pool_info(rig.pool, &info);
    for (uint32_t skew = 0; skew <= 64; skew += 64) {
        struct tutti_serve *serve;
        struct tutti_error err = {0};
        bool staged = skew && info.direct;

        planes(plane, (uint64_t)RIG_BLOCKS * RIG_OBJECT, RIG_OBJECT);
        plane[RIG_LAYERS * RIG_PARTS - 1].base += skew;
        rig_ok(tutti_serve_open(&options, &serve, &err), &err);
        assert_int_equal(tutti_serve_register(serve, 0, plane, RIG_BLOCKS - 1, &region, 1, &err),
                         !staged);
        assert_int_equal(err.code, 0);
        assert_true(!staged || strstr(err.message, "staged"));
        tutti_serve_close(serve);
    }
    { /* One stretch of two that lies askew stages all. */
        const struct tutti_kv_region two[2] = {{region.base + 8, 4096}, region};
        struct tutti_serve *serve;
        struct tutti_error err = {0};

        planes(plane, (uint64_t)RIG_BLOCKS * RIG_OBJECT, RIG_OBJECT);
        rig_ok(tutti_serve_open(&options, &serve, &err), &err);
        assert_int_equal(tutti_serve_register(serve, 0, plane, RIG_BLOCKS, two, 2, &err),
                         !info.direct);
        assert_true(!info.direct || strstr(err.message, "staged"));
        tutti_serve_close(serve);
    }
}

/** Two reads into one block; as many blocks as there are otherwise, and what was marked is clean.
 */
static void blocks_are_distinct(void **state)
{
    struct tutti_transfer items[RIG_BLOCKS];
    struct tutti_retrieve *retrieve;
    struct tutti_error err = {0};
    (void)state;

    for (uint32_t i = 0; i < RIG_BLOCKS; i++)
        items[i] = (struct tutti_transfer){.slot = i, .block = i, .generation = 1};
    for (uint32_t round = 0; round < 2; round++) {
        items[100].block = 3;
        assert_int_equal(
            tutti_retrieve_begin(rig.serve, 0, items, RIG_BLOCKS, false, 0, &retrieve, &err),
            -EINVAL);
        assert_non_null(strstr(err.message, "transfer 100 names block 3"));
        items[100].block = 100;
        rig_ok(tutti_retrieve_begin(rig.serve, 0, items, RIG_BLOCKS, false, 0, &retrieve, &err),
               &err);
        assert_int_equal(tutti_retrieve_wait(retrieve, 10 * SECOND), 0);
        assert_int_equal(tutti_retrieve_end(retrieve), 0);
    }
}

/** A generation of 0 takes whatever record there is, and so must not be anybody's to load by. */
static void no_generation_loads_nothing(void **state)
{
    struct tutti_transfer items[64];
    struct tutti_retrieve *retrieve;
    struct tutti_result result;
    struct tutti_match match;
    struct tutti_error err = {0};
    (void)state;

    assert_int_equal(rig_store(&rig, 0, 0, 2), 2);
    assert_int_equal(rig_find(&rig, 0, 2, 40, &match, items), 2);
    items[1].generation = 0;
    rig_ok(tutti_retrieve_begin(rig.serve, 0, items, 2, false, 0, &retrieve, &err), &err);
    assert_int_equal(tutti_retrieve_wait(retrieve, 10 * SECOND), 0);
    tutti_retrieve_result(retrieve, &result);
    assert_int_equal(result.position[0], 0);
    assert_int_equal(result.position[1], ESTALE);
    assert_int_equal(tutti_retrieve_end(retrieve), 0);
}

static void transfers_are_checked(void **state)
{
    struct tutti_transfer item = {.slot = UINT32_MAX};
    struct tutti_retrieve *retrieve;
    struct tutti_error err = {0};
    (void)state;

    assert_int_equal(tutti_retrieve_begin(rig.serve, 0, &item, 1, false, 0, &retrieve, &err),
                     -EINVAL);
    assert_non_null(strstr(err.message, "slot"));
    item = (struct tutti_transfer){.block = RIG_BLOCKS};
    assert_int_equal(tutti_retrieve_begin(rig.serve, 0, &item, 1, false, 0, &retrieve, &err),
                     -EINVAL);
    assert_non_null(strstr(err.message, "block"));
    assert_int_equal(tutti_retrieve_begin(rig.serve, 1, &item, 1, false, 0, &retrieve, &err),
                     -EINVAL);
    assert_non_null(strstr(err.message, "group"));
    assert_int_equal(tutti_retrieve_begin(rig.serve, 0, &item, 0, false, 0, &retrieve, &err),
                     -EINVAL);
}

/** What a store or a retrieve is asked beyond its range, and before its end. */
static void sessions_are_checked(void **state)
{
    struct tutti_transfer item = {.generation = rig.epoch << TUTTI_EPOCH_SHIFT | 1};
    struct tutti_origin origin = {.engine_hash_bytes = TUTTI_ENGINE_HASH_BYTES + 1};
    struct tutti_retrieve *retrieve;
    struct tutti_store *store;
    struct tutti_result result;
    struct tutti_error err = {0};
    (void)state;

    assert_int_equal(
        tutti_store_begin(rig.serve, 0, &item, &origin, 1, RIG_LAYERS, 0, &store, &err), -EINVAL);
    assert_non_null(strstr(err.message, "hash"));
    origin.engine_hash_bytes = 32;
    assert_int_equal(
        tutti_store_begin(rig.serve, 0, &item, &origin, 1, RIG_LAYERS + 1, 0, &store, &err),
        -EINVAL);
    assert_non_null(strstr(err.message, "layers"));
    for (uint32_t group = 1; group < 12; group += 8)
        assert_int_equal(
            tutti_store_begin(rig.serve, group, &item, &origin, 1, RIG_LAYERS, 0, &store, &err),
            -EINVAL);
    rig_ok(tutti_serve_erase(rig.serve, 0, &item, 0, &err), &err);
    assert_int_equal(tutti_serve_erase(rig.serve, 3, &item, 1, &err), -EINVAL);

    rig_ok(tutti_store_begin(rig.serve, 0, &item, &origin, 1, 2, 0, &store, &err), &err);
    assert_int_equal(tutti_store_ready(store, RIG_LAYERS + 1), -EINVAL);
    assert_int_equal(tutti_store_ready(store, 1), 0); /* fewer than before: no harm */
    assert_int_equal(tutti_store_wait(store, 1000000), -ETIMEDOUT);
    assert_int_equal(tutti_store_end(store), -EBUSY);
    tutti_store_cancel(store);
    assert_int_equal(tutti_store_wait(store, 20 * SECOND), 0);
    tutti_store_cancel(store); /* it has ended */
    tutti_store_result(store, &result);
    assert_int_equal(result.status, -ECANCELED);
    assert_int_equal(tutti_store_end(store), 0);

    rig_ok(tutti_retrieve_begin(rig.serve, 0, &item, 1, false, 0, &retrieve, &err), &err);
    assert_int_equal(tutti_retrieve_layer(retrieve, 0, 20 * SECOND), -ESTALE); /* all at once */
    assert_int_equal(tutti_retrieve_wait(retrieve, 20 * SECOND), 0);
    assert_int_equal(tutti_retrieve_end(retrieve), 0);

    rig_ok(tutti_retrieve_begin(rig.serve, 0, &item, 1, true, 0, &retrieve, &err), &err);
    assert_int_equal(tutti_retrieve_layer(retrieve, RIG_LAYERS, SECOND), -EINVAL);
    assert_int_equal(tutti_retrieve_layer(retrieve, 0, 20 * SECOND), -ESTALE);
    tutti_retrieve_cancel(retrieve);
    assert_int_equal(tutti_retrieve_wait(retrieve, 20 * SECOND), 0);
    assert_int_equal(tutti_retrieve_layer(retrieve, RIG_LAYERS - 1, SECOND), -ECANCELED);
    assert_int_equal(tutti_retrieve_end(retrieve), 0);
}

/** Memory is registered once, for a group that there is, and of more than nothing. */
static void registered_once(void **state)
{
    struct tutti_serve_options options = {.pool = rig.pool, .staging_bytes = 4u << 20};
    struct tutti_kv_region region[1] = {{(uint64_t)(uintptr_t)rig.kv, rig.kv_bytes}};
    struct tutti_kv_plane plane[RIG_LAYERS * RIG_PARTS];
    struct tutti_serve *serve;
    struct tutti_error err = {0};
    (void)state;

    planes(plane, (uint64_t)RIG_BLOCKS * RIG_OBJECT, RIG_OBJECT);
    rig_ok(tutti_serve_open(&options, &serve, &err), &err);
    for (uint32_t group = 1; group < 12; group += 8)
        assert_int_equal(tutti_serve_register(serve, group, plane, RIG_BLOCKS, region, 1, &err),
                         -EINVAL);
    assert_int_equal(tutti_serve_register(serve, 0, plane, 0, region, 1, &err), -EINVAL);
    rig_ok(tutti_serve_register(serve, 0, plane, RIG_BLOCKS, region, 1, &err), &err);
    assert_int_equal(tutti_serve_register(serve, 0, plane, RIG_BLOCKS, region, 1, &err), -EEXIST);
    tutti_serve_close(serve);
    options.engine = "no such engine";
    assert_int_equal(tutti_serve_open(&options, &serve, &err), -EINVAL);
    options.engine = NULL;
    options.ring_depth = 3;
    assert_int_equal(tutti_serve_open(&options, &serve, &err), -EINVAL);
    tutti_serve_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_checked),        cmocka_unit_test(wild_memory_is_refused),
        cmocka_unit_test(small_staging_is_refused), cmocka_unit_test(askew_memory_is_said),
        cmocka_unit_test(blocks_are_distinct),      cmocka_unit_test(no_generation_loads_nothing),
        cmocka_unit_test(transfers_are_checked),    cmocka_unit_test(sessions_are_checked),
        cmocka_unit_test(registered_once),          cmocka_unit_test(any_order),
    };
    int failed;

    rig_make(&rig, "auto", NULL);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    rig_close(&rig);
    rig_remove(&rig);
    return failed;
}
