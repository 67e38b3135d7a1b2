/* SPDX-License-Identifier: Apache-2.0 */
/* disk.c: see disk.h. */
#include "disk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "dice.h"
#include "engine/member.h"
#include "machine.h"
#include "model.h"
#include "tutti/format.h"

enum { DISKS = 12, DESCRIPTORS = 1024 };

static struct disk *disks[DISKS];
static uint32_t disk_count;
static struct disk *by_descriptor[DESCRIPTORS];
static uint64_t sequence;

void disk_new(struct disk *d, uint64_t bytes)
{
    size_t size = 2 * TUTTI_SUPERBLOCK_BYTES + (size_t)(bytes - TUTTI_FIRST_EXTENT);

    memset(d, 0, sizeof(*d));
    d->bytes = bytes;
    d->size = size;
    d->image = calloc(3, size + 1);
    d->bad = calloc(1, size / DISK_SECTOR + 1);
    must(d->image && d->bad && disk_count < DISKS);
    d->durable = d->image + size;
    d->older = d->durable + size;
    disks[disk_count++] = d;
}

static void log_clear(struct disk *d)
{
    for (uint32_t i = 0; i < d->logged; i++)
        free(d->log[i].data);
    d->logged = 0;
}

void disk_free(struct disk *d)
{
    log_clear(d);
    for (uint32_t i = 0; i < d->pending_count; i++)
        free(d->pending[i].data);
    free(d->image);
    free(d->bad);
    memset(d, 0, sizeof(*d));
}

void disk_detach_all(void)
{
    disk_count = 0;
    memset(by_descriptor, 0, sizeof(by_descriptor));
}

size_t disk_place(const struct disk *d, uint64_t offset, size_t bytes)
{
    size_t at;

    if (offset + bytes <= TUTTI_SUPERBLOCK_BYTES)
        return (size_t)offset;
    if (offset >= TUTTI_SUPERBLOCK_COPY &&
        offset + bytes <= TUTTI_SUPERBLOCK_COPY + TUTTI_SUPERBLOCK_BYTES)
        return (size_t)(offset - TUTTI_SUPERBLOCK_COPY) + TUTTI_SUPERBLOCK_BYTES;
    if (offset < TUTTI_FIRST_EXTENT)
        return SIZE_MAX;
    at = (size_t)(offset - TUTTI_FIRST_EXTENT) + 2 * TUTTI_SUPERBLOCK_BYTES;
    return at + bytes <= d->size ? at : SIZE_MAX;
}

/* Writes. */

static void put_sector(struct disk *d, size_t at, const uint8_t *data)
{
    memcpy(d->older + at, d->image + at, DISK_SECTOR);
    memcpy(d->image + at, data, DISK_SECTOR);
    d->bad[at / DISK_SECTOR] = 0;
}

static void log_write(struct disk *d, size_t at, const uint8_t *data, size_t bytes)
{
    struct disk_write *w;

    if (d->logged == DISK_LOG) { /* the cache writes its oldest back */
        memcpy(d->durable + d->log[0].at, d->log[0].data, d->log[0].bytes);
        free(d->log[0].data);
        memmove(&d->log[0], &d->log[1], (DISK_LOG - 1) * sizeof(d->log[0]));
        d->logged--;
    }
    w = &d->log[d->logged++];
    *w = (struct disk_write){.at = at, .bytes = bytes, .data = malloc(bytes)};
    must(w->data);
    memcpy(w->data, data, bytes);
}

static void write_sectors(struct disk *d, size_t at, const uint8_t *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += DISK_SECTOR)
        put_sector(d, at + i, data + i);
    if (bytes > 0)
        log_write(d, at, data, bytes);
}

/** Some of its sectors, at random. */
static void write_torn(struct disk *d, size_t at, const uint8_t *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += DISK_SECTOR)
        if (dice_chance(5000))
            write_sectors(d, at + i, data + i, DISK_SECTOR);
}

static void flush(struct disk *d)
{
    for (uint32_t i = 0; i < d->logged; i++)
        memcpy(d->durable + d->log[i].at, d->image + d->log[i].at, d->log[i].bytes);
    log_clear(d);
}

/* Commands. */

static uint8_t *gather(const struct command *c)
{
    uint8_t *data = malloc(c->bytes);
    uint8_t *at = data;

    must(data);
    for (uint32_t i = 0; i < c->segments; at += c->iov[i++].iov_len)
        memcpy(at, c->iov[i].iov_base, c->iov[i].iov_len);
    return data;
}

/** @bytes of @data into the command's memory, all sectors or some of them. */
static void scatter(const struct disk *d, const struct command *c, const uint8_t *data,
                    size_t bytes, bool torn)
{
    size_t from = 0;

    for (uint32_t i = 0; i < c->segments && from < bytes; from += c->iov[i++].iov_len) {
        size_t piece = c->iov[i].iov_len < bytes - from ? c->iov[i].iov_len : bytes - from;

        model_memory_read_into(d->rank, c->iov[i].iov_base, piece);
        if (!torn || dice_chance(5000))
            memcpy(c->iov[i].iov_base, data + from, piece);
    }
}

static size_t misdirect(const struct disk *d, const struct command *c)
{
    size_t away = (size_t)dice_between(1, 16) * DISK_SECTOR;
    uint64_t offset = dice_chance(5000) && c->offset >= TUTTI_FIRST_EXTENT + away
                          ? c->offset - away
                          : c->offset + away;
    size_t at = disk_place(d, offset, c->bytes);

    return at == SIZE_MAX ? disk_place(d, c->offset, c->bytes) : at;
}

static void flip_bit(uint8_t *data, size_t bytes)
{
    uint32_t at = dice_below((uint32_t)bytes);

    data[at] ^= (uint8_t)(1u << dice_below(8));
}

static size_t some_sectors(size_t bytes)
{
    return (size_t)dice_below((uint32_t)(bytes / DISK_SECTOR)) * DISK_SECTOR;
}

static int32_t do_write(struct disk *d, struct disk_command *p, size_t at)
{
    struct command *c = p->command;
    uint8_t *data = p->data ? p->data : gather(c);
    int32_t result = (int32_t)c->bytes;
    size_t part;

    switch (p->fault) {
    case DISK_ERROR:
        if (dice_chance(5000))
            write_torn(d, at, data, c->bytes);
        result = -EIO;
        break;
    case DISK_SHORT:
        part = some_sectors(c->bytes);
        write_sectors(d, at, data, part);
        result = (int32_t)part;
        break;
    case DISK_LOST:
        break;
    case DISK_TORN:
        write_torn(d, at, data, c->bytes);
        break;
    case DISK_FLIP:
        flip_bit(data, c->bytes);
        write_sectors(d, at, data, c->bytes);
        break;
    case DISK_MISDIRECTED:
        write_sectors(d, misdirect(d, c), data, c->bytes);
        break;
    default:
        write_sectors(d, at, data, c->bytes);
        break;
    }
    free(data);
    p->data = NULL;
    return result;
}

bool disk_unreadable(const struct disk *d, size_t at, size_t bytes)
{
    for (size_t i = at / DISK_SECTOR; i < (at + bytes) / DISK_SECTOR; i++)
        if (d->bad[i])
            return true;
    return false;
}

static int32_t do_read(struct disk *d, struct disk_command *p, size_t at)
{
    struct command *c = p->command;
    size_t bytes = c->bytes;

    if (disk_unreadable(d, at, bytes))
        p->fault = DISK_ERROR;
    switch (p->fault) {
    case DISK_ERROR:
        if (dice_chance(5000))
            scatter(d, c, d->image + at, bytes, true);
        return -EIO;
    case DISK_SHORT:
        bytes = some_sectors(bytes);
        scatter(d, c, d->image + at, bytes, false);
        break;
    case DISK_LOST:
        break;
    case DISK_TORN:
        scatter(d, c, d->image + at, bytes, true);
        break;
    case DISK_STALE:
        scatter(d, c, d->older + at, bytes, false);
        break;
    case DISK_FLIP:
        scatter(d, c, d->image + at, bytes, false);
        flip_bit(c->iov[0].iov_base, c->iov[0].iov_len);
        break;
    case DISK_MISDIRECTED:
        scatter(d, c, d->image + misdirect(d, c), bytes, false);
        break;
    default:
        scatter(d, c, d->image + at, bytes, false);
        break;
    }
    return (int32_t)bytes;
}

static void finish(struct disk *d, uint32_t i)
{
    struct disk_command p = d->pending[i];
    struct command *c = p.command;
    size_t at = disk_place(d, c->offset, c->bytes);

    d->pending[i] = d->pending[--d->pending_count];
    if (d->ghost || d->gone) {
        free(p.data);
        c->result = -EIO;
    } else {
        if (p.fault >= DISK_LOST)
            d->silent++;
        c->result = c->direction == TUTTI_WRITE ? do_write(d, &p, at) : do_read(d, &p, at);
        trace(c->direction == TUTTI_WRITE ? "written (disk, offset, result, fault)"
                                          : "read (disk, offset, result, fault)",
              d->rank * 10 + d->member, c->offset, (uint64_t)(int64_t)c->result, p.fault);
    }
    d->failed = c->result < 0 ? d->failed + 1 : 0;
    d->errors += c->result < (int32_t)c->bytes;
    disk_ended(p.backend, c);
}

uint64_t disk_next_event(void)
{
    uint64_t next = NEVER;

    for (uint32_t k = 0; k < disk_count; k++)
        for (uint32_t i = 0; i < disks[k]->pending_count; i++)
            if (disks[k]->pending[i].due < next)
                next = disks[k]->pending[i].due;
    return next;
}

void disk_fire(uint64_t now)
{
    for (;;) {
        struct disk *disk = NULL;
        uint32_t first = 0;

        for (uint32_t k = 0; k < disk_count; k++)
            for (uint32_t i = 0; i < disks[k]->pending_count; i++) {
                const struct disk_command *p = &disks[k]->pending[i];

                if (p->due <= now && (!disk || p->sequence < disk->pending[first].sequence)) {
                    disk = disks[k];
                    first = i;
                }
            }
        if (!disk)
            return;
        finish(disk, first);
    }
}

static enum disk_fault draw_fault(struct disk *d, bool write)
{
    const struct disk_faults *f = &d->faults;

    if (write && d->lose > 0) {
        d->lose--;
        return DISK_LOST;
    }
    if (d->sick > 0) {
        d->sick--;
        return DISK_ERROR;
    }
    if (dice_chance(f->error))
        return DISK_ERROR;
    if (dice_chance(f->short_))
        return DISK_SHORT;
    if (dice_chance(f->lost))
        return DISK_LOST;
    if (dice_chance(f->torn))
        return DISK_TORN;
    if (!write && dice_chance(f->stale))
        return DISK_STALE;
    if (dice_chance(f->flip))
        return DISK_FLIP;
    if (dice_chance(f->misdirected))
        return DISK_MISDIRECTED;
    return DISK_GOOD;
}

static bool is_data(const struct disk *d, uint64_t offset)
{
    return (offset - TUTTI_FIRST_EXTENT) % d->extent_bytes >= d->data_from;
}

/** Whether any record in what a command writes is more than an empty one. */
static bool writes_record(const struct command *c)
{
    const struct tutti_record *r = c->iov[0].iov_base;

    return r->magic == TUTTI_RECORD_MAGIC && !(r->flags & TUTTI_RECORD_EMPTY);
}

/** A scrub reads what nobody holds for it: a store that begins meanwhile makes it look away. */
static bool is_scrub(const struct command *c)
{
    const struct io *io = (const void *)c; /* its first field */

    return io->batch->task->iocb->class_ == TUTTI_CLASS_SCRUB;
}

/** Two commands on one place at a time, one of them a write that counts: a slot reused too soon. */
static void check_overlap(const struct disk *d, const struct command *c)
{
    for (uint32_t i = 0; i < d->pending_count; i++) {
        const struct command *other = d->pending[i].command;

        if (c->offset + c->bytes <= other->offset || other->offset + other->bytes <= c->offset)
            continue;
        if (c->direction == TUTTI_READ && other->direction == TUTTI_READ)
            continue;
        if (is_scrub(c) || is_scrub(other))
            continue;
        /* Emptied twice is empty: an erasure, and the one before the next store. */
        if (c->direction == other->direction && !is_data(d, c->offset) && !writes_record(c) &&
            !writes_record(other))
            continue;
        sim_fail("disk %u.%u: a %s of %u bytes at offset %llu meets a %s of %u at %llu under way",
                 d->rank, d->member, c->direction == TUTTI_WRITE ? "write" : "read", c->bytes,
                 (unsigned long long)c->offset, other->direction == TUTTI_WRITE ? "write" : "read",
                 other->bytes, (unsigned long long)other->offset);
    }
}

void disk_submit(struct disk *d, struct disk_backend *backend, struct command *c)
{
    bool write = c->direction == TUTTI_WRITE;
    struct disk_command *p = &d->pending[d->pending_count];
    uint64_t latency = d->latency / 2 + dice_below((uint32_t)d->latency);

    must(d->pending_count < DISK_COMMANDS);
    must(c->offset % DISK_SECTOR == 0 && c->bytes % DISK_SECTOR == 0 && c->bytes > 0);
    must(c->offset >= TUTTI_FIRST_EXTENT && disk_place(d, c->offset, c->bytes) != SIZE_MAX);
    check_overlap(d, c);
    *p = (struct disk_command){.command = c, .backend = backend, .sequence = sequence++};
    p->fault = draw_fault(d, write);
    if (dice_chance(d->faults.late))
        latency *= dice_between(10, 2000);
    p->due = machine_now() + latency;
    if (dice_chance(d->faults.stuck) && !d->ghost) {
        p->due = NEVER;
        d->stuck++;
    }
    if (d->ghost || d->gone)
        p->due = machine_now();
    /* The device reads the memory at once, or as late as it may. */
    if (write && !d->ghost && dice_chance(5000))
        p->data = gather(c);
    d->pending_count++;
    trace(write ? "write (disk, offset, bytes)" : "read (disk, offset, bytes)",
          d->rank * 10 + d->member, c->offset, c->bytes, 0);
}

/* Ends. */

void disk_process_ends(struct disk *d)
{
    for (uint32_t i = 0; i < d->pending_count; i++) {
        struct disk_command *p = &d->pending[i];
        const struct command *c = p->command;
        size_t at = disk_place(d, c->offset, c->bytes);
        uint8_t *data = c->direction != TUTTI_WRITE || d->gone ? NULL
                        : p->data                              ? p->data
                                                               : gather(c);

        if (data && dice_chance(3333))
            write_sectors(d, at, data, c->bytes);
        else if (data && dice_chance(5000))
            write_torn(d, at, data, c->bytes);
        if (data != p->data)
            free(data);
        p->due = machine_now();
    }
    d->ghost = true;
}

void disk_power_fails(struct disk *d)
{
    uint32_t most = dice_below(10001); /* how much of the cache had been written back */

    disk_process_ends(d);
    if (d->logged > 1 && dice_chance(3333)) /* in an order of its own */
        for (uint32_t i = d->logged - 1; i > 0; i--) {
            uint32_t k = dice_below(i + 1);
            struct disk_write w = d->log[i];

            d->log[i] = d->log[k];
            d->log[k] = w;
        }
    for (uint32_t i = 0; i < d->logged; i++) {
        const struct disk_write *w = &d->log[i];
        bool torn = dice_chance(2500);

        if (!torn && !dice_chance(most))
            continue;
        for (size_t k = 0; k < w->bytes; k += DISK_SECTOR)
            if (!torn || dice_chance(5000))
                memcpy(d->durable + w->at + k, w->data + k, DISK_SECTOR);
    }
    log_clear(d);
    memcpy(d->image, d->durable, d->size);
    memcpy(d->older, d->durable, d->size);
}

/* The pool's own calls. */

ssize_t __real_pread64(int fd, void *data, size_t bytes, off_t offset);
ssize_t __real_pwrite64(int fd, const void *data, size_t bytes, off_t offset);

ssize_t __wrap_pread64(int fd, void *data, size_t bytes, off_t offset);
ssize_t __wrap_pwrite64(int fd, const void *data, size_t bytes, off_t offset);
int __wrap_fdatasync(int fd);
int __wrap_fsync(int fd);

struct disk *disk_of(int fd)
{
    struct stat st;

    if (fd < 0 || fd >= DESCRIPTORS || disk_count == 0)
        return NULL;
    if (by_descriptor[fd])
        return by_descriptor[fd];
    if (fstat(fd, &st) < 0)
        return NULL;
    for (uint32_t i = 0; i < disk_count; i++)
        if (disks[i]->device == st.st_dev && disks[i]->inode == st.st_ino)
            by_descriptor[fd] = disks[i];
    return by_descriptor[fd];
}

void disk_forget(int fd)
{
    if (fd >= 0 && fd < DESCRIPTORS)
        by_descriptor[fd] = NULL;
}

static ssize_t failed(int error)
{
    errno = error;
    return -1;
}

ssize_t __wrap_pread64(int fd, void *data, size_t bytes, off_t offset)
{
    struct disk *d = disk_of(fd);
    size_t at;

    if (!d)
        return __real_pread64(fd, data, bytes, offset);
    at = disk_place(d, (uint64_t)offset, bytes);
    must(at != SIZE_MAX);
    if (d->gone || disk_unreadable(d, at, bytes))
        return failed(EIO);
    memcpy(data, d->image + at, bytes);
    return (ssize_t)bytes;
}

ssize_t __wrap_pwrite64(int fd, const void *data, size_t bytes, off_t offset)
{
    struct disk *d = disk_of(fd);
    size_t at;

    if (!d)
        return __real_pwrite64(fd, data, bytes, offset);
    if (d->ghost)
        return (ssize_t)bytes;
    at = disk_place(d, (uint64_t)offset, bytes);
    must(at != SIZE_MAX);
    if (!d->gone && d->dies_after > 0 && --d->dies_after == 0) {
        write_torn(d, at, data, bytes);
        d->gone = true;
    } else if (!d->gone && dice_chance(d->pool_error)) {
        if (dice_chance(5000))
            write_torn(d, at, data, bytes);
        return failed(EIO);
    }
    if (d->gone)
        return failed(EIO);
    trace("superblock (disk, offset)", d->rank * 10 + d->member, (uint64_t)offset, 0, 0);
    write_sectors(d, at, data, bytes);
    return (ssize_t)bytes;
}

int __wrap_fdatasync(int fd)
{
    struct disk *d = disk_of(fd);

    if (d && d->gone && !d->ghost)
        return (int)failed(EIO);
    if (d && !d->ghost)
        flush(d);
    return 0;
}

/** Of folders and of files while a pool is formatted: what stands on this machine's disk is only
 * looked at for its size. */
int __wrap_fsync(int fd)
{
    (void)fd;
    return 0;
}
