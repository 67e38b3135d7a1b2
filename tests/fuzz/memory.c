/* SPDX-License-Identifier: Apache-2.0 */
/* memory.c: see memory.h. */
#include "memory.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checksum.h"
#include "input.h"
#include "pool/internal.h"

enum { MOST_PAGES = 256 };

struct memory_member memory_member[MEMORY_MEMBERS];
const char *const memory_path[MEMORY_MEMBERS] = {"memory0", "memory1"};
const uint8_t memory_pool[16] = "a pool in memor";
const uint8_t memory_secret[16] = "secret of a poo";
uint64_t memory_writes;
bool memory_threads;

static uint8_t *snapshot[MEMORY_MEMBERS];
static bool changed[MEMORY_MEMBERS][MOST_PAGES];

UNTRACED void memory_touched(uint32_t member, uint64_t offset, uint64_t bytes)
{
    for (uint64_t page = offset / MEMORY_PAGE; page * MEMORY_PAGE < offset + bytes; page++)
        changed[member][page] = true;
}

void memory_snapshot(void)
{
    for (uint32_t m = 0; m < MEMORY_MEMBERS; m++) {
        CLAIM(memory_member[m].held <= (uint64_t)MOST_PAGES * MEMORY_PAGE, "too large");
        free(snapshot[m]);
        snapshot[m] = malloc(memory_member[m].held + 1);
        if (memory_member[m].held)
            memcpy(snapshot[m], memory_member[m].bytes, memory_member[m].held);
    }
    memset(changed, 0, sizeof(changed));
}

UNTRACED void memory_restore(void)
{
    for (uint32_t m = 0; m < MEMORY_MEMBERS; m++)
        for (uint64_t page = 0; page * MEMORY_PAGE < memory_member[m].held; page++)
            if (changed[m][page]) {
                memcpy(memory_member[m].bytes + page * MEMORY_PAGE,
                       snapshot[m] + page * MEMORY_PAGE, MEMORY_PAGE);
                changed[m][page] = false;
            }
}

void memory_superblock(struct tutti_superblock *s, const struct tutti_geometry *geometry,
                       uint32_t groups, uint32_t alignment, uint32_t members, uint32_t extents,
                       uint32_t slots)
{
    uint64_t data = 0;

    memset(s, 0, sizeof(*s));
    s->magic = TUTTI_SUPERBLOCK_MAGIC;
    s->version = TUTTI_FORMAT_VERSION;
    s->bytes = TUTTI_SUPERBLOCK_BYTES;
    memcpy(s->pool, memory_pool, sizeof(s->pool));
    s->sequence = 1;
    s->ranks = 1;
    s->members = members;
    s->alignment = alignment;
    s->records_per_extent = slots;
    s->extents = extents;
    s->first_extent = TUTTI_SUPERBLOCK_COPY + TUTTI_SUPERBLOCK_BYTES;
    s->epoch = 5;
    s->oldest_epoch = 3;
    s->created = 1;
    s->secret_check = superblock_secret_check(memory_secret, memory_pool);
    s->groups = groups;
    for (uint32_t g = 0; g < groups; g++) {
        uint32_t record = (tutti_record_bytes(geometry[g].layers) + alignment - 1) / alignment;
        uint64_t object = (geometry[g].object_bytes + alignment - 1) / alignment * alignment;

        s->geometry[g] = geometry[g];
        if (record * alignment > s->record_stride)
            s->record_stride = record * alignment;
        if (slots * object * geometry[g].layers * geometry[g].parts > data)
            data = slots * object * geometry[g].layers * geometry[g].parts;
    }
    s->extent_bytes = (slots * s->record_stride + MEMORY_PAGE - 1) / MEMORY_PAGE * MEMORY_PAGE +
                      (data + MEMORY_PAGE - 1) / MEMORY_PAGE * MEMORY_PAGE;
}

void memory_seal(uint8_t *superblock)
{
    struct tutti_superblock *s = (struct tutti_superblock *)(void *)superblock;

    s->checksum = 0;
    s->checksum = tutti_sum64(s, sizeof(*s));
}

void memory_check_placement(const struct tutti_placement *p, uint64_t member_bytes)
{
    __extension__ typedef unsigned __int128 wide;
    const uint32_t some_extent[] = {0, p->extents / 2, p->extents - 1};
    const uint32_t some_slot[] = {0, p->slots_per_extent / 2, p->slots_per_extent - 1};
    wide slots = (wide)p->extents * p->records_per_extent;
    wide row = (wide)p->object_stride * p->parts;

    CLAIM(p->extents > 0 && slots < UINT32_MAX, "%u extents", p->extents);
    CLAIM(p->slots_per_extent >= 1 && p->slots_per_extent <= p->records_per_extent, "%u slots",
          p->slots_per_extent);
    CLAIM(p->object_bytes >= 1 && p->object_stride - p->object_bytes < p->alignment, "stride");
    CLAIM((wide)p->records_per_extent * p->record_stride <= p->data_offset, "records and data");
    CLAIM(p->data_offset + row * p->layers * p->slots_per_extent <= p->extent_bytes, "an extent");
    for (unsigned i = 0; i < 9; i++) {
        uint32_t extent = some_extent[i / 3];
        uint32_t slot = extent * p->records_per_extent + some_slot[i % 3];
        uint32_t layer = i % 2 ? p->layers - 1 : 0;
        uint32_t part = i % 3 ? p->parts - 1 : 0;
        wide start = (wide)p->first_extent + (wide)(extent / p->members) * p->extent_bytes;
        struct tutti_place record = tutti_record_place(p, slot);
        struct tutti_place object = tutti_object_place(p, slot, layer, part);

        CLAIM(tutti_slot_valid(p, slot), "slot %u", slot);
        CLAIM(record.member == extent % p->members && object.member == record.member, "member");
        CLAIM(record.offset % p->alignment == 0 && object.offset % p->alignment == 0, "alignment");
        CLAIM(record.offset == start + (wide)some_slot[i % 3] * p->record_stride, "record");
        CLAIM(object.offset == start + p->data_offset +
                                   row * ((wide)layer * p->slots_per_extent + some_slot[i % 3]) +
                                   (wide)part * p->object_stride,
              "object");
        CLAIM(object.offset + (wide)p->object_stride <= member_bytes, "beyond the member");
    }
    CLAIM(!tutti_slot_valid(p, p->extents * p->records_per_extent), "a slot too many");
}

/* The pool's ways to a file, wrapped. */

int __wrap_stat64(const char *path, struct stat *st);
pid_t __wrap_getpid(void);
pid_t __real_getpid(void);
int __wrap_backing_open(struct backing *b, const char *path, bool write, struct tutti_error *err);
int __wrap_backing_lock(const struct backing *b, struct tutti_error *err);
void __wrap_backing_close(struct backing *b);
int __wrap_backing_read(const struct backing *b, void *data, size_t bytes, uint64_t offset);
int __wrap_backing_write(const struct backing *b, const void *data, size_t bytes, uint64_t offset);
int __wrap_fdatasync(int fd);
int __wrap_member_paths_distinct(char *const *path, uint32_t count, struct tutti_error *err);
int __wrap_tutti_pool_secret_load(const char *home, bool create, uint8_t *pool_id, uint8_t *secret,
                                  struct tutti_error *err);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*start)(void *), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*start)(void *), void *argument);

/** No member is a folder. */
int __wrap_stat64(const char *path, struct stat *st)
{
    (void)path;
    (void)st;
    errno = ENOENT;
    return -1;
}

/** No process is forked. */
pid_t __wrap_getpid(void)
{
    static pid_t own;

    if (own == 0)
        own = __real_getpid();
    return own;
}

int __wrap_backing_open(struct backing *b, const char *path, bool write, struct tutti_error *err)
{
    uint32_t m = path[strlen(path) - 1] == '1';

    (void)write;
    (void)err;
    memset(b, 0, sizeof(*b));
    b->fd = memory_member[m].fd;
    b->opener = getpid();
    b->path = strdup(path);
    b->bytes = memory_member[m].size;
    b->logical = 512;
    b->preferred = 4096;
    b->inode = m;
    return 0;
}

int __wrap_backing_lock(const struct backing *b, struct tutti_error *err)
{
    (void)b;
    (void)err;
    return 0;
}

void __wrap_backing_close(struct backing *b)
{
    free(b->path);
    b->path = NULL;
    b->fd = -1;
}

int __wrap_backing_read(const struct backing *b, void *data, size_t bytes, uint64_t offset)
{
    const struct memory_member *m = &memory_member[b->inode];
    uint64_t there = offset < m->held ? m->held - offset : 0;

    if (offset > m->size || bytes > m->size - offset)
        return -ENODATA;
    if (there > bytes)
        there = bytes;
    if (there)
        memcpy(data, m->bytes + offset, there);
    memset((uint8_t *)data + there, 0, bytes - there);
    return 0;
}

int __wrap_backing_write(const struct backing *b, const void *data, size_t bytes, uint64_t offset)
{
    const struct memory_member *m = &memory_member[b->inode];

    CLAIM(offset + bytes <= TUTTI_SUPERBLOCK_COPY + TUTTI_SUPERBLOCK_BYTES,
          "the pool writes nothing but superblocks");
    memory_writes++;
    memory_touched((uint32_t)b->inode, offset, bytes);
    memcpy(m->bytes + offset, data, bytes);
    return 0;
}

int __wrap_fdatasync(int fd)
{
    (void)fd;
    return 0;
}

int __wrap_member_paths_distinct(char *const *path, uint32_t count, struct tutti_error *err)
{
    (void)path;
    (void)count;
    (void)err;
    return 0;
}

int __wrap_tutti_pool_secret_load(const char *home, bool create, uint8_t *pool_id, uint8_t *secret,
                                  struct tutti_error *err)
{
    (void)home;
    (void)create;
    (void)err;
    memcpy(pool_id, memory_pool, 16);
    memcpy(secret, memory_secret, 16);
    return 0;
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*start)(void *), void *argument)
{
    return memory_threads ? __real_pthread_create(thread, attributes, start, argument) : EAGAIN;
}
