/* SPDX-License-Identifier: Apache-2.0 */
/*
 * place.c: a batch's objects between staging and KV memory.
 *
 * Knows the memory formula and the device's copies; nothing of checksums or disks. The one
 * idea: where the device has streams, copies are enqueued a batch at a time and the batch set
 * aside until they are done, so that the member's thread never waits for a stream: computation
 * on another may be waiting for a word that this thread has yet to write.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/member.h"

int place_open(struct member *m, struct tutti_error *err)
{
    m->landing.last = &m->landing.first;
    if (!m->device->streams)
        return 0;
    m->copies = malloc(sizeof(*m->copies) * MEMBER_SLOTS * TUTTI_MAX_PARTS);
    if (!m->copies)
        return tutti_error_set(err, -ENOMEM, "%s: no memory for lists of copies", m->options.path);
    return m->device->streams->copier_open(&m->copier, err);
}

void place_close(struct member *m)
{
    if (m->copier)
        m->device->streams->copier_close(m->copier);
    m->copier = NULL;
    free(m->copies);
    m->copies = NULL;
}

static uint64_t kv_address(const struct batch *b, uint32_t i, uint32_t part)
{
    const struct tutti_map *map = b->task->map;

    return tutti_kv_address(map->planes, map->placement->parts, b->task->iocb->layer, part,
                            map->items[b->first + i].block);
}

/** The end of copies, or why there were none, where who asks for the last error finds it. */
static void note_error(struct member *m, const struct tutti_error *why)
{
    pthread_mutex_lock(&m->lock);
    m->io_error = *why;
    pthread_mutex_unlock(&m->lock);
    member_count(&m->counters.io_errors, 1);
}

static bool by_stream(const struct member *m, const struct batch *b)
{
    return m->copier && !b->task->reachable;
}

/** Enqueue what m->copies lists. The batch is copying where something has to be waited for. */
static void enqueue(struct member *m, struct batch *b, enum tutti_way way, uint32_t count)
{
    const struct tutti_map *map = b->task->map;
    struct tutti_error why = {0};
    int rc = m->device->streams->copy(m->copier, way, m->copies, count,
                                      way == TUTTI_COPY_IN ? map->after : NULL, map->after_value,
                                      &b->ticket, &why);

    b->copy_error = -rc;
    if (rc < 0)
        note_error(m, &why);
    b->copying = b->ticket != 0;
    m->copying += b->copying;
}

/** Whether a batch's copies are over; how they ended is in copy_error. */
static bool is_over(struct member *m, struct batch *b, enum tutti_way way)
{
    struct tutti_error why = {0};
    int rc = m->device->streams->copied(m->copier, way, b->ticket, &why);

    if (rc == 0)
        return false;
    if (rc < 0) {
        b->copy_error = b->copy_error ? b->copy_error : -rc;
        note_error(m, &why);
    }
    b->copying = false;
    m->copying--;
    return true;
}

/** KV memory -> staging, with zeros between objects. */
void place_out(struct member *m, struct batch *b)
{
    const struct tutti_placement *p = b->task->map->placement;
    uint8_t *at = b->staging;
    uint32_t n = 0;

    for (uint32_t i = 0; i < b->count; i++)
        for (uint32_t part = 0; part < p->parts; part++, at += p->object_stride) {
            uint64_t kv = kv_address(b, i, part);

            if (by_stream(m, b))
                m->copies[n++] = (struct tutti_copy){kv, at, p->object_bytes};
            else
                m->device->copy_out(at, kv, p->object_bytes);
            memset(at + p->object_bytes, 0, p->object_stride - p->object_bytes);
        }
    if (by_stream(m, b))
        enqueue(m, b, TUTTI_COPY_OUT, n);
}

bool place_out_over(struct member *m, struct batch *b)
{
    return is_over(m, b, TUTTI_COPY_OUT);
}

static bool any_bad(const struct batch *b)
{
    for (uint32_t i = 0; i < b->count; i++)
        if (batch_is_bad(b, i))
            return true;
    return false;
}

/**
 * Staging -> KV memory, of what was verified just now. Return: true when that is done; else
 * place_collect() goes on with the batch.
 */
bool place_in(struct member *m, struct batch *b)
{
    const struct tutti_placement *p = b->task->map->placement;
    uint32_t n = 0;

    if (!b->staging)
        return true;
    for (uint32_t i = b->place_from; i < b->place_to; i++)
        for (uint32_t part = 0; part < p->parts; part++) {
            if (batch_is_bad(b, i) || map_status(b->task->map, b->first + i) != 0)
                continue;
            if (by_stream(m, b))
                m->copies[n++] =
                    (struct tutti_copy){kv_address(b, i, part),
                                        (void *)(uintptr_t)batch_part(b, i, part), p->object_bytes};
            else
                m->device->copy_in(kv_address(b, i, part), batch_part(b, i, part), p->object_bytes);
        }
    if (n > 0)
        enqueue(m, b, TUTTI_COPY_IN, n);
    if (!b->copying)
        return true;
    batch_append(&m->landing, b);
    if (!any_bad(b))
        task_batch_launched(m, b);
    return false;
}

/** Go on with the batches whose copies are done: in order, since the stream has one. */
bool place_collect(struct member *m)
{
    bool some = false;

    while (m->landing.first && is_over(m, m->landing.first, TUTTI_COPY_IN)) {
        check_placed(m, batch_pop(&m->landing));
        some = true;
    }
    return some;
}
