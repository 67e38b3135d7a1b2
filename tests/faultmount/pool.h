/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool.h: the serving tests' rig with its pool on a fault mount, rules about a
 * place of one block, and what becomes of blocks.
 */
#ifndef TUTTI_TESTS_FAULTMOUNT_POOL_H
#define TUTTI_TESTS_FAULTMOUNT_POOL_H

#include "../unit/serve/rig.h"
#include "mount.h"

enum { RECORD = -1 };

struct mounted {
    struct rig rig;
    struct fault_mount mount;
    const char *engine;
    void *memory; /* KV memory that is not aligned, or NULL */
};

/** @staged: KV memory that direct I/O cannot go to. */
static inline void mounted_make(struct mounted *p, const char *engine, uint64_t bytes, bool staged)
{
    struct tutti_pool_options options;
    struct tutti_error err = {0};

    fault_mount_start(&p->mount);
    rig_init(&p->rig, bytes, 0);
    p->engine = engine;
    p->memory = NULL;
    if (staged) {
        tutti_device_host.free(p->rig.kv, p->rig.kv_bytes);
        p->memory = aligned_alloc(4096, p->rig.kv_bytes + 4096);
        assert_non_null(p->memory);
        p->rig.kv = (unsigned char *)p->memory + 64;
    }
    memset(p->rig.kv, 0, p->rig.kv_bytes);
    snprintf(p->rig.home, sizeof(p->rig.home), "%s", p->mount.point);
    options = rig_pool_options(&p->rig);
    rig_ok(tutti_pool_format(&options, &err), &err);
    rig_open(&p->rig, engine, NULL);
}

static inline void mounted_remove(struct mounted *p)
{
    struct tutti_error err = {0};

    rig_ok(tutti_directory_audit(p->rig.directory, &err), &err);
    rig_close(&p->rig);
    if (p->memory)
        free(p->memory);
    else
        tutti_device_host.free(p->rig.kv, p->rig.kv_bytes);
    fault_mount_stop(&p->mount);
}

/** Begin to store a chain's first blocks from engine blocks @from, @from + 1, ... as they are. */
static inline struct tutti_store *mounted_begin(struct mounted *p, uint32_t chain, uint32_t count,
                                                uint32_t from, uint32_t layers_ready,
                                                struct tutti_transfer *items)
{
    uint8_t hashes[64 * 32];
    struct tutti_origin origins[64];
    uint32_t index[64];
    struct tutti_store *store;
    struct tutti_error err = {0};

    rig_hashes(chain, count, hashes);
    assert_int_equal(tutti_directory_reserve(p->rig.directory, hashes, 32, 0, count, false, items,
                                             origins, index),
                     count);
    for (uint32_t i = 0; i < count; i++)
        items[i].block = from + index[i];
    rig_ok(tutti_store_begin(p->rig.serve, 0, items, origins, count, layers_ready, chain, &store,
                             &err),
           &err);
    return store;
}

/** A rule ("read:hold") about a slot's layer, or its RECORD; @more: further keys, or "". */
static inline uint32_t mounted_rule(const struct mounted *p, const char *rule, uint32_t slot,
                                    int layer, const char *more)
{
    struct tutti_placement placement;
    struct tutti_error err = {0};
    struct tutti_place place;
    uint64_t bytes;

    rig_ok(tutti_pool_placement(p->rig.pool, 0, &placement), &err);
    place = layer == RECORD ? tutti_record_place(&placement, slot)
                            : tutti_object_place(&placement, slot, (uint32_t)layer, 0);
    bytes = layer == RECORD ? placement.record_stride : tutti_layer_stride(&placement);
    return fault_mount_rule(&p->mount, "%s:file=*member%u.tutti:offset=%llu-%llu%s", rule,
                            place.member, (unsigned long long)place.offset,
                            (unsigned long long)(place.offset + bytes), more);
}

/** Where a chain's block b is stored. */
static inline struct tutti_transfer mounted_item(struct mounted *p, uint32_t chain, uint32_t b)
{
    struct tutti_transfer items[64];
    struct tutti_match match;

    assert_int_equal(rig_find(&p->rig, chain, b + 1, 0, &match, items), b + 1);
    tutti_directory_unpin(p->rig.directory, match.slot, match.generation);
    return items[b];
}

/**
 * Bring what is found of a chain's @count blocks back, and compare what is said to be good.
 * @position: @count errnos, 0 for good; NULL for no interest. Return: how many were found.
 */
static inline uint32_t mounted_load(struct mounted *p, uint32_t chain, uint32_t count,
                                    uint8_t *position)
{
    struct tutti_transfer items[64];
    struct tutti_retrieve *retrieve;
    struct tutti_result result;
    struct tutti_match match;
    struct tutti_error err = {0};
    uint32_t found = rig_find(&p->rig, chain, count, 64, &match, items);

    if (position)
        memset(position, ENOENT, count);
    if (found == 0)
        return 0;
    rig_ok(tutti_retrieve_begin(p->rig.serve, 0, items, found, false, 0, &retrieve, &err), &err);
    assert_int_equal(tutti_retrieve_wait(retrieve, 60 * SECOND), 0);
    tutti_retrieve_result(retrieve, &result);
    for (uint32_t b = 0; b < found; b++) {
        if (position)
            position[b] = result.position[b];
        if (result.position[b] == 0)
            assert_int_equal(rig_wrong(&p->rig, chain, b, 64 + b), 0);
    }
    assert_int_equal(tutti_retrieve_end(retrieve), 0);
    tutti_directory_unpin(p->rig.directory, match.slot, match.generation);
    return found;
}

/** All of a chain's blocks are found, right, and nothing is pinned any more. */
static inline void mounted_expect_all(struct mounted *p, uint32_t chain, uint32_t count)
{
    struct tutti_directory_stats stats;
    uint8_t position[64];

    assert_int_equal(mounted_load(p, chain, count, position), count);
    for (uint32_t b = 0; b < count; b++)
        assert_int_equal(position[b], 0);
    tutti_directory_stats(p->rig.directory, &stats);
    assert_int_equal(stats.pinned, 0);
    assert_int_equal(stats.writing, 0);
}

#endif
