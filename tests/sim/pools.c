/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pools.c: the shapes of pools that runs choose from, each formatted once a
 * process by the product, into real files.
 *
 * The files stay as they were made: a run takes their superblocks into its
 * disks and opens them, but what is read and written then is the disks'.
 */
#include "world.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dice.h"
#include "machine.h"

static const struct pool_shape shapes[] = {
    {.ranks = 1,
     .members = 1,
     .alignment = 512,
     .extent_bytes = 16384,
     .extents = {3},
     .geometry = {{.layers = 3, .parts = 2, .object_bytes = 512, .block_tokens = 16},
                  {.layers = 2, .parts = 1, .object_bytes = 1024, .block_tokens = 16}}},
    {.ranks = 2,
     .members = 1,
     .alignment = 512,
     .extent_bytes = 24576,
     .extents = {4, 5},
     .geometry = {{.layers = 2, .parts = 2, .object_bytes = 520, .block_tokens = 16},
                  {.layers = 4, .parts = 1, .object_bytes = 512, .block_tokens = 16}}},
    {.ranks = 2,
     .members = 2,
     .alignment = 512,
     .extent_bytes = 16384,
     .extents = {2, 2},
     .geometry = {{.layers = 3, .parts = 1, .object_bytes = 1024, .block_tokens = 16},
                  {.layers = 1, .parts = 2, .object_bytes = 512, .block_tokens = 16}}},
    {.ranks = 3,
     .members = 1,
     .alignment = 512,
     .extent_bytes = 16384,
     .extents = {5, 4, 4},
     .geometry = {{.layers = 2, .parts = 2, .object_bytes = 512, .block_tokens = 16},
                  {.layers = 3, .parts = 2, .object_bytes = 512, .block_tokens = 16}}},
    {.ranks = 1,
     .members = 2,
     .alignment = 4096,
     .extent_bytes = 49152,
     .extents = {2},
     .geometry = {{.layers = 2, .parts = 1, .object_bytes = 4096, .block_tokens = 16},
                  {.layers = 1, .parts = 2, .object_bytes = 4000, .block_tokens = 16}}},
    {.ranks = 1,
     .members = 1,
     .alignment = 512,
     .extent_bytes = 45056,
     .extents = {4},
     .geometry = {{.layers = 2, .parts = 2, .object_bytes = 2560, .block_tokens = 16},
                  {.layers = 1, .parts = 4, .object_bytes = 1536, .block_tokens = 16}}},
    {.ranks = 2,
     .members = 1,
     .alignment = 512,
     .extent_bytes = 12288,
     .extents = {8, 8},
     .geometry = {{.layers = 4, .parts = 1, .object_bytes = 512, .block_tokens = 16},
                  {.layers = 2, .parts = 2, .object_bytes = 256, .block_tokens = 16}}},
    {.ranks = 1,
     .members = 3,
     .alignment = 512,
     .extent_bytes = 20480,
     .extents = {3},
     .geometry = {{.layers = 2, .parts = 1, .object_bytes = 1000, .block_tokens = 16},
                  {.layers = 3, .parts = 1, .object_bytes = 512, .block_tokens = 16}}},
};

enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]), PATH = 128 };

static struct {
    bool made;
    char home[PATH];
    const char *member[MOST_MEMBERS];
    uint8_t superblocks[MOST_RANKS][MOST_MEMBERS][2][TUTTI_SUPERBLOCK_BYTES];
    struct stat file[MOST_RANKS][MOST_MEMBERS];
} pool[SHAPES];
static char folder[] = "sim-XXXXXX";
static bool folder_made;

uint32_t pools_count(void)
{
    return SHAPES;
}

const struct pool_shape *pools_shape(uint32_t number)
{
    return &shapes[number];
}

const char *pools_home(uint32_t number)
{
    return pool[number].home;
}

struct tutti_pool_options pools_options(uint32_t number, uint32_t rank, uint32_t geometry)
{
    const struct pool_shape *s = &shapes[number];

    for (uint32_t m = 0; m < s->members; m++)
        pool[number].member[m] = pool[number].home;
    return (struct tutti_pool_options){
        .home = pool[number].home,
        .member = pool[number].member,
        .members = s->members,
        .rank = rank,
        .ranks = s->ranks,
        /* Less than an extent more, for a file system's own bookkeeping. */
        .bytes = s->members * (TUTTI_FIRST_EXTENT + (uint64_t)s->extents[rank] * s->extent_bytes +
                               DISK_SECTOR * 16),
        .alignment = s->alignment,
        .extent_bytes = s->extent_bytes,
        .geometry = &s->geometry[geometry],
        .groups = 1,
    };
}

static void member_path(char path[2 * PATH], uint32_t number, uint32_t rank, uint32_t member)
{
    snprintf(path, 2 * PATH, "%s/rank%u.member%u.tutti", pool[number].home, rank, member);
}

void pools_resize(uint32_t number, uint32_t rank, off_t by)
{
    char path[2 * PATH];

    member_path(path, number, rank, 0);
    must(truncate(path, pool[number].file[rank][0].st_size + by) == 0);
}

static void take_superblocks(uint32_t number, uint32_t rank, uint32_t member)
{
    char path[2 * PATH];
    int fd;

    member_path(path, number, rank, member);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    must(fd >= 0 && fstat(fd, &pool[number].file[rank][member]) == 0);
    for (uint32_t copy = 0; copy < 2; copy++)
        must(pread(fd, pool[number].superblocks[rank][member][copy], TUTTI_SUPERBLOCK_BYTES,
                   (off_t)copy * TUTTI_SUPERBLOCK_COPY) == TUTTI_SUPERBLOCK_BYTES);
    close(fd);
}

/** The same bytes in every process: the secret is drawn from a seed of the shape's own. */
static void make(uint32_t number)
{
    uint64_t run = dice_state;

    if (!folder_made)
        must(mkdtemp(folder));
    folder_made = true;
    snprintf(pool[number].home, PATH, "%s/%u", folder, number);
    dice_state = number;
    disk_detach_all();
    for (uint32_t rank = 0; rank < shapes[number].ranks; rank++) {
        struct tutti_pool_options o = pools_options(number, rank, 0);
        struct tutti_error err = {0};

        if (tutti_pool_format(&o, &err) < 0)
            sim_fail("%s", err.message);
        for (uint32_t m = 0; m < shapes[number].members; m++) {
            take_superblocks(number, rank, m);
            must(((const struct tutti_superblock *)(const void *)pool[number]
                      .superblocks[rank][m][1])
                     ->extents == shapes[number].extents[rank]);
        }
    }
    pool[number].made = true;
    dice_state = run;
}

void pools_load(uint32_t number, struct rank *r)
{
    const struct pool_shape *s = &shapes[number];

    if (!pool[number].made)
        make(number);
    for (uint32_t m = 0; m < s->members; m++) {
        const struct tutti_superblock *super =
            (const void *)pool[number].superblocks[r->number][m][0];
        struct disk *d = &r->disk[m];

        disk_new(d, TUTTI_FIRST_EXTENT + (uint64_t)s->extents[r->number] * s->extent_bytes);
        d->rank = r->number;
        d->member = m;
        d->extent_bytes = s->extent_bytes;
        d->data_from = (uint64_t)super->records_per_extent * super->record_stride;
        d->device = pool[number].file[r->number][m].st_dev;
        d->inode = pool[number].file[r->number][m].st_ino;
        memcpy(d->image, pool[number].superblocks[r->number][m],
               sizeof(pool[number].superblocks[r->number][m]));
        memcpy(d->durable, d->image, 2 * (size_t)TUTTI_SUPERBLOCK_BYTES);
        memcpy(d->older, d->image, 2 * (size_t)TUTTI_SUPERBLOCK_BYTES);
    }
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

void pools_remove(void)
{
    if (folder_made)
        nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}
