/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scrub.c: see scrub.h.
 *
 * The one idea: a piece is a transfer map over some hundred neighbouring slots
 * that names no generations. Their records are read first and say what the
 * slots hold; then the layers of those that hold something, a few slots and one
 * layer at a time, into one small buffer that all layers share. At most one
 * IOCB is out, so between two of them the map is ours.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "internal.h"

#define DEFAULT_RATE (UINT64_C(16) << 20)
#define PIECE_BYTES (UINT64_C(1) << 20)
#define MAP_SLOTS 256u
#define MOST_SLOTS 64u /* of a piece of data */
#define CLOSE_WAIT_NS UINT64_C(1000000000)
#define SECOND_NS UINT64_C(1000000000)

/** What comes next. */
enum scrub_at { AT_RECORDS, AT_DATA, AT_TELLING };

/**
 * struct tutti_scrub
 * @batch: slots of a piece of data
 * @next_at: nothing is issued before; the rate made it
 * @iocb: what is out, or TUTTI_NO_IOCB
 * @layer, @first, @count: the piece that is out, or comes next
 * @told: positions whose outcome is counted, and told where they are bad
 * @known: the position's record is whole, and so names its generation
 * @disturbed: a store began to write there
 */
struct tutti_scrub {
    struct tutti_serve *serve;
    struct group *group;
    struct tutti_map map;
    struct tutti_record stencil;
    struct tutti_transfer items[MAP_SLOTS];
    uint8_t status[MAP_SLOTS];
    bool known[MAP_SLOTS];
    bool disturbed[MAP_SLOTS];
    struct tutti_kv_plane *planes;
    void *memory;
    size_t memory_bytes;
    uint32_t batch;
    uint64_t rate;
    uint64_t next_at;
    enum scrub_at at;
    uint32_t iocb;
    uint32_t layer;
    uint32_t first;
    uint32_t count;
    uint32_t told;
    struct tutti_scrub_report report;
};

void scrub_free(struct tutti_scrub *scrub)
{
    if (!scrub)
        return;
    scrub->serve->scrub = NULL;
    if (scrub->memory)
        scrub->serve->device->free(scrub->memory, scrub->memory_bytes);
    free(scrub->map.records);
    free(scrub->planes);
    free(scrub);
}

/** One buffer for all layers: a layer is verified before the next one is read. */
static int allocate(struct tutti_scrub *s, struct tutti_error *err)
{
    const struct tutti_placement *p = &s->group->placement;
    uint64_t step = (p->object_bytes + 4095) / 4096 * 4096;
    uint64_t most = PIECE_BYTES / tutti_layer_stride(p);
    void *records = NULL;
    bool huge;
    int rc;

    s->batch = most < 1 ? 1 : most > MOST_SLOTS ? MOST_SLOTS : (uint32_t)most;
    s->memory_bytes = s->batch * p->parts * step;
    s->planes = calloc((size_t)p->layers * p->parts, sizeof(*s->planes));
    if (!s->planes || posix_memalign(&records, 4096, (size_t)MAP_SLOTS * p->record_stride) != 0)
        return tutti_error_set(err, -ENOMEM, "no memory for a scrub");
    s->map.records = records;
    rc = s->serve->device->alloc(s->memory_bytes, &s->memory, &huge, err);
    if (rc < 0)
        return rc;
    for (uint32_t i = 0; i < p->layers * p->parts; i++)
        s->planes[i] = (struct tutti_kv_plane){
            .base = (uint64_t)(uintptr_t)s->memory + i % p->parts * step,
            .block_stride = p->parts * step,
        };
    return 0;
}

/** On to the next slot that is one, and not on a fenced member; some member is not fenced. */
static void settle_cursor(struct tutti_scrub *s, uint32_t fenced)
{
    const struct tutti_placement *p = &s->group->placement;

    for (;;) {
        uint32_t extent = s->report.cursor / p->records_per_extent;
        uint32_t index = s->report.cursor % p->records_per_extent;

        if (extent >= p->extents) {
            s->report.cursor = 0;
            s->report.rounds++;
        } else if (index >= p->slots_per_extent) {
            s->report.cursor = (extent + 1) * p->records_per_extent;
        } else if (fenced >> extent % p->members & 1) {
            s->report.skipped += p->slots_per_extent - index;
            s->report.cursor = (extent + 1) * p->records_per_extent;
        } else {
            return;
        }
    }
}

/** A map over the slots from the cursor on, none of which a store or an erasure has now. Return:
 * false when there are none. */
static bool begin_map(struct tutti_scrub *s)
{
    const struct tutti_placement *p = &s->group->placement;
    uint32_t fenced = tutti_serve_fenced(s->serve);
    uint32_t left;

    if (fenced == (UINT32_C(1) << p->members) - 1)
        return false;
    settle_cursor(s, fenced);
    left = p->slots_per_extent - s->report.cursor % p->records_per_extent;
    s->map.count = left < MAP_SLOTS ? left : MAP_SLOTS;
    memset(s->status, 0, sizeof(s->status));
    memset(s->known, 0, sizeof(s->known));
    memset(s->disturbed, 0, sizeof(s->disturbed));
    for (uint32_t i = 0; i < s->map.count; i++)
        s->items[i] = (struct tutti_transfer){.slot = s->report.cursor + i, .block = i % s->batch};
    s->first = 0;
    s->count = s->map.count;
    s->told = 0;
    return true;
}

/** Positions that were disturbed are read no further; nothing of the map is out. */
static void drop_disturbed(struct tutti_scrub *s)
{
    for (uint32_t i = 0; i < s->map.count; i++)
        if (s->disturbed[i])
            s->status[i] = EBUSY;
}

static const struct tutti_record *record_of(const struct tutti_scrub *s, uint32_t i)
{
    return (const void *)(s->map.records + (size_t)i * s->map.placement->record_stride);
}

/** The records are there: which slots hold something that counts? */
static void take_records(struct tutti_scrub *s)
{
    struct tutti_pool_info info;

    tutti_pool_info(s->serve->pool, &info);
    for (uint32_t i = 0; i < s->map.count; i++) {
        if (s->status[i] != 0)
            continue;
        s->known[i] = true;
        if (!tutti_generation_counts(&info.superblock, record_of(s, i)->generation))
            s->status[i] = ENODATA;
    }
}

/** The next piece of data, from position @from on. Return: false when there is none. */
static bool next_data(struct tutti_scrub *s, uint32_t from)
{
    while (from < s->map.count && s->status[from] != 0)
        from++;
    s->first = from;
    s->count = s->map.count - from < s->batch ? s->map.count - from : s->batch;
    s->layer = 0;
    return from < s->map.count;
}

static uint64_t bytes_of(const struct tutti_scrub *s)
{
    uint64_t bytes = 0;

    if (s->at == AT_RECORDS)
        return (uint64_t)s->count * s->map.placement->record_stride;
    for (uint32_t i = s->first; i < s->first + s->count; i++)
        bytes += s->status[i] == 0 ? tutti_layer_stride(s->map.placement) : 0;
    return bytes;
}

static void issue(struct tutti_scrub *s, uint64_t now)
{
    uint64_t bytes = bytes_of(s);
    uint32_t index;
    struct tutti_iocb *iocb = tutti_ring_get(s->serve->ring, &index);

    if (!iocb) /* GCOVR_EXCL_BR: nothing else is under way, so that all of the ring is free */
        return;
    iocb->map = &s->map;
    iocb->first = s->first;
    iocb->count = s->count;
    iocb->layer = (uint16_t)(s->at == AT_RECORDS ? TUTTI_LAYER_RECORDS : s->layer);
    iocb->direction = TUTTI_READ;
    iocb->class_ = TUTTI_CLASS_SCRUB;
    if (tutti_ring_issue(s->serve->ring, index) < 0) { /* GCOVR_EXCL_BR: all is within limits */
        tutti_ring_put(s->serve->ring, index);
        return;
    }
    s->iocb = index;
    s->report.bytes += bytes;
    s->next_at = now + (uint64_t)((double)bytes * (double)SECOND_NS / (double)s->rate);
}

/** What was out has ended: what comes next? */
static void advance(struct tutti_scrub *s)
{
    bool more = true;

    drop_disturbed(s);
    if (s->at == AT_RECORDS) {
        take_records(s);
        more = next_data(s, 0);
    } else if (++s->layer == s->map.placement->layers) {
        more = next_data(s, s->first + s->count);
    }
    s->at = more ? AT_DATA : AT_TELLING;
}

/** Whether a position is to be told, and what. */
static bool is_bad(const struct tutti_scrub *s, uint32_t i, struct tutti_transfer *bad)
{
    if (s->status[i] != EBADMSG && s->status[i] != ESTALE && s->status[i] != EIO)
        return false;
    *bad = (struct tutti_transfer){.slot = s->items[i].slot};
    if (s->known[i]) {
        bad->generation = record_of(s, i)->generation;
        bad->key = record_of(s, i)->key;
    }
    return true;
}

static uint32_t tell(struct tutti_scrub *s, struct tutti_transfer *bad, uint32_t most)
{
    uint32_t given = 0;
    struct tutti_transfer item;

    drop_disturbed(s);
    for (; s->told < s->map.count && given < most; s->told++) {
        uint8_t status = s->status[s->told];

        s->report.slots++;
        s->report.verified += status == 0;
        s->report.skipped += status == EBUSY || status == ENODEV;
        if (!is_bad(s, s->told, &item))
            continue;
        s->report.bad++;
        s->report.torn += !s->known[s->told];
        bad[given++] = item;
    }
    if (s->told == s->map.count) {
        s->report.cursor += s->map.count;
        s->map.count = 0;
        s->at = AT_RECORDS;
    }
    return given;
}

static bool any_under_way(const struct session *list)
{
    for (; list; list = list->next)
        if (!list->ended)
            return true;
    return false;
}

uint32_t tutti_scrub_step(struct tutti_scrub *s, uint64_t now, struct tutti_transfer *bad,
                          uint32_t most)
{
    struct tutti_serve *serve = s->serve;
    uint32_t given = 0;

    tutti_serve_progress(serve);
    if (s->iocb != TUTTI_NO_IOCB) {
        if (!tutti_ring_done(serve->ring, s->iocb))
            return 0;
        tutti_ring_put(serve->ring, s->iocb);
        s->iocb = TUTTI_NO_IOCB;
        advance(s);
    }
    if (s->at == AT_TELLING)
        given = tell(s, bad, most);
    if (s->at == AT_TELLING || now < s->next_at || any_under_way(serve->retrieves) ||
        any_under_way(serve->stores) || any_under_way(serve->erases))
        return given;
    if (s->map.count > 0 || begin_map(s))
        issue(s, now);
    return given;
}

void tutti_scrub_report(const struct tutti_scrub *scrub, struct tutti_scrub_report *report)
{
    *report = scrub->report;
}

void scrub_disturb(struct tutti_scrub *s, const struct group *group,
                   const struct tutti_transfer *items, uint32_t count)
{
    if (group != s->group || s->map.count == 0)
        return;
    for (uint32_t i = 0; i < count; i++)
        if (items[i].slot - s->items[0].slot < s->map.count)
            s->disturbed[items[i].slot - s->items[0].slot] = true;
}

void scrub_cancel(struct tutti_scrub *scrub)
{
    if (scrub->iocb != TUTTI_NO_IOCB)
        tutti_ring_cancel(scrub->serve->ring, scrub->iocb);
}

int tutti_scrub_open(struct tutti_serve *serve, uint32_t group, uint64_t bytes_per_second,
                     uint32_t cursor, struct tutti_scrub **out, struct tutti_error *err)
{
    struct tutti_scrub *s;
    int rc;

    if (group >= TUTTI_MAX_GROUPS || !serve->group[group].registered)
        return tutti_error_set(err, -EINVAL, "group %u has no KV memory registered", group);
    if (serve->scrub)
        return tutti_error_set(err, -EBUSY, "a scrub is open already");
    s = calloc(1, sizeof(*s));
    if (!s)
        return tutti_error_set(err, -ENOMEM, "no memory for a scrub");
    s->serve = serve;
    s->group = &serve->group[group];
    s->rate = bytes_per_second ? bytes_per_second : DEFAULT_RATE;
    s->iocb = TUTTI_NO_IOCB;
    s->report.cursor = tutti_slot_valid(&s->group->placement, cursor) ? cursor : 0;
    rc = allocate(s, err);
    serve->scrub = s;
    if (rc < 0) {
        scrub_free(s);
        return rc;
    }
    s->map.items = s->items;
    s->map.status = s->status;
    s->map.verify = true;
    s->map.placement = &s->group->placement;
    s->map.planes = s->planes;
    s->map.stencil = &s->stencil;
    session_fill_stencil(serve, s->group, &s->stencil);
    *out = s;
    return 0;
}

void tutti_scrub_close(struct tutti_scrub *scrub)
{
    struct tutti_ring *ring = scrub->serve->ring;

    scrub_cancel(scrub);
    if (scrub->iocb != TUTTI_NO_IOCB) {
        tutti_ring_wait(ring, scrub->iocb, CLOSE_WAIT_NS);
        if (!tutti_ring_done(ring, scrub->iocb))
            return; /* its memory is still the device's */
        tutti_ring_put(ring, scrub->iocb);
    }
    scrub_free(scrub);
}
