/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig.h: a small pool with KV memory and a directory, for tests of the serving
 * level. Block b of chain c holds bytes that follow from (c, b, layer, part), so
 * that any byte from elsewhere shows.
 */
#ifndef TUTTI_TESTS_SERVE_RIG_H
#define TUTTI_TESTS_SERVE_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tutti/device.h"
#include "tutti/directory.h"
#include "tutti/pool.h"
#include "tutti/serve.h"

#ifndef RIG_OBJECT_BYTES
#define RIG_OBJECT_BYTES 8192
#endif

enum { RIG_LAYERS = 6, RIG_PARTS = 2, RIG_OBJECT = RIG_OBJECT_BYTES, RIG_BLOCKS = 128 };

#define SECOND UINT64_C(1000000000)
#define RIG_IDENTITY "identity of test"

struct rig {
    char home[256];
    const char *member[2]; /* two member files, both in the home folder */
    char name[2][300];     /* or, for engine "nvme", two drives of software over files there */
    bool drives;
    bool plain;                /* and these as the files that they are */
    const char *const *others; /* or others, @count of them (tests/vm) */
    uint32_t count;
    uint64_t bytes;
    uint64_t extent_bytes;
    bool unverified;
    uint32_t fence_errors; /* these two as in struct tutti_serve_options */
    uint64_t late_ns;
    struct tutti_geometry geometry;
    struct tutti_pool *pool;
    struct tutti_serve *serve;
    struct tutti_directory *directory;
    unsigned char *kv; /* as a test reaches it */
    uint64_t base;     /* the same as the library names it, where that is another name */
    const struct tutti_device *device;
    size_t kv_bytes;
    uint64_t epoch;
};

static inline void rig_ok(int rc, const struct tutti_error *err)
{
    if (rc < 0)
        fail_msg("%d: %s", rc, err->message);
}

#ifndef RIG_GPU /* tests/cuda has KV memory elsewhere */
static inline void rig_memory_new(struct rig *r)
{
    struct tutti_error err = {0};
    bool huge;

    rig_ok(tutti_device_host.alloc(r->kv_bytes, (void **)&r->kv, &huge, &err), &err);
}

static inline void rig_memory_free(struct rig *r)
{
    tutti_device_host.free(r->kv, r->kv_bytes);
}
#else
static void rig_memory_new(struct rig *r);
static void rig_memory_free(struct rig *r);
#endif

static inline struct tutti_pool_options rig_pool_options(struct rig *r)
{
    for (uint32_t i = 0; i < 2; i++) {
        snprintf(r->name[i], sizeof(r->name[i]), "%s%s/drive%u", r->plain ? "" : "soft:", r->home,
                 i);
        r->member[i] = r->drives ? r->name[i] : r->home;
    }
    return (struct tutti_pool_options){
        .home = r->home,
        .member = r->others ? r->others : r->member,
        .members = r->others ? r->count : 2,
        .ranks = 1,
        .bytes = r->bytes,
        .extent_bytes = r->extent_bytes,
        .geometry = &r->geometry,
        .groups = 1,
    };
}

/** Open the file that a member's bytes lie in, behind its back. */
static inline int rig_open_member(const struct rig *r, uint32_t member, int flags)
{
    char path[600];
    int fd;

    snprintf(path, sizeof(path), r->drives ? "%s/drive%u" : "%s/rank0.member%u.tutti", r->home,
             member);
    fd = open(path, flags | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

/** Open pool, serve and directory over what is in the home folder. */
static inline void rig_open(struct rig *r, const char *engine, const char *rules)
{
    struct tutti_pool_options options = rig_pool_options(r);
    struct tutti_serve_options serve = {
        .engine = rules ? "fault" : engine,
        .fault_inner = engine,
        .fault_rules = rules,
        .staging_bytes = 4u << 20,
        .ring_depth = 64,
        .unverified = r->unverified,
        .fence_errors = r->fence_errors,
        .late_ns = r->late_ns,
        .device = r->device,
    };
    struct tutti_directory_options directory = {.geometry = r->geometry, .ranks = 1};
    struct tutti_kv_plane plane[RIG_LAYERS * RIG_PARTS];
    struct tutti_kv_region region = {r->base ? r->base : (uint64_t)(uintptr_t)r->kv, r->kv_bytes};
    struct tutti_scan_entry *entries;
    const struct tutti_scan_entry *all;
    struct tutti_pool_info info;
    struct tutti_error err = {0};
    size_t count;

    rig_ok(tutti_pool_open(&options, &r->pool, &err), &err);
    serve.pool = r->pool;
    rig_ok(tutti_serve_open(&serve, &r->serve, &err), &err);
    for (uint32_t i = 0; i < RIG_LAYERS * RIG_PARTS; i++)
        plane[i] = (struct tutti_kv_plane){region.base + (uint64_t)i * RIG_BLOCKS * RIG_OBJECT,
                                           RIG_OBJECT};
    rig_ok(tutti_serve_register(r->serve, 0, plane, RIG_BLOCKS, &region, 1, &err), &err);
    rig_ok(tutti_pool_placement(r->pool, 0, &directory.placement), &err);
    memcpy(directory.secret, tutti_pool_secret(r->pool), 16);
    memcpy(directory.identity, RIG_IDENTITY, TUTTI_IDENTITY_BYTES);
    rig_ok(tutti_directory_new(&directory, &r->directory, &err), &err);
    rig_ok(tutti_pool_scan(r->pool, 0, &entries, &count, NULL, &err), &err);
    all = entries;
    rig_ok(tutti_directory_load(r->directory, &all, &count, &err), &err);
    free(entries);
    tutti_pool_info(r->pool, &info);
    r->epoch = info.superblock.epoch + 1;
    rig_ok(tutti_pool_begin_epoch(r->pool, r->epoch, 0, (const uint8_t *)RIG_IDENTITY, &err), &err);
    rig_ok(tutti_directory_begin_epoch(r->directory, r->epoch, false, NULL, &err), &err);
}

static inline void rig_close(struct rig *r)
{
    tutti_serve_close(r->serve);
    tutti_directory_free(r->directory);
    tutti_pool_close(r->pool);
}

/** KV memory and the shape of it; no pool yet. */
static inline void rig_init(struct rig *r, uint64_t bytes, uint64_t extent_bytes)
{
    memset(r, 0, sizeof(*r));
    r->bytes = bytes;
    r->extent_bytes = extent_bytes;
    r->geometry = (struct tutti_geometry){.layers = RIG_LAYERS,
                                          .parts = RIG_PARTS,
                                          .object_bytes = RIG_OBJECT,
                                          .block_tokens = 16,
                                          .layout_tag = 1};
    r->kv_bytes = (size_t)RIG_LAYERS * RIG_PARTS * RIG_BLOCKS * RIG_OBJECT;
    rig_memory_new(r);
}

/** A fresh pool in a folder of its own, under the working directory. */
static inline void rig_make(struct rig *r, const char *engine, const char *rules)
{
    struct tutti_pool_options options;
    struct tutti_error err = {0};

    rig_init(r, UINT64_C(64) << 20, 0);
    snprintf(r->home, sizeof(r->home), "rig-XXXXXX");
    assert_non_null(mkdtemp(r->home));
    r->drives = strcmp(engine, "nvme") == 0;
    for (uint32_t i = 0; r->drives && i < 2; i++) {
        char path[300];
        int fd;

        snprintf(path, sizeof(path), "%s/drive%u", r->home, i);
        fd = open(path, O_CREAT | O_EXCL | O_RDWR, 0600);
        assert_true(fd >= 0 && ftruncate(fd, 40 << 20) == 0);
        close(fd);
    }
    options = rig_pool_options(r);
    rig_ok(tutti_pool_format(&options, &err), &err);
    rig_open(r, engine, rules);
}

static inline void rig_remove(struct rig *r)
{
    struct dirent *entry;
    DIR *folder = opendir(r->home);
    char path[600];

    while (folder && (entry = readdir(folder))) {
        snprintf(path, sizeof(path), "%s/%s", r->home, entry->d_name);
        if (entry->d_name[0] != '.')
            unlink(path);
    }
    closedir(folder);
    rmdir(r->home);
    rig_memory_free(r);
}

static inline unsigned char *rig_object(const struct rig *r, uint32_t layer, uint32_t part,
                                        uint32_t block)
{
    return r->kv + ((size_t)(layer * RIG_PARTS + part) * RIG_BLOCKS + block) * RIG_OBJECT;
}

/** The chain's hash of block b. Chains 2c and 2c + 1 share their first half (16 blocks). */
static inline void rig_hash(uint32_t chain, uint32_t b, uint8_t hash[32])
{
    uint32_t name = b < 16 ? chain & ~1u : chain;

    memset(hash, 0, 32);
    hash[0] = (uint8_t)name;
    hash[1] = (uint8_t)(b < 16);
    hash[2] = (uint8_t)b;
    hash[3] = (uint8_t)(name >> 8);
    hash[4] = (uint8_t)(name >> 16);
    hash[31] = 1;
}

static inline void rig_hashes(uint32_t chain, uint32_t count, uint8_t *hashes)
{
    for (uint32_t b = 0; b < count; b++)
        rig_hash(chain, b, hashes + (size_t)b * 32);
}

static inline uint64_t rig_word(uint32_t chain, uint32_t b, uint32_t layer, uint32_t part,
                                uint32_t i)
{
    uint64_t x = ((uint64_t)(b < 16 ? chain & ~1u : chain) << 40) ^ ((uint64_t)b << 28) ^
                 (layer << 20) ^ (part << 16) ^ i;

    x = (x ^ (x >> 31)) * UINT64_C(0x9e3779b97f4a7c15);
    return x ^ (x >> 29);
}

/** Put what chain's block b must hold into engine block @block. */
static inline void rig_fill(struct rig *r, uint32_t chain, uint32_t b, uint32_t block)
{
    for (uint32_t l = 0; l < RIG_LAYERS; l++)
        for (uint32_t p = 0; p < RIG_PARTS; p++) {
            uint64_t *words = (uint64_t *)(void *)rig_object(r, l, p, block);

            for (uint32_t i = 0; i < RIG_OBJECT / 8; i++)
                words[i] = rig_word(chain, b, l, p, i);
        }
}

/** Bytes of engine block @block that are not what chain's block b holds. */
static inline uint64_t rig_wrong(const struct rig *r, uint32_t chain, uint32_t b, uint32_t block)
{
    uint64_t wrong = 0;

    for (uint32_t l = 0; l < RIG_LAYERS; l++)
        for (uint32_t p = 0; p < RIG_PARTS; p++) {
            const uint64_t *words = (const uint64_t *)(const void *)rig_object(r, l, p, block);

            for (uint32_t i = 0; i < RIG_OBJECT / 8; i++)
                wrong += words[i] != rig_word(chain, b, l, p, i);
        }
    return wrong;
}

/** Begin storing blocks [first, first + count) of a chain from engine blocks first... */
static inline struct tutti_store *rig_store_begin(struct rig *r, uint32_t chain, uint32_t first,
                                                  uint32_t count, struct tutti_transfer *items,
                                                  int *entries)
{
    uint8_t hashes[64 * 32];
    struct tutti_origin origins[64];
    uint32_t index[64];
    struct tutti_store *store = NULL;
    struct tutti_error err = {0};

    rig_hashes(chain, first + count, hashes);
    *entries = tutti_directory_reserve(r->directory, hashes, 32, first, count, false, items,
                                       origins, index);
    if (*entries <= 0)
        return NULL;
    for (int i = 0; i < *entries; i++) {
        items[i].block = index[i];
        rig_fill(r, chain, index[i], index[i]);
    }
    rig_ok(tutti_store_begin(r->serve, 0, items, origins, (uint32_t)*entries, RIG_LAYERS, chain,
                             &store, &err),
           &err);
    return store;
}

/** End a store and report it to the directory. Return: slots that are good. */
static inline uint32_t rig_store_end(struct rig *r, struct tutti_store *store,
                                     const struct tutti_transfer *items)
{
    struct tutti_result result;
    uint32_t good;

    assert_int_equal(tutti_store_wait(store, 20 * SECOND), 0);
    tutti_store_result(store, &result);
    for (uint32_t i = 0; i < result.count; i++)
        tutti_directory_report(r->directory, 0, items[i].slot, items[i].generation,
                               result.position[i] == 0);
    good = result.good;
    assert_int_equal(tutti_store_end(store), 0);
    return good;
}

static inline uint32_t rig_store(struct rig *r, uint32_t chain, uint32_t first, uint32_t count)
{
    struct tutti_transfer items[64];
    int entries;
    struct tutti_store *store = rig_store_begin(r, chain, first, count, items, &entries);

    return store ? rig_store_end(r, store, items) : 0;
}

/** Find and pin a chain's prefix; transfers go into engine blocks @into, @into + 1, ... */
static inline uint32_t rig_find(struct rig *r, uint32_t chain, uint32_t count, uint32_t into,
                                struct tutti_match *match, struct tutti_transfer *items)
{
    uint8_t hashes[64 * 32];

    rig_hashes(chain, count, hashes);
    assert_int_equal(tutti_directory_find(r->directory, hashes, 32, count, match), 0);
    if (match->blocks == 0)
        return 0;
    assert_int_equal(tutti_directory_pin(r->directory, match, 0, items), 0);
    for (uint32_t i = 0; i < match->blocks; i++)
        items[i].block = into + i;
    return match->blocks;
}

/** Load a chain's @count blocks that are found, into blocks @into...: how many are good and right.
 */
static inline uint32_t rig_load(struct rig *r, uint32_t chain, uint32_t count, uint32_t into)
{
    struct tutti_transfer items[64];
    struct tutti_retrieve *retrieve;
    struct tutti_result result;
    struct tutti_match match;
    struct tutti_error err = {0};
    uint32_t found = rig_find(r, chain, count, into, &match, items);
    uint32_t good = 0;

    if (found == 0)
        return 0;
    rig_ok(tutti_retrieve_begin(r->serve, 0, items, found, false, chain, &retrieve, &err), &err);
    assert_int_equal(tutti_retrieve_wait(retrieve, 20 * SECOND), 0);
    tutti_retrieve_result(retrieve, &result);
    for (uint32_t i = 0; i < found; i++) {
        if (result.position[i] == 0)
            assert_int_equal(rig_wrong(r, chain, i, into + i), 0);
        good += result.position[i] == 0;
    }
    assert_int_equal(tutti_retrieve_end(retrieve), 0);
    assert_int_equal(tutti_directory_unpin(r->directory, match.slot, match.generation), 0);
    return good;
}

#endif
