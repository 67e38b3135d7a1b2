/* SPDX-License-Identifier: Apache-2.0 */
/* work.c: the maps, bytes and IOCBs of a rig; see rig.h. */
#include "rig.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
    return rig->memory +
           (tutti_kv_address(rig->plane, rig->options.parts, layer, part, map->items[i].block) -
            rig->base);
}

/** Bytes that depend on everything that tells two objects apart, in every one of them. */
static uint8_t *expected(struct rig *rig, uint32_t seed, uint32_t slot, uint32_t layer,
                         uint32_t part, uint8_t *to)
{
    uint64_t x = ((uint64_t)seed << 48) ^ ((uint64_t)slot << 24) ^ (layer << 8) ^ part;
    uint64_t bytes = rig->options.object_bytes;

    for (uint64_t at = 0; at < bytes; at += 8) {
        uint64_t word = (x += UINT64_C(0x9e3779b97f4a7c15));

        word = (word ^ (word >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        word = (word ^ (word >> 27)) * UINT64_C(0x94d049bb133111eb);
        word ^= word >> 31;
        memcpy(to + at, &word, bytes - at < 8 ? bytes - at : 8);
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

uint32_t rig_good(struct rig *rig, const struct tutti_map *map, uint32_t seed)
{
    uint32_t good = 0;

    for (uint32_t i = 0; i < map->count; i++) {
        if (map->status[i])
            continue;
        for (uint32_t l = 0; l < rig->options.layers; l++)
            if (!rig_holds(rig, map, i, l, seed))
                fail_msg("position %u is called good, and its layer %u is wrong", i, l);
        good++;
    }
    return good;
}

void rig_check_guards(struct rig *rig, const struct tutti_map *map)
{
    for (uint32_t i = 0; i < map->count; i++)
        for (uint32_t l = 0; l < rig->options.layers; l++)
            for (uint32_t p = 0; p < rig->options.parts; p++)
                memset(object_of(rig, map, i, l, p), RIG_GUARD, rig->options.object_bytes);
    if (rig->memory[0] == RIG_GUARD &&
        memcmp(rig->memory, rig->memory + 1, rig->memory_bytes - 1) == 0)
        return;
    for (size_t at = 0; at < rig->memory_bytes; at++)
        if (rig->memory[at] != RIG_GUARD)
            fail_msg("byte %zu of KV memory was written and belongs to no object", at);
}

struct tutti_iocb *rig_get(struct rig *rig, const struct tutti_map *map, uint32_t layer,
                           enum tutti_direction direction, enum tutti_class class_, uint32_t *index)
{
    struct tutti_iocb *iocb = tutti_ring_get(rig->ring, index);

    assert_non_null(iocb);
    iocb->map = map;
    iocb->count = map->count;
    iocb->layer = (uint16_t)layer;
    iocb->direction = (uint8_t)direction;
    iocb->class_ = (uint8_t)class_;
    return iocb;
}

uint32_t rig_issue(struct rig *rig, const struct tutti_map *map, uint32_t layer,
                   enum tutti_direction direction, enum tutti_class class_, uint32_t wait_for)
{
    uint32_t index;

    rig_get(rig, map, layer, direction, class_, &index)->wait_for = wait_for;
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
    int fd = rig->member[place.member].fd;
    void *page = NULL;
    uint8_t *bytes;

    assert_int_equal(posix_memalign(&page, 4096, 4096), 0);
    bytes = page;
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
