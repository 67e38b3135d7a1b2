/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve.c: one rank's pool, ring, engine and KV memory, put together.
 *
 * Owns nothing that moves bytes and decides nothing about when (sched does);
 * it wires them, and hands the scheduler's leave to the stores that wait.
 */
#include "internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

#define DEFAULT_STAGING (UINT64_C(64) << 20)
#define DEFAULT_RING_DEPTH 4096u
#define DEFAULT_LOOK_AHEAD 4u
#define STORE_AGE_NS UINT64_C(50000000)
#define CLOSE_WAIT_NS UINT64_C(30000000000)
#define STOP_WAIT_NS UINT64_C(1000000000) /* for threads that have nothing to wait for */

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
        .staging_bytes = serve->staging_bytes,
        .cpu = o->cpu,
        .cpus = o->cpus,
        .fault_rules = o->fault_rules,
        .fault_inner = o->fault_inner,
        .fence_errors = o->fence_errors,
        .late_ns = o->late_ns,
    };

    for (uint32_t m = 0; m < info->superblock.members; m++)
        member[m] = (struct tutti_member){
            .fd = tutti_pool_member_fd(o->pool, m),
            .drive = tutti_pool_member_drive(o->pool, m),
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
    serve->rank = info.superblock.rank;
    serve->members = info.superblock.members;
    serve->device = o->device ? o->device : &tutti_device_host;
    serve->verify = !o->unverified;
    serve->staging_bytes = o->staging_bytes ? o->staging_bytes : DEFAULT_STAGING;
    serve->policy = (struct tutti_sched_options){
        .look_ahead = o->look_ahead ? o->look_ahead : DEFAULT_LOOK_AHEAD,
        .store_age_ns = STORE_AGE_NS,
    };
    rc = tutti_ring_new(o->ring_depth ? o->ring_depth : DEFAULT_RING_DEPTH, info.superblock.members,
                        &serve->ring, err);
    if (rc == 0)
        rc = streams_open(serve, err);
    if (rc == 0)
        rc = open_engine(serve, o, &info, err);
    if (rc < 0) {
        streams_close(serve);
        tutti_ring_free(serve->ring);
        free(serve);
        return rc;
    }
    members_fence_switched(serve);
    *out = serve;
    return 0;
}

static void cancel_all(struct session *list)
{
    for (struct session *s = list; s; s = s->next)
        session_cancel(s);
}

static void wait_for_all(struct session *list, uint64_t deadline)
{
    for (struct session *s = list; s; s = s->next) {
        uint64_t now = tutti_clock_now();

        session_wait(s, deadline > now ? deadline - now : 0);
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

/** Erasures go on while there is time: a slot that was dropped is not to be found again. */
static void end_all(struct tutti_serve *serve, uint64_t deadline)
{
    cancel_all(serve->retrieves);
    cancel_all(serve->stores);
    if (serve->scrub)
        scrub_cancel(serve->scrub);
    wait_for_all(serve->retrieves, deadline);
    wait_for_all(serve->stores, deadline);
    wait_for_all(serve->erases, deadline);
    cancel_all(serve->erases);
}

int tutti_serve_close_within(struct tutti_serve *serve, uint64_t timeout_ns,
                             struct tutti_error *err)
{
    uint64_t deadline, now;
    int rc;

    if (!serve || serve->opener != getpid())
        return 0;
    deadline = tutti_clock_after(tutti_clock_now(), timeout_ns);
    end_all(serve, deadline);
    count_written(serve);
    now = tutti_clock_now();
    rc = tutti_engine_close_within(
        serve->engine, deadline > now + STOP_WAIT_NS ? deadline - now : STOP_WAIT_NS, err);
    free_all(&serve->retrieves);
    free_all(&serve->stores);
    free_all(&serve->erases);
    if (rc < 0) {
        tutti_pool_leave_open(serve->pool);
        leave_behind(&serve->left);
        return rc;
    }
    scrub_free(serve->scrub);
    streams_close(serve);
    tutti_ring_free(serve->ring);
    for (uint32_t g = 0; g < TUTTI_MAX_GROUPS; g++) {
        free(serve->group[g].planes);
        free(serve->group[g].readers);
    }
    free(serve);
    return 0;
}

void tutti_serve_close(struct tutti_serve *serve)
{
    tutti_serve_close_within(serve, CLOSE_WAIT_NS, NULL);
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

static int check_regions(const struct tutti_kv_region *regions, uint32_t count,
                         struct tutti_error *err)
{
    uint64_t end;

    for (uint32_t r = 0; r < count; r++)
        if (regions[r].base == 0 || regions[r].bytes == 0 ||
            __builtin_add_overflow(regions[r].base, regions[r].bytes, &end))
            return tutti_error_set(err, -EINVAL, "KV memory of %llu bytes at address 0x%llx",
                                   (unsigned long long)regions[r].bytes,
                                   (unsigned long long)regions[r].base);
    return 0;
}

/** One past the last byte of a plane, or 0 where that is no address. */
static uint64_t plane_end(const struct tutti_kv_plane *p, uint32_t blocks, uint64_t bytes)
{
    uint64_t end;

    if (__builtin_mul_overflow((uint64_t)(blocks - 1), p->block_stride, &end) ||
        __builtin_add_overflow(end, p->base, &end) || __builtin_add_overflow(end, bytes, &end))
        return 0;
    return end;
}

static int check_planes(const struct group *g, const struct tutti_kv_plane *planes, uint32_t blocks,
                        const struct tutti_kv_region *regions, uint32_t region_count,
                        struct tutti_error *err)
{
    uint32_t count = g->geometry.layers * g->geometry.parts;
    uint64_t bytes = g->geometry.object_bytes;

    for (uint32_t i = 0; i < count; i++) {
        uint64_t end = plane_end(&planes[i], blocks, bytes);
        bool inside = false;

        if (planes[i].block_stride < bytes)
            return tutti_error_set(
                err, -EINVAL, "plane %u: blocks of %llu bytes lie %llu bytes apart", i,
                (unsigned long long)bytes, (unsigned long long)planes[i].block_stride);
        for (uint32_t r = 0; r < region_count && end != 0; r++)
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

/** A slot's layer is staged whole, since it is verified whole. Return: 0 or -EINVAL. */
static int check_staging(const struct tutti_serve *serve, const struct group *g,
                         struct tutti_error *err)
{
    uint64_t layer = tutti_layer_stride(&g->placement);
    char why[256];

    if (layer <= serve->staging_bytes)
        return 0;
    snprintf(why, sizeof(why), "%.255s", err ? err->message : "not reachable");
    return tutti_error_set(err, -EINVAL,
                           "a slot's layer takes %llu bytes of staging and each member has %llu: "
                           "give at least %llu, or align KV memory so that nothing is staged (%s)",
                           (unsigned long long)layer, (unsigned long long)serve->staging_bytes,
                           (unsigned long long)layer, why);
}

static void forget_memory(struct group *g)
{
    free(g->planes);
    free(g->readers);
    g->planes = NULL;
    g->readers = NULL;
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

    if (!g || tutti_pool_geometry(serve->pool, group, &g->geometry) < 0)
        return tutti_error_set(err, -EINVAL, "the pool was opened without group %u", group);
    tutti_pool_placement(serve->pool, group, &g->placement); /* it knows both or neither */
    if (g->registered)
        return tutti_error_set(err, -EEXIST, "group %u is registered already", group);
    if (blocks == 0)
        return tutti_error_set(err, -EINVAL, "KV memory of no blocks");
    rc = check_regions(regions, region_count, err);
    if (rc == 0)
        rc = check_planes(g, planes, blocks, regions, region_count, err);
    if (rc < 0)
        return rc;

    bytes = (size_t)g->geometry.layers * g->geometry.parts * sizeof(*planes);
    g->planes = malloc(bytes);
    g->readers = calloc(blocks, sizeof(*g->readers));
    if (!g->planes || !g->readers) {
        forget_memory(g);
        return tutti_error_set(err, -ENOMEM, "no memory for %u blocks", blocks);
    }
    memcpy(g->planes, planes, bytes);
    for (uint32_t r = 0; r < region_count; r++) { /* it refuses none that check_regions() let by */
        rc = tutti_engine_register(serve->engine, regions[r].base, regions[r].bytes, err);
        direct = direct && rc == 1;
    }
    direct = direct && blocks_aligned(serve, g, err);
    rc = direct ? 1 : check_staging(serve, g, err);
    if (rc < 0) {
        forget_memory(g);
        return rc;
    }
    g->blocks = blocks;
    g->registered = true;
    return direct;
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

static int erase(struct tutti_serve *serve, uint32_t group, const struct tutti_transfer *items,
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

/* One erasure for each member, so that one that does not answer holds up no other's stores. */
int tutti_serve_erase(struct tutti_serve *serve, uint32_t group, const struct tutti_transfer *items,
                      uint32_t count, struct tutti_error *err)
{
    struct tutti_placement placement;
    struct tutti_transfer *mine;
    int rc = 0;

    if (tutti_pool_placement(serve->pool, group, &placement) < 0 || placement.members == 1)
        return erase(serve, group, items, count, err);
    mine = malloc(((size_t)count + 1) * sizeof(*mine));
    if (!mine)
        return tutti_error_set(err, -ENOMEM, "no memory to erase %u slots", count);
    for (uint32_t m = 0; m < placement.members && rc == 0; m++) {
        uint32_t n = 0;

        for (uint32_t i = 0; i < count; i++)
            if (tutti_record_place(&placement, items[i].slot).member == m)
                mine[n++] = items[i];
        rc = erase(serve, group, mine, n, err);
    }
    free(mine);
    return rc;
}
