/* SPDX-License-Identifier: Apache-2.0 */
/*
 * task.c: which IOCB's turn it is, and when it is over.
 *
 * Knows classes, readiness and cancellation; knows neither disks nor bytes.
 * The one idea: an IOCB that cannot go yet is stepped over, never waited for,
 * and a task leaves its list when its last position is in a batch, so the list
 * holds only what is still to be started.
 *
 * A layer's data is compared with records, so a layer waits until the records
 * of its range that were issued before it are at least submitted: then nothing
 * that holds a batch or staging waits for something that has none.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/member.h"

static enum task_kind kind_of(const struct tutti_iocb *iocb)
{
    if (iocb->layer == TUTTI_LAYER_EMPTY)
        return WRITE_EMPTY;
    if (iocb->layer == TUTTI_LAYER_RECORDS)
        return iocb->direction == TUTTI_READ ? READ_RECORDS : WRITE_RECORDS;
    return iocb->direction == TUTTI_READ ? READ_LAYER : WRITE_LAYER;
}

static void list_append(struct task_list *list, struct task *t)
{
    t->next = NULL;
    *list->last = t;
    list->last = &t->next;
}

/** Nearly always the first one: order of taking is order of leaving. */
static void list_remove(struct task_list *list, struct task *t)
{
    struct task **at = &list->first;

    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    if (list->last == &t->next)
        list->last = at;
}

int task_open(struct member *m)
{
    m->task = calloc(m->ring_depth, sizeof(*m->task));
    for (uint32_t c = 0; c < TUTTI_CLASSES; c++)
        m->class_list[c].last = &m->class_list[c].first;
    return m->task ? 0 : -ENOMEM;
}

static void finish(struct member *m, struct task *t)
{
    struct batch *b;

    if (t->kind == READ_RECORDS) {
        struct task **at = &m->records_list;

        while (*at != t)
            at = &(*at)->next_records;
        *at = t->next_records;
        while ((b = batch_pop(&t->waiting)))
            batch_append(&m->check[b->task->class_], b);
    }
    m->active--;
    tutti_ring_finish(m->ring, t->index, m->number, tutti_clock_now(), t->bytes, t->hashed,
                      t->retried, t->commands);
}

/** Nothing of it will be enqueued on the device's stream any more: who waits for that may go on. */
static void launch_if_so(struct member *m, struct task *t)
{
    if (!t->expanded || t->launching > 0 || t->launched)
        return;
    t->launched = true;
    tutti_ring_launched(m->ring, t->index);
}

void task_batch_launched(struct member *m, struct batch *b)
{
    if (b->launched)
        return;
    b->launched = true;
    b->task->launching--;
    launch_if_so(m, b->task);
}

static void finish_if_over(struct member *m, struct task *t)
{
    if (t->expanded && t->open_batches == 0)
        finish(m, t);
}

void task_batch_over(struct member *m, struct task *t)
{
    t->open_batches--;
    finish_if_over(m, t);
}

/** No more batches will be opened. */
static void expanded(struct member *m, struct task *t)
{
    list_remove(&m->class_list[t->class_], t);
    t->expanded = true;
    launch_if_so(m, t);
    finish_if_over(m, t);
}

bool task_is_to_end(const struct member *m, const struct task *t)
{
    return m->closing || fence_closed(m) || tutti_ring_cancelled(m->ring, t->index);
}

int task_end_error(const struct member *m, const struct task *t)
{
    return m->closing || tutti_ring_cancelled(m->ring, t->index) ? ECANCELED : ENODEV;
}

/** Not started, or not to go on: what is left of its range stays undone. */
static void give_up(struct member *m, struct task *t)
{
    int error = task_end_error(m, t);

    while (batch_seek(m, t))
        map_fail(t->map, t->cursor++, error);
    expanded(m, t);
}

bool task_take(struct member *m)
{
    uint32_t index = tutti_ring_take(m->ring, m->number);
    struct task *t;

    if (index == TUTTI_NO_IOCB)
        return false;
    t = &m->task[index];
    memset(t, 0, sizeof(*t));
    t->index = index;
    t->iocb = tutti_ring_iocb(m->ring, index);
    t->map = t->iocb->map;
    t->kind = kind_of(t->iocb);
    t->class_ = t->iocb->class_;
    t->sequence = m->sequence++;
    t->cursor = t->iocb->first;
    m->active++;
    t->waiting.last = &t->waiting.first;
    if (t->kind == READ_RECORDS) {
        t->next_records = m->records_list;
        m->records_list = t;
    }
    list_append(&m->class_list[t->class_], t);
    /* Over at once where no slot of the range is ours. Where all of ours failed before, it has its
     * turn: who waits for it counts on what it waits for. */
    if (!batch_seek(m, t) && (tutti_ring_ready(m->ring, index) || !batch_ours(m, t)))
        expanded(m, t);
    return true;
}

static bool overlap(const struct task *t, const struct tutti_map *map, uint32_t first,
                    uint32_t count)
{
    return t->map == map && first < t->iocb->first + t->iocb->count &&
           t->iocb->first < first + count;
}

/** Whether earlier records of its range are still to be submitted; they inherit its class. */
static bool records_missing(struct member *m, struct task *t)
{
    bool missing = false;

    if (t->kind != READ_LAYER)
        return false;
    for (struct task *r = m->records_list; r; r = r->next_records) {
        if (r->expanded || r->sequence > t->sequence ||
            !overlap(r, t->map, t->iocb->first, t->iocb->count))
            continue;
        missing = true;
        if (r->class_ > t->class_) {
            list_remove(&m->class_list[r->class_], r);
            r->class_ = t->class_;
            list_append(&m->class_list[r->class_], r);
        }
    }
    return missing;
}

bool task_wait_for_records(struct member *m, struct batch *b)
{
    for (struct task *r = m->records_list; r; r = r->next_records)
        if (r->sequence < b->task->sequence && overlap(r, b->task->map, b->first, b->count)) {
            batch_append(&r->waiting, b);
            return true;
        }
    return false;
}

/** Whether a layer's memory is the host's to touch; else the device's streams copy. */
static bool is_reachable(const struct member *m, const struct task *t)
{
    const struct tutti_placement *p = t->map->placement;

    for (uint32_t part = 0; part < p->parts; part++)
        if (!m->device->direct(t->map->planes[t->iocb->layer * p->parts + part].base,
                               p->object_bytes))
            return false;
    return true;
}

/** Direct or staged: one answer for a layer, since all its objects lie alike. */
static bool is_direct(const struct member *m, const struct task *t)
{
    const struct tutti_placement *p = t->map->placement;
    uint32_t mask = m->options.direct ? m->options.alignment - 1 : 0;

    if (!t->reachable)
        return false;

    for (uint32_t part = 0; part < p->parts; part++) {
        const struct tutti_kv_plane *plane = &t->map->planes[t->iocb->layer * p->parts + part];

        if (((plane->base | plane->block_stride | p->object_bytes) & mask) != 0)
            return false;
        if (m->backend->fixed_only &&
            !m->type->reaches(m->backend, (const void *)(uintptr_t)plane->base, p->object_bytes))
            return false;
    }
    return true;
}

enum look { GO, STEP_OVER, GIVE_UP };

static enum look look_at(struct member *m, struct task *t)
{
    if (task_is_to_end(m, t))
        return GIVE_UP;
    if (t->started)
        return GO;
    if (!tutti_ring_ready(m->ring, t->index)) {
        t->held = m->look;
        m->stepped_over = true;
        m->polls = m->polls || t->iocb->ready;
        return STEP_OVER;
    }
    if (records_missing(m, t))
        return STEP_OVER;
    if (!tutti_ring_start(m->ring, t->index, tutti_clock_now()))
        return GIVE_UP;
    t->started = true;
    if (t->kind == READ_LAYER || t->kind == WRITE_LAYER) {
        t->reachable = is_reachable(m, t);
        t->direct = is_direct(m, t);
    }
    return GO;
}

enum step { SUBMITTED, CHANGED, NOTHING, NO_BATCH, FULL };

/*
 * What a pass may still do. A batch that is open goes out as soon as there is room, whatever its
 * class: it holds staging that those before it may be waiting for. And what is cancelled is given
 * up, however long the queue before it.
 */
enum room { ROOM, ROOM_FOR_OPEN_ONES, NO_ROOM };

static bool to_be_looked_at(struct member *m, const struct task *t, enum room room)
{
    return room == ROOM || (room == ROOM_FOR_OPEN_ONES && t->filling) || task_is_to_end(m, t);
}

/** What of its open batch is not submitted is not to be. */
static void drop_filling(struct member *m, struct task *t, int error)
{
    struct batch *b = t->filling;

    t->filling = NULL;
    batch_drop_rest(b, error);
    if (b->open == 0)
        check_settle(m, b);
}

/** Bring one task forward by one command. CHANGED: it left its list; look again from the front. */
static enum step step(struct member *m, struct task *t)
{
    enum look look;

    if (t->filling && t->filling->copying && !place_out_over(m, t->filling))
        return NOTHING; /* also where it is to end: the device writes into its staging */
    look = look_at(m, t);
    if (look == STEP_OVER)
        return NOTHING;
    if (look == GIVE_UP) {
        if (t->filling)
            drop_filling(m, t, task_end_error(m, t));
        give_up(m, t);
        return CHANGED;
    }
    if (t->iocb->budget && t->open_commands >= t->iocb->budget)
        return NOTHING;
    if (!t->filling) {
        switch (batch_open(m, t)) {
        case EXPANDED:
            expanded(m, t);
            return CHANGED;
        case BLOCKED:
            return NO_BATCH;
        case OPENED:
            break;
        }
        if (t->filling->copying)
            return NOTHING;
    }
    if (t->filling->copy_error) {
        drop_filling(m, t, t->filling->copy_error);
        return SUBMITTED;
    }
    if (!batch_submit(m, t->filling))
        return FULL;
    if (t->filling->from == t->filling->to) {
        struct batch *b = t->filling;

        t->filling = NULL;
        check_submitted(m, b);
    }
    return SUBMITTED;
}

/** One command more, or false. */
static bool fill_one(struct member *m)
{
    struct batch *b = m->again.first;
    enum room room = ROOM;

    if (b) { /* a second try goes first: what waits for it has waited long enough */
        if (task_is_to_end(m, b->task)) {
            batch_pop(&m->again);
            batch_drop_rest(b, task_end_error(m, b->task));
            if (b->open == 0)
                check_settle(m, b);
            return true;
        }
        if (batch_submit(m, b)) {
            if (b->from == b->to && !b->record_again)
                batch_pop(&m->again);
            return true;
        }
        room = NO_ROOM;
    }
    m->look++;
    m->stepped_over = false;
    m->polls = false;
    for (uint32_t c = 0; c < TUTTI_CLASSES; c++)
        for (struct task *t = m->class_list[c].first; t; t = t->next) {
            enum step stepped = to_be_looked_at(m, t, room) ? step(m, t) : NOTHING;

            if (stepped == SUBMITTED || stepped == CHANGED)
                return true;
            if (stepped == NO_BATCH)
                room = ROOM_FOR_OPEN_ONES;
            else if (stepped == FULL)
                room = NO_ROOM;
        }
    /* What was not looked at may be cancelled meanwhile: that is to wake us. */
    m->stepped_over = m->stepped_over || room != ROOM;
    return false;
}

void task_fill(struct member *m)
{
    while (fill_one(m))
        ;
}

bool task_any_ready(struct member *m)
{
    for (uint32_t c = 0; c < TUTTI_CLASSES; c++)
        for (struct task *t = m->class_list[c].first; t; t = t->next)
            if (tutti_ring_cancelled(m->ring, t->index) ||
                (t->held == m->look && tutti_ring_ready(m->ring, t->index)))
                return true;
    return false;
}
