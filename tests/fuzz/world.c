/* SPDX-License-Identifier: Apache-2.0 */
/* world.c: see world.h. */
#include "world.h"

#include <sys/mman.h>
#include <unistd.h>

#include "input.h"
#include "memory.h"
#include "pump.h"

enum {
    FIRST = TUTTI_SUPERBLOCK_COPY + TUTTI_SUPERBLOCK_BYTES,
    ALIGNMENT = 512,
    WORDS = WORLD_OBJECT / 8,
    STAGING = 1 << 20,
};

static const struct tutti_geometry geometry = {
    .layers = WORLD_LAYERS, .parts = WORLD_PARTS, .object_bytes = WORLD_OBJECT, .block_tokens = 16};
static const uint8_t identity[16] = "the one identity";

static uint64_t kv[WORLD_LAYERS][WORLD_PARTS][WORLD_BLOCKS][WORDS];
static uint8_t staging[MEMORY_MEMBERS][STAGING] __attribute__((aligned(4096)));
static uint32_t staging_given;
static bool reached;

/* Host memory, but without the cost of mapping and zeroing staging each time. */

static int device_alloc(size_t bytes, void **memory, bool *huge, struct tutti_error *err)
{
    (void)err;
    CLAIM(bytes <= STAGING && staging_given < MEMORY_MEMBERS, "%zu bytes of staging", bytes);
    *memory = staging[staging_given++];
    *huge = false;
    return 0;
}

static void device_free(void *memory, size_t bytes)
{
    (void)memory;
    (void)bytes;
    staging_given--;
}

static bool device_direct(uint64_t address, size_t bytes)
{
    (void)address;
    (void)bytes;
    return reached;
}

static struct tutti_device device = {
    .name = "host", .alloc = device_alloc, .free = device_free, .direct = device_direct};

int world_make(void)
{
    struct tutti_superblock s;

    device.copy_in = tutti_device_host.copy_in;
    device.copy_out = tutti_device_host.copy_out;
    memory_superblock(&s, &geometry, 1, ALIGNMENT, MEMORY_MEMBERS, WORLD_EXTENTS / MEMORY_MEMBERS,
                      WORLD_SLOTS);
    for (uint32_t m = 0; m < MEMORY_MEMBERS; m++) {
        uint64_t bytes = FIRST + s.extents * s.extent_bytes;
        int fd = memfd_create("member", MFD_CLOEXEC);
        void *at;

        if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0)
            return -1;
        at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (at == MAP_FAILED)
            return -1;
        memory_member[m] = (struct memory_member){at, bytes, bytes, fd};
        s.member = m;
        memcpy(at, &s, sizeof(s));
        memory_seal(at);
    }
    memory_snapshot();
    return 0;
}

void world_begin(struct world *w)
{
    memory_restore();
    reached = !w->staged;
    w->life = 1;
    world_open(w);
}

static void open_serve(struct world *w, struct tutti_error *err)
{
    const char *engine = pump_engine ? pump_engine : "threads";
    struct tutti_serve_options o = {
        .pool = w->pool,
        .device = &device,
        .engine = w->rules ? "fault" : engine,
        .fault_inner = engine,
        .fault_rules = w->rules,
        .staging_bytes = STAGING,
        .ring_depth = w->ring_depth,
        .look_ahead = 1,
        .fence_errors = UINT32_MAX, /* faults are what this is about */
    };
    struct tutti_kv_plane plane[WORLD_LAYERS * WORLD_PARTS];
    struct tutti_kv_region region = {(uint64_t)(uintptr_t)kv, sizeof(kv)};

    CLAIM(tutti_serve_open(&o, &w->serve, err) == 0, "%s", err->message);
    for (uint32_t i = 0; i < WORLD_LAYERS * WORLD_PARTS; i++)
        plane[i] = (struct tutti_kv_plane){
            (uint64_t)(uintptr_t)kv[i / WORLD_PARTS][i % WORLD_PARTS], sizeof(kv[0][0][0])};
    CLAIM(tutti_serve_register(w->serve, 0, plane, WORLD_BLOCKS, &region, 1, err) >= 0, "%s",
          err->message);
}

static void open_directory(struct world *w, struct tutti_error *err)
{
    struct tutti_directory_options o = {.geometry = geometry, .ranks = 1};
    const struct tutti_scan_entry *all;
    struct tutti_scan_entry *entries;
    size_t count;

    o.placement = w->placement;
    memcpy(o.secret, tutti_pool_secret(w->pool), 16);
    memcpy(o.identity, identity, 16);
    CLAIM(tutti_directory_new(&o, &w->directory, err) == 0, "%s", err->message);
    CLAIM(tutti_pool_scan(w->pool, 1, &entries, &count, NULL, err) == 0, "%s", err->message);
    all = entries;
    CLAIM(tutti_directory_load(w->directory, &all, &count, err) == 0, "%s", err->message);
    free(entries);
}

void world_open(struct world *w)
{
    struct tutti_pool_options o = {.home = "home",
                                   .member = (const char *const *)memory_path,
                                   .members = MEMORY_MEMBERS,
                                   .ranks = 1,
                                   .geometry = &geometry,
                                   .groups = 1};
    struct tutti_error err = {0};
    struct tutti_pool_info info;

    CLAIM(tutti_pool_open(&o, &w->pool, &err) == 0, "%s", err.message);
    CLAIM(tutti_pool_placement(w->pool, 0, &w->placement) == 0, "placement");
    open_serve(w, &err);
    open_directory(w, &err);
    tutti_pool_info(w->pool, &info);
    w->epoch = info.superblock.epoch + 1;
    CLAIM(tutti_pool_begin_epoch(w->pool, w->epoch, 0, identity, &err) == 0, "%s", err.message);
    CLAIM(tutti_directory_begin_epoch(w->directory, w->epoch, false, NULL, &err) == 0, "%s",
          err.message);
}

void world_close(struct world *w)
{
    tutti_serve_close(w->serve);
    tutti_directory_free(w->directory);
    tutti_pool_close(w->pool);
    CLAIM(staging_given == 0, "staging is still out");
    /* Who wrote past the pump (engine "fault", real engines) told nobody where. */
    for (uint32_t m = 0; (w->rules || pump_engine) && m < MEMORY_MEMBERS; m++)
        memory_touched(m, 0, memory_member[m].held);
}

void world_reset(struct world *w)
{
    struct tutti_error err = {0};

    w->epoch++;
    w->life++;
    CLAIM(tutti_pool_begin_epoch(w->pool, w->epoch, w->epoch, identity, &err) == 0, "%s",
          err.message);
    CLAIM(tutti_directory_begin_epoch(w->directory, w->epoch, true, NULL, &err) == 0, "%s",
          err.message);
}

/* Contents. */

static uint32_t branch(uint32_t chain, uint32_t index)
{
    return index < WORLD_SHARED ? chain & ~1u : chain;
}

void world_hashes(uint32_t chain, uint8_t hashes[WORLD_LENGTH * WORLD_HASH])
{
    memset(hashes, 0, WORLD_LENGTH * WORLD_HASH);
    for (uint32_t i = 0; i < WORLD_LENGTH; i++) {
        hashes[i * WORLD_HASH] = (uint8_t)branch(chain, i);
        hashes[i * WORLD_HASH + 1] = (uint8_t)i;
        hashes[i * WORLD_HASH + 2] = i < WORLD_SHARED;
    }
}

uint64_t world_content(uint64_t life, uint32_t chain, uint32_t index)
{
    uint64_t x = life << 32 | branch(chain, index) << 16 | (index + 1) << 8;

    return x * UINT64_C(0x9e3779b97f4a7c15);
}

static uint64_t first_word(uint64_t content, uint32_t layer, uint32_t part)
{
    return content + ((uint64_t)layer << 40) + ((uint64_t)part << 20);
}

UNTRACED void world_fill(uint32_t block, uint64_t content)
{
    for (uint32_t l = 0; l < WORLD_LAYERS; l++)
        for (uint32_t p = 0; p < WORLD_PARTS; p++)
            for (uint32_t i = 0; i < WORDS; i++)
                kv[l][p][block][i] = first_word(content, l, p) + i;
}

UNTRACED bool world_holds(uint32_t block, uint32_t layer, uint64_t content)
{
    uint64_t wrong = 0;

    for (uint32_t p = 0; p < WORLD_PARTS; p++)
        for (uint32_t i = 0; i < WORDS; i++)
            wrong |= kv[layer][p][block][i] ^ (first_word(content, layer, p) + i);
    return wrong == 0;
}

uint8_t *world_record(const struct world *w, uint32_t slot)
{
    struct tutti_place place = tutti_record_place(&w->placement, slot);

    memory_touched(place.member, place.offset, ALIGNMENT);
    return memory_member[place.member].bytes + place.offset;
}

uint8_t *world_object(const struct world *w, uint32_t slot, uint32_t layer, uint32_t part)
{
    struct tutti_place place = tutti_object_place(&w->placement, slot, layer, part);

    memory_touched(place.member, place.offset, w->placement.object_stride);
    return memory_member[place.member].bytes + place.offset;
}

uint32_t world_slot(uint32_t any)
{
    return any % (WORLD_EXTENTS * WORLD_SLOTS);
}
