/* SPDX-License-Identifier: Apache-2.0 */
/*
 * io_rig.h: the I/O kernel on host lanes, before a software controller that
 * steps between the lanes' steps. One thread and a clock of its own: a seed is
 * a run. Host lanes are a test double, and no GPU.
 */
#ifndef TUTTI_TESTS_IO_RIG_H
#define TUTTI_TESTS_IO_RIG_H

#include <stdio.h>

#include "../unit/nvme/drive.h"
#include "device/kernels/io.h"
#include "lanes/lanes.h"

enum { IO_RIG_WARPS = 2, IO_RIG_MEMORY = 4 << 20, IO_RIG_ROOT = 1024 };

struct io_rig {
    struct drive d;
    uint32_t warps;
    struct nvme_queue queue[IO_RIG_WARPS];
    struct io_warp *warp;
    struct io_ring *ring;
    struct io_launch launch;
    struct nvme_windows windows;
    uint8_t *memory; /* IO_RIG_MEMORY that the drive reaches */
    uint8_t *lists;
    uint64_t root[IO_RIG_WARPS][IO_RIG_ROOT];
    struct lanes_counters counters;
    struct tutti_error said;
};

static inline void io_rig_world(void *self)
{
    struct io_rig *r = self;

    drive_step(&r->d);
}

static inline uint64_t io_rig_clock(void *self)
{
    const struct io_rig *r = self;

    return r->d.clock;
}

static inline void io_rig_warp(struct io_rig *r, uint32_t w, uint32_t depth, uint32_t ids)
{
    struct nvme_facts facts;
    struct tutti_error err = {0};
    struct io_warp *warp = &r->warp[w];

    nvme_facts(r->d.controller, &facts);
    if (nvme_queue_open(r->d.controller, w + 1, depth, &r->queue[w], &err) < 0)
        fail_msg("%s", err.message);
    warp->queue = r->queue[w];
    warp->windows = &r->windows;
    warp->limits = (struct nvme_limits){
        .bytes = facts.transfer_bytes < 1 << 20 ? facts.transfer_bytes : 1 << 20,
        .block = facts.block_bytes,
        .sgls = facts.sgls};
    warp->capacity = facts.blocks * facts.block_bytes;
    warp->nsid = facts.nsid;
    warp->ids = ids < depth - 1 ? ids : depth - 1;
    warp->lists = (uint64_t)(uintptr_t)(r->lists + (size_t)w * IO_MOST_IDS * NVME_LIST_BYTES);
    warp->lists_address = warp->lists; /* drive.h: addresses on the bus are those in memory */
    warp->ring = &r->ring[w];
    warp->root = r->root[w];
    warp->root_words = IO_RIG_ROOT;
}

static inline void io_rig_open(struct io_rig *r, const struct soft_options *soft, uint32_t warps,
                               uint32_t depth, uint32_t ids)
{
    memset(r, 0, sizeof(*r));
    drive_open(&r->d, soft);
    r->warps = warps;
    r->warp = calloc(warps, sizeof(*r->warp));
    r->ring = calloc(warps, sizeof(*r->ring));
    assert_true(r->warp && r->ring);
    r->memory = drive_memory(&r->d, IO_RIG_MEMORY);
    r->lists = drive_memory(&r->d, (size_t)warps * IO_MOST_IDS * NVME_LIST_BYTES);
    assert_int_equal(
        nvme_windows_add(&r->windows, r->memory, IO_RIG_MEMORY, (uint64_t)(uintptr_t)r->memory), 0);
    for (uint32_t w = 0; w < warps; w++)
        io_rig_warp(r, w, depth, ids);
    r->launch = (struct io_launch){.warp = (uint64_t)(uintptr_t)r->warp,
                                   .bound_ns = 50 * 1000 * 1000,
                                   .patience_ns = 2 * 1000 * 1000};
}

/** The next entry of a warp's ring, to be filled. Return: its number. */
static inline uint32_t io_rig_entry(struct io_rig *r, uint32_t w, struct io_entry **entry)
{
    uint32_t number = io_load(&r->ring[w].tail);

    *entry = io_entry_of(&r->ring[w], number);
    memset(*entry, 0, sizeof(**entry));
    return number;
}

static inline void io_rig_post(struct io_rig *r, uint32_t w)
{
    io_release(&r->ring[w].tail, io_load(&r->ring[w].tail) + 1);
}

/** One launch, @world beside it (@r is its argument). Return: 0, or -EPROTO where lanes did what
 * they may not. */
static inline int io_rig_run(struct io_rig *r, uint64_t seed, void (*world)(void *))
{
    const struct lanes_options o = {.seed = seed,
                                    .warps = r->warps,
                                    .world = world,
                                    .clock = io_rig_clock,
                                    .self = r,
                                    .most_steps = 40 * 1000 * 1000};
    const uint64_t word = (uint64_t)(uintptr_t)&r->launch;

    return lanes_run(&o, lanes_kernel_find(IO_KERNEL)->function, &word, &r->counters, &r->said);
}

static inline bool io_rig_ended(struct io_rig *r, uint32_t w, uint32_t number)
{
    return io_has_ended(&r->ring[w], number);
}

static inline uint32_t io_rig_error(struct io_rig *r, uint32_t w, uint32_t number)
{
    return io_load(&io_end_of(&r->ring[w], number)->error);
}

/** Whatever became of it. */
static inline void io_rig_free(struct io_rig *r)
{
    struct tutti_error err = {0};

    for (uint32_t w = 0; w < r->warps; w++) {
        r->queue[w].head = r->warp[w].queue.head;
        (void)nvme_queue_close(r->d.controller, &r->queue[w], &err);
    }
    drive_memory_free(&r->d, r->memory);
    drive_memory_free(&r->d, r->lists);
    (void)nvme_close(r->d.controller, &err);
    soft_free(r->d.soft);
    free(r->warp);
    free(r->ring);
}

/** No rule was broken. */
static inline void io_rig_close(struct io_rig *r)
{
    assert_string_equal(soft_first_broken(r->d.soft), "");
    io_rig_free(r);
}

#endif
