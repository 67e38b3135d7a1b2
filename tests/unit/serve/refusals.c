/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KV memory that a formula cannot describe, and transfers that name what is not
 * there, are refused with a message before anything moves.
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_checked),
        cmocka_unit_test(askew_memory_is_said),
        cmocka_unit_test(transfers_are_checked),
    };
    int failed;

    rig_make(&rig, "auto", NULL);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    rig_close(&rig);
    rig_remove(&rig);
    return failed;
}
