/* SPDX-License-Identifier: Apache-2.0 */
/*
 * backing.c: the file, block device or drive under a member: what it is, how
 * large, which I/O it accepts, and that nobody else has it.
 *
 * Knows nothing of the format. Alignment is learnt from the system, never
 * assumed: statx(STATX_DIOALIGN) where kernel and libc have it (Linux 6.1),
 * BLKSSZGET for devices, and a trial for files elsewhere.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "nvme/drive.h"
#include "pool/internal.h"

void *backing_buffer(size_t bytes)
{
    size_t rounded = (bytes + POOL_BUFFER_ALIGNMENT - 1) & ~(size_t)(POOL_BUFFER_ALIGNMENT - 1);

    return aligned_alloc(POOL_BUFFER_ALIGNMENT, rounded);
}

void backing_describe(int code, const char *doing, const char *path, uint64_t offset,
                      struct tutti_error *err)
{
    const char *remedy = "see the kernel's log (dmesg)";

    switch (code) {
    case -EACCES:
    case -EPERM:
        remedy = "check its owner, mode and attributes (lsattr), and the user that you run as";
        break;
    case -EROFS:
        remedy = "the file system is mounted read-only: mount it for writing (mount -o remount,rw)";
        break;
    case -ENOSPC:
    case -EDQUOT:
        remedy = "free some space or choose a smaller size";
        break;
    case -ENOENT:
        remedy = "check the path, or format the pool";
        break;
    case -EMFILE:
    case -ENFILE:
        remedy = "raise the limit of open files (ulimit -n)";
        break;
    case -EINVAL:
        remedy = "the system refused the alignment or the flags";
        break;
    default:
        break;
    }
    tutti_error_compose(err, code, "%s %s, offset %" PRIu64 ": %s; %s", doing, path, offset,
                        strerror(-code), remedy);
}

int backing_read(const struct backing *b, void *data, size_t bytes, uint64_t offset)
{
    size_t done = 0;

    if (b->drive)
        return nvme_drive_read(b->drive, data, bytes, offset);
    while (done < bytes) {
        ssize_t n = pread(b->fd, (char *)data + done, bytes - done, (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -ENODATA;
        done += (size_t)n;
        /* A short direct read that is no multiple of a sector ends at the end of the file. */
        if (done < bytes && b->direct && done % b->logical != 0)
            return -ENODATA;
    }
    return 0;
}

int backing_write(const struct backing *b, const void *data, size_t bytes, uint64_t offset)
{
    size_t done = 0;

    if (b->drive)
        return nvme_drive_write(b->drive, data, bytes, offset);
    while (done < bytes) {
        ssize_t n = pwrite(b->fd, (const char *)data + done, bytes - done, (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        done += (size_t)n;
    }
    return 0;
}

int backing_flush(const struct backing *b)
{
    if (b->drive)
        return nvme_drive_flush(b->drive);
    return fdatasync(b->fd) < 0 ? -errno : 0;
}

/* Whether direct I/O of this size works, tried on bytes that exist. */
static bool direct_read_works(int fd, uint32_t unit)
{
    void *buffer = backing_buffer(POOL_BUFFER_ALIGNMENT);
    ssize_t n;

    if (!buffer)
        return false;
    n = pread(fd, buffer, unit, (off_t)unit);
    free(buffer);
    return n >= 0;
}

/* Smallest direct I/O of a regular file that is open with O_DIRECT; 0 when it has none. */
static uint32_t file_logical(int fd)
{
#ifdef STATX_DIOALIGN
    struct statx x;

    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &x) == 0 && (x.stx_mask & STATX_DIOALIGN)) {
        uint32_t memory = x.stx_dio_mem_align;
        uint32_t offset = x.stx_dio_offset_align;

        return memory == 0 || offset == 0 ? 0 : (memory > offset ? memory : offset);
    }
#endif
    if (direct_read_works(fd, 512))
        return 512;
    return direct_read_works(fd, 4096) ? 4096 : 0;
}

static void go_buffered(struct backing *b, const char *reason)
{
    int flags = fcntl(b->fd, F_GETFL);

    if (flags >= 0)
        fcntl(b->fd, F_SETFL, flags & ~O_DIRECT);
    b->direct = false;
    b->logical = 512;
    snprintf(b->reason, sizeof(b->reason), "%s", reason);
}

static int adopt_file(struct backing *b, const struct stat *st, struct tutti_error *err)
{
    struct statfs fs;
    int flags = fcntl(b->fd, F_GETFL);

    b->bytes = (uint64_t)st->st_size;
    b->preferred = st->st_blksize >= 4096 ? 4096 : 512;
    b->device = st->st_dev;
    b->inode = st->st_ino;
    /* tmpfs takes O_DIRECT since Linux 6.6, and copies all the same. */
    if (fstatfs(b->fd, &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC)) {
        go_buffered(b, "it lies in memory (tmpfs), which has no direct I/O");
        return 0;
    }
    if (flags < 0 || fcntl(b->fd, F_SETFL, flags | O_DIRECT) < 0) {
        go_buffered(b, "its file system has no direct I/O (O_DIRECT refused)");
        return 0;
    }
    b->direct = true;
    b->logical = file_logical(b->fd);
    if (b->logical == 0)
        go_buffered(b, "its file system has no direct I/O for this file");
    else if (b->logical > 4096)
        return tutti_error_set(err, -EINVAL,
                               "%s: direct I/O takes units of %" PRIu32 " bytes there; Tutti "
                               "supports 512 and 4096: choose another file system or device",
                               b->path, b->logical);
    if (b->logical < 512)
        b->logical = 512;
    return 0;
}

static int adopt_device(struct backing *b, const struct stat *st, struct tutti_error *err)
{
    int logical = 0;
    unsigned physical = 0;
    int flags = fcntl(b->fd, F_GETFL);

    b->block = true;
    b->device = st->st_rdev;
    b->inode = 0;
    if (ioctl(b->fd, BLKGETSIZE64, &b->bytes) < 0 || ioctl(b->fd, BLKSSZGET, &logical) < 0)
        return backing_error(-errno, "asking the size of", b->path, 0, err);
    if (ioctl(b->fd, BLKPBSZGET, &physical) < 0)
        physical = (unsigned)logical;
    if (logical < 512 || logical > 4096)
        return tutti_error_set(err, -EINVAL, "%s: sectors of %d bytes; Tutti supports 512 and 4096",
                               b->path, logical);
    b->logical = (uint32_t)logical;
    b->preferred = physical >= 4096 ? 4096 : b->logical;
    if (flags < 0 || fcntl(b->fd, F_SETFL, flags | O_DIRECT) < 0)
        return backing_error(-errno, "asking for direct I/O on", b->path, 0, err);
    b->direct = true;
    return 0;
}

int backing_adopt(struct backing *b, int fd, const char *path, struct tutti_error *err)
{
    struct stat st;
    int rc;

    memset(b, 0, sizeof(*b));
    b->fd = fd;
    b->opener = getpid();
    b->path = strdup(path);
    if (!b->path)
        rc = tutti_error_set(err, -ENOMEM, "%s: no memory", path);
    else if (fstat(fd, &st) < 0)
        rc = backing_error(-errno, "looking at", path, 0, err);
    else if (S_ISREG(st.st_mode))
        rc = adopt_file(b, &st, err);
    else if (S_ISBLK(st.st_mode))
        rc = adopt_device(b, &st, err);
    else
        rc = tutti_error_set(err, -EINVAL,
                             "%s: a member is a file or a block device, and this is neither", path);
    return rc;
}

/* A process that was killed holds its members until its io_uring is torn down (40 ms seen). */
enum { BUSY_TRIES = 50, BUSY_TRY_US = 10000 };

static int open_patiently(const char *path, int flags)
{
    int fd = open(path, flags);

    for (unsigned tries = 1; fd < 0 && errno == EBUSY && tries < BUSY_TRIES; tries++) {
        usleep(BUSY_TRY_US);
        fd = open(path, flags);
    }
    return fd;
}

/** A drive of our own is a device whose I/O goes through queues in this process. */
static int open_drive(struct backing *b, const char *path, struct tutti_error *err)
{
    struct nvme_facts facts;
    int rc;

    memset(b, 0, sizeof(*b));
    b->fd = -1;
    rc = nvme_drive_open(path, &b->drive, err);
    if (rc < 0)
        return rc;
    nvme_drive_facts(b->drive, &facts);
    b->opener = getpid();
    b->bytes = facts.blocks * facts.block_bytes;
    b->logical = facts.block_bytes;
    b->preferred = facts.block_bytes;
    b->block = true;
    b->direct = true;
    b->path = strdup(path);
    if (b->path)
        return 0;
    backing_close(b);
    return tutti_error_set(err, -ENOMEM, "%s: no memory", path);
}

int backing_open(struct backing *b, const char *path, bool write, struct tutti_error *err)
{
    int flags = (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK; /* never hang on a FIFO */
    struct stat st;
    int fd, rc;

    b->fd = -1;
    b->drive = NULL;
    b->path = NULL;
    if (nvme_drive_is_named(path))
        return open_drive(b, path, err);
    if (stat(path, &st) < 0)
        return backing_error(-errno, "opening", path, 0, err);
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return tutti_error_set(
            err, -EINVAL, "%s: a member is a file or a block device, and this is neither", path);
    /* On a block device, O_EXCL is the lock: the kernel refuses mounted and claimed devices. */
    fd = open_patiently(path, S_ISBLK(st.st_mode) && write ? flags | O_EXCL : flags);
    if (fd < 0 && errno == EBUSY)
        return tutti_error_set(err, -EBUSY,
                               "%s: the device is in use: mounted, part of another device, or "
                               "opened by another process (see lsblk, fuser -v %s)",
                               path, path);
    if (fd < 0)
        return backing_error(errno == EPERM ? -EACCES : -errno, "opening", path, 0, err);
    rc = backing_adopt(b, fd, path, err);
    if (rc < 0)
        backing_close(b);
    return rc;
}

/*
 * The lock is let go by name: an io_uring that was closed just now may hold the
 * open file some ten milliseconds longer than we do. But not in a forked child,
 * whose descriptor is the parent's.
 */
void backing_close(struct backing *b)
{
    struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

    if (b->fd >= 0 && b->opener == getpid()) {
        fcntl(b->fd, F_OFD_SETLK, &lock);
        flock(b->fd, LOCK_UN);
    }
    if (b->fd >= 0)
        close(b->fd);
    if (b->claimed && b->opener == getpid())
        nvme_drive_release(b->drive);
    nvme_drive_close(b->drive);
    free(b->path);
    b->drive = NULL;
    b->claimed = false;
    b->fd = -1;
    b->path = NULL;
}

/*
 * An open file description lock: it conflicts with every other open, that of
 * the same process included, and goes when the last copy of the descriptor is
 * closed. Where the file system has none, flock() does the same.
 */
static int try_lock(int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int rc = fcntl(fd, F_OFD_SETLK, &lock) < 0 ? -errno : 0;

    if (rc == -EINVAL || rc == -ENOSYS || rc == -EOPNOTSUPP || rc == -ENOLCK)
        rc = flock(fd, LOCK_EX | LOCK_NB) < 0 ? -errno : 0;
    return rc;
}

static bool is_taken(int rc)
{
    return rc == -EAGAIN || rc == -EACCES;
}

/** Another process cannot even open a drive that we have; within this one the claim is the lock. */
static int claim_drive(struct backing *b, struct tutti_error *err)
{
    int rc = nvme_drive_claim(b->drive);

    b->claimed = rc == 0;
    if (rc < 0)
        return tutti_error_set(err, rc, "%s: in use: this process has opened this member already",
                               b->path);
    return 0;
}

int backing_lock(struct backing *b, struct tutti_error *err)
{
    int rc;

    if (b->drive)
        return claim_drive(b, err);
    if (b->block)
        return 0; /* O_EXCL did it */
    rc = try_lock(b->fd);
    for (unsigned tries = 1; is_taken(rc) && tries < BUSY_TRIES; tries++) {
        usleep(BUSY_TRY_US);
        rc = try_lock(b->fd);
    }
    if (is_taken(rc))
        return tutti_error_set(err, -EBUSY,
                               "%s: in use: another process has opened this member (find it with "
                               "fuser -v %s); one process per rank opens a pool",
                               b->path, b->path);
    if (rc < 0)
        return backing_error(rc, "locking", b->path, 0, err);
    return 0;
}
