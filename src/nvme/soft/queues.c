/* SPDX-License-Identifier: Apache-2.0 */
/*
 * queues.c: the controller's side of queues: doorbells, fetching, posting.
 *
 * What a doorbell announces is copied when it is seen, and compared when it is
 * fetched, so a driver that overfills a queue or writes an entry twice is found
 * although its doorbell looks right.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nvme/soft/internal.h"

#define FETCH_AT_ONCE 8u /* of one queue, before the next has its turn */

int soft_make_cq(struct soft *s, uint32_t number, uint64_t address, uint32_t depth)
{
    s->cq[number] = (struct soft_cq){.there = true, .depth = depth, .phase = 1, .address = address};
    nvme_write32(s->bar, NVME_CQ_DOORBELL(number, s->options.dstrd), 0);
    return 0;
}

int soft_make_sq(struct soft *s, uint32_t number, uint64_t address, uint32_t depth, uint32_t cq)
{
    struct soft_sq *q = &s->sq[number];

    *q = (struct soft_sq){.cq = cq, .depth = depth, .address = address};
    q->seen = calloc(depth, NVME_SQE_BYTES);
    q->id_out = calloc(1, 65536 / 8);
    if (!q->seen || !q->id_out) {
        free(q->seen);
        free(q->id_out);
        return -ENOMEM;
    }
    q->there = true;
    s->cq[cq].users++;
    nvme_write32(s->bar, NVME_SQ_DOORBELL(number, s->options.dstrd), 0);
    return 0;
}

void soft_drop_sq(struct soft *s, uint32_t number)
{
    struct soft_sq *q = &s->sq[number];

    if (!q->there)
        return;
    s->cq[q->cq].users--;
    free(q->seen);
    free(q->id_out);
    memset(q, 0, sizeof(*q));
    nvme_write32(s->bar, NVME_SQ_DOORBELL(number, s->options.dstrd), 0);
}

uint32_t soft_end_sq(struct soft *s, uint32_t number)
{
    bool any = false;

    for (struct soft_command *c = s->out; c; c = c->next) {
        if (c->sq != number)
            continue;
        if (!c->done) {
            c->status = NVME_ABORTED_SQ_DELETED;
            c->checked = true;
            c->held = false;
            c->due = s->now;
        }
        any = true;
    }
    if (any)
        return SOFT_NOT_YET;
    soft_drop_sq(s, number);
    return NVME_OK;
}

void soft_drop_cq(struct soft *s, uint32_t number)
{
    if (!s->cq[number].there)
        return;
    memset(&s->cq[number], 0, sizeof(s->cq[number]));
    nvme_write32(s->bar, NVME_CQ_DOORBELL(number, s->options.dstrd), 0);
}

/* Doorbells. */

static void remember_entry(struct soft *s, struct soft_sq *q, uint32_t at)
{
    const uint64_t *entry =
        soft_reach(s, q->address + (uint64_t)at * NVME_SQE_BYTES, NVME_SQE_BYTES, false);

    for (uint32_t i = 0; i < NVME_SQE_WORDS; i++)
        q->seen[at * NVME_SQE_WORDS + i] = entry ? nvme_load64(entry + i) : 0;
}

/** Whether a doorbell announces more entries than there is room beside those that wait. */
static bool is_too_much(const struct soft_sq *q, uint32_t tail)
{
    uint32_t waiting = (q->tail + q->depth - q->head) % q->depth;

    return waiting + (tail + q->depth - q->tail) % q->depth > q->depth - 1;
}

static bool sq_doorbell(struct soft *s, uint32_t number)
{
    uint32_t offset = NVME_SQ_DOORBELL(number, s->options.dstrd);
    uint32_t value = nvme_read32(s->bar, offset); /* acquire: with the driver's doorbell */
    struct soft_sq *q = &s->sq[number];

    if (!q->there) {
        if (value == 0)
            return false;
        soft_break(s, SOFT_DOORBELL_NOWHERE, "submission queue %u: %u", number, value);
        nvme_write32(s->bar, offset, 0);
        return true;
    }
    if (value == q->tail)
        return false;
    soft_count(&s->counters.sq_doorbells, 1);
    if (value >= q->depth) {
        soft_break(s, SOFT_DOORBELL_VALUE, "submission queue %u: %u of %u", number, value,
                   q->depth);
        nvme_write32(s->bar, offset, q->tail);
        return true;
    }
    if (is_too_much(q, value)) {
        soft_break(s, SOFT_QUEUE_FULL, "submission queue %u: %u, and %u to %u of %u wait", number,
                   value, q->head, q->tail, q->depth);
        nvme_write32(s->bar, offset, q->tail);
        return true;
    }
    while (q->tail != value) {
        remember_entry(s, q, q->tail);
        q->tail = (q->tail + 1) % q->depth;
    }
    return true;
}

static bool cq_doorbell(struct soft *s, uint32_t number)
{
    uint32_t offset = NVME_CQ_DOORBELL(number, s->options.dstrd);
    uint32_t value = nvme_read32(s->bar, offset);
    struct soft_cq *q = &s->cq[number];

    if (!q->there) {
        if (value == 0)
            return false;
        soft_break(s, SOFT_DOORBELL_NOWHERE, "completion queue %u: %u", number, value);
        nvme_write32(s->bar, offset, 0);
        return true;
    }
    if (value == q->head)
        return false;
    soft_count(&s->counters.cq_doorbells, 1);
    if (value >= q->depth) {
        soft_break(s, SOFT_DOORBELL_VALUE, "completion queue %u: %u of %u", number, value,
                   q->depth);
    } else if ((value + q->depth - q->head) % q->depth >
               (q->tail + q->depth - q->head) % q->depth) {
        soft_break(s, SOFT_HEAD_BEYOND_TAIL, "completion queue %u: %u, posted up to %u", number,
                   value, q->tail);
    } else {
        q->head = value;
        return true;
    }
    nvme_write32(s->bar, offset, q->head);
    return true;
}

bool soft_doorbells(struct soft *s)
{
    bool any = false;

    for (uint32_t i = 0; i <= s->options.queues; i++) {
        any = sq_doorbell(s, i) || any;
        any = cq_doorbell(s, i) || any;
    }
    return any;
}

/* Fetching. */

static bool id_out(const struct soft_sq *q, uint32_t id)
{
    return q->id_out[id / 8] >> id % 8 & 1;
}

static void set_id(struct soft_sq *q, uint32_t id, bool out)
{
    q->id_out[id / 8] = (uint8_t)((q->id_out[id / 8] & ~(1u << id % 8)) | (uint32_t)out << id % 8);
}

/** What every command is held to. */
static uint32_t check(struct soft *s, struct soft_command *c)
{
    struct soft_sq *q = &s->sq[c->sq];
    uint32_t id = NVME_SQE_ID(c->words[0]);

    if (id_out(q, id)) {
        soft_break(s, SOFT_IDENTIFIER, "queue %u: identifier %u is out already", c->sq, id);
        return NVME_ID_CONFLICT;
    }
    set_id(q, id, true);
    if (NVME_SQE_FUSE(c->words[0])) {
        soft_break(s, SOFT_FUSED, "queue %u: word 0 is %#llx", c->sq,
                   (unsigned long long)c->words[0]);
        return NVME_INVALID_FIELD;
    }
    if (c->words[0] & 0x3c00 || NVME_SQE_PSDT(c->words[0]) == 3 || c->words[1] != 0) {
        soft_break(s, SOFT_RESERVED, "queue %u: words %#llx %#llx", c->sq,
                   (unsigned long long)c->words[0], (unsigned long long)c->words[1]);
        return NVME_INVALID_FIELD;
    }
    if (NVME_SQE_PSDT(c->words[0]) != 0 && (s->options.sgls == 0 || c->sq == 0)) {
        soft_break(s, SOFT_SGL_SUPPORT, "queue %u: an SGL", c->sq);
        return NVME_INVALID_FIELD;
    }
    return c->sq == 0 ? soft_admin_check(s, c) : soft_blocks_check(s, c);
}

/** Misfortune that was asked for, and the command's time. */
static void doom(struct soft *s, struct soft_command *c)
{
    c->due = c->sq ? soft_blocks_end(s, c) + s->options.ways.latency_ns : s->now;
    for (uint32_t i = 0; i < s->faults; i++) {
        struct soft_fault *f = &s->fault[i];

        if (f->count == 0 || f->admin != (c->sq == 0) || f->opcode != NVME_SQE_OPCODE(c->words[0]))
            continue;
        if (f->skip > 0) {
            f->skip--;
            continue;
        }
        f->count--;
        switch (f->kind) {
        case SOFT_STATUS:
            c->status = f->status;
            c->checked = true;
            break;
        case SOFT_LOST:
            c->held = true;
            break;
        case SOFT_LATE:
            c->due += f->delay_ns;
            break;
        case SOFT_TORN:
            c->torn = true;
            break;
        case SOFT_TWICE:
        case SOFT_FOREIGN:
            c->twice = f->kind == SOFT_TWICE;
            c->twice_ns = f->delay_ns;
            c->foreign = f->kind == SOFT_FOREIGN;
            break;
        case SOFT_DEAD:
            s->dead = true;
            break;
        }
        return;
    }
}

static bool fetch_one(struct soft *s, uint32_t number)
{
    struct soft_sq *q = &s->sq[number];
    struct soft_command *c = s->unused, **last = &s->out;
    uint32_t at = q->head;

    if (q->head == q->tail || !c)
        return false;
    s->unused = c->next;
    memset(c, 0, sizeof(*c));
    c->sq = number;
    memcpy(c->words, q->seen + at * NVME_SQE_WORDS, NVME_SQE_BYTES);
    remember_entry(s, q, at);
    if (memcmp(c->words, q->seen + at * NVME_SQE_WORDS, NVME_SQE_BYTES) != 0)
        soft_break(s, SOFT_ENTRY_CHANGED, "queue %u, entry %u", number, at);
    q->head = (at + 1) % q->depth;
    c->status = check(s, c);
    c->checked = c->status != NVME_OK;
    if (!c->checked)
        doom(s, c);
    while (*last)
        last = &(*last)->next;
    *last = c;
    s->under_way++;
    return true;
}

bool soft_fetch(struct soft *s)
{
    bool any = false;

    for (uint32_t i = 0; i <= s->options.queues && !s->dead; i++) {
        uint32_t number = (s->turn + i) % (s->options.queues + 1);

        for (uint32_t n = 0; n < FETCH_AT_ONCE && s->sq[number].there && fetch_one(s, number); n++)
            any = true;
    }
    s->turn = (s->turn + 1) % (s->options.queues + 1);
    return any;
}

/* Executing. */

bool soft_execute(struct soft *s)
{
    bool any = false;

    for (struct soft_command *c = s->out; c; c = c->next) {
        if (c->done || c->held || c->due > s->now)
            continue;
        if (!c->checked)
            c->status = c->sq == 0 ? soft_admin(s, c) : soft_blocks(s, c);
        c->done = c->status != SOFT_NOT_YET;
        any = any || c->done;
    }
    return any;
}

/* Posting. */

/** The command that is completed next to a queue, or NULL. */
static struct soft_command **choose(struct soft *s, uint32_t cq)
{
    struct soft_command **found = NULL;
    uint32_t seen = 0;

    for (struct soft_command **c = &s->out; *c; c = &(*c)->next) {
        if (!(*c)->done || s->sq[(*c)->sq].cq != cq)
            continue;
        seen++;
        if (!found || (s->options.ways.seed && soft_random(s) % seen == 0))
            found = c;
        if (!s->options.ways.seed)
            break;
    }
    return found;
}

static void begin_entry(struct soft *s, struct soft_cq *q, struct soft_command **at)
{
    struct soft_command *c = *at;
    uint32_t id = NVME_SQE_ID(c->words[0]);

    q->word[0] = c->value;
    q->word[1] = s->sq[c->sq].head | (uint64_t)c->sq << 16 |
                 (uint64_t)(c->foreign ? id ^ 0x4000 : id) << 32 | (q->phase ? NVME_CQE_PHASE : 0) |
                 (uint64_t)c->status << 49;
    q->written = 0;
    q->posting = true;
    if (!c->ghost)
        set_id(&s->sq[c->sq], id, false);
    if (c->twice) {
        c->twice = false;
        c->ghost = true;
        c->checked = true; /* it says once more what it said */
        c->done = false;
        c->due = s->now + c->twice_ns;
        return;
    }
    *at = c->next;
    c->next = s->unused;
    s->unused = c;
    s->under_way--;
}

/** Write a part of the entry. Return: whether it was the last. */
static bool write_entry(struct soft *s, struct soft_cq *q)
{
    uint64_t *entry =
        soft_reach(s, q->address + (uint64_t)q->tail * NVME_CQE_BYTES, NVME_CQE_BYTES, true);
    uint64_t low = UINT64_C(0xffffffff);

    if (!entry)
        return true; /* lost on the bus: the driver never sees it */
    if (!s->options.ways.halves)
        q->written = 2;
    if (q->written < 2)
        nvme_store64(entry + q->written,
                     q->written == 0 ? q->word[0]
                                     : (q->word[1] & low) | (nvme_load64(entry + 1) & ~low));
    else
        nvme_store64(entry, q->word[0]);
    if (q->written++ < 2)
        return false;
    __atomic_store_n(entry + 1, q->word[1], __ATOMIC_RELEASE); /* with nvme_load_phase() */
    return true;
}

static bool post(struct soft *s, uint32_t number)
{
    struct soft_cq *q = &s->cq[number];
    struct soft_command **next;

    if (!q->posting) {
        next = (q->tail + 1) % q->depth != q->head ? choose(s, number) : NULL;
        if (!next)
            return false;
        begin_entry(s, q, next);
    }
    if (!write_entry(s, q))
        return true;
    q->posting = false;
    q->tail = (q->tail + 1) % q->depth;
    q->phase ^= q->tail == 0;
    return true;
}

bool soft_post(struct soft *s)
{
    bool any = false;

    for (uint32_t i = 0; i <= s->options.queues; i++)
        while (s->cq[i].there && post(s, i)) {
            any = true;
            if (s->options.ways.halves)
                break;
        }
    return any;
}
