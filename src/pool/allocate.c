/* SPDX-License-Identifier: Apache-2.0 */
/*
 * allocate.c: a new member, from nothing to a file of exact size, or an empty
 * block device that we may write.
 *
 * Knows of the format only how to recognise a pool that must not be touched.
 *
 * The idea: a file is made under a temporary name and locked; it gets its final
 * name when it is complete. What a kill leaves behind is "NAME.formatting",
 * which the next format takes over; what was at the final name stays whole
 * until the new one replaces it. The lock goes with the file, so between the
 * rename and our close nobody can open a pool that is not complete.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "nvme/drive.h"
#include "pool/internal.h"

enum { PROBES = 64 };

static bool is_zero(const unsigned char *p, size_t bytes)
{
    return p[0] == 0 && memcmp(p, p + 1, bytes - 1) == 0;
}

/* Refuse what already holds a pool, even by force. Return: 0 when it holds none. */
static int refuse_pool(const struct backing *b, struct tutti_error *err)
{
    struct tutti_superblock s;
    unsigned copy;
    int rc = superblock_read(b, &s, &copy, NULL);

    if (rc == 0)
        return tutti_error_set(
            err, -EEXIST,
            "%s: holds a Tutti pool already (rank %u of %u, member %u of %u, "
            "superblock at offset %u): open it, or %s first to give its content "
            "up",
            b->path, s.rank, s.ranks, s.member, s.members, copy * TUTTI_SUPERBLOCK_COPY,
            b->block ? "wipe its first MiB (dd if=/dev/zero bs=1M count=1)" : "remove the file");
    if (rc == -EPROTONOSUPPORT)
        return tutti_error_set(err, -EEXIST,
                               "%s: holds a Tutti pool of another format version: open it with the "
                               "version of Tutti that made it, or remove it first",
                               b->path);
    return rc == -EUCLEAN ? 0 : backing_error(rc, "reading the head of", b->path, 0, err);
}

/* Whether a stretch of a device is zero: 1, 0, or a negative errno. */
static int stretch_zero(const struct backing *b, void *buffer, size_t bytes, uint64_t offset)
{
    int rc = backing_read(b, buffer, bytes, offset);

    return rc < 0 ? rc : is_zero(buffer, bytes);
}

/*
 * A device is empty when its first and last MiB and 64 pages in between are
 * zero. File systems, partition tables, RAID, LVM, ZFS and swap all leave their
 * signatures in the first or last MiB, so this is stricter than asking libblkid
 * for the signatures that it knows.
 */
static int device_empty(const struct backing *b, struct tutti_error *err)
{
    unsigned char *buffer;
    uint64_t at = 0;
    int rc;

    if (b->bytes < 2 * POOL_MIB)
        return tutti_error_set(err, -EINVAL, "%s: a device of %" PRIu64 " bytes is too small",
                               b->path, b->bytes);
    buffer = backing_buffer(POOL_MIB);
    if (!buffer)
        return tutti_error_set(err, -ENOMEM, "%s: no memory", b->path);
    rc = stretch_zero(b, buffer, POOL_MIB, 0);
    if (rc == 1) {
        at = (b->bytes - POOL_MIB) / 4096 * 4096;
        rc = stretch_zero(b, buffer, (b->bytes - at) / b->logical * b->logical, at);
    }
    for (uint64_t i = 1; rc == 1 && i <= PROBES; i++) {
        at = b->bytes / (PROBES + 1) * i / 4096 * 4096;
        rc = stretch_zero(b, buffer, 4096, at);
    }
    free(buffer);
    if (rc < 0)
        return backing_error(rc, "reading", b->path, at, err);
    if (rc == 0)
        return tutti_error_set(err, -EEXIST,
                               "%s: the device is not empty (bytes that are not zero behind offset "
                               "%" PRIu64 "): wipe it (blkdiscard, wipefs), name another one, or "
                               "say force if all that it holds may go",
                               b->path, at);
    return 0;
}

static int begin_device(struct new_member *n, bool force, struct tutti_error *err)
{
    int rc = backing_open(&n->backing, n->path, true, err);

    if (rc == 0)
        rc = backing_lock(&n->backing, err);
    if (rc < 0)
        return rc;
    rc = refuse_pool(&n->backing, err);
    return rc < 0 || force ? rc : device_empty(&n->backing, err);
}

/* Judge a file that is there already. */
static int judge_file(const char *path, bool force, struct tutti_error *err)
{
    struct backing b;
    int rc = backing_open(&b, path, true, err);

    if (rc < 0)
        return rc;
    rc = backing_lock(&b, err);
    if (rc == 0 && b.bytes > 0)
        rc = refuse_pool(&b, err);
    if (rc == 0 && b.bytes > 0 && !force)
        rc = tutti_error_set(err, -EEXIST,
                             "%s: holds %" PRIu64 " bytes that are not a Tutti pool: remove the "
                             "file, name another one, or say force if it may go",
                             path, b.bytes);
    backing_close(&b);
    return rc;
}

/** Whether a name still leads to an open file, and not to what took its place or lay there. */
static bool leads_to(const char *path, int fd)
{
    struct stat by_name, by_fd;

    return stat(path, &by_name) == 0 && fstat(fd, &by_fd) == 0 && S_ISREG(by_fd.st_mode) &&
           by_name.st_ino == by_fd.st_ino && by_name.st_dev == by_fd.st_dev;
}

/*
 * Open the temporary file and lock it. Between open and lock its former owner
 * may have renamed or removed it; then the name leads elsewhere: once more. A
 * file that is ours and cannot be used stays locked: new_member_end() removes it.
 */
static int begin_file(struct new_member *n, struct tutti_error *err)
{
    for (int attempt = 0; attempt < 100; attempt++) {
        int rc, locked;
        int fd = open(n->temporary, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);

        if (fd < 0)
            return backing_error(-errno, "creating", n->temporary, 0, err);
        rc = backing_adopt(&n->backing, fd, n->temporary, err);
        locked = backing_lock(&n->backing, rc < 0 ? NULL : err);
        if (locked == 0 && leads_to(n->temporary, fd)) {
            if (rc == 0 && (ftruncate(fd, 0) < 0 || fchmod(fd, 0600) < 0))
                rc = backing_error(-errno, "preparing", n->temporary, 0, err);
            return rc;
        }
        backing_close(&n->backing); /* it is another's: not ours to remove */
        if (rc < 0 || locked < 0)
            return rc < 0 ? rc : locked;
    }
    return tutti_error_set(err, -EBUSY, "%s: other processes keep formatting it", n->path);
}

int new_member_begin(struct new_member *n, const char *path, bool force, struct tutti_error *err)
{
    struct stat st;
    int rc;

    memset(n, 0, sizeof(*n));
    n->backing.fd = -1;
    if (nvme_drive_is_named(path)) {
        n->path = strdup(path);
        return n->path ? begin_device(n, force, err)
                       : tutti_error_set(err, -ENOMEM, "%s: no memory", path);
    }
    if (lstat(path, &st) == 0) {
        n->replaces = true;
        n->path = realpath(path, NULL); /* through symbolic links: they stay */
        if (!n->path || stat(n->path, &st) < 0)
            return backing_error(-errno, "following", path, 0, err);
        if (S_ISBLK(st.st_mode))
            return begin_device(n, force, err);
        rc = judge_file(n->path, force, err);
        if (rc < 0)
            return rc;
    } else if (errno == ENOENT) {
        n->path = strdup(path);
    } else {
        return backing_error(-errno, "looking at", path, 0, err);
    }
    if (!n->path || asprintf(&n->temporary, "%s.formatting", n->path) < 0) {
        n->temporary = NULL;
        return tutti_error_set(err, -ENOMEM, "%s: no memory", path);
    }
    return begin_file(n, err);
}

void format_advance(struct format_progress *progress, uint64_t bytes)
{
    progress->done += bytes;
    if (progress->options->progress)
        progress->options->progress(progress->options->argument, progress->done, progress->all);
}

static int write_zeros(const struct new_member *m, uint64_t offset, uint64_t bytes)
{
    const size_t step = 4 * POOL_MIB;
    void *buffer = backing_buffer(step);
    int rc = buffer ? 0 : -ENOMEM;

    if (buffer)
        memset(buffer, 0, step);
    while (rc == 0 && bytes > 0) {
        size_t n = bytes < step ? (size_t)bytes : step;

        rc = backing_write(&m->backing, buffer, n, offset);
        offset += n;
        bytes -= n;
        format_advance(m->progress, n);
    }
    free(buffer);
    return rc;
}

int new_member_zero(struct new_member *n, uint64_t offset, uint64_t bytes, struct tutti_error *err)
{
    uint64_t range[2] = {offset, bytes};
    int rc = 0;

    if (ioctl(n->backing.fd, BLKZEROOUT, range) < 0)
        rc = write_zeros(n, offset, bytes);
    else
        format_advance(n->progress, bytes);
    return rc < 0 ? backing_error(rc, "clearing", n->path, offset, err) : 0;
}

static int no_space(const struct new_member *n, int rc, uint64_t bytes, struct tutti_error *err)
{
    struct statvfs fs;
    uint64_t free_bytes = 0;

    /* What we took already will be free again. */
    if (ftruncate(n->backing.fd, 0) == 0 && fstatvfs(n->backing.fd, &fs) == 0)
        free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    return tutti_error_set(err, rc,
                           "%s: %s: the member needs %" PRIu64 " bytes and its file system has "
                           "%" PRIu64 " free: choose a smaller size, free some space, or name a "
                           "member elsewhere; what was begun is removed",
                           n->path, strerror(-rc), bytes, free_bytes);
}

/* Kernels without STATX_DIOALIGN: a sub-sector write tells, where blocks exist. */
static void try_small_write(struct backing *b)
{
    void *buffer;

    if (!b->direct || b->logical != 512)
        return;
    buffer = backing_buffer(512);
    if (!buffer)
        return;
    memset(buffer, 0, 512);
    if (backing_write(b, buffer, 512, 512) == -EINVAL)
        b->logical = 4096;
    free(buffer);
}

int new_member_allocate(struct new_member *n, uint64_t bytes, struct tutti_error *err)
{
    int rc;

    if (n->backing.block)
        return 0;
    do
        rc = fallocate(n->backing.fd, 0, 0, (off_t)bytes) < 0 ? -errno : 0;
    while (rc == -EINTR);
    if (rc == -EOPNOTSUPP || rc == -ENOSYS) /* some network file systems */
        rc = write_zeros(n, 0, bytes);
    else if (rc == 0)
        format_advance(n->progress, bytes);
    if (rc == -ENOSPC || rc == -EDQUOT || rc == -EFBIG)
        return no_space(n, rc, bytes, err);
    if (rc < 0)
        return backing_error(rc, "allocating", n->path, 0, err);
    n->backing.bytes = bytes;
    try_small_write(&n->backing);
    return 0;
}

int new_member_shrink(struct new_member *n, uint64_t bytes, struct tutti_error *err)
{
    if (n->backing.block)
        return 0;
    if (ftruncate(n->backing.fd, (off_t)bytes) < 0)
        return backing_error(-errno, "shrinking", n->path, bytes, err);
    n->backing.bytes = bytes;
    return 0;
}

int new_member_place(struct new_member *n, struct tutti_error *err)
{
    int rc = backing_flush(&n->backing);

    if (rc == 0 && n->temporary) {
        rc = renameat2(AT_FDCWD, n->temporary, AT_FDCWD, n->path,
                       n->replaces ? 0 : RENAME_NOREPLACE) < 0
                 ? -errno
                 : 0;
        if (rc == -EINVAL && !n->replaces) /* a file system without it: the lock must do */
            rc = rename(n->temporary, n->path) < 0 ? -errno : 0;
        if (rc == 0) {
            n->placed = true;
            rc = folder_sync(n->path);
        }
    }
    return rc < 0 ? backing_error(rc, "completing", n->path, 0, err) : 0;
}

void new_member_end(struct new_member *n, bool undo)
{
    /* Only the holder of the lock may remove the temporary file, and a file that is ours. */
    if (undo && n->backing.fd >= 0 && n->temporary)
        unlink(n->placed ? n->path : n->temporary);
    backing_close(&n->backing);
    free(n->temporary);
    free(n->path);
}
