/* SPDX-License-Identifier: Apache-2.0 */
/* gpu_warp.c: see gpu.h. */
#include "engine/gpu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/member.h"

#define QUEUE_DEPTH 1024u
#define LISTS 256u /* commands that are out, each with its list: 1 MiB, whatever the KV cache */

/* Memory that CPU, kernel and drive share. */

static struct launch_memory *memory_of(struct gpu *g, const void *host)
{
    for (uint32_t i = 0; i < GPU_MEMORIES; i++) {
        struct launch_memory *m = &g->memory[i];

        if (m->host && (const char *)host >= (const char *)m->host &&
            (const char *)host < (const char *)m->host + m->bytes)
            return m;
    }
    return NULL;
}

uint64_t gpu_device_of(struct gpu *g, const void *host)
{
    const struct launch_memory *m = memory_of(g, host);

    return m ? m->device + (uint64_t)((const char *)host - (const char *)m->host) : 0;
}

/* A pointer of the kernel's: never followed here. */
#define DEVICE_POINTER(g, host) ((void *)(uintptr_t)gpu_device_of((g), (host)))

static void *take(struct gpu *g, size_t bytes, enum launch_place place, struct tutti_error *err)
{
    for (uint32_t i = 0; i < GPU_MEMORIES; i++)
        if (!g->memory[i].host)
            return g->launcher->type->alloc(g->launcher, bytes, place, &g->memory[i], err) < 0
                       ? NULL
                       : g->memory[i].host;
    return NULL;
}

/** For queues and lists: beside the data, so that the warp polls what is near. */
static void *source_take(void *self, size_t bytes)
{
    return take(self, bytes, LAUNCH_BESIDE_DATA, NULL);
}

static void source_give(void *self, void *memory)
{
    struct gpu *g = self;
    struct launch_memory *m = memory_of(g, memory);

    if (m)
        g->launcher->type->free(g->launcher, m);
}

/* The warp. */

/** The lane's queue as the kernel is to have it. */
static void give_queue(struct gpu *g)
{
    struct nvme_queue *q = &g->warp->queue;

    *q = g->lane->queue;
    q->sq = DEVICE_POINTER(g, g->lane->queue.sq);
    q->cq = DEVICE_POINTER(g, g->lane->queue.cq);
    q->bar = (void *)(uintptr_t)(g->registers.device -
                                 (uint64_t)((char *)g->registers.host - (char *)q->bar));
    q->free_id = NULL;
    q->out = NULL;
    g->life = g->lane->life;
}

void gpu_warp_windows(struct gpu *g)
{
    *g->windows = g->lane->windows;
}

/** The pages of its doorbells, and no other register. */
static int share_doorbells(struct gpu *g, struct tutti_error *err)
{
    const struct nvme_queue *q = &g->lane->queue;
    size_t from = q->sq_doorbell / NVME_PAGE * NVME_PAGE;
    size_t to = q->cq_doorbell / NVME_PAGE * NVME_PAGE + NVME_PAGE;

    return g->launcher->type->share(g->launcher, (char *)q->bar + from, to - from, LAUNCH_REGISTERS,
                                    &g->registers, err);
}

static int take_memory(struct gpu *g, struct tutti_error *err)
{
    size_t iovs = (size_t)IO_ENTRIES * MEMBER_SEGMENTS * sizeof(*g->iov);

    g->ring = take(g, sizeof(*g->ring), LAUNCH_BESIDE_DATA, err);
    g->warp = g->ring ? take(g, sizeof(*g->warp), LAUNCH_BESIDE_DATA, err) : NULL;
    g->windows = g->warp ? take(g, sizeof(*g->windows), LAUNCH_BESIDE_DATA, err) : NULL;
    g->launch = g->windows ? take(g, sizeof(*g->launch), LAUNCH_BESIDE_DATA, err) : NULL;
    g->iov = g->launch ? take(g, iovs, LAUNCH_HOST, err) : NULL;
    return g->iov ? 0 : -ENOMEM;
}

int gpu_warp_open(struct gpu *g, struct tutti_error *err)
{
    struct nvme_lane *lane;
    struct io_warp *w;
    int rc = take_memory(g, err);

    if (rc < 0)
        return rc;
    g->source = (struct nvme_source){.take = source_take, .give = source_give, .self = g};
    rc = nvme_drive_take_lane_in(g->drive, QUEUE_DEPTH, LISTS, &g->source, &g->lane, err);
    if (rc == 0)
        rc = share_doorbells(g, err);
    if (rc < 0)
        return rc;
    lane = g->lane;
    w = g->warp;
    w->windows = DEVICE_POINTER(g, g->windows);
    w->limits = lane->limits;
    w->capacity = lane->capacity;
    w->nsid = lane->nsid;
    w->ids = lane->list_count; /* at most depth - 1 */
    w->lists = gpu_device_of(g, lane->lists);
    w->lists_address = lane->lists_address;
    w->ring = DEVICE_POINTER(g, g->ring);
    g->launch->warp = gpu_device_of(g, w);
    give_queue(g);
    return 0;
}

void gpu_warp_close(struct gpu *g)
{
    nvme_drive_give_lane(g->drive, g->lane);
    if (g->registers.host)
        g->launcher->type->unshare(g->launcher, &g->registers);
    source_give(g, g->ring);
    source_give(g, g->warp);
    source_give(g, g->windows);
    source_give(g, g->launch);
    source_give(g, g->iov);
}

/* Between two launches. */

/** Its commands are over, whatever became of them: the queue that they were in is gone. */
static void lane_lost(struct io_lane *l, int error)
{
    l->out = 0;
    l->left = 0;
    l->error = (uint32_t)-error;
}

void gpu_warp_take_news(struct gpu *g)
{
    struct nvme_lane *lane = g->lane;

    for (struct nvme_transfer *t = lane->ended.first; t; t = t->next)
        lane_lost(&g->warp->lane[t - g->lane_of], t->result);
    lane->ended.first = NULL;
    lane->ended.last = &lane->ended.first;
    if (g->life == lane->life)
        return;
    g->warp->broken = 0;
    g->warp->out = 0;
    give_queue(g);
}

void gpu_warp_tell(struct gpu *g)
{
    const struct io_warp *w = g->warp;
    struct nvme_lane *lane = g->lane;
    struct nvme_queue *q = &lane->queue;
    uint64_t deadline = tutti_clock_now() + lane->command_ns;

    q->tail = w->queue.tail;
    q->rung = w->queue.rung;
    q->head = q->acknowledged = w->queue.head;
    q->phase = w->queue.phase;
    q->free = w->queue.free;
    lane->broken = w->broken;
    for (uint32_t i = 0; i < IO_LANES; i++)
        g->lane_of[i] = (struct nvme_transfer){.opcode = NVME_READ};
    for (uint32_t id = 0; id < w->ids; id++) {
        struct nvme_piece *p = &lane->piece[id];
        struct nvme_transfer *t = &g->lane_of[id % IO_LANES];

        if (!(w->lane[id % IO_LANES].out >> (id / IO_LANES) & 1)) {
            p->of = NULL;
            continue;
        }
        if (!p->of || g->known[id] != w->issued[id])
            *p = (struct nvme_piece){.deadline = deadline};
        p->of = t;
        t->open++;
        g->known[id] = w->issued[id];
    }
}
