/* SPDX-License-Identifier: Apache-2.0 */
/*
 * batch.c: a range of a transfer map becomes batches, batches become commands.
 *
 * Knows the two address formulas and the limits of a command; knows nothing of
 * checksums or of order. The one idea: slots that are neighbours on disk are
 * one stretch of the member, parts and strides included, so a batch is one
 * offset and a length; only its memory side is scattered.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/member.h"

static void *pages_new(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

int batch_pools_open(struct member *m)
{
    m->batch_pool = calloc(MEMBER_BATCHES, sizeof(*m->batch_pool));
    m->io_pool = calloc(MEMBER_COMMANDS, sizeof(*m->io_pool));
    /* Touched only as far as they are used. */
    m->segments = pages_new(sizeof(struct iovec) * MEMBER_COMMANDS * MEMBER_SEGMENTS);
    m->scratch = pages_new((size_t)MEMBER_COMMANDS * MEMBER_SCRATCH);
    m->zeros = pages_new(MEMBER_SCRATCH);
    if (!m->batch_pool || !m->io_pool || !m->segments || !m->scratch || !m->zeros)
        return -ENOMEM;
    for (uint32_t i = 0; i < MEMBER_BATCHES; i++) {
        m->batch_pool[i].next = m->batches;
        m->batches = &m->batch_pool[i];
    }
    for (uint32_t i = 0; i < MEMBER_COMMANDS; i++) {
        struct io *io = &m->io_pool[i];

        io->command.iov = m->segments + (size_t)i * MEMBER_SEGMENTS;
        io->scratch = m->scratch + (size_t)i * MEMBER_SCRATCH;
        io->next = m->ios;
        m->ios = io;
    }
    return 0;
}

void batch_pools_close(struct member *m)
{
    if (m->segments)
        munmap(m->segments, sizeof(struct iovec) * MEMBER_COMMANDS * MEMBER_SEGMENTS);
    if (m->scratch)
        munmap(m->scratch, (size_t)MEMBER_COMMANDS * MEMBER_SCRATCH);
    if (m->zeros)
        munmap(m->zeros, MEMBER_SCRATCH);
    free(m->batch_pool);
    free(m->io_pool);
}

static bool is_layer(const struct task *t)
{
    return t->kind == READ_LAYER || t->kind == WRITE_LAYER;
}

static bool is_ours(const struct member *m, const struct task *t, uint32_t position)
{
    const struct tutti_placement *p = t->map->placement;

    return t->map->items[position].slot / p->records_per_extent % p->members == m->number;
}

/** Whether a position is this member's and still wants what the task does. */
static bool wanted(const struct member *m, const struct task *t, uint32_t position)
{
    if (!is_ours(m, t, position))
        return false;
    if (!tutti_slot_valid(t->map->placement, t->map->items[position].slot)) {
        map_fail(t->map, position, EINVAL);
        return false;
    }
    if (map_status(t->map, position) != 0)
        return false;
    if (t->kind == WRITE_RECORDS && t->started && !check_writable(t->map, position)) {
        map_fail(t->map, position, ECANCELED);
        return false;
    }
    return true;
}

bool batch_seek(struct member *m, struct task *t)
{
    uint32_t end = t->iocb->first + t->iocb->count;

    while (t->cursor < end && !wanted(m, t, t->cursor))
        t->cursor++;
    return t->cursor < end;
}

/** Whether any slot of the task's range is this member's. */
bool batch_ours(const struct member *m, const struct task *t)
{
    for (uint32_t i = 0; i < t->iocb->count; i++)
        if (is_ours(m, t, t->iocb->first + i))
            return true;
    return false;
}

/** Most slots of one batch: what fits a command, its segments, and the staging. */
static uint64_t most_slots(const struct member *m, const struct task *t, uint64_t unit, bool staged)
{
    const struct tutti_placement *p = t->map->placement;
    uint64_t most = m->command_bytes / unit;
    uint64_t segments = p->parts * (p->object_bytes == p->object_stride ? 1u : 2u);

    if (is_layer(t) && !staged && most > MEMBER_SEGMENTS / segments)
        most = MEMBER_SEGMENTS / segments;
    if (most > MEMBER_SLOTS)
        most = MEMBER_SLOTS;
    return most ? most : 1;
}

/** Where a batch's staging is from: records never wait for what a layer holds. */
static struct staging *staging_of(struct member *m, const struct task *t)
{
    return is_layer(t) || t->kind == WRITE_EMPTY ? &m->staging : &m->record_staging;
}

/** Whether a task's bytes go by way of staging. */
static bool is_staged(const struct member *m, const struct task *t)
{
    if (t->kind == WRITE_EMPTY)
        return true;
    return is_layer(t) ? !t->direct : m->backend->fixed_only;
}

/** Make the bytes that will be written, where they are not in place already. */
static void prepare(struct member *m, struct batch *b)
{
    const struct tutti_map *map = b->task->map;

    switch (b->task->kind) {
    case WRITE_LAYER:
        if (b->staging)
            place_out(m, b);
        break;
    case WRITE_RECORDS:
        for (uint32_t i = 0; i < b->count; i++)
            check_build_record(m, map, b->first + i);
        if (b->staging)
            memcpy(b->staging, map_record(map, b->first), b->count * b->unit);
        break;
    case WRITE_EMPTY:
        for (uint32_t i = 0; i < b->count; i++)
            check_build_empty(m, map, b->first + i, b->staging + i * b->unit);
        break;
    default:
        break;
    }
}

enum opening batch_open(struct member *m, struct task *t)
{
    const struct tutti_placement *p = t->map->placement;
    const struct tutti_transfer *items = t->map->items;
    uint64_t unit = is_layer(t) ? tutti_layer_stride(p) : p->record_stride;
    bool staged = is_staged(m, t);
    struct staging *from = staging_of(m, t);
    uint64_t most = most_slots(m, t, unit, staged);
    uint32_t end = t->iocb->first + t->iocb->count;
    uint32_t count = 1;
    struct batch *b = m->batches;
    uint8_t *staging = NULL;

    do {
        if (!batch_seek(m, t))
            return EXPANDED;
        if (!staged || unit <= from->bytes)
            break;
        map_fail(t->map, t->cursor, ENOBUFS); /* staging smaller than one slot's layer */
    } while (true);
    if (!b)
        return BLOCKED;
    while (
        count < most && t->cursor + count < end &&
        tutti_slot_follows(p, items[t->cursor + count - 1].slot, items[t->cursor + count].slot) &&
        wanted(m, t, t->cursor + count))
        count++;
    if (staged) {
        staging = staging_take(from, count * unit);
        if (!staging)
            return BLOCKED;
    }
    m->batches = b->next;
    memset(b, 0, sizeof(*b));
    b->task = t;
    b->first = t->cursor;
    b->count = count;
    b->unit = unit;
    b->offset = is_layer(t) ? tutti_object_place(p, items[b->first].slot, t->iocb->layer, 0).offset
                            : tutti_record_place(p, items[b->first].slot).offset;
    b->staging = staging;
    b->to = count * unit;
    b->again = NO_POSITION;
    t->cursor += count;
    t->open_batches++;
    t->launching++;
    t->filling = b;
    prepare(m, b);
    return OPENED;
}

void batch_close(struct member *m, struct batch *b)
{
    struct task *t = b->task;

    task_batch_launched(m, b);
    if (b->staging)
        staging_give(staging_of(m, t), b->staging, b->count * b->unit);
    b->next = m->batches;
    m->batches = b;
    task_batch_over(m, t);
}

const void *batch_part(const struct batch *b, uint32_t i, uint32_t part)
{
    const struct tutti_map *map = b->task->map;
    const struct tutti_placement *p = map->placement;

    if (b->staging)
        return b->staging + i * b->unit + part * p->object_stride;
    return (const void *)(uintptr_t)tutti_kv_address(map->planes, p->parts, b->task->iocb->layer,
                                                     part, map->items[b->first + i].block);
}

/** One more stretch of memory; joined with the one before where they touch. */
static void add_segment(struct command *c, const void *memory, uint64_t bytes)
{
    struct iovec *last = c->segments ? &c->iov[c->segments - 1] : NULL;

    if (last && (const char *)last->iov_base + last->iov_len == memory) {
        last->iov_len += bytes;
        return;
    }
    c->iov[c->segments++] = (struct iovec){.iov_base = (void *)(uintptr_t)memory, .iov_len = bytes};
}

/** The scattered memory of the batch's bytes [from, from + bytes). */
static void add_objects(const struct member *m, struct io *io, uint64_t from, uint64_t bytes)
{
    const struct batch *b = io->batch;
    const struct tutti_placement *p = b->task->map->placement;
    const uint8_t *sink = io->command.direction == TUTTI_WRITE ? m->zeros : io->scratch;
    uint32_t i = (uint32_t)(from / b->unit);
    uint32_t part = (uint32_t)(from % b->unit / p->object_stride);
    uint64_t at = from % p->object_stride;

    while (bytes > 0) {
        uint64_t end = at < p->object_bytes ? p->object_bytes : p->object_stride;
        uint64_t step = end - at < bytes ? end - at : bytes;

        if (at < p->object_bytes)
            add_segment(&io->command, (const uint8_t *)batch_part(b, i, part) + at, step);
        else
            add_segment(&io->command, sink, step);
        bytes -= step;
        at += step;
        if (at == p->object_stride) {
            at = 0;
            part = part + 1 == p->parts ? 0 : part + 1;
            i += part == 0;
        }
    }
}

/** It is out from here on, and late after a time. Where others are out they are late before. */
static void hand_to_backend(struct member *m, struct io *io)
{
    m->in_flight += io->command.bytes;
    m->writing += io->command.direction == TUTTI_WRITE ? io->command.bytes : 0;
    io->late_at = tutti_clock_after(m->now, m->late_ns);
    if (m->out++ == 0)
        m->next_look = io->late_at;
    m->backend->type->submit(m->backend, &io->command);
}

/** Point a command at @bytes from io->from on, and queue it. */
static void submit(struct member *m, struct io *io, uint32_t bytes)
{
    struct batch *b = io->batch;
    struct command *c = &io->command;

    c->bytes = bytes;
    c->segments = 0;
    c->why = NULL;
    c->direction = b->task->iocb->direction;
    c->offset = b->offset + io->from;
    if (b->staging)
        add_segment(c, b->staging + io->from, bytes);
    else if (is_layer(b->task))
        add_objects(m, io, io->from, bytes);
    else
        add_segment(c, (uint8_t *)map_record(b->task->map, b->first) + io->from, bytes);
    hand_to_backend(m, io);
}

/** A record, read again into the command's scratch. */
static void submit_record(struct member *m, struct io *io)
{
    struct batch *b = io->batch;
    const struct tutti_map *map = b->task->map;
    struct command *c = &io->command;

    c->bytes = map->placement->record_stride;
    c->segments = 0;
    c->why = NULL;
    c->direction = TUTTI_READ;
    c->offset = tutti_record_place(map->placement, map->items[b->first + b->again].slot).offset;
    add_segment(c, io->scratch, c->bytes);
    hand_to_backend(m, io);
}

/** Whether there is room in the queue; one command always has it. */
static bool has_room(const struct member *m, const struct batch *b, uint32_t bytes)
{
    bool write = b->task->iocb->direction == TUTTI_WRITE && !b->record_again;

    if (write && m->writing > 0 && m->writing + bytes > m->write_bytes)
        return false;
    return m->in_flight == 0 || m->in_flight + bytes <= m->queue_bytes;
}

bool batch_submit(struct member *m, struct batch *b)
{
    uint64_t left = b->record_again ? b->task->map->placement->record_stride : b->to - b->from;
    uint32_t bytes = left < m->command_bytes ? (uint32_t)left : m->command_bytes;
    struct io *io = m->ios;

    if (!io || !has_room(m, b, bytes))
        return false;
    m->ios = io->next;
    io->batch = b;
    io->tries = 0;
    b->open++;
    b->task->open_commands++;
    b->task->commands++;
    member_count(&m->counters.commands, 1);
    if (b->record_again) {
        b->record_again = false;
        io->from = UINT64_MAX;
        submit_record(m, io);
        return true;
    }
    io->from = b->from;
    b->from += bytes;
    submit(m, io, bytes);
    return true;
}

void io_resubmit(struct member *m, struct io *io, uint32_t moved)
{
    if (io->from == UINT64_MAX) {
        submit_record(m, io);
        return;
    }
    io->from += moved;
    submit(m, io, io->command.bytes - moved);
}

void io_free(struct member *m, struct io *io)
{
    io->batch->open--;
    io->batch->task->open_commands--;
    io->next = m->ios;
    m->ios = io;
}

void batch_drop_rest(struct batch *b, int error)
{
    uint32_t position;

    for (uint64_t at = b->from; at < b->to; at = (position + 1) * b->unit) {
        position = (uint32_t)(at / b->unit);
        batch_set_bad(b, position, true);
    }
    if (b->from < b->to || b->record_again)
        b->error = error;
    b->from = b->to;
    b->record_again = false;
    b->hashed = true; /* not whole: no sum of it will count */
}
