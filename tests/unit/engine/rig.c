/* SPDX-License-Identifier: Apache-2.0 */
/* rig.c: see rig.h. */
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/mman.h>
#include <unistd.h>

#include "layout/record.h"

#define MIB ((size_t)1 << 20)

static uint32_t or_default(uint32_t value, uint32_t fallback)
{
    return value ? value : fallback;
}

static void fill_defaults(struct rig_options *o)
{
    const char *alignment = getenv("TUTTI_TEST_ALIGNMENT");

    if (!o->engine)
        o->engine = "uring";
    if (!o->folder)
        o->folder = getenv("TUTTI_TEST_FOLDER");
    if (!o->folder)
        o->folder = ".";
    o->layers = or_default(o->layers, 3);
    o->parts = or_default(o->parts, 2);
    o->object_bytes = o->object_bytes ? o->object_bytes : 4096;
    o->alignment = or_default(o->alignment, alignment ? (uint32_t)atoi(alignment) : 512);
    o->members = or_default(o->members, 1);
    o->slots = or_default(o->slots, 16);
    o->extents = or_default(o->extents, 4);
    o->blocks = or_default(o->blocks, 64);
    o->staging_bytes = o->staging_bytes ? o->staging_bytes : 8 * MIB;
    o->ring_depth = or_default(o->ring_depth, 256);
}

static void open_member(struct rig *rig, uint32_t m, uint64_t bytes)
{
    const struct rig_options *o = &rig->options;
    struct tutti_member *member = &rig->member[m];
    const char *device = getenv("TUTTI_TEST_DEVICE");
    int flags = O_RDWR | O_CLOEXEC;

    if (device && o->members == 1) {
        snprintf(rig->path[m], sizeof(rig->path[m]), "%s", device);
    } else {
        snprintf(rig->path[m], sizeof(rig->path[m]), "%s/engine-test-%d-%u", o->folder,
                 (int)getpid(), m);
        flags |= O_CREAT;
    }
    member->fd = open(rig->path[m], flags | O_DIRECT, 0600);
    member->direct = member->fd >= 0;
    if (member->fd < 0)
        member->fd = open(rig->path[m], flags, 0600);
    assert_true(member->fd >= 0);
    if (flags & O_CREAT) {
        assert_int_equal(posix_fallocate(member->fd, 0, (off_t)bytes), 0);
        unlink(rig->path[m]);
    }
    member->path = rig->path[m];
    member->alignment = o->alignment;
}

static void open_members(struct rig *rig)
{
    const struct rig_options *o = &rig->options;
    uint64_t unit = (o->object_bytes + o->alignment - 1) / o->alignment * o->alignment;
    uint64_t extent = o->slots * (unit * o->layers * o->parts + 4096);
    struct tutti_error err = {0};

    extent = (extent + 4095) / 4096 * 4096;
    rig->geometry = (struct tutti_geometry){.layers = o->layers,
                                            .parts = o->parts,
                                            .object_bytes = o->object_bytes,
                                            .block_tokens = 16};
    if (tutti_placement_init(&rig->placement, &rig->geometry, o->alignment, TUTTI_FIRST_EXTENT,
                             extent, o->extents, o->members, o->slots, 0, &err) < 0)
        fail_msg("%s", err.message);
    for (uint32_t m = 0; m < o->members; m++)
        open_member(rig, m, TUTTI_FIRST_EXTENT + (o->extents / o->members + 1) * extent);
}

static void place_planes(struct rig *rig)
{
    const struct rig_options *o = &rig->options;
    uint64_t step = (o->object_bytes + 4095) / 4096 * 4096;
    uint64_t base, planes = (uint64_t)o->layers * o->parts;

    if (o->layout == RIG_GAPPED)
        step += 4096;
    if (o->layout == RIG_SEPARATE && o->object_bytes % 512 == 0)
        step = o->object_bytes;
    rig->memory_bytes = planes * step * o->blocks + 3 * 4096;
    rig->memory_bytes = (rig->memory_bytes + 2 * MIB - 1) / (2 * MIB) * (2 * MIB);
    if (posix_memalign((void **)&rig->memory, 4096, rig->memory_bytes) != 0)
        fail();
    base = (uint64_t)(uintptr_t)rig->memory + 4096 + o->skew;
    for (uint32_t l = 0; l < o->layers; l++)
        for (uint32_t p = 0; p < o->parts; p++) {
            struct tutti_kv_plane *plane = &rig->plane[l * o->parts + p];

            if (o->layout == RIG_PERMUTED) {
                plane->base = base + (p * o->layers + (o->layers - 1 - l)) * step;
                plane->block_stride = planes * step;
            } else {
                plane->base = base + (l * o->parts + p) * step * o->blocks;
                plane->block_stride = step;
            }
        }
    rig_wipe(rig);
}

static void start(struct rig *rig)
{
    const struct rig_options *o = &rig->options;
    struct tutti_error err = {0};
    struct tutti_engine_options options = {
        .name = o->engine,
        .member = rig->member,
        .members = o->members,
        .device = &tutti_device_host,
        .staging_bytes = o->staging_bytes,
        .command_bytes = o->command_bytes,
        .queue_bytes = o->queue_bytes,
        .fault_rules = o->rules,
        .fault_inner = o->inner,
    };
    int rc;

    if (tutti_ring_new(o->ring_depth, o->members, &rig->ring, &err) < 0)
        fail_msg("%s", err.message);
    options.ring = rig->ring;
    if (tutti_engine_open(&options, &rig->engine, &err) < 0)
        fail_msg("%s", err.message);
    if (o->unfixed)
        return;
    rc = tutti_engine_register(rig->engine, (uint64_t)(uintptr_t)rig->memory, rig->memory_bytes,
                               &err);
    if (rc < 0)
        fail_msg("%s", err.message);
    rig->registered_direct = rc == 1;
}

void rig_open(struct rig *rig, const struct rig_options *options)
{
    memset(rig, 0, sizeof(*rig));
    rig->options = *options;
    fill_defaults(&rig->options);
    open_members(rig);
    place_planes(rig);
    memcpy(rig->stencil.pool, "engine test pool", 16);
    rig->stencil.rank = 3;
    rig->stencil.geometry = tutti_geometry_digest(&rig->geometry);
    memcpy(rig->stencil.identity, "of some identity", 16);
    rig->stencil.layers = rig->geometry.layers;
    start(rig);
}

static void stop(struct rig *rig)
{
    tutti_engine_close(rig->engine);
    tutti_ring_free(rig->ring);
    rig->engine = NULL;
    rig->ring = NULL;
}

void rig_reopen(struct rig *rig, const char *engine, const char *rules, const char *inner)
{
    stop(rig);
    rig->options.engine = engine;
    rig->options.rules = rules;
    rig->options.inner = inner;
    start(rig);
}

void rig_close(struct rig *rig)
{
    stop(rig);
    for (uint32_t m = 0; m < rig->options.members; m++)
        close(rig->member[m].fd);
    free(rig->memory);
}

struct tutti_map *rig_map(struct rig *rig, const uint32_t *slots, const uint32_t *blocks,
                          uint32_t count, uint32_t seed)
{
    struct tutti_map *map = calloc(1, sizeof(*map));
    struct tutti_transfer *items = calloc(count, sizeof(*items));
    struct tutti_origin *origins = calloc(count, sizeof(*origins));
    void *records = NULL;

    assert_true(map && items && origins);
    assert_int_equal(posix_memalign(&records, 4096, (size_t)count * rig->placement.record_stride),
                     0);
    memset(records, 0x5a,
           (size_t)count * rig->placement.record_stride); /* malloc promises nothing */
    for (uint32_t i = 0; i < count; i++) {
        items[i] = (struct tutti_transfer){.slot = slots[i],
                                           .block = blocks[i],
                                           .generation = ((uint64_t)seed << 40) + slots[i] + 1,
                                           .key = {{seed * 1000u + slots[i], 77}}};
        origins[i].parent = (struct tutti_key){{seed, i}};
        origins[i].engine_hash_bytes = 32;
        memset(origins[i].engine_hash, (int)(seed + i), 32);
    }
    map->items = items;
    map->origins = origins;
    map->count = count;
    map->verify = true;
    map->placement = &rig->placement;
    map->planes = rig->plane;
    map->stencil = &rig->stencil;
    map->records = records;
    map->status = calloc(count, 1);
    return map;
}

struct tutti_map *rig_map_range(struct rig *rig, uint32_t first, uint32_t count, uint32_t seed)
{
    uint32_t *numbers = calloc(2 * count, sizeof(*numbers));
    struct tutti_map *map;

    for (uint32_t i = 0; i < count; i++) {
        numbers[i] = first + i;
        numbers[count + i] = i;
    }
    map = rig_map(rig, numbers, numbers + count, count, seed);
    free(numbers);
    return map;
}

void rig_map_free(struct tutti_map *map)
{
    free((void *)(uintptr_t)map->items);
    free((void *)(uintptr_t)map->origins);
    free(map->records);
    free(map->status);
    free(map);
}

static uint8_t *object_of(struct rig *rig, const struct tutti_map *map, uint32_t i, uint32_t layer,
                          uint32_t part)
{
    return (uint8_t *)(uintptr_t)tutti_kv_address(rig->plane, rig->options.parts, layer, part,
                                                  map->items[i].block);
}

static uint8_t *expected(struct rig *rig, uint32_t seed, uint32_t slot, uint32_t layer,
                         uint32_t part, uint8_t *to)
{
    uint64_t x = ((uint64_t)seed << 48) ^ ((uint64_t)slot << 24) ^ (layer << 8) ^ part;

    for (uint64_t at = 0; at < rig->options.object_bytes; at++) {
        if (at % 8 == 0)
            x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        to[at] = (uint8_t)(x >> (8 * (at % 8)));
    }
    return to;
}

void rig_fill(struct rig *rig, const struct tutti_map *map, uint32_t seed)
{
    for (uint32_t i = 0; i < map->count; i++)
        for (uint32_t l = 0; l < rig->options.layers; l++)
            for (uint32_t p = 0; p < rig->options.parts; p++)
                expected(rig, seed, map->items[i].slot, l, p, object_of(rig, map, i, l, p));
}

void rig_wipe(struct rig *rig)
{
    memset(rig->memory, RIG_GUARD, rig->memory_bytes);
}

bool rig_holds(struct rig *rig, const struct tutti_map *map, uint32_t i, uint32_t layer,
               uint32_t seed)
{
    uint8_t *bytes = malloc(rig->options.object_bytes);
    bool equal = true;

    for (uint32_t p = 0; p < rig->options.parts; p++)
        equal = equal && memcmp(expected(rig, seed, map->items[i].slot, layer, p, bytes),
                                object_of(rig, map, i, layer, p), rig->options.object_bytes) == 0;
    free(bytes);
    return equal;
}

void rig_check_guards(struct rig *rig, const struct tutti_map *map)
{
    for (uint32_t i = 0; i < map->count; i++)
        for (uint32_t l = 0; l < rig->options.layers; l++)
            for (uint32_t p = 0; p < rig->options.parts; p++)
                memset(object_of(rig, map, i, l, p), RIG_GUARD, rig->options.object_bytes);
    for (size_t at = 0; at < rig->memory_bytes; at++)
        if (rig->memory[at] != RIG_GUARD)
            fail_msg("byte %zu of KV memory was written and belongs to no object", at);
}

uint32_t rig_issue(struct rig *rig, const struct tutti_map *map, uint32_t layer,
                   enum tutti_direction direction, enum tutti_class class_, uint32_t wait_for)
{
    uint32_t index;
    struct tutti_iocb *iocb = tutti_ring_get(rig->ring, &index);

    assert_non_null(iocb);
    iocb->map = map;
    iocb->count = map->count;
    iocb->layer = (uint16_t)layer;
    iocb->direction = (uint8_t)direction;
    iocb->class_ = (uint8_t)class_;
    iocb->wait_for = wait_for;
    assert_int_equal(tutti_ring_issue(rig->ring, index), 0);
    return index;
}

int rig_wait(struct rig *rig, uint32_t index, struct tutti_completion *completion)
{
    int status = tutti_ring_wait(rig->ring, index, RIG_WAIT);

    if (!tutti_ring_done(rig->ring, index))
        fail_msg("an IOCB has not completed after a minute");
    if (completion)
        *completion = tutti_ring_iocb(rig->ring, index)->completion;
    assert_int_equal(tutti_ring_put(rig->ring, index), 0);
    return status;
}

int rig_store(struct rig *rig, const struct tutti_map *map)
{
    uint32_t last =
        rig_issue(rig, map, TUTTI_LAYER_EMPTY, TUTTI_WRITE, TUTTI_CLASS_STORE, TUTTI_NO_IOCB);
    uint32_t index[TUTTI_MAX_LAYERS + 2];
    uint32_t n = 0;
    int status = 0;

    index[n++] = last;
    for (uint32_t l = 0; l < rig->options.layers; l++)
        index[n++] = last = rig_issue(rig, map, l, TUTTI_WRITE, TUTTI_CLASS_STORE, last);
    index[n++] = rig_issue(rig, map, TUTTI_LAYER_RECORDS, TUTTI_WRITE, TUTTI_CLASS_STORE, last);
    for (uint32_t i = 0; i < n; i++)
        status = rig_wait(rig, index[i], NULL);
    return status;
}

int rig_load(struct rig *rig, const struct tutti_map *map)
{
    uint32_t index[TUTTI_MAX_LAYERS + 1];
    int status = 0;

    index[0] =
        rig_issue(rig, map, TUTTI_LAYER_RECORDS, TUTTI_READ, TUTTI_CLASS_LOAD_AHEAD, TUTTI_NO_IOCB);
    for (uint32_t l = 0; l < rig->options.layers; l++)
        index[1 + l] = rig_issue(rig, map, l, TUTTI_READ, TUTTI_CLASS_LOAD_AHEAD, TUTTI_NO_IOCB);
    for (uint32_t i = 0; i <= rig->options.layers; i++) {
        int rc = rig_wait(rig, index[i], NULL);

        status = status ? status : rc;
    }
    return status;
}

void rig_flip(struct rig *rig, struct tutti_place place, uint64_t at)
{
    uint64_t sector = (place.offset + at) / 4096 * 4096;
    uint8_t *bytes;
    int fd = rig->member[place.member].fd;

    assert_int_equal(posix_memalign((void **)&bytes, 4096, 4096), 0);
    assert_int_equal(pread(fd, bytes, 4096, (off_t)sector), 4096);
    bytes[place.offset + at - sector] ^= 1;
    assert_int_equal(pwrite(fd, bytes, 4096, (off_t)sector), 4096);
    free(bytes);
}

struct tutti_engine_counters rig_counters(struct rig *rig)
{
    struct tutti_engine_counters counters;

    tutti_engine_counters(rig->engine, &counters);
    return counters;
}
