/* SPDX-License-Identifier: Apache-2.0 */
/*
 * queue.h: a submission queue and its completion queue, with one owner.
 *
 * A host thread, or one GPU warp, owns both: no lock and no compare-and-swap.
 * Both have the same depth, and at most depth - 1 commands are out, so neither
 * can overflow, whatever the controller does. An identifier is given out again
 * only after its completion was taken.
 *
 *     id = nvme_queue_take(q); nvme_queue_put(q, words); ... nvme_queue_ring(q);
 *     while (nvme_queue_poll(q, &done)) { ...; }  nvme_queue_ring_completed(q);
 *
 * The memory is zero before the controller knows of it: an entry of a former
 * life would otherwise look new (case 16).
 */
#ifndef TUTTI_NVME_QUEUE_H
#define TUTTI_NVME_QUEUE_H

#include <errno.h>
#include <stdbool.h>

#include "nvme/access.h"
#include "nvme/spec.h"

#define NVME_QUEUE_BATCH 8u /* commands a doorbell, at depth */

/**
 * struct nvme_queue - the owner's alone, but for the entries
 * @sq: @depth x 8 words; written here, read by the controller
 * @cq: @depth x 2 words; written by the controller
 * @bar, @sq_doorbell, @cq_doorbell: registers, and offsets in them
 * @tail, @rung: next entry to write; what the controller was told
 * @head, @acknowledged: next completion to look at; what the controller was told
 * @phase: of a new entry at @head, 1 in the first round
 * @free_id, @free: a stack of identifiers, 0 to @depth - 2
 * @out: per identifier, whether it is out
 * @taken: completions since the controller was told of commands last
 * @sq_doorbells, @cq_doorbells: how often each was rung
 */
struct nvme_queue {
    uint64_t *sq;
    uint64_t *cq;
    void *bar;
    uint32_t sq_doorbell;
    uint32_t cq_doorbell;
    uint32_t number;
    uint32_t depth;
    uint32_t tail;
    uint32_t rung;
    uint32_t head;
    uint32_t acknowledged;
    uint32_t phase;
    uint32_t free;
    uint32_t taken;
    uint16_t *free_id;
    uint8_t *out;
    uint64_t sq_doorbells;
    uint64_t cq_doorbells;
};

/** What became of a command. @value: dword 0. */
struct nvme_done {
    uint32_t id;
    uint32_t status; /* NVME_OK, or type << 8 | code */
    uint32_t value;
    bool again; /* the controller does not say that a second try is of no use */
};

TUTTI_INLINE uint32_t nvme_queue_out(const struct nvme_queue *q)
{
    return q->depth - 1 - q->free;
}

/** An identifier for a command, or -1 where depth - 1 are out. */
TUTTI_INLINE int32_t nvme_queue_take(struct nvme_queue *q)
{
    uint16_t id;

    if (q->free == 0)
        return -1;
    id = q->free_id[--q->free];
    q->out[id] = 1;
    return id;
}

/** The identifier taken last goes back; nothing was put under it. */
TUTTI_INLINE void nvme_queue_untake(struct nvme_queue *q, int32_t id)
{
    q->out[id] = 0;
    q->free_id[q->free++] = (uint16_t)id;
}

/** Write entry @at: of several lanes of a warp each writes its own. */
TUTTI_INLINE void nvme_queue_put_at(const struct nvme_queue *q, uint32_t at,
                                    const uint64_t words[NVME_SQE_WORDS])
{
    uint64_t *entry = q->sq + (uint64_t)at * NVME_SQE_WORDS;

    for (uint32_t i = 0; i < NVME_SQE_WORDS; i++)
        nvme_store64(entry + i, words[i]);
}

/** Write the next entry; its identifier was taken. The controller is told by nvme_queue_ring(). */
TUTTI_INLINE void nvme_queue_put(struct nvme_queue *q, const uint64_t words[NVME_SQE_WORDS])
{
    nvme_queue_put_at(q, q->tail, words);
    q->tail = q->tail + 1 == q->depth ? 0 : q->tail + 1;
}

/** Tell the controller of what was put since the last time. */
TUTTI_INLINE void nvme_queue_ring(struct nvme_queue *q)
{
    if (q->rung == q->tail)
        return;
    nvme_fence_before_doorbell(); /* with the controller's fetch: entries before the doorbell */
    nvme_write32(q->bar, q->sq_doorbell, q->tail);
    q->rung = q->tail;
    q->taken = 0;
    q->sq_doorbells++;
}

/** Whether the completion at @at is new, where a new one has @phase; its second word is taken. */
TUTTI_INLINE bool nvme_queue_look(const struct nvme_queue *q, uint32_t at, uint32_t phase,
                                  uint64_t *word1)
{
    /* With the controller's write of it, its last. */
    *word1 = nvme_load_phase(q->cq + (uint64_t)at * NVME_CQE_WORDS + 1);
    return (*word1 & NVME_CQE_PHASE ? 1u : 0u) == phase;
}

/**
 * nvme_queue_ring_at_depth() - the same, where it pays now
 *
 * A doorbell is a write that no cache takes, and a fetch for the controller. While that has eight
 * times as many commands as it was not told of, or more, it is told of eight at once, and after
 * nine completions at the latest; what it has little else beside is told of at once. For owners who
 * call this after each look: what is held back waits for completions, and there are some to come.
 */
TUTTI_INLINE void nvme_queue_ring_at_depth(struct nvme_queue *q)
{
    uint32_t untold = q->tail >= q->rung ? q->tail - q->rung : q->tail + q->depth - q->rung;
    uint32_t told = nvme_queue_out(q) - untold;

    if (untold >= NVME_QUEUE_BATCH || q->taken > NVME_QUEUE_BATCH ||
        told < NVME_QUEUE_BATCH * untold)
        nvme_queue_ring(q);
}

/**
 * nvme_queue_poll() - take the next completion
 *
 * Return: 1, 0 where there is none, or -EPROTO where the controller completed what is not out:
 * nothing that it says can be believed any more.
 */
TUTTI_INLINE int nvme_queue_poll(struct nvme_queue *q, struct nvme_done *done)
{
    const uint64_t *entry = q->cq + (uint64_t)q->head * NVME_CQE_WORDS;
    uint64_t word1;

    if (!nvme_queue_look(q, q->head, q->phase, &word1))
        return 0;
    done->id = NVME_CQE_ID(word1);
    done->status = NVME_CQE_STATUS(word1);
    done->again = !NVME_CQE_DNR(word1);
    done->value = (uint32_t)nvme_load64(entry);
    if (done->id >= q->depth - 1 || !q->out[done->id] || NVME_CQE_SQ(word1) != q->number)
        return -EPROTO;
    q->out[done->id] = 0;
    q->free_id[q->free++] = (uint16_t)done->id;
    q->taken++;
    q->head = q->head + 1 == q->depth ? 0 : q->head + 1;
    q->phase ^= q->head == 0;
    return 1;
}

/** Give the places of taken completions back to the controller. */
TUTTI_INLINE void nvme_queue_ring_completed(struct nvme_queue *q)
{
    if (q->acknowledged == q->head)
        return;
    nvme_write32(q->bar, q->cq_doorbell, q->head); /* a release: the entries were read before */
    q->acknowledged = q->head;
    q->cq_doorbells++;
}

/** The same for eight at once; sooner where the controller could miss a place, or has none out. */
TUTTI_INLINE void nvme_queue_ring_completed_at_depth(struct nvme_queue *q)
{
    uint32_t kept = q->head >= q->acknowledged ? q->head - q->acknowledged
                                               : q->head + q->depth - q->acknowledged;
    uint32_t out = nvme_queue_out(q);

    if (kept >= NVME_QUEUE_BATCH || out == 0 || kept + out >= q->depth - 1)
        nvme_queue_ring_completed(q);
}

#endif
