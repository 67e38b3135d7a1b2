/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doctor_path.c: what a path gives: file system, space, direct I/O, the engine
 * that the library itself chooses on it, and how fast it is.
 *
 * A temporary file is made, used and removed; a block device is only read.
 * Must not know what verdict follows.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/stat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "doctor.h"
#include "raw.h"
#include "scratch.h"
#include "size.h"
#include "tutti/engine.h"

#define MIB (UINT64_C(1) << 20)
#define MEMORY_BYTES (32 * MIB)
#define CHUNK_BYTES (128 * MIB)
#define MOST_BYTES (2048 * MIB)
#define LONG_ENOUGH_NS UINT64_C(700000000)
#define DEPTH 32u

static const struct {
    unsigned long magic;
    const char *name;
    enum grade grade;
    const char *remedy;
} file_systems[] = {
    {0xef53, "ext4", GOOD, ""},
    {0x58465342, "xfs", GOOD, ""},
    {0x9123683e, "btrfs", WORSE, "an ext4 or xfs file system: btrfs copies on write"},
    {0x2fc12fc1, "zfs", WORSE, "an ext4 or xfs file system, or a block device"},
    {0xf2f52010, "f2fs", WORSE, "an ext4 or xfs file system"},
    {0x01021994, "tmpfs", WORSE, "a folder on a drive: this one is memory and forgets"},
    {0x794c7630, "overlayfs", WORSE,
     "a volume on the host's drive (docker run -v /data/tutti:/data/tutti), not the container's "
     "own layer"},
    {0x6969, "nfs", WORSE, "a local drive: this one is a network's"},
    {0xff534d42, "cifs", WORSE, "a local drive: this one is a network's"},
    {0x65735546, "fuse", WORSE, "a folder that a drive's own file system holds"},
};

static void examine_file_system(struct diagnosis *d, const char *folder)
{
    struct statfs fs;
    struct finding *f;
    char size[SIZE_TEXT], whole[SIZE_TEXT];
    uint64_t available;

    if (statfs(folder, &fs) < 0)
        return;
    f = find(d, "file system", GOOD, "unknown kind 0x%lx", (unsigned long)fs.f_type);
    for (size_t i = 0; i < sizeof(file_systems) / sizeof(file_systems[0]); i++)
        if ((unsigned long)fs.f_type == file_systems[i].magic) {
            f->grade = file_systems[i].grade;
            snprintf(f->fact, sizeof(f->fact), "%s", file_systems[i].name);
            snprintf(f->remedy, sizeof(f->remedy), "%s", file_systems[i].remedy);
        }
    available = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
    f = find(d, "free space", available >= 1024 * MIB ? GOOD : WORSE, "%s of %s",
             size_text(available, size),
             size_text((uint64_t)fs.f_blocks * (uint64_t)fs.f_bsize, whole));
    if (f->grade != GOOD)
        remedy(f, "a pool is allocated in full when formatted: free some space");
}

/** What direct I/O asks of memory and offsets, from the system. Return: alignment of a member. */
static uint32_t examine_direct(struct diagnosis *d, const char *path, int fd, bool direct)
{
    uint32_t memory = 512, offset = 512;
    struct finding *f;
    int sector;

#ifdef STATX_DIOALIGN
    struct statx x;

    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &x) == 0 && (x.stx_mask & STATX_DIOALIGN) &&
        x.stx_dio_offset_align) {
        memory = x.stx_dio_mem_align;
        offset = x.stx_dio_offset_align;
    }
#endif
    if (ioctl(fd, BLKSSZGET, &sector) == 0)
        offset = (uint32_t)sector;
    if (direct) {
        find(d, "direct I/O", GOOD, "O_DIRECT works; memory aligned to %u bytes, offsets to %u",
             memory, offset);
    } else {
        f = find(d, "direct I/O", WORSE,
                 "O_DIRECT is refused: bytes go through the page cache, one copy more");
        remedy(f, "another file system than that of %s", path);
    }
    return offset > 512 || memory > 512 ? 4096 : 512;
}

/** Let the library open its engine here, and register memory with it. */
static int examine_engine(struct diagnosis *d, const char *path, int fd, bool direct,
                          uint32_t alignment, void *memory, struct tutti_error *err)
{
    struct tutti_member member = {.fd = fd, .path = path, .direct = direct, .alignment = alignment};
    struct tutti_engine_options options = {
        .name = "auto",
        .member = &member,
        .members = 1,
        .device = &tutti_device_host,
        .staging_bytes = 4 * MIB,
    };
    struct tutti_engine *engine;
    struct tutti_error reason = {0};
    int rc = tutti_ring_new(16, 1, &options.ring, err);

    if (rc < 0)
        return rc;
    rc = tutti_engine_open(&options, &engine, &reason);
    if (rc == 0) {
        snprintf(d->engine, sizeof(d->engine), "%s", tutti_engine_name(engine));
        snprintf(d->reason, sizeof(d->reason), "%.500s", reason.message);
        rc = tutti_engine_register(engine, (uint64_t)(uintptr_t)memory, MEMORY_BYTES, &reason);
        d->direct = rc == 1 && direct;
        if (!d->direct && d->reason[0] == 0)
            snprintf(d->reason, sizeof(d->reason), "%.500s",
                     direct ? reason.message : "no direct I/O on this file system");
        tutti_engine_close(engine);
    }
    tutti_ring_free(options.ring);
    if (rc < 0 && err)
        *err = reason;
    return rc < 0 ? rc : 0;
}

/** Move chunks of a file until it was long enough. Return: bytes moved, or a negative errno. */
static int64_t measure(struct raw *raw, bool write, uint64_t bytes, double *speed,
                       struct tutti_error *err)
{
    struct raw_piece piece[CHUNK_BYTES / MIB];
    uint64_t done = 0, ns = 0;

    while (done + CHUNK_BYTES <= bytes && (ns < LONG_ENOUGH_NS || done < 2 * CHUNK_BYTES)) {
        struct raw_time time;
        int rc;

        for (uint64_t i = 0; i < CHUNK_BYTES / MIB; i++)
            piece[i] = (struct raw_piece){
                .offset = done + i * MIB,
                .memory = i * MIB % MEMORY_BYTES,
                .bytes = (uint32_t)MIB,
            };
        rc = raw_run(raw, write, piece, CHUNK_BYTES / MIB, &time, err);
        if (rc < 0)
            return rc;
        done += CHUNK_BYTES;
        ns += time.all;
    }
    *speed = ns ? (double)done / (double)ns : 0;
    return (int64_t)done;
}

static int examine_speed(struct diagnosis *d, int fd, uint64_t bytes, bool writes, void *memory,
                         struct tutti_error *err)
{
    struct raw *raw;
    int64_t written = (int64_t)bytes;
    char write_speed[32] = "";
    int rc;

    if (bytes < 2 * CHUNK_BYTES) {
        find(d, "speed", WORSE, "not measured: less than 256 MiB to measure on");
        return 0;
    }
    rc = raw_open(&raw, fd, memory, MEMORY_BYTES, DEPTH, d->uring, err);
    if (rc < 0)
        return rc;
    if (writes)
        written = measure(raw, true, bytes, &d->write_gb_s, err);
    if (written > 0)
        written = measure(raw, false, (uint64_t)written, &d->read_gb_s, err);
    if (written > 0) {
        d->measured = true;
        if (writes)
            snprintf(write_speed, sizeof(write_speed), ", write %.2f GB/s", d->write_gb_s);
        find(d, "speed", GOOD, "read %.2f GB/s%s, in 1 MiB commands, %u in flight (%s)",
             d->read_gb_s, write_speed, DEPTH, raw_name(raw));
    }
    raw_close(raw);
    return written < 0 ? (int)written : 0;
}

/** Everything that wants an open descriptor. */
static int examine_open(struct diagnosis *d, const char *path, int fd, bool direct, uint64_t bytes,
                        bool writes, struct tutti_error *err)
{
    uint32_t alignment = examine_direct(d, path, fd, direct);
    void *memory;
    bool huge;
    int rc = tutti_device_host.alloc(MEMORY_BYTES, &memory, &huge, err);

    if (rc < 0)
        return rc;
    rc = examine_engine(d, path, fd, direct, alignment, memory, err);
    if (rc == 0)
        rc = examine_speed(d, fd, bytes, writes, memory, err);
    tutti_device_host.free(memory, MEMORY_BYTES);
    return rc;
}

static int open_direct(const char *path, int flags, bool *direct)
{
    int fd = open(path, flags | O_DIRECT | O_CLOEXEC, 0600);

    *direct = fd >= 0;
    return fd >= 0 ? fd : open(path, flags | O_CLOEXEC, 0600);
}

static int examine_device(struct diagnosis *d, struct tutti_error *err)
{
    bool direct;
    uint64_t bytes = 0;
    int fd = open_direct(d->path, O_RDONLY, &direct);
    char size[SIZE_TEXT];
    int rc;

    if (fd < 0)
        return tutti_error_set(err, -errno, "%s: %s", d->path, strerror(errno));
    ioctl(fd, BLKGETSIZE64, &bytes);
    find(d, "block device", GOOD,
         "%s; only read here, and 'tutti format --member %s' refuses it "
         "while it holds other data",
         size_text(bytes, size), d->path);
    rc = examine_open(d, d->path, fd, direct, bytes < MOST_BYTES ? bytes : MOST_BYTES, false, err);
    close(fd);
    return rc;
}

static int examine_folder(struct diagnosis *d, struct tutti_error *err)
{
    char scratch[SCRATCH_PATH], path[SCRATCH_PATH + 16];
    struct statvfs space;
    uint64_t bytes = MOST_BYTES, free_bytes;
    bool direct;
    int fd, rc;

    examine_file_system(d, d->folder);
    rc = scratch_open(d->folder, scratch, err);
    if (rc < 0)
        return rc;
    snprintf(path, sizeof(path), "%s/speed", scratch);
    fd = open_direct(path, O_RDWR | O_CREAT, &direct);
    if (fd < 0) {
        rc = tutti_error_set(err, -errno, "%s: %s", path, strerror(errno));
        scratch_close();
        return rc;
    }
    free_bytes = statvfs(d->folder, &space) == 0 ? (uint64_t)space.f_bavail * space.f_frsize : 0;
    while (bytes > free_bytes / 4)
        bytes /= 2;
    if (bytes > 0 && fallocate(fd, 0, 0, (off_t)bytes) < 0) {
        struct finding *f = find(d, "preallocation", WORSE, "fallocate: %s", strerror(errno));

        remedy(f, "a file system that can preallocate (ext4, xfs)");
        bytes = ftruncate(fd, (off_t)bytes) == 0 ? bytes : 0;
    }
    rc = examine_open(d, d->folder, fd, direct, bytes, true, err);
    close(fd);
    scratch_close();
    return rc;
}

/** The folder itself, or the nearest one above that exists. */
static void nearest_folder(struct diagnosis *d)
{
    struct stat st;

    snprintf(d->folder, sizeof(d->folder), "%s", d->path);
    while (stat(d->folder, &st) < 0 || !S_ISDIR(st.st_mode)) {
        char *slash = strrchr(d->folder, '/');

        if (!slash)
            strcpy(d->folder, ".");
        else if (slash == d->folder)
            strcpy(d->folder, "/");
        else
            *slash = 0;
    }
}

int examine_path(struct diagnosis *d, const char *path, struct tutti_error *err)
{
    struct stat st;

    snprintf(d->path, sizeof(d->path), "%s", path);
    if (stat(path, &st) == 0 && S_ISBLK(st.st_mode))
        return examine_device(d, err);
    nearest_folder(d);
    return examine_folder(d, err);
}
