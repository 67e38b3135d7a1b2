/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve.c: one rank's pool, ring, engine and KV memory, put together.
 *
 * Owns nothing that moves bytes and decides nothing about when (sched does);
 * it wires them, and hands the scheduler's leave to the stores that wait.
 */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

#define DEFAULT_STAGING (UINT64_C(64) << 20)
#define DEFAULT_RING_DEPTH 4096u
#define DEFAULT_LOOK_AHEAD 4u
#define STORE_AGE_NS UINT64_C(50000000)
#define CLOSE_WAIT_NS UINT64_C(30000000000)

static int open_engine(struct tutti_serve *serve, const struct tutti_serve_options *o,
                       const struct tutti_pool_info *info, struct tutti_error *err)
{
    struct tutti_member member[TUTTI_MAX_MEMBERS];
    struct tutti_engine_options options = {
        .name = o->engine ? o->engine : "auto",
        .ring = serve->ring,
        .member = member,
        .members = info->superblock.members,
        .device = serve->device,
        .staging_bytes = o->staging_bytes ? o->staging_bytes : DEFAULT_STAGING,
        .cpu = o->cpu,
        .cpus = o->cpus,
        .fault_rules = o->fault_rules,
        .fault_inner = o->fault_inner,
    };

    for (uint32_t m = 0; m < info->superblock.members; m++)
        member[m] = (struct tutti_member){
            .fd = tutti_pool_member_fd(o->pool, m),
            .path = tutti_pool_member_path(o->pool, m),
            .direct = info->direct,
            .alignment = info->superblock.alignment,
        };
    return tutti_engine_open(&options, &serve->engine, err);
}

int tutti_serve_open(const struct tutti_serve_options *o, struct tutti_serve **out,
                     struct tutti_error *err)
{
    struct tutti_serve *serve = calloc(1, sizeof(*serve));
    struct tutti_pool_info info;
    int rc;

    if (!serve)
        return tutti_error_set(err, -ENOMEM, "no memory to serve a pool");
    tutti_pool_info(o->pool, &info);
    serve->opener = getpid();
    serve->pool = o->pool;
    serve->device = o->device ? o->device : &tutti_device_host;
    serve->verify = !o->unverified;
    serve->policy = (struct tutti_sched_options){
        .look_ahead = o->look_ahead ? o->look_ahead : DEFAULT_LOOK_AHEAD,
        .store_age_ns = STORE_AGE_NS,
    };
    rc = tutti_ring_new(o->ring_depth ? o->ring_depth : DEFAULT_RING_DEPTH, info.superblock.members,
                        &serve->ring, err);
    if (rc == 0)
        rc = open_engine(serve, o, &info, err);
    if (rc < 0) {
        tutti_ring_free(serve->ring);
        free(serve);
        return rc;
    }
    *out = serve;
    return 0;
}

static void end_all(struct session *list)
{
    struct session *next;

    for (struct session *s = list; s; s = s->next)
        session_cancel(s);
    for (struct session *s = list; s; s = next) {
        next = s->next;
        session_wait(s, CLOSE_WAIT_NS);
    }
}

static void free_all(struct session **list)
{
    while (*list && session_end(*list) == 0)
        ;
}

/** Tell the pool what was written since the last time. */
static void count_written(struct tutti_serve *serve)
{
    struct tutti_engine_counters counters;

    tutti_engine_counters(serve->engine, &counters);
    if (counters.written_bytes != serve->counted_written)
        tutti_pool_count_written(serve->pool, counters.written_bytes - serve->counted_written);
    serve->counted_written = counters.written_bytes;
}

void tutti_serve_close(struct tutti_serve *serve)
{
    if (!serve || serve->opener != getpid())
        return;
    end_all(serve->retrieves);
    end_all(serve->stores);
    end_all(serve->erases);
    count_written(serve);
    tutti_engine_close(serve->engine); /* completes whatever is left */
    free_all(&serve->retrieves);
    free_all(&serve->stores);
    free_all(&serve->erases);
    tutti_ring_free(serve->ring);
    for (uint32_t g = 0; g < TUTTI_MAX_GROUPS; g++) {
        free(serve->group[g].planes);
        free(serve->group[g].readers);
    }
    free(serve);
}

/** Whether two planes' blocks can share a byte. */
static bool planes_overlap(const struct tutti_kv_plane *a, const struct tutti_kv_plane *b,
                           uint32_t blocks, uint64_t bytes)
{
    const struct tutti_kv_plane *low = a->base <= b->base ? a : b;
    const struct tutti_kv_plane *high = low == a ? b : a;
    uint64_t apart = high->base - low->base;
    uint64_t into;

    if (apart >= (uint64_t)(blocks - 1) * low->block_stride + bytes)
        return false;
    if (low->block_stride != high->block_stride)
        return true; /* interleaved with different steps: no layout that we know */
    into = apart % low->block_stride;
    return into < bytes || into + bytes > low->block_stride;
}

static int check_planes(const struct group *g, const struct tutti_kv_plane *planes, uint32_t blocks,
                        const struct tutti_kv_region *regions, uint32_t region_count,
                        struct tutti_error *err)
{
    uint32_t count = g->geometry.layers * g->geometry.parts;
    uint64_t bytes = g->geometry.object_bytes;

    for (uint32_t i = 0; i < count; i++) {
        uint64_t end = planes[i].base + (uint64_t)(blocks - 1) * planes[i].block_stride + bytes;
        bool inside = false;

        if (planes[i].block_stride < bytes)
            return tutti_error_set(
                err, -EINVAL, "plane %u: blocks of %llu bytes lie %llu bytes apart", i,
                (unsigned long long)bytes, (unsigned long long)planes[i].block_stride);
        for (uint32_t r = 0; r < region_count; r++)
            inside = inside || (planes[i].base >= regions[r].base &&
                                end <= regions[r].base + regions[r].bytes);
        if (!inside)
            return tutti_error_set(err, -EINVAL,
                                   "plane %u reaches outside the memory that was registered", i);
        for (uint32_t k = 0; k < i; k++)
            if (planes_overlap(&planes[k], &planes[i], blocks, bytes))
                return tutti_error_set(err, -EINVAL, "planes %u and %u share memory", k, i);
    }
    return 0;
}

/** Whether all blocks may go straight between member and memory; the reason in @err if not. */
static bool blocks_aligned(const struct tutti_serve *serve, const struct group *g,
                           struct tutti_error *err)
{
    uint32_t alignment = g->placement.alignment;
    struct tutti_pool_info info;

    tutti_pool_info(serve->pool, &info);
    for (uint32_t i = 0; info.direct && i < g->geometry.layers * g->geometry.parts; i++) {
        const struct tutti_kv_plane *p = &g->planes[i];

        if ((p->base | p->block_stride | g->geometry.object_bytes) % alignment == 0)
            continue;
        tutti_error_set(err, 0,
                        "KV memory of layer %u: blocks of %llu bytes, %llu apart, from 0x%llx on, "
                        "are not aligned to the pool's %u bytes: transfers are staged",
                        i / g->geometry.parts, (unsigned long long)g->geometry.object_bytes,
                        (unsigned long long)p->block_stride, (unsigned long long)p->base,
                        alignment);
        return false;
    }
    return true;
}

int tutti_serve_register(struct tutti_serve *serve, uint32_t group,
                         const struct tutti_kv_plane *planes, uint32_t blocks,
                         const struct tutti_kv_region *regions, uint32_t region_count,
                         struct tutti_error *err)
{
    struct group *g = group < TUTTI_MAX_GROUPS ? &serve->group[group] : NULL;
    size_t bytes;
    int direct = 1;
    int rc;

    if (!g || tutti_pool_geometry(serve->pool, group, &g->geometry) < 0 ||
        tutti_pool_placement(serve->pool, group, &g->placement) < 0)
        return tutti_error_set(err, -EINVAL, "the pool was opened without group %u", group);
    if (g->registered)
        return tutti_error_set(err, -EEXIST, "group %u is registered already", group);
    if (blocks == 0)
        return tutti_error_set(err, -EINVAL, "KV memory of no blocks");
    rc = check_planes(g, planes, blocks, regions, region_count, err);
    if (rc < 0)
        return rc;

    bytes = (size_t)g->geometry.layers * g->geometry.parts * sizeof(*planes);
    g->planes = malloc(bytes);
    g->readers = calloc(blocks, sizeof(*g->readers));
    if (!g->planes || !g->readers) {
        free(g->planes);
        free(g->readers);
        g->planes = NULL;
        g->readers = NULL;
        return tutti_error_set(err, -ENOMEM, "no memory for %u blocks", blocks);
    }
    memcpy(g->planes, planes, bytes);
    for (uint32_t r = 0; r < region_count; r++) {
        rc = tutti_engine_register(serve->engine, regions[r].base, regions[r].bytes, err);
        if (rc < 0)
            return rc;
        if (rc == 0)
            direct = 0;
    }
    g->blocks = blocks;
    g->registered = true;
    return direct && blocks_aligned(serve, g, err);
}

const char *tutti_serve_engine(const struct tutti_serve *serve)
{
    return tutti_engine_name(serve->engine);
}

void tutti_serve_counters(const struct tutti_serve *serve, struct tutti_engine_counters *counters)
{
    tutti_engine_counters(serve->engine, counters);
}

/** Free erases that have ended: nobody else holds them. */
static void advance_erases(struct tutti_serve *serve)
{
    struct session *next;

    for (struct session *s = serve->erases; s; s = next) {
        next = s->next;
        session_end(s);
    }
}

void tutti_serve_progress(struct tutti_serve *serve)
{
    struct tutti_sched_state state = {.now = tutti_clock_now()};
    struct tutti_sched_plan plan;

    advance_erases(serve);
    for (struct session *s = serve->retrieves; s; s = s->next) {
        session_advance(s);
        state.loads_pending += !s->ended;
    }
    for (struct session *s = serve->stores; s && !state.oldest_store; s = s->next)
        if (!s->granted && !s->ended)
            state.oldest_store = s->began;
    tutti_sched_plan(&serve->policy, &state, &plan);
    for (struct session *s = serve->stores; s; s = s->next) {
        s->granted = s->granted || plan.issue_stores;
        session_advance(s);
    }
    count_written(serve);
}

int tutti_serve_erase(struct tutti_serve *serve, uint32_t group, const struct tutti_transfer *items,
                      uint32_t count, struct tutti_error *err)
{
    struct session *s;
    int rc;

    if (count == 0)
        return 0;
    rc = session_new(serve, group, SESSION_ERASE, sizeof(*s), items, NULL, count, &s, err);
    if (rc < 0)
        return rc;
    s->allowed = s->steps;
    session_advance(s);
    return 0;
}
