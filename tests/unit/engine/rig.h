/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig.h: an engine on plain files, with KV memory and transfer maps made by
 * hand; what the engine tests share. No pool, no directory.
 *
 * KV memory is one region filled with a guard byte; planes lie in it as the
 * layout says, so that a byte written outside an object shows. With $TUTTI_TEST_GPU
 * it is device memory of the CUDA driver's stand-in (tests/cuda: a test double), which
 * faults for everybody but the double itself and the tests.
 */
#ifndef TUTTI_TESTS_ENGINE_RIG_H
#define TUTTI_TESTS_ENGINE_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tutti/engine.h"

#define RIG_SECOND UINT64_C(1000000000)
#define RIG_WAIT (60 * RIG_SECOND)

enum rig_layout {
    RIG_SEPARATE, /* a tensor per part and layer, blocks one after the other */
    RIG_GAPPED,   /* the same with a gap behind each block */
    RIG_PERMUTED, /* block outermost, then part, then layer from last to first */
};

/**
 * struct rig_options - zero means the default
 * @engine, @rules, @inner: as struct tutti_engine_options; "uring"
 * @folder: where member files are made, or NULL: the medium's (media.h), else "."
 * @layers, @parts, @object_bytes: 3, 2, 4096
 * @alignment: 512 or 4096; 0: what $TUTTI_TEST_ALIGNMENT says, else 512
 * @members: 1
 * @slots: slots of an extent, 16
 * @extents: 4
 * @blocks: engine blocks in KV memory, 64
 * @skew: bytes that KV memory is moved off its alignment
 * @unreachable: KV memory is of a device that nothing reaches: all is staged
 * @fence_errors, @late_ns: as struct tutti_engine_options; 0: a member is never fenced
 * @may_fail: rig_open() may come back without an engine; see opened and said
 */
struct rig_options {
    const char *engine;
    const char *rules;
    const char *inner;
    const char *folder;
    uint32_t layers;
    uint32_t parts;
    uint64_t object_bytes;
    uint32_t alignment;
    uint32_t members;
    uint32_t slots;
    uint32_t extents;
    uint32_t blocks;
    enum rig_layout layout;
    uint32_t skew;
    size_t staging_bytes;
    size_t command_bytes;
    size_t queue_bytes;
    uint32_t ring_depth;
    uint32_t fence_errors;
    uint64_t late_ns;
    bool unreachable;
    bool may_fail;
};

struct rig {
    struct rig_options options;
    struct tutti_geometry geometry;
    struct tutti_placement placement;
    struct tutti_record stencil;
    struct tutti_kv_plane plane[TUTTI_MAX_LAYERS * TUTTI_MAX_PARTS];
    struct tutti_member member[TUTTI_MAX_MEMBERS];
    char path[TUTTI_MAX_MEMBERS][256];
    uint8_t *memory; /* with guards, as a test reaches it */
    size_t memory_bytes;
    uint64_t base;                  /* the same as the engine names it: other where it is a GPU's */
    const struct tutti_device *gpu; /* NULL: KV memory is the host's */
    struct tutti_ring *ring;
    struct tutti_device device;
    struct tutti_engine *engine;
    int opened;                    /* what tutti_engine_open() returned, */
    struct tutti_error said;       /* and said */
    struct tutti_error registered; /* what tutti_engine_register() said */
};

#define RIG_GUARD 0xa5

/** KV memory on a stand-in's device instead of the host's, and back. */
void rig_gpu_open(struct rig *rig);
void rig_gpu_close(struct rig *rig);
/** Open one; fails the test on any error. */
void rig_open(struct rig *rig, const struct rig_options *options);
/** Open over the members of before, content kept, with other options of the engine. */
void rig_reopen(struct rig *rig, const char *engine, const char *rules, const char *inner);
void rig_close(struct rig *rig);
/** Start an engine on what is there, on the ring of before where there is one. */
void rig_start(struct rig *rig);

/** A map of @count positions; position i: slots[i], blocks[i], generation and key from @seed. */
struct tutti_map *rig_map(struct rig *rig, const uint32_t *slots, const uint32_t *blocks,
                          uint32_t count, uint32_t seed);
/** The same with slots 0.. and blocks 0.. */
struct tutti_map *rig_map_range(struct rig *rig, uint32_t first, uint32_t count, uint32_t seed);
void rig_map_free(struct tutti_map *map);

/** Fill the memory of a map's blocks with bytes made of (seed, slot, layer, part). */
void rig_fill(struct rig *rig, const struct tutti_map *map, uint32_t seed);
/** Guard bytes everywhere. */
void rig_wipe(struct rig *rig);
/** Whether position i holds what rig_fill() would put there. */
bool rig_holds(struct rig *rig, const struct tutti_map *map, uint32_t i, uint32_t layer,
               uint32_t seed);
/** Fails if a position without an error holds a wrong byte. Return: how many have no error. */
uint32_t rig_good(struct rig *rig, const struct tutti_map *map, uint32_t seed);
/** Fails unless every byte outside the map's blocks is a guard byte. */
void rig_check_guards(struct rig *rig, const struct tutti_map *map);

/** Take an IOCB over a whole map and fill it, but do not issue it. */
struct tutti_iocb *rig_get(struct rig *rig, const struct tutti_map *map, uint32_t layer,
                           enum tutti_direction direction, enum tutti_class class_,
                           uint32_t *index);
uint32_t rig_issue(struct rig *rig, const struct tutti_map *map, uint32_t layer,
                   enum tutti_direction direction, enum tutti_class class_, uint32_t wait_for);
/** Wait for it and put it back; the completion goes to @completion if that is not NULL. */
int rig_wait(struct rig *rig, uint32_t index, struct tutti_completion *completion);

/** Empty, all layers, records. Return: status of the records' IOCB. */
int rig_store(struct rig *rig, const struct tutti_map *map);
/** Records and all layers at once. Return: first status that is not 0. */
int rig_load(struct rig *rig, const struct tutti_map *map);

/** Flip a bit of a member's byte, behind the engine's back. */
void rig_flip(struct rig *rig, struct tutti_place place, uint64_t at);

struct tutti_engine_counters rig_counters(struct rig *rig);

#endif
