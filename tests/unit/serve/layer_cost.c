/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A retrieve of argv[1] blocks, for counting instructions (layer_cost.py): what
 * the caller does for a layer must not depend on how many blocks there are.
 */
#include "rig.h"

#include <errno.h>

int main(int argc, char **argv)
{
    uint32_t count = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 1;
    struct tutti_geometry geometry = {
        .layers = 32, .parts = 1, .object_bytes = 512, .block_tokens = 64};
    struct tutti_kv_plane plane[32];
    struct tutti_transfer *items = calloc(count, sizeof(*items));
    struct tutti_pool_options options = {.ranks = 1,
                                         .geometry = &geometry,
                                         .groups = 1,
                                         .alignment = 512,
                                         .bytes = (UINT64_C(80) << 20) + (uint64_t)count * 20480};
    struct tutti_serve_options serve = {.engine = "threads", .staging_bytes = 4u << 20};
    struct tutti_kv_region region = {0, (uint64_t)count * 512 * 32};
    struct tutti_retrieve *retrieve;
    struct tutti_error err = {0};
    struct tutti_placement p;
    struct rig r = {0};
    void *kv;
    bool huge;

    snprintf(r.home, sizeof(r.home), "cost-XXXXXX");
    if (!mkdtemp(r.home))
        return 1;
    options.home = r.home;
    r.kv_bytes = region.bytes;
    rig_ok(tutti_device_host.alloc(region.bytes, &kv, &huge, &err), &err);
    r.kv = kv;
    region.base = (uint64_t)(uintptr_t)kv;
    rig_ok(tutti_pool_format(&options, &err), &err);
    rig_ok(tutti_pool_open(&options, &r.pool, &err), &err);
    serve.pool = r.pool;
    rig_ok(tutti_serve_open(&serve, &r.serve, &err), &err);
    for (uint32_t i = 0; i < 32; i++)
        plane[i] = (struct tutti_kv_plane){region.base + (uint64_t)i * count * 512, 512};
    rig_ok(tutti_serve_register(r.serve, 0, plane, count, &region, 1, &err), &err);
    tutti_pool_placement(r.pool, 0, &p);
    for (uint32_t i = 0; i < count; i++) /* nothing is stored: each is a miss, and that is enough */
        items[i] = (struct tutti_transfer){.slot = i / p.slots_per_extent * p.records_per_extent +
                                                   i % p.slots_per_extent,
                                           .block = i,
                                           .generation = 1};
    rig_ok(tutti_retrieve_begin(r.serve, 0, items, count, true, 1, &retrieve, &err), &err);
    for (uint32_t l = 0; l < 32; l++)
        if (tutti_retrieve_layer(retrieve, l, 600 * SECOND) == -ETIMEDOUT)
            return 1;
    tutti_retrieve_wait(retrieve, 600 * SECOND);
    tutti_retrieve_end(retrieve);
    tutti_serve_close(r.serve);
    tutti_pool_close(r.pool);
    rig_remove(&r);
    free(items);
    return 0;
}
