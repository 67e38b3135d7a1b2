/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check.c: what came back, whether to believe it, and the second try.
 *
 * Responsible for a batch from the end of its commands on: records compared
 * with what was asked for, layers with their records, sums put into records
 * that will be written. Knows no system call. The one idea: a position fails
 * alone. Whatever went wrong with a batch, its bad positions are read again one
 * by one, with their records, and only those that fail twice are reported.
 *
 * While a store's layers are written, a position's record in memory is a draft:
 * its magic says so, the field of the engine's hash has a bit for each layer
 * that is on disk, and the sums stand where they will be. A record is made only
 * of a draft whose bits are all set.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/member.h"
#include "layout/record.h"

#define DRAFT_MAGIC UINT64_C(0x3154464152445454) /* "TTDRAFT1", never on disk */
#define CHECK_AT_ONCE ((uint64_t)512 << 10)      /* bytes hashed between looks at the queue */
#define TRIES_WHEN_BUSY 100u

_Static_assert(TUTTI_ENGINE_HASH_BYTES * 8 >= TUTTI_MAX_LAYERS, "a bit for every layer");

static bool is_write(const struct batch *b)
{
    return b->task->iocb->direction == TUTTI_WRITE;
}

/* Drafts and records. */

static bool is_draft(const struct tutti_record *r, const struct tutti_transfer *item)
{
    return r->magic == DRAFT_MAGIC && r->generation == item->generation && r->slot == item->slot &&
           tutti_key_equal(r->key, item->key);
}

static struct tutti_record *draft(const struct tutti_map *map, uint32_t position)
{
    struct tutti_record *r = map_record(map, position);
    const struct tutti_transfer *item = &map->items[position];

    if (!is_draft(r, item)) {
        memset(r, 0, map->placement->record_stride);
        r->magic = DRAFT_MAGIC;
        r->generation = item->generation;
        r->slot = item->slot;
        r->key = item->key;
    }
    return r;
}

bool check_writable(const struct tutti_map *map, uint32_t position)
{
    const struct tutti_record *r = map_record(map, position);

    if (!is_draft(r, &map->items[position]))
        return false;
    for (uint32_t layer = 0; layer < map->placement->layers; layer++)
        if (!(r->engine_hash[layer / 8] >> (layer % 8) & 1))
            return false;
    return true;
}

/** The fields that records and empty records share. */
static void fill_header(const struct member *m, const struct tutti_map *map, uint32_t position,
                        struct tutti_record *r)
{
    const struct tutti_transfer *item = &map->items[position];

    *r = *map->stencil;
    r->magic = TUTTI_RECORD_MAGIC;
    r->version = TUTTI_FORMAT_VERSION;
    r->flags = 0;
    r->member = m->number;
    r->slot = item->slot;
    r->incarnation = map->origins ? map->origins[position].incarnation : 0;
    r->generation = item->generation;
    r->reserved0 = 0;
    memset(r->reserved, 0, sizeof(r->reserved));
    r->reserved1 = 0;
}

void check_build_record(const struct member *m, const struct tutti_map *map, uint32_t position)
{
    struct tutti_record *r = map_record(map, position);
    const struct tutti_origin *origin = &map->origins[position];

    fill_header(m, map, position, r);
    r->key = map->items[position].key;
    r->parent = origin->parent;
    memcpy(r->engine_hash, origin->engine_hash, sizeof(r->engine_hash));
    r->engine_hash_bytes = origin->engine_hash_bytes;
    tutti_record_seal(r);
}

void check_build_empty(const struct member *m, const struct tutti_map *map, uint32_t position,
                       uint8_t *to)
{
    struct tutti_record *r = (struct tutti_record *)(void *)to;

    memset(to, 0, map->placement->record_stride);
    fill_header(m, map, position, r);
    r->flags = TUTTI_RECORD_EMPTY;
    memset(&r->key, 0, sizeof(r->key));
    memset(&r->parent, 0, sizeof(r->parent));
    memset(r->engine_hash, 0, sizeof(r->engine_hash));
    r->engine_hash_bytes = 0;
    tutti_record_seal(r);
}

/**
 * The same where a transfer names no generation, and so whatever its place holds: ENODATA where
 * that is nothing, or another shape's.
 */
static int any_record_error(const struct member *m, const struct tutti_map *map, uint32_t position,
                            const struct tutti_record *r)
{
    const struct tutti_record *stencil = map->stencil;
    int rc = tutti_record_whole(r, map->placement->record_stride);

    if (rc < 0)
        return -rc;
    if (memcmp(r->pool, stencil->pool, sizeof(r->pool)) != 0 || r->rank != stencil->rank ||
        r->member != m->number || r->slot != map->items[position].slot)
        return ESTALE;
    return r->geometry == stencil->geometry && r->group == stencil->group &&
                   r->layers == stencil->layers
               ? 0
               : ENODATA;
}

/** Positive errno of a record that was read for a position, or 0. */
static int record_error(const struct member *m, const struct tutti_map *map, uint32_t position,
                        const struct tutti_record *r)
{
    const struct tutti_transfer *item = &map->items[position];
    int rc;

    if (item->generation == 0)
        return any_record_error(m, map, position, r);
    rc = tutti_record_whole(r, map->placement->record_stride);
    if (rc == -EBADMSG)
        return EBADMSG;
    if (rc < 0 ||
        tutti_record_match(r, map->stencil, m->number, item->slot, item->generation, item->key) < 0)
        return ESTALE;
    return 0;
}

/* The end of commands. */

static void report(struct member *m, struct batch *b, uint32_t i, int error)
{
    /* A scrub meets torn records that a crash left, again and again: they are nobody's. */
    bool asked_for =
        b->task->map->items[b->first + i].generation != 0 || b->task->kind != READ_RECORDS;

    if (asked_for && (error == EBADMSG || error == ESTALE))
        member_count(&m->counters.verify_failures, 1);
    if (asked_for && error == EBADMSG)
        fence_note(m, HEALTH_MISMATCH);
    map_fail(b->task->map, b->first + i, error);
}

/** The sums are there and the bytes are on disk: what was written counts, or does not. */
static void close_write(struct member *m, struct batch *b)
{
    const struct tutti_map *map = b->task->map;
    uint16_t layer = b->task->iocb->layer;

    for (uint32_t i = 0; b->task->kind == WRITE_LAYER && i < b->count; i++)
        if (!batch_is_bad(b, i) && map_status(map, b->first + i) == 0)
            draft(map, b->first + i)->engine_hash[layer / 8] |= (uint8_t)(1u << (layer % 8));
    batch_close(m, b);
}

void check_submitted(struct member *m, struct batch *b)
{
    /* The memory is stable by contract, or a staging copy: hashed while it is written. */
    if (b->task->kind == WRITE_LAYER)
        batch_append(&m->check[b->task->class_], b);
}

void check_settle(struct member *m, struct batch *b)
{
    b->landed = true;
    if (!is_write(b)) {
        batch_append(&m->check[b->task->class_], b);
        return;
    }
    for (uint32_t i = 0; i < b->count; i++)
        if (batch_is_bad(b, i))
            report(m, b, i, b->error);
    if (b->task->kind != WRITE_LAYER || b->hashed)
        close_write(m, b);
}

/** A record that was read again takes the place of the first, if it is the right one. */
static void take_record(struct member *m, struct io *io, int error)
{
    struct batch *b = io->batch;
    const struct tutti_map *map = b->task->map;
    uint32_t position = b->first + b->again;

    if (!error)
        error = record_error(m, map, position, (const void *)io->scratch);
    if (!error)
        memcpy(map_record(map, position), io->scratch, map->placement->record_stride);
    b->record_error = error;
}

static void note_error(struct member *m, struct io *io, int error)
{
    char what[160];
    const struct command *c = &io->command;
    const char *verb = c->direction == TUTTI_READ ? "read" : "write";

    if (c->result >= 0)
        snprintf(what, sizeof(what), "%s of %u bytes was cut short after %d", verb, c->bytes,
                 c->result);
    else
        snprintf(what, sizeof(what), "%s of %u bytes failed%s%s", verb, c->bytes,
                 c->why ? ", " : "", c->why ? c->why : "");
    member_count(&m->counters.io_errors, 1);
    member_io_error(m, -error, what, c->offset);
    if (!io->batch->noted)
        fence_note(m, HEALTH_ERROR);
    io->batch->noted = true;
}

static void count_moved(struct member *m, const struct io *io, uint32_t bytes)
{
    struct batch *b = io->batch;

    b->task->bytes += bytes;
    member_count(is_write(b) ? &m->counters.written_bytes : &m->counters.read_bytes, bytes);
    if (b->staging)
        member_count(&m->counters.staged_bytes, bytes);
}

static void count_retry(struct member *m, struct batch *b)
{
    b->task->retried++;
    member_count(&m->counters.retries, 1);
}

void check_ended(struct member *m, struct io *io)
{
    struct batch *b = io->batch;
    const struct command *c = &io->command;
    uint32_t alignment = b->task->map->placement->alignment;
    uint32_t moved = c->result > 0 ? (uint32_t)c->result / alignment * alignment : 0;
    int error = c->result < 0 ? -c->result : (uint32_t)c->result < c->bytes ? EIO : 0;

    m->in_flight -= c->bytes;
    m->writing -= c->direction == TUTTI_WRITE ? c->bytes : 0;
    m->out--;
    io->late_at = 0;
    if ((error == EAGAIN || error == EINTR) && io->tries++ < TRIES_WHEN_BUSY && !fence_closed(m)) {
        io_resubmit(m, io, 0);
        return;
    }
    /* Short: go on behind what there is. */
    if (error && moved > 0 && io->from != UINT64_MAX && !fence_closed(m)) {
        count_moved(m, io, moved);
        count_retry(m, b);
        io_resubmit(m, io, moved);
        return;
    }
    if (error)
        note_error(m, io, error);
    else
        fence_note(m, HEALTH_GOOD);
    if (io->from == UINT64_MAX) {
        take_record(m, io, error);
    } else if (error) {
        b->error = error;
        for (uint64_t i = io->from / b->unit; i * b->unit < io->from + c->bytes; i++)
            batch_set_bad(b, (uint32_t)i, true);
    } else {
        count_moved(m, io, c->bytes);
    }
    io_free(m, io);
    if (b->open == 0 && b->from == b->to && !b->record_again)
        check_settle(m, b);
}

/* Sums. */

static uint64_t sum_of(struct member *m, const struct batch *b, uint32_t i)
{
    const struct tutti_placement *p = b->task->map->placement;
    const void *part[TUTTI_MAX_PARTS];

    for (uint32_t k = 0; k < p->parts; k++)
        part[k] = batch_part(b, i, k);
    b->task->hashed += p->parts * p->object_bytes;
    member_count(&m->counters.hashed_bytes, p->parts * p->object_bytes);
    return tutti_layer_sum(part, p->parts, p->object_bytes);
}

static void hash_write(struct member *m, struct batch *b)
{
    const struct tutti_map *map = b->task->map;

    for (uint32_t i = 0; i < b->count; i++)
        if (!batch_is_bad(b, i) && map_status(map, b->first + i) == 0) {
            struct tutti_record *r = draft(map, b->first + i);

            tutti_record_sums(r)[b->task->iocb->layer] = sum_of(m, b, i);
        }
    b->hashed = true;
    if (b->landed)
        close_write(m, b);
}

static bool layer_good(struct member *m, const struct batch *b, uint32_t i)
{
    const struct tutti_map *map = b->task->map;
    const struct tutti_transfer *item = &map->items[b->first + i];
    const struct tutti_record *r = map_record(map, b->first + i);

    if (!map->verify)
        return true;
    /* Records are checked when they are read; this catches a caller that read none. */
    if (item->generation != 0 &&
        (r->generation != item->generation || !tutti_key_equal(r->key, item->key)))
        return false;
    return tutti_record_sum(r, b->task->iocb->layer) == sum_of(m, b, i);
}

/* The second try: one position at a time. */

/** Start it for the next bad position, or close the batch when there is none. */
static void go_on(struct member *m, struct batch *b)
{
    const struct task *t = b->task;
    bool over = task_is_to_end(m, t);

    for (uint32_t i = 0; i < b->count; i++) {
        if (!batch_is_bad(b, i))
            continue;
        if (map_status(t->map, b->first + i) != 0 || over) {
            report(m, b, i, task_end_error(m, t));
            continue;
        }
        b->again = i;
        b->error = 0;
        b->record_error = 0;
        b->landed = false;
        b->record_again = t->kind == READ_RECORDS || t->map->verify;
        b->from = t->kind == READ_RECORDS ? b->count * b->unit : i * b->unit;
        b->to = t->kind == READ_RECORDS ? b->from : b->from + b->unit;
        count_retry(m, b);
        batch_append(&m->again, b);
        return;
    }
    batch_close(m, b);
}

static void verify_again(struct member *m, struct batch *b)
{
    uint32_t i = b->again;
    int error = b->record_error ? b->record_error : b->error;

    b->again = NO_POSITION;
    batch_set_bad(b, i, false);
    if (!error && b->task->kind == READ_LAYER && !layer_good(m, b, i))
        error = EBADMSG;
    if (error)
        report(m, b, i, error);
    b->place_from = i;
    b->place_to = i + 1;
}

static void verify(struct member *m, struct batch *b)
{
    const struct task *t = b->task;

    for (uint32_t i = 0; i < b->count; i++) {
        uint32_t position = b->first + i;

        if (map_status(t->map, position) != 0) {
            batch_set_bad(b, i, false);
        } else if (t->kind == READ_RECORDS) {
            int error;

            if (b->staging && !batch_is_bad(b, i))
                memcpy(map_record(t->map, position), b->staging + i * b->unit, b->unit);
            error = record_error(m, t->map, position, map_record(t->map, position));

            if (error == ENODATA && !batch_is_bad(b, i))
                map_fail(t->map, position, error);
            else if (error)
                batch_set_bad(b, i, true);
        } else if (!batch_is_bad(b, i) && !layer_good(m, b, i)) {
            batch_set_bad(b, i, true);
        }
    }
    b->place_from = 0;
    b->place_to = b->count;
}

void check_placed(struct member *m, struct batch *b)
{
    for (uint32_t i = b->place_from; b->copy_error && i < b->place_to; i++)
        if (!batch_is_bad(b, i))
            report(m, b, i, b->copy_error);
    b->copy_error = 0;
    go_on(m, b);
}

static void check_batch(struct member *m, struct batch *b)
{
    if (b->task->kind == WRITE_LAYER) {
        hash_write(m, b);
        return;
    }
    if (b->task->kind == READ_LAYER && task_wait_for_records(m, b))
        return;
    if (b->again != NO_POSITION)
        verify_again(m, b);
    else
        verify(m, b);
    if (b->task->kind != READ_LAYER || place_in(m, b))
        check_placed(m, b);
}

bool check_some(struct member *m)
{
    uint64_t before = m->counters.hashed_bytes;
    bool some = false;

    for (uint32_t c = 0; c < TUTTI_CLASSES; c++)
        while (m->check[c].first) {
            check_batch(m, batch_pop(&m->check[c]));
            some = true;
            if (m->counters.hashed_bytes - before >= CHECK_AT_ONCE)
                return true;
        }
    return some;
}
