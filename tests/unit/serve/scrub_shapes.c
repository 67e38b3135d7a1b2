/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A scrub of a shape whose layers are larger than its pieces reads them one at a time; what
 * another shape stores meanwhile disturbs none of its slots.
 * Seen to fail with a batch of no slots (it is never through).
 */
#include "rig.h"

#include "tutti/scrub.h"

enum { LARGE = 2 << 20, SMALL = 4096, BLOCKS = 2, SLOTS = 2 };

static struct rig r;
static const char *engine;

static void open_all(void)
{
    const struct tutti_geometry shape[2] = {
        {.layers = 1, .parts = 1, .object_bytes = LARGE, .block_tokens = 16, .layout_tag = 1},
        {.layers = 1,
         .parts = 1,
         .object_bytes = SMALL,
         .block_tokens = 16,
         .layout_tag = 1,
         .group = 1}};
    struct tutti_pool_options options;
    struct tutti_serve_options serve = {.engine = engine, .staging_bytes = 8u << 20};
    struct tutti_error err = {0};

    rig_init(&r, UINT64_C(64) << 20, 0);
    snprintf(r.home, sizeof(r.home), "rig-XXXXXX");
    assert_non_null(mkdtemp(r.home));
    options = rig_pool_options(&r);
    options.geometry = shape;
    options.groups = 2;
    rig_ok(tutti_pool_format(&options, &err), &err);
    rig_ok(tutti_pool_open(&options, &r.pool, &err), &err);
    rig_ok(tutti_pool_begin_epoch(r.pool, 1, 0, (const uint8_t *)RIG_IDENTITY, &err), &err);
    serve.pool = r.pool;
    rig_ok(tutti_serve_open(&serve, &r.serve, &err), &err);
    for (uint32_t g = 0; g < 2; g++) {
        struct tutti_kv_region region = {(uint64_t)(uintptr_t)r.kv, r.kv_bytes};
        struct tutti_kv_plane plane = {region.base, shape[g].object_bytes};

        rig_ok(tutti_serve_register(r.serve, g, &plane, BLOCKS, &region, 1, &err), &err);
    }
}

/** The first slots of two extents. */
static void store(uint32_t group, uint32_t extent, uint32_t records_per_extent)
{
    struct tutti_transfer item[SLOTS] = {{0}};
    struct tutti_origin origin[SLOTS] = {{.engine_hash_bytes = 32}, {.engine_hash_bytes = 32}};
    struct tutti_result result;
    struct tutti_store *s;
    struct tutti_error err = {0};

    for (uint32_t i = 0; i < SLOTS; i++)
        item[i] = (struct tutti_transfer){.slot = (extent + i) * records_per_extent,
                                          .block = i,
                                          .generation = UINT64_C(1) << TUTTI_EPOCH_SHIFT |
                                                        (100 * group + i + 1),
                                          .key = {{group + 1, i + 1}}};
    rig_ok(tutti_store_begin(r.serve, group, item, origin, SLOTS, 1, 1, &s, &err), &err);
    assert_int_equal(tutti_store_wait(s, 20 * SECOND), 0);
    tutti_store_result(s, &result);
    assert_int_equal(result.good, SLOTS);
    assert_int_equal(tutti_store_end(s), 0);
}

static void one_at_a_time(void **state)
{
    struct tutti_scrub_report report = {0};
    struct tutti_transfer bad[64];
    struct tutti_placement p;
    struct tutti_scrub *scrub;
    struct tutti_error err = {0};
    uint64_t now = SECOND;
    (void)state;

    open_all();
    for (size_t i = 0; i < BLOCKS * (size_t)LARGE; i++)
        r.kv[i] = (unsigned char)(i * 31 >> 3);
    rig_ok(tutti_pool_placement(r.pool, 0, &p), &err);
    store(0, 0, p.records_per_extent);
    rig_ok(tutti_scrub_open(r.serve, 0, 0, 0, &scrub, &err), &err);
    tutti_scrub_step(scrub, now, bad, 64); /* the first slots' records are asked for */
    store(1, 3, p.records_per_extent);
    while (report.verified < SLOTS) {
        assert_int_equal(tutti_scrub_step(scrub, now += 1000 * SECOND, bad, 64), 0);
        tutti_scrub_report(scrub, &report);
        assert_int_equal(report.rounds, 0);
        usleep(20);
    }
    assert_int_equal(report.skipped, 0);
    tutti_scrub_close(scrub);
    tutti_serve_close(r.serve);
    tutti_pool_close(r.pool);
    rig_remove(&r);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(one_at_a_time)};

    engine = argc > 1 ? argv[1] : "auto";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
