/* SPDX-License-Identifier: Apache-2.0 */
/*
 * format.c: making one rank's members.
 *
 * Decides sizes and order; allocate.c does what touches disks. Nothing appears
 * under its final name before all members are allocated, cleared and flushed,
 * so a format that fails leaves what was there before.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "pool/internal.h"

struct formatting {
    const struct tutti_pool_options *options;
    struct new_member member[TUTTI_MAX_MEMBERS];
    uint32_t begun;
    uint32_t members;
    bool made_home;
    struct format_progress progress;
    struct tutti_superblock superblock; /* of member 0; the others differ in .member */
};

/* Objects that are no multiple of @bytes would all be staged. */
static bool objects_fit(const struct tutti_pool_options *o, uint32_t bytes)
{
    for (uint32_t i = 0; i < o->groups; i++)
        if (o->geometry[i].object_bytes % bytes != 0)
            return false;
    return true;
}

/* What the devices like best, unless the objects of a shape would be askew to it. */
static int choose_alignment(struct formatting *f, struct tutti_error *err)
{
    uint32_t alignment = f->options->alignment;

    if (alignment != 0 && alignment != 512 && alignment != 4096)
        return tutti_error_set(err, -EINVAL, "%s: alignment %u; 512 and 4096 are possible",
                               f->options->home, alignment);
    if (alignment == 0) {
        alignment = 512;
        for (uint32_t i = 0; i < f->members; i++) {
            const struct backing *b = &f->member[i].backing;

            if (b->logical > 512 || (b->preferred > 512 && objects_fit(f->options, 4096)))
                alignment = 4096;
        }
    }
    f->superblock.alignment = alignment;
    return 0;
}

static int check_sectors(const struct formatting *f, struct tutti_error *err)
{
    for (uint32_t i = 0; i < f->members; i++)
        if (f->member[i].backing.logical > f->superblock.alignment)
            return tutti_error_set(err, -EINVAL,
                                   "%s: its device has sectors of %u bytes and the pool would be "
                                   "aligned to %u: format with alignment 4096",
                                   f->member[i].path, f->member[i].backing.logical,
                                   f->superblock.alignment);
    return 0;
}

/* Bytes that every member has: its share of the capacity, no more than the smallest device. */
static int choose_member_bytes(const struct formatting *f, uint64_t *bytes, struct tutti_error *err)
{
    uint64_t share = f->options->bytes ? f->options->bytes / f->members : UINT64_MAX;

    for (uint32_t i = 0; i < f->members; i++) {
        const struct backing *b = &f->member[i].backing;

        if (b->block && b->bytes < share)
            share = b->bytes;
        if (!b->block && f->options->bytes == 0)
            return tutti_error_set(err, -EINVAL,
                                   "%s: no size is given; a file needs one (a block device is "
                                   "taken whole)",
                                   f->member[i].path);
    }
    *bytes = share > (uint64_t)INT64_MAX ? (uint64_t)INT64_MAX : share;
    return 0;
}

static uint64_t choose_extent_bytes(const struct tutti_pool_options *o, uint64_t member_bytes)
{
    uint64_t extent_bytes = 0;

    if (o->extent_bytes)
        return o->extent_bytes;
    for (uint32_t i = 0; i < o->groups; i++) {
        uint64_t bytes = tutti_extent_bytes_default(&o->geometry[i], member_bytes);

        if (bytes > extent_bytes)
            extent_bytes = bytes;
    }
    return extent_bytes;
}

/* Records that suit every shape: the longest stride, as many as the smallest slots need. */
static int choose_records(struct formatting *f, struct tutti_error *err)
{
    struct tutti_superblock *s = &f->superblock;
    struct tutti_placement p;

    for (int pass = 0; pass < 3; pass++) {
        for (uint32_t i = 0; i < s->groups; i++) {
            uint32_t stride = pass == 0 ? 0 : s->record_stride;
            uint32_t records = pass == 2 ? s->records_per_extent : 0;
            int rc = tutti_placement_init(&p, &s->geometry[i], s->alignment, s->first_extent,
                                          s->extent_bytes, s->extents * s->members, s->members,
                                          records, stride, err);

            if (rc < 0)
                return rc;
            if (pass == 0 && p.record_stride > s->record_stride)
                s->record_stride = p.record_stride;
            if (pass == 1 && p.records_per_extent > s->records_per_extent)
                s->records_per_extent = p.records_per_extent;
        }
    }
    return 0;
}

static int choose_extents(struct formatting *f, struct tutti_error *err)
{
    struct tutti_superblock *s = &f->superblock;
    uint64_t member_bytes = 0;
    uint64_t extents;
    int rc = choose_member_bytes(f, &member_bytes, err);

    if (rc < 0)
        return rc;
    s->first_extent = TUTTI_FIRST_EXTENT;
    s->extent_bytes = choose_extent_bytes(f->options, member_bytes);
    if (s->extent_bytes == 0 || /* GCOVR_EXCL_BR: no shape makes it 0; shown to who divides by it */
        s->extent_bytes % POOL_BUFFER_ALIGNMENT != 0 || s->extent_bytes > (UINT64_C(1) << 40))
        return tutti_error_set(err, -EINVAL,
                               "%s: extents of %" PRIu64 " bytes; a multiple of 4096 up to 1 TiB "
                               "is possible",
                               f->options->home, s->extent_bytes);
    extents =
        member_bytes < s->first_extent ? 0 : (member_bytes - s->first_extent) / s->extent_bytes;
    if (extents == 0)
        return tutti_error_set(err, -EINVAL,
                               "%s: %" PRIu64 " bytes a member are too few for this model: with "
                               "extents of %" PRIu64 " bytes, rank %u needs at least %" PRIu64
                               " bytes on its %u members",
                               f->member[0].path, member_bytes, s->extent_bytes, s->rank,
                               (s->first_extent + s->extent_bytes) * f->members, f->members);
    if (extents * f->members >= UINT32_MAX)
        return tutti_error_set(err, -EINVAL,
                               "%s: %" PRIu64 " extents of %" PRIu64 " bytes are too many: choose "
                               "larger extents",
                               f->options->home, extents, s->extent_bytes);
    s->extents = (uint32_t)extents;
    return choose_records(f, err);
}

/* Everything that the superblock says, but the pool's id. */
static int plan(struct formatting *f, struct tutti_error *err)
{
    const struct tutti_pool_options *o = f->options;
    struct tutti_superblock *s = &f->superblock;
    int rc;

    s->magic = TUTTI_SUPERBLOCK_MAGIC;
    s->version = TUTTI_FORMAT_VERSION;
    s->bytes = TUTTI_SUPERBLOCK_BYTES;
    s->rank = o->rank;
    s->ranks = o->ranks;
    s->members = f->members;
    s->created = (uint64_t)time(NULL);
    s->groups = o->groups;
    memcpy(s->geometry, o->geometry, o->groups * sizeof(s->geometry[0]));
    rc = choose_alignment(f, err);
    if (rc == 0)
        rc = check_sectors(f, err);
    return rc < 0 ? rc : choose_extents(f, err);
}

/* Where an extent's records lie, in whole buffers. */
static uint64_t record_area(const struct tutti_superblock *s)
{
    uint64_t bytes = (uint64_t)s->records_per_extent * s->record_stride;

    return (bytes + POOL_BUFFER_ALIGNMENT - 1) & ~(uint64_t)(POOL_BUFFER_ALIGNMENT - 1);
}

/* What will be written or allocated: of a file all, of a device what must not look like ours. */
static void expect(struct formatting *f)
{
    const struct tutti_superblock *s = &f->superblock;

    f->progress.options = f->options;
    for (uint32_t i = 0; i < f->members; i++) {
        f->member[i].progress = &f->progress;
        f->progress.all += f->member[i].backing.block
                               ? s->first_extent + s->extents * record_area(s)
                               : superblock_member_bytes(s);
    }
}

/* Bytes that the file systems charge for our files, their own bookkeeping included. */
static uint64_t occupied(const struct formatting *f)
{
    uint64_t bytes = 0;
    struct stat st;

    for (uint32_t i = 0; i < f->members; i++)
        if (!f->member[i].backing.block && fstat(f->member[i].backing.fd, &st) == 0)
            bytes += (uint64_t)st.st_blocks * 512;
    return bytes;
}

static int allocate(struct formatting *f, struct tutti_error *err)
{
    struct tutti_superblock *s = &f->superblock;

    for (uint32_t i = 0; i < f->members; i++) {
        int rc = new_member_allocate(&f->member[i], superblock_member_bytes(s), err);

        if (rc < 0)
            return rc;
    }
    while (f->options->bytes && occupied(f) > f->options->bytes) {
        if (s->extents == 1)
            return tutti_error_set(err, -EINVAL,
                                   "%s: the file system needs %" PRIu64
                                   " bytes for a pool of %" PRIu64 ": choose a larger size",
                                   f->options->home, occupied(f), f->options->bytes);
        s->extents--;
        for (uint32_t i = 0; i < f->members; i++) {
            int rc = new_member_shrink(&f->member[i], superblock_member_bytes(s), err);

            if (rc < 0)
                return rc;
        }
    }
    return check_sectors(f, err);
}

/* A device's old bytes must not look like superblocks or records of this pool. */
static int clear_device(const struct formatting *f, struct new_member *n, struct tutti_error *err)
{
    const struct tutti_superblock *s = &f->superblock;
    int rc;

    if (!n->backing.block)
        return 0;
    rc = new_member_zero(n, 0, s->first_extent, err);
    for (uint32_t e = 0; e < s->extents && rc == 0; e++)
        rc = new_member_zero(n, s->first_extent + e * s->extent_bytes, record_area(s), err);
    if (rc == 0) {
        rc = backing_flush(&n->backing);
        if (rc < 0)
            backing_describe(rc, "flushing", n->path, 0, err);
    }
    return rc;
}

static int write_superblocks(struct formatting *f, struct tutti_error *err)
{
    struct tutti_superblock *s = &f->superblock;
    uint8_t secret[16];
    int rc = tutti_pool_secret_load(f->options->home, true, s->pool, secret, err);

    if (rc < 0)
        return rc;
    s->secret_check = superblock_secret_check(secret, s->pool);
    explicit_bzero(secret, sizeof(secret));
    for (uint32_t i = 0; i < f->members && rc == 0; i++) {
        s->member = i;
        rc = clear_device(f, &f->member[i], err);
        for (unsigned copy = 0; copy < 2 && rc == 0; copy++) {
            s->sequence = 1 + copy;
            rc = superblock_write(&f->member[i].backing, s, copy, err);
        }
    }
    return rc;
}

static int format_members(struct formatting *f, struct tutti_error *err)
{
    char *path[TUTTI_MAX_MEMBERS];
    int count = member_paths(f->options, path, err);
    int rc;

    if (count < 0)
        return count;
    if (count == 0) /* GCOVR_EXCL_BR: options_check() refused that; shown to who divides by it */
        return tutti_error_set(err, -EINVAL, "%s: no member is named", f->options->home);
    f->members = (uint32_t)count;
    rc = member_paths_distinct(path, f->members, err);
    while (rc == 0 && f->begun < f->members) {
        rc = new_member_begin(&f->member[f->begun], path[f->begun], f->options->force, err);
        f->begun++;
    }
    member_paths_free(path, (uint32_t)count);
    if (rc == 0)
        rc = plan(f, err);
    if (rc == 0) {
        expect(f);
        rc = allocate(f, err);
    }
    if (rc == 0)
        rc = write_superblocks(f, err);
    for (uint32_t i = 0; i < f->members && rc == 0; i++)
        rc = new_member_place(&f->member[i], err);
    return rc;
}

int tutti_pool_format(const struct tutti_pool_options *options, struct tutti_error *err)
{
    struct formatting *f;
    int rc = options_check(options, err);

    if (rc < 0)
        return rc;
    if (options->groups == 0 || options->ranks == 0)
        return tutti_error_set(err, -EINVAL,
                               "%s: formatting needs the shape of the KV cache and the number of "
                               "ranks",
                               options->home);
    f = calloc(1, sizeof(*f));
    if (!f)
        return tutti_error_set(err, -ENOMEM, "%s: no memory", options->home);
    f->options = options;
    if (mkdir(options->home, 0700) == 0)
        f->made_home = true;
    else if (errno != EEXIST)
        rc = backing_error(-errno, "making the folder", options->home, 0, err);
    if (rc == 0)
        rc = format_members(f, err);
    for (uint32_t i = 0; i < f->begun; i++)
        new_member_end(&f->member[i], rc < 0);
    if (rc < 0 && f->made_home)
        rmdir(options->home); /* stays when another rank has put something there */
    free(f);
    return rc;
}
