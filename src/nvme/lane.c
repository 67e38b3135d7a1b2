/* SPDX-License-Identifier: Apache-2.0 */
/* lane.c: see lane.h. */
#include "nvme/lane.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

int nvme_status_errno(uint32_t status)
{
    switch (status) {
    case NVME_OK:
        return 0;
    case NVME_NAMESPACE_READ_ONLY:
        return -EROFS;
    case NVME_BEYOND_END:
    case NVME_INVALID_FIELD:
    case NVME_INVALID_OPCODE:
        return -EINVAL;
    case NVME_INVALID_NAMESPACE:
        return -ENODEV;
    default:
        return -EIO;
    }
}

static void append(struct nvme_transfer_list *l, struct nvme_transfer *t)
{
    t->next = NULL;
    *l->last = t;
    l->last = &t->next;
}

static struct nvme_transfer *pop(struct nvme_transfer_list *l)
{
    struct nvme_transfer *t = l->first;

    if (t) {
        l->first = t->next;
        if (!l->first)
            l->last = &l->first;
    }
    return t;
}

int nvme_lane_init(struct nvme_lane *lane, const struct nvme_facts *facts, uint32_t lists,
                   uint64_t command_ns)
{
    pthread_mutex_init(&lane->lock, NULL);
    lane->number = lane->queue.number;
    lane->depth = lane->queue.depth;
    lane->limits = (struct nvme_limits){
        .bytes = facts->transfer_bytes < UINT32_MAX ? facts->transfer_bytes : UINT32_C(1) << 31,
        .block = facts->block_bytes,
        .sgls = facts->sgls};
    /* A command counts its blocks in 16 bits, 0's based: NVM 3.2.4. */
    if (lane->limits.bytes > (uint64_t)facts->block_bytes << 16)
        lane->limits.bytes = (uint64_t)facts->block_bytes << 16;
    lane->capacity = facts->blocks * facts->block_bytes;
    lane->nsid = facts->nsid;
    lane->command_ns = command_ns;
    lane->fresh.last = &lane->fresh.first;
    lane->waiting.last = &lane->waiting.first;
    lane->ended.last = &lane->ended.first;
    lane->list_count = lists < lane->depth - 1 ? lists : lane->depth - 1;
    lane->piece = calloc(lane->depth, sizeof(*lane->piece));
    lane->free_list = calloc(lane->list_count, sizeof(*lane->free_list));
    lane->lists =
        lane->source
            ? lane->source->take(lane->source->self, (size_t)lane->list_count * NVME_LIST_BYTES)
            : aligned_alloc(NVME_PAGE, (size_t)lane->list_count * NVME_LIST_BYTES);
    if (!lane->piece || !lane->free_list || !lane->lists)
        return -ENOMEM;
    memset(lane->lists, 0, (size_t)lane->list_count * NVME_LIST_BYTES);
    while (lane->lists_free < lane->list_count) {
        lane->free_list[lane->lists_free] = (uint16_t)lane->lists_free;
        lane->lists_free++;
    }
    return 0;
}

void nvme_lane_free(struct nvme_lane *lane)
{
    pthread_mutex_destroy(&lane->lock);
    free(lane->piece);
    free(lane->free_list);
    if (lane->source && lane->lists)
        lane->source->give(lane->source->self, lane->lists);
    else
        free(lane->lists);
}

/** It is over when nothing of it waits or is out. */
static void end_if_over(struct nvme_lane *lane, struct nvme_transfer *t)
{
    if (!t->queued && t->open == 0)
        append(&lane->ended, t);
}

static void fail(struct nvme_transfer *t, int error, uint32_t status)
{
    if (t->result == 0) {
        t->result = error;
        t->status = status;
    }
}

/** The next command of a transfer. Return: whether there was room for it. */
static bool issue(struct nvme_lane *lane, struct nvme_transfer *t, uint64_t now)
{
    struct nvme_queue *q = &lane->queue;
    uint64_t sqe[NVME_SQE_WORDS] = {0};
    struct nvme_list list = {0};
    int32_t id = nvme_queue_take(q);
    uint32_t number = 0;
    int64_t bytes = 0;

    if (id < 0)
        return false;
    sqe[0] = NVME_WORD0(t->opcode, 0, (uint32_t)id, lane->nsid);
    if (t->opcode != NVME_FLUSH) {
        if (lane->lists_free > 0) {
            number = lane->free_list[lane->lists_free - 1];
            list.words = (uint64_t *)(void *)(lane->lists + (size_t)number * NVME_LIST_BYTES);
            list.address = lane->lists_address + (uint64_t)number * NVME_LIST_BYTES;
        }
        bytes = nvme_data_fill(&lane->windows, &lane->limits, &t->place, t->left, &list, sqe);
        if (bytes <= 0) {
            nvme_queue_untake(q, id);
            if (bytes < 0) {
                fail(t, (int)bytes, 0);
                t->left = 0;
            }
            return bytes < 0; /* 0: it waits for a list, and some command that has one is out */
        }
        sqe[5] = (t->offset + t->bytes - t->left) / lane->limits.block;
        sqe[6] = (uint64_t)bytes / lane->limits.block - 1;
    }
    lane->lists_free -= list.used;
    lane->piece[id] = (struct nvme_piece){.of = t,
                                          .deadline = now + lane->command_ns,
                                          .list = (uint16_t)(list.used ? number + 1 : 0)};
    nvme_queue_put(q, sqe);
    t->open++;
    t->left -= (uint32_t)bytes;
    return true;
}

/** Whether the transfer still has commands to issue. */
static bool is_to_issue(const struct nvme_transfer *t)
{
    if (t->result != 0)
        return false;
    return t->opcode == NVME_FLUSH ? t->open == 0 : t->left > 0;
}

/** Return: whether there was room for all that is left of it. */
static bool issue_all(struct nvme_lane *lane, struct nvme_transfer *t, uint64_t now)
{
    while (is_to_issue(t))
        if (!issue(lane, t, now))
            return false;
    return true;
}

static void hand_over(struct nvme_lane *lane)
{
    uint64_t now = lane->waiting.first ? tutti_clock_now() : 0;
    struct nvme_transfer *t;

    while ((t = lane->waiting.first) && issue_all(lane, t, now)) {
        pop(&lane->waiting);
        t->queued = false;
        end_if_over(lane, t);
    }
}

/** After each look, whether anything is issued or not: some may be held back. */
static void ring(struct nvme_lane *lane)
{
    nvme_queue_ring_at_depth(&lane->queue);
    nvme_queue_ring_completed_at_depth(&lane->queue);
}

static void take_piece(struct nvme_lane *lane, uint32_t id, int error, uint32_t status)
{
    struct nvme_piece *p = &lane->piece[id];
    struct nvme_transfer *t = p->of;

    if (p->list)
        lane->free_list[lane->lists_free++] = (uint16_t)(p->list - 1);
    p->of = NULL;
    t->open--;
    if (error < 0)
        fail(t, error, status);
    end_if_over(lane, t);
}

static void take_completions(struct nvme_lane *lane)
{
    struct nvme_done done;
    int rc;

    while ((rc = nvme_queue_poll(&lane->queue, &done)) == 1)
        take_piece(lane, done.id, nvme_status_errno(done.status), done.status);
    if (rc < 0)
        lane->broken = rc;
}

void nvme_lane_submit(struct nvme_lane *lane, struct nvme_transfer *t)
{
    t->result = 0;
    t->status = 0;
    t->open = 0;
    t->left = t->bytes;
    t->place = (struct nvme_place){.iov = t->iov, .segments = t->segments};
    t->queued = true;
    if ((t->offset | t->bytes) % lane->limits.block != 0 || t->offset > lane->capacity ||
        t->bytes > lane->capacity - t->offset)
        t->result = -EINVAL;
    append(&lane->fresh, t);
}

/** Under the lock: what was submitted waits with the others. */
static void take_fresh(struct nvme_lane *lane)
{
    if (!lane->fresh.first)
        return;
    *lane->waiting.last = lane->fresh.first;
    lane->waiting.last = lane->fresh.last;
    lane->fresh.first = NULL;
    lane->fresh.last = &lane->fresh.first;
}

uint32_t nvme_lane_collect(struct nvme_lane *lane, struct nvme_transfer **ended, uint32_t most)
{
    uint32_t n = 0;

    pthread_mutex_lock(&lane->lock);
    take_fresh(lane);
    if (lane->dead)
        nvme_lane_fail_all(lane, lane->dead);
    else if (!lane->stopped && !lane->broken) {
        take_completions(lane);
        if (!lane->draining)
            hand_over(lane);
        ring(lane);
    }
    while (n < most && lane->ended.first)
        ended[n++] = pop(&lane->ended);
    pthread_mutex_unlock(&lane->lock);
    return n;
}

void nvme_lane_fail_all(struct nvme_lane *lane, int error)
{
    struct nvme_transfer *t;

    for (uint32_t id = 0; id < lane->depth; id++)
        if (lane->piece[id].of)
            take_piece(lane, id, lane->piece[id].aborted ? -ETIMEDOUT : error, 0);
    if (!lane->dead)
        return; /* what waits goes to the new queue */
    while ((t = pop(&lane->waiting))) {
        fail(t, error, 0);
        t->queued = false;
        end_if_over(lane, t);
    }
}
