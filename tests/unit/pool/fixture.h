/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fixture.h: what the pool's tests share: a folder that goes away, small pools,
 * and slots written as an engine would, through plain pwrite.
 */
#ifndef TESTS_UNIT_POOL_FIXTURE_H
#define TESTS_UNIT_POOL_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "layout/record.h"
#include "tutti/pool.h"

#define MIB (UINT64_C(1) << 20)

/* The smallest interesting shape: an object that is no multiple of a sector, and a short layer
 * list. */
static const struct tutti_geometry small_shape = {
    .layers = 3, .parts = 2, .object_bytes = 5000, .block_tokens = 16, .layout_tag = 7};

static inline int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

/* A new folder; fixture_remove() takes it away with all that is in it. */
static inline char *fixture_folder(void)
{
    const char *base = getenv("TMPDIR");
    char *path = NULL;

    if (asprintf(&path, "%s/tutti-pool-XXXXXX", base ? base : "/var/tmp") < 0)
        abort();
    if (!mkdtemp(path))
        abort();
    return path;
}

static inline void fixture_remove(char *folder)
{
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    free(folder);
}

static inline char *fixture_path(const char *folder, const char *name)
{
    char *path = NULL;

    if (asprintf(&path, "%s/%s", folder, name) < 0)
        abort();
    return path;
}

static inline struct tutti_pool_options fixture_options(const char *home)
{
    return (struct tutti_pool_options){.home = home,
                                       .ranks = 1,
                                       .bytes = 5 * MIB,
                                       .extent_bytes = MIB,
                                       .geometry = &small_shape,
                                       .groups = 1};
}

static inline void must(int rc, const struct tutti_error *err)
{
    if (rc < 0)
        fail_msg("%d: %s", rc, err->message);
}

static inline void fixture_format(const struct tutti_pool_options *options)
{
    struct tutti_error err = {0};

    must(tutti_pool_format(options, &err), &err);
}

static inline struct tutti_pool *fixture_open(const struct tutti_pool_options *options)
{
    struct tutti_error err = {0};
    struct tutti_pool *pool = NULL;

    must(tutti_pool_open(options, &pool, &err), &err);
    return pool;
}

/* Expect that opening fails, with this code and a message that holds these words. */
static inline void expect_refusal(const struct tutti_pool_options *options, int code,
                                  const char *const *words)
{
    struct tutti_error err = {0};
    struct tutti_pool *pool = NULL;
    int rc = tutti_pool_open(options, &pool, &err);

    if (rc != code)
        fail_msg("expected %d, got %d: %s", code, rc, err.message);
    assert_null(pool);
    assert_int_equal(err.code, code);
    for (; *words; words++)
        if (!strstr(err.message, *words))
            fail_msg("'%s' is not in: %s", *words, err.message);
}

#define REFUSED(options, code, ...)                                                                \
    expect_refusal((options), (code), (const char *const[]){__VA_ARGS__, NULL})

/* A file's bytes, to show that nothing changed. */
struct bytes {
    unsigned char *data;
    size_t count;
};

static inline struct bytes fixture_bytes(const char *path)
{
    struct bytes b = {0};
    struct stat st;
    FILE *f = fopen(path, "rb");

    assert_non_null(f);
    assert_int_equal(fstat(fileno(f), &st), 0);
    b.count = (size_t)st.st_size;
    b.data = malloc(b.count + 1);
    assert_non_null(b.data);
    assert_int_equal(fread(b.data, 1, b.count, f), b.count);
    fclose(f);
    return b;
}

static inline void assert_unchanged(const char *path, struct bytes before)
{
    struct bytes now = fixture_bytes(path);

    assert_int_equal(now.count, before.count);
    assert_memory_equal(now.data, before.data, before.count);
    free(now.data);
}

/* Change bytes of a file behind the library's back. */
static inline void fixture_poke(const char *path, off_t offset, const void *data, size_t bytes)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, bytes, offset), bytes);
    close(fd);
}

static inline void fixture_peek(const char *path, off_t offset, void *data, size_t bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, data, bytes, offset), bytes);
    close(fd);
}

static inline void fixture_flip(const char *path, off_t offset)
{
    unsigned char byte;

    fixture_peek(path, offset, &byte, 1);
    byte ^= 1;
    fixture_poke(path, offset, &byte, 1);
}

/* Read one superblock copy, let the caller change it, seal and write it. */
static inline void fixture_superblock(const char *path, unsigned copy, struct tutti_superblock *s)
{
    fixture_peek(path, (off_t)copy * TUTTI_SUPERBLOCK_COPY, s, sizeof(*s));
}

static inline void fixture_put_superblock(const char *path, unsigned copy,
                                          struct tutti_superblock *s)
{
    s->checksum = 0;
    s->checksum = tutti_sum64(s, sizeof(*s));
    fixture_poke(path, (off_t)copy * TUTTI_SUPERBLOCK_COPY, s, sizeof(*s));
}

/* Bytes that depend on everything that should tell two objects apart. */
static inline void fixture_fill(unsigned char *data, uint64_t bytes, uint64_t seed, uint32_t slot,
                                uint32_t layer, uint32_t part)
{
    uint64_t x =
        seed * UINT64_C(0x9e3779b97f4a7c15) + ((uint64_t)slot << 20) + layer * 8 + part + 1;

    for (uint64_t i = 0; i < bytes; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        data[i] = (unsigned char)(x >> 32);
    }
}

/* What a test varies in a slot that it writes. */
struct fixture_slot {
    uint32_t group;
    uint32_t slot;
    uint64_t generation;
    uint32_t incarnation;
    uint64_t seed;
};

/* Write one layer's parts; adds its sum to the record. The stride's padding is not zero. */
static inline void fixture_write_layer(struct tutti_pool *pool, const struct tutti_placement *p,
                                       const struct fixture_slot *f, uint32_t layer,
                                       struct tutti_record *record)
{
    struct tutti_place place = tutti_object_place(p, f->slot, layer, 0);
    unsigned char *data = aligned_alloc(4096, (tutti_layer_stride(p) + 4095) / 4096 * 4096);
    const void *part[TUTTI_MAX_PARTS];

    if (!data)
        abort();
    memset(data, 0xa5, tutti_layer_stride(p));
    for (uint32_t k = 0; k < p->parts; k++) {
        part[k] = data + k * p->object_stride;
        fixture_fill(data + k * p->object_stride, p->object_bytes, f->seed, f->slot, layer, k);
    }
    tutti_record_sums(record)[layer] = tutti_layer_sum(part, p->parts, p->object_bytes);
    if (pwrite(tutti_pool_member_fd(pool, place.member), data, tutti_layer_stride(p),
               (off_t)place.offset) != (ssize_t)tutti_layer_stride(p))
        abort();
    free(data);
}

/* Write a whole slot: data, then its record. */
static inline void fixture_write_slot(struct tutti_pool *pool, const struct fixture_slot *f)
{
    struct tutti_pool_info info;
    struct tutti_placement p;
    struct tutti_geometry g;
    struct tutti_record *r = aligned_alloc(4096, 4096);
    struct tutti_place place;

    if (!r || tutti_pool_placement(pool, f->group, &p) < 0 ||
        tutti_pool_geometry(pool, f->group, &g) < 0)
        abort();
    tutti_pool_info(pool, &info);
    memset(r, 0, 4096);
    place = tutti_record_place(&p, f->slot);
    r->magic = TUTTI_RECORD_MAGIC;
    r->version = TUTTI_FORMAT_VERSION;
    memcpy(r->pool, info.superblock.pool, 16);
    r->rank = info.superblock.rank;
    r->member = place.member;
    r->slot = f->slot;
    r->incarnation = f->incarnation;
    r->geometry = tutti_geometry_digest(&g);
    r->generation = f->generation;
    r->group = f->group;
    r->layers = g.layers;
    r->engine_hash_bytes = 32;
    memcpy(r->identity, info.superblock.identity, 16);
    fixture_fill(r->engine_hash, 32, f->seed, f->slot, 999, 0);
    r->key = tutti_key_make(tutti_pool_secret(pool), r->identity, f->group, r->engine_hash, 32);
    for (uint32_t layer = 0; layer < g.layers; layer++)
        fixture_write_layer(pool, &p, f, layer, r);
    tutti_record_seal(r);
    if (pwrite(tutti_pool_member_fd(pool, place.member), r, p.record_stride, (off_t)place.offset) !=
        (ssize_t)p.record_stride)
        abort();
    free(r);
}

static inline uint64_t generation_of(uint64_t epoch, uint64_t counter)
{
    return epoch << TUTTI_EPOCH_SHIFT | counter;
}

static const uint8_t fixture_identity[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

static inline void fixture_begin_epoch(struct tutti_pool *pool, uint64_t epoch, uint64_t oldest)
{
    struct tutti_error err = {0};

    must(tutti_pool_begin_epoch(pool, epoch, oldest, fixture_identity, &err), &err);
}

#endif
