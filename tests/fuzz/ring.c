/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ring.c: ring entries of any kind, and what the engine makes of them.
 *
 * An input writes transfer maps (slots that exist or not, in any order, twice),
 * takes IOCBs, fills their fields with anything, issues, cancels, waits, puts
 * back; and says how the engine's turns and the device go. Behind it runs the
 * engine without threads (pump.h). Memory is the caller's part of the contract:
 * blocks exist and the map stays in place.
 *
 * Claimed: an entry outside its limits is refused and one inside is not; what is
 * issued ends, cancelled or not; no command reaches outside the extents (pump.c);
 * a layer that was read without an error, by a map that verifies, gives the sum in
 * a record of that slot, generation and key; blocks that no entry names keep their
 * bytes; and at the end every batch, command and piece of staging is back.
 *
 * Seen to fail, from what was learned in minutes: without the check of slot numbers, after 1 s (17
 * executions); with neither comparison of generation and key, after 2 s (126).
 */
#include <errno.h>

#include "base/checksum.h"
#include "engine/member.h"
#include "input.h"
#include "layout/record.h"
#include "memory.h"
#include "pump.h"
#include "tutti/engine.h"

enum {
    FIRST = TUTTI_SUPERBLOCK_COPY + TUTTI_SUPERBLOCK_BYTES,
    LAYERS = 2,
    PARTS = 2,
    OBJECT = 600,
    SLOTS = 4, /* of an extent that has room for six records */
    RECORDS = 6,
    EXTENTS = 4,
    EXTENT = 4096 + SLOTS * LAYERS * PARTS * 1024,
    HELD = FIRST + EXTENTS / MEMORY_MEMBERS * EXTENT,
    MAPS = 3,
    COUNT = 6, /* positions of a map */
    BLOCKS = MAPS * COUNT + 2,
    DEPTH = 8,
    STRIDE = 512,
    MOST_STEPS = 32,
};

struct own_map {
    struct tutti_map map;
    struct tutti_transfer item[COUNT];
    struct tutti_origin origin[COUNT];
    uint8_t status[COUNT];
    struct tutti_placement placement;
    struct tutti_record stencil;
};

static uint8_t area[MEMORY_MEMBERS][HELD];
static uint8_t kv[LAYERS][PARTS][BLOCKS][OBJECT];
static uint8_t records[MAPS][COUNT * STRIDE] __attribute__((aligned(4096)));
static uint8_t staging[MEMORY_MEMBERS][1 << 20] __attribute__((aligned(4096)));
static uint32_t staging_given;
static bool reached;
static struct tutti_placement good;
static struct tutti_kv_plane plane[LAYERS * PARTS];
static struct own_map map[MAPS];
static struct tutti_ring *ring;
static bool out[DEPTH]; /* taken and not put back */
static bool issued[DEPTH];
static uint32_t ready_word;

static int device_alloc(size_t bytes, void **memory, bool *huge, struct tutti_error *err)
{
    (void)err;
    (void)bytes;
    *memory = staging[staging_given++ % MEMORY_MEMBERS];
    *huge = false;
    return 0;
}

static void device_free(void *memory, size_t bytes)
{
    (void)memory;
    (void)bytes;
}

static bool device_direct(uint64_t address, size_t bytes)
{
    (void)address;
    (void)bytes;
    return reached;
}

static struct tutti_device device = {
    .name = "host", .alloc = device_alloc, .free = device_free, .direct = device_direct};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const struct tutti_geometry g = {
        .layers = LAYERS, .parts = PARTS, .object_bytes = OBJECT, .block_tokens = 16};

    (void)argc;
    (void)argv;
    device.copy_in = tutti_device_host.copy_in;
    device.copy_out = tutti_device_host.copy_out;
    CLAIM(tutti_placement_init(&good, &g, 512, FIRST, EXTENT, EXTENTS, MEMORY_MEMBERS, RECORDS,
                               STRIDE, NULL) == 0,
          "placement");
    CLAIM(good.slots_per_extent == SLOTS, "%u slots", good.slots_per_extent);
    for (uint32_t m = 0; m < MEMORY_MEMBERS; m++)
        memory_member[m] = (struct memory_member){area[m], HELD, HELD, -1};
    for (uint32_t i = 0; i < LAYERS * PARTS; i++)
        plane[i] = (struct tutti_kv_plane){(uint64_t)(uintptr_t)kv[i / PARTS][i % PARTS], OBJECT};
    memory_snapshot();
    return 0;
}

/* Maps. */

static void make_map(struct input *in, uint32_t m)
{
    struct own_map *own = &map[m];

    memset(own, 0, sizeof(*own));
    own->placement = good;
    own->stencil = (struct tutti_record){.layers = LAYERS, .geometry = 7};
    for (uint32_t i = 0; i < COUNT; i++) {
        uint64_t how = take(in, 1);
        uint32_t slot = (uint32_t)(how & 31) % (EXTENTS * SLOTS);

        slot = slot / SLOTS * RECORDS + slot % SLOTS;
        own->item[i].slot = how & 0x80 ? (uint32_t)take_value(in) : slot;
        own->item[i].block = m * COUNT + i;
        own->item[i].generation = 1 + (how >> 5 & 1);
        own->item[i].key.word[0] = own->item[i].slot + (how >> 6 & 1);
        own->origin[i].incarnation = m;
    }
    own->map = (struct tutti_map){.items = own->item,
                                  .origins = m == 2 ? NULL : own->origin,
                                  .count = COUNT,
                                  .verify = true,
                                  .placement = &own->placement,
                                  .planes = plane,
                                  .stencil = &own->stencil,
                                  .records = records[m],
                                  .status = own->status};
}

UNTRACED static void fill(uint32_t block, uint32_t seed)
{
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t p = 0; p < PARTS; p++)
            memset(kv[l][p][block], (int)(seed * 7 + l * 2 + p), OBJECT);
}

/** Whether an entry reads or writes memory of a map, or may. */
static bool in_use(uint32_t m)
{
    for (uint32_t i = 0; i < DEPTH; i++)
        if (issued[i] && tutti_ring_iocb(ring, i)->map == &map[m].map)
            return true;
    return false;
}

/* Entries. */

static bool within_limits(const struct tutti_iocb *i, uint32_t index)
{
    const struct tutti_map *m = i->map;

    if (!m || i->count == 0 || (uint64_t)i->first + i->count > m->count || i->direction > 1 ||
        i->class_ >= TUTTI_CLASSES || i->reserved[0] || i->reserved[1])
        return false;
    if (m->placement->members != MEMORY_MEMBERS || m->stencil->layers != m->placement->layers ||
        m->placement->record_stride < 256 || m->placement->record_stride > 4096)
        return false;
    if (i->wait_for != TUTTI_NO_IOCB && (i->wait_for >= DEPTH || i->wait_for == index ||
                                         (out[i->wait_for] && !issued[i->wait_for])))
        return false;
    if (i->layer == TUTTI_LAYER_RECORDS)
        return i->direction == TUTTI_READ || m->origins;
    if (i->layer == TUTTI_LAYER_EMPTY)
        return i->direction == TUTTI_WRITE;
    return i->layer < LAYERS;
}

/** Numbers of a placement or stencil that lie; only for the moment of an issue. */
static void lie(struct input *in, struct own_map *m)
{
    uint64_t value = take_value(in);

    switch (take(in, 1) & 3) {
    case 0:
        m->placement.members = (uint32_t)value;
        break;
    case 1:
        m->placement.record_stride = (uint32_t)value;
        break;
    case 2:
        m->stencil.layers = (uint32_t)value;
        break;
    default:
        m->map.count = value < COUNT ? (uint32_t)value : COUNT;
        break;
    }
}

static void issue(struct input *in)
{
    static const uint16_t layers[] = {0, 1, TUTTI_LAYER_RECORDS, TUTTI_LAYER_EMPTY};
    uint64_t how = take(in, 1), odd = take(in, 1);
    struct own_map *m = &map[how % MAPS];
    bool fits;
    uint32_t index;
    struct tutti_iocb *i = tutti_ring_get(ring, &index);
    int rc;

    if (!i)
        return;
    CLAIM(index < DEPTH && !out[index], "index %u is out already", index);
    out[index] = true;
    i->map = (odd & 31) == 1 ? NULL : &m->map;
    i->direction = (odd & 31) == 2 ? (uint8_t)take(in, 1) : how >> 2 & 1;
    i->layer = (odd & 31) == 3 ? (uint16_t)take_value(in) : layers[how >> 3 & 3];
    i->class_ = (odd & 31) == 4 ? (uint8_t)take(in, 1) : (how >> 5) % TUTTI_CLASSES;
    i->first = (odd & 31) == 5 ? (uint32_t)take_value(in) : 0;
    i->count = (odd & 31) == 6 ? (uint32_t)take_value(in) : COUNT - i->first % COUNT;
    i->reserved[0] = (odd & 31) == 7 ? take(in, 1) : 0;
    i->wait_for = odd & 32 ? (uint32_t)take(in, 1) : TUTTI_NO_IOCB;
    i->budget = (uint32_t)(odd >> 7);
    if (odd & 64) {
        i->ready = &ready_word;
        i->ready_value = ready_word + take_below(in, 2);
    }
    if ((odd & 31) == 8)
        lie(in, m);
    fits = within_limits(i, index);
    rc = tutti_ring_issue(ring, index);
    parsed++;
    CLAIM((rc == 0) == fits, "issued: %d, within its limits: %d", rc, fits);
    m->placement = good;
    m->stencil.layers = LAYERS;
    m->map.count = COUNT;
    if (rc < 0)
        CLAIM(tutti_ring_issue(ring, index + DEPTH) == -EINVAL, "an index beyond the ring");
    issued[index] = rc == 0;
    if (rc < 0) {
        CLAIM(tutti_ring_put(ring, index) == 0, "put");
        out[index] = false;
    }
}

static uint64_t sum_in_memory(uint32_t block, uint32_t layer)
{
    const void *part[PARTS];

    for (uint32_t p = 0; p < PARTS; p++)
        part[p] = kv[layer][p][block];
    return tutti_layer_sum(part, PARTS, OBJECT);
}

/** A layer was read: what is in memory is what a record says that is the right one. */
static void check_read(const struct tutti_iocb *i)
{
    const struct tutti_map *m = i->map;

    for (uint32_t k = i->first; k < i->first + i->count; k++) {
        const struct tutti_record *r = map_record(m, k);
        const struct tutti_transfer *item = &m->items[k];

        if (m->status[k] != 0)
            continue;
        CLAIM(r->generation == item->generation && tutti_key_equal(r->key, item->key),
              "position %u: read by another's record", k);
        CLAIM(tutti_record_sum(r, i->layer) == sum_in_memory(item->block, i->layer),
              "position %u layer %u: bytes that its record does not sum up", k, i->layer);
    }
}

static void put(uint32_t index)
{
    struct tutti_iocb *i = tutti_ring_iocb(ring, index);
    const struct tutti_completion *c = &i->completion;

    if (!out[index] || !tutti_ring_done(ring, index)) {
        if (issued[index])
            CLAIM(tutti_ring_put(ring, index) == -EBUSY, "put back while it is under way");
        return;
    }
    CLAIM(c->status <= 0 && c->verified <= i->count, "status %d", c->status);
    CLAIM(c->status != 0 || c->verified == i->count, "%u of %u verified", c->verified, i->count);
    issued[index] = false;
    out[index] = false;
    CLAIM(tutti_ring_put(ring, index) == 0, "put");
}

static void wait_all(void)
{
    ready_word += 1000;
    pump_clock += UINT64_C(1000000);
    for (uint32_t i = 0; i < DEPTH; i++)
        if (issued[i]) {
            CLAIM(tutti_ring_wait(ring, i, 1000) != -ETIMEDOUT, "an entry that never ends");
            CLAIM(tutti_ring_done(ring, i), "not done");
            put(i);
        }
}

/** Records and both layers as a server loads them, on an idle ring: then the sums must agree. */
static void load(uint32_t m)
{
    static const uint16_t order[] = {TUTTI_LAYER_RECORDS, 0, 1};
    uint32_t index[3];

    wait_all();
    memset(map[m].status, 0, sizeof(map[m].status));
    for (uint32_t i = 0; i < 3; i++) {
        struct tutti_iocb *iocb = tutti_ring_get(ring, &index[i]);

        iocb->map = &map[m].map;
        iocb->count = COUNT;
        iocb->layer = order[i];
        out[index[i]] = true;
        CLAIM(tutti_ring_issue(ring, index[i]) == 0, "issue");
        issued[index[i]] = true;
    }
    pump_all();
    for (uint32_t i = 0; i < 3; i++) {
        CLAIM(tutti_ring_wait(ring, index[i], 1000) != -ETIMEDOUT, "a load hangs");
        if (order[i] < LAYERS)
            check_read(tutti_ring_iocb(ring, index[i]));
    }
    for (uint32_t i = 0; i < 3; i++)
        put(index[i]);
}

static void step(struct input *in)
{
    uint64_t how = take(in, 1);
    uint32_t more = (uint32_t)(how >> 3), index = more % DEPTH, m = more % MAPS;

    switch (how & 7) {
    case 0:
    case 1:
    case 2:
        issue(in);
        break;
    case 3:
        pump_turn(more & 1, more >> 1);
        break;
    case 4:
        if (issued[index])
            tutti_ring_cancel(ring, index);
        break;
    case 5:
        put(index);
        break;
    case 6:
        ready_word++;
        if (more & 1)
            wait_all();
        else if (more & 2)
            area[more >> 4][FIRST + take(in, 2) % (HELD - FIRST)] ^= (uint8_t)(1 + take(in, 1));
        else if (!in_use(m)) {
            make_map(in, m);
            memset(records[m], (int)take(in, 1), sizeof(records[m]));
        }
        break;
    default:
        load(m);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    uint64_t how = take(&in, 1);
    struct tutti_member member[MEMORY_MEMBERS];
    struct tutti_engine_options o = {.name = "threads",
                                     .member = member,
                                     .members = MEMORY_MEMBERS,
                                     .device = &device,
                                     .staging_bytes = (size_t)8192 << (how >> 6),
                                     .command_bytes = how & 8 ? 4096 : 8192,
                                     .queue_bytes = how & 16 ? 4096 : 0,
                                     .fence_errors = UINT32_MAX};
    struct tutti_engine *engine;
    struct tutti_error err = {0};

    pump_begin((struct pump_ways){.order = how & 1 ? data[0] + (uint64_t)size * 77 + 1 : 0,
                                  .late = how & 2,
                                  .spoils = how & 1 && how & 4 ? 3 : 0,
                                  .counts = size % 4 == 0});
    reached = !(how & 32);
    memset(out, 0, sizeof(out));
    memset(issued, 0, sizeof(issued));
    memset(records, 0, sizeof(records));
    for (uint32_t m = 0; m < MEMORY_MEMBERS; m++) {
        member[m] = (struct tutti_member){.path = memory_path[m], .alignment = 512};
        memory_touched(m, FIRST, HELD - FIRST);
    }
    memory_restore();
    for (uint32_t m = 0; m < MAPS; m++)
        make_map(&in, m);
    for (uint32_t b = 0; b < BLOCKS; b++)
        fill(b, b);
    CLAIM(tutti_ring_new(DEPTH, MEMORY_MEMBERS, &ring, &err) == 0, "%s", err.message);
    o.ring = ring;
    CLAIM(tutti_engine_open(&o, &engine, &err) == 0, "%s", err.message);
    for (uint32_t i = 0; i < MOST_STEPS && in.left > 0; i++)
        step(&in);
    wait_all();
    tutti_engine_close(engine);
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t b = MAPS * COUNT; b < BLOCKS; b++)
            CLAIM(kv[l][1][b][0] == (uint8_t)(b * 7 + l * 2 + 1) &&
                      memcmp(kv[l][1][b], &kv[l][1][b][1], OBJECT - 1) == 0,
                  "block %u is nobody's and was written", b);
    tutti_ring_free(ring);
    return 0;
}
