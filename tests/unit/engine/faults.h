/* SPDX-License-Identifier: Apache-2.0 */
/*
 * faults.h: a rig on engine "fault": rules about one object or record, and what
 * a load says afterwards.
 *
 * Every slot was filled once before, so that a stale byte looks like a good one.
 * Whatever a load says, what it calls good is compared.
 */
#ifndef TUTTI_TESTS_ENGINE_FAULTS_H
#define TUTTI_TESTS_ENGINE_FAULTS_H

#include "rig.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COUNT = 8, VICTIM = 3, LAYER = 1, OLD = 1, NEW = 2 };

static const char *inner;
static const uint32_t run[COUNT] = {0, 1, 2, 3, 4, 5, 6, 7};

/* The engine's copy of the rules is its own; this one lasts until the next. */
static inline const char *about(struct rig *rig, const char *direction, const char *fault,
                                uint32_t slot, uint32_t layer, uint32_t count)
{
    static char rules[256];
    const struct tutti_placement *p = &rig->placement;
    bool record = layer == TUTTI_LAYER_RECORDS;
    uint64_t from =
        record ? tutti_record_place(p, slot).offset : tutti_object_place(p, slot, layer, 0).offset;
    uint64_t bytes = record ? p->record_stride : tutti_layer_stride(p);

    snprintf(rules, sizeof(rules), "%s:%s:offset=%llu-%llu:count=%u", direction, fault,
             (unsigned long long)from, (unsigned long long)(from + bytes), count);
    return rules;
}

static inline void spoil(struct rig *rig, const char *rules)
{
    rig_reopen(rig, "fault", rules, inner);
}

static inline void heal(struct rig *rig)
{
    rig_reopen(rig, inner, NULL, NULL);
}

static inline struct tutti_map *map_of(struct rig *rig, const uint32_t *slots, uint32_t seed)
{
    uint32_t blocks[COUNT];

    for (uint32_t i = 0; i < COUNT; i++)
        blocks[i] = (COUNT - i) * 3;
    return rig_map(rig, slots, blocks, COUNT, seed);
}

static inline int store(struct rig *rig, struct tutti_map *map, uint32_t seed)
{
    rig_fill(rig, map, seed);
    return rig_store(rig, map);
}

/** Load a map afresh. Whatever it says, what it calls good is. */
static inline struct tutti_map *load(struct rig *rig, const uint32_t *slots, uint32_t seed)
{
    struct tutti_map *map = map_of(rig, slots, seed);

    rig_wipe(rig);
    rig_load(rig, map);
    rig_good(rig, map, seed);
    return map;
}

/** All positions are good but for one, which has this error (0: it too). */
static inline void expect(const struct tutti_map *map, uint32_t position, int error)
{
    for (uint32_t i = 0; i < map->count; i++)
        if (map->status[i] != (i == position ? error : 0))
            fail_msg("position %u: errno %d; errno %d was expected at %u", i, map->status[i], error,
                     position);
}

static inline void expect_load(struct rig *rig, const uint32_t *slots, uint32_t position, int error)
{
    struct tutti_map *map = load(rig, slots, NEW);

    expect(map, position, error);
    rig_check_guards(rig, map);
    rig_map_free(map);
}

/** A pool where every slot was filled once before: a stale byte looks like a good one. */
static inline void open_filled(struct rig *rig, uint32_t seed)
{
    struct tutti_map *map;
    uint32_t slots[16], blocks[16];

    rig_open(rig, &(struct rig_options){.engine = inner});
    for (uint32_t i = 0; i < 16; i++)
        slots[i] = blocks[i] = i;
    map = rig_map(rig, slots, blocks, 16, seed);
    assert_int_equal(store(rig, map, seed), 0);
    rig_map_free(map);
}

#endif
