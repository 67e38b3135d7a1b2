/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe.c: whether a member that was switched off can come back, and whether
 * something is a member at all.
 *
 * Reads the superblock and pieces all over the member, past every cache where
 * there is direct I/O; writes nothing, and takes no lock: a server has the pool
 * open. Must not know why it was switched off.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pool/internal.h"

#define PIECE_BYTES (64u << 10)
#define EXTENTS_READ 64u

static int find_path(const char *home, uint32_t rank, uint32_t member, char path[POOL_MAX_PATH],
                     struct tutti_error *err)
{
    char name[64];

    member_switch_path(home, rank, member, path);
    if (path[0] != '\0')
        return 0;
    snprintf(name, sizeof(name), "rank%u.member%u.tutti", rank, member);
    return home_path(path, home, name, err);
}

static int check_member(const struct backing *b, const struct tutti_superblock *s,
                        const uint8_t pool_id[16], uint32_t rank, uint32_t member,
                        struct tutti_error *err)
{
    if (memcmp(s->pool, pool_id, sizeof(s->pool)) != 0 || s->rank != rank || s->member != member)
        return tutti_error_set(err, -EXDEV,
                               "%s: is member %u of rank %u of %s pool, not member %u of rank %u "
                               "of this one: bring the right one back",
                               b->path, s->member, s->rank,
                               memcmp(s->pool, pool_id, 16) ? "another" : "this", member, rank);
    if (b->bytes < superblock_member_bytes(s))
        return tutti_error_set(err, -EFBIG,
                               "%s: cut short: it ends at offset %llu, and was formatted with %llu "
                               "bytes: remove the pool, it is made again",
                               b->path, (unsigned long long)b->bytes,
                               (unsigned long long)superblock_member_bytes(s));
    if (!b->drive && access(b->path, W_OK) < 0)
        return backing_error(-errno, "asking to write to", b->path, 0, err);
    return 0;
}

/** The records of an extent, and as much from its middle. */
static int read_extent(const struct backing *b, const struct tutti_superblock *s, uint32_t extent,
                       unsigned char *buffer, struct tutti_error *err)
{
    uint64_t start = s->first_extent + extent * s->extent_bytes;
    uint64_t middle = start + s->extent_bytes / 2 / POOL_BUFFER_ALIGNMENT * POOL_BUFFER_ALIGNMENT;
    uint64_t left = start + s->extent_bytes - middle;
    size_t bytes = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;
    int rc = backing_read(b, buffer, bytes, start);

    if (rc < 0)
        return backing_error(rc, "reading the records of", b->path, start, err);
    rc = backing_read(b, buffer, bytes, middle);
    return rc < 0 ? backing_error(rc, "reading", b->path, middle, err) : 0;
}

static int read_all_over(const struct backing *b, const struct tutti_superblock *s,
                         struct tutti_error *err)
{
    uint32_t count = s->extents < EXTENTS_READ ? s->extents : EXTENTS_READ;
    unsigned char *buffer = backing_buffer(PIECE_BYTES);
    int rc = 0;

    if (!buffer)
        return tutti_error_set(err, -ENOMEM, "%s: no memory to read it", b->path);
    for (uint32_t i = 0; i < count && rc == 0; i++)
        rc = read_extent(b, s, (uint32_t)((uint64_t)i * s->extents / count), buffer, err);
    free(buffer);
    return rc;
}

int tutti_pool_probe_member(const char *home, uint32_t rank, uint32_t member,
                            struct tutti_error *err)
{
    struct tutti_superblock s = {0};
    struct backing b = {.fd = -1};
    char path[POOL_MAX_PATH];
    uint8_t pool_id[16], secret[16];
    unsigned copy;
    int rc = tutti_pool_secret_load(home, false, pool_id, secret, err);

    explicit_bzero(secret, sizeof(secret));
    if (rc == 0)
        rc = find_path(home, rank, member, path, err);
    if (rc == 0)
        rc = backing_open(&b, path, false, err);
    if (rc != 0)
        return rc;
    rc = superblock_read(&b, &s, &copy, err);
    if (rc == 0)
        rc = check_member(&b, &s, pool_id, rank, member, err);
    if (rc == 0)
        rc = read_all_over(&b, &s, err);
    backing_close(&b);
    return rc;
}

int tutti_pool_recognise(const char *path, struct tutti_superblock *s, struct tutti_error *err)
{
    struct backing b;
    unsigned copy;
    int rc = backing_open(&b, path, false, err);

    if (rc < 0)
        return rc;
    rc = superblock_read(&b, s, &copy, err);
    backing_close(&b);
    return rc;
}
