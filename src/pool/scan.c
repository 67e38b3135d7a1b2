/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scan.c: reading every record of a rank.
 *
 * Knows no data area. Threads take pieces of record areas (up to 1 MiB each)
 * from a counter, so several large reads are under way at any time and members
 * take turns.
 *
 * The idea that makes it simple: the result is laid out for all slots, and the
 * thread that reads a piece writes its entries where the piece's slots are; no
 * lock, no sort, and memory that is never touched costs nothing. At the end
 * the entries are moved together.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/atomics.h"
#include "base/clock.h"
#include "layout/record.h"
#include "pool/internal.h"

#define PIECE_BYTES (1u << 20)
#define IN_FLIGHT_BYTES (4u << 20) /* keeps a fast drive busy when record areas are small */
#define MAX_THREADS 32u

struct scan {
    struct tutti_pool *pool;
    const struct scan_request *request;
    struct tutti_placement placement; /* of any shape: records lie the same for all */
    uint64_t digest[TUTTI_MAX_GROUPS];
    uint32_t piece_records;
    uint32_t pieces_per_extent;
    uint64_t pieces;
    uint64_t next; /* taken by fetch-and-add */
    struct tutti_scan_entry *entries;
    uint32_t *found;      /* entries of each piece */
    pthread_mutex_t lock; /* the rest: */
    struct tutti_scan_report report;
    struct tutti_error error;
    int rc; /* read relaxed without the lock, to stop early */
};

void run_parallel(uint32_t threads, void *(*work)(void *), void *argument)
{
    pthread_t thread[MAX_THREADS];
    uint32_t started = 0;

    if (threads > MAX_THREADS) /* GCOVR_EXCL_BR: guards the array; no caller asks for more */
        threads = MAX_THREADS;
    while (started + 1 < threads && pthread_create(&thread[started], NULL, work, argument) == 0)
        started++;
    work(argument); /* so that it gets done even where no thread can be made */
    for (uint32_t i = 0; i < started; i++)
        pthread_join(thread[i], NULL);
}

static int known_shape(const struct scan *scan, uint64_t digest)
{
    for (uint32_t i = 0; i < scan->pool->superblock.groups; i++)
        if (scan->digest[i] == digest)
            return (int)i;
    return -1;
}

/*
 * What a record is worth. Return: 0 when it counts, -ENODATA empty, -EBADMSG
 * torn, -ESTALE of an epoch that does not count, -EXDEV whole but not for here.
 */
static int judge_record(const struct scan *scan, const struct tutti_record *r, uint32_t slot)
{
    const struct tutti_superblock *s = &scan->pool->superblock;
    int rc = tutti_record_whole(r, s->record_stride);
    int shape;

    if (rc < 0)
        return rc;
    shape = known_shape(scan, r->geometry);
    if (memcmp(r->pool, s->pool, sizeof(r->pool)) != 0 || r->rank != s->rank || r->slot != slot ||
        r->member != tutti_record_place(&scan->placement, slot).member || shape < 0 ||
        r->group != s->geometry[shape].group || r->layers != s->geometry[shape].layers ||
        !tutti_slot_valid(&scan->pool->placement[shape], slot))
        return -EXDEV;
    return tutti_generation_counts(s, r->generation) ? 0 : -ESTALE;
}

static void fill_entry(struct tutti_scan_entry *entry, const struct tutti_record *r)
{
    memset(entry, 0, sizeof(*entry));
    entry->slot = r->slot;
    entry->incarnation = r->incarnation;
    entry->generation = r->generation;
    entry->geometry = r->geometry;
    entry->key = r->key;
    entry->parent = r->parent;
    memcpy(entry->identity, r->identity, sizeof(entry->identity));
    entry->group = r->group;
}

static void count(struct tutti_scan_report *report, int rc)
{
    switch (rc) {
    case 0:
        report->valid++;
        break;
    case -ENODATA:
        report->empty++;
        break;
    case -ESTALE:
        report->void_++;
        break;
    case -EXDEV:
        report->alien++;
        break;
    default:
        report->torn++;
        break;
    }
}

/* An unreadable sector costs the records in it and no more. */
static int read_singly(const struct scan *scan, const struct backing *b, unsigned char *buffer,
                       uint32_t records, uint64_t offset)
{
    uint32_t stride = scan->placement.record_stride;

    for (uint32_t i = 0; i < records; i++) {
        int rc =
            backing_read(b, buffer + (size_t)i * stride, stride, offset + (uint64_t)i * stride);

        if (rc == -EIO)
            memset(buffer + (size_t)i * stride, 0xff, stride); /* judged torn */
        else if (rc < 0)
            return rc;
    }
    return 0;
}

static int scan_piece(struct scan *scan, uint64_t piece, unsigned char *buffer,
                      struct tutti_scan_report *report, struct tutti_error *err)
{
    const struct tutti_placement *p = &scan->placement;
    uint32_t first = (uint32_t)(piece % scan->pieces_per_extent) * scan->piece_records;
    uint32_t left = p->records_per_extent - first;
    uint32_t records = left < scan->piece_records ? left : scan->piece_records;
    uint32_t slot = (uint32_t)(piece / scan->pieces_per_extent) * p->records_per_extent + first;
    struct tutti_place place = tutti_record_place(p, slot);
    const struct backing *b = &scan->pool->member[place.member].backing;
    struct tutti_scan_entry *entry = &scan->entries[slot];
    int rc = backing_read(b, buffer, (size_t)records * p->record_stride, place.offset);

    if (rc == -EIO)
        rc = read_singly(scan, b, buffer, records, place.offset);
    if (rc < 0)
        return backing_error(rc, "reading the records of", b->path, place.offset, err);
    for (uint32_t i = 0; i < records; i++) {
        const struct tutti_record *r =
            (const struct tutti_record *)(const void *)(buffer + (size_t)i * p->record_stride);
        int worth = judge_record(scan, r, slot + i);

        count(report, worth);
        if (worth == 0)
            fill_entry(entry++, r);
        else if (scan->request->bad && (worth == -EBADMSG || worth == -EXDEV))
            scan->request->bad(scan->request->argument, slot + i, worth);
    }
    scan->found[piece] = (uint32_t)(entry - &scan->entries[slot]);
    report->bytes += (uint64_t)records * p->record_stride;
    return 0;
}

static void *scan_thread(void *argument)
{
    struct scan *scan = argument;
    struct tutti_scan_report report = {0};
    struct tutti_error error = {0};
    unsigned char *buffer =
        backing_buffer((size_t)scan->piece_records * scan->placement.record_stride);
    int rc = buffer ? 0 : tutti_error_set(&error, -ENOMEM, "scan: no memory for a read buffer");

    /* Relaxed: a late look costs one piece more. */
    while (rc == 0 && tutti_load_relaxed(&scan->rc) == 0) {
        /* Relaxed: only the number matters; join publishes what threads wrote. */
        uint64_t piece = tutti_add_relaxed(&scan->next, 1);

        if (piece >= scan->pieces)
            break;
        rc = scan_piece(scan, piece, buffer, &report, &error);
    }
    free(buffer);
    pthread_mutex_lock(&scan->lock);
    scan->report.valid += report.valid;
    scan->report.empty += report.empty;
    scan->report.torn += report.torn;
    scan->report.void_ += report.void_;
    scan->report.alien += report.alien;
    scan->report.bytes += report.bytes;
    if (rc < 0 && scan->rc == 0) {
        scan->error = error;
        tutti_store_relaxed(&scan->rc, rc);
    }
    pthread_mutex_unlock(&scan->lock);
    return NULL;
}

/* Move the pieces' entries together. Return: how many. */
static size_t gather(struct scan *scan)
{
    size_t total = 0;

    for (uint64_t piece = 0; piece < scan->pieces; piece++) {
        uint64_t extent = piece / scan->pieces_per_extent;
        uint64_t slot = extent * scan->placement.records_per_extent +
                        piece % scan->pieces_per_extent * scan->piece_records;

        if (scan->found[piece] > 0 && slot != total)
            memmove(&scan->entries[total], &scan->entries[slot],
                    scan->found[piece] * sizeof(scan->entries[0]));
        total += scan->found[piece];
    }
    return total;
}

/*
 * An extent holds slots of one shape at a time, and each time that it is given
 * to a shape it gets a larger incarnation. What is left of former ones is void;
 * between shapes of one incarnation (which only a bug makes) the latest
 * generation decides.
 */
static size_t keep_latest_incarnation(struct scan *scan, size_t total)
{
    struct tutti_scan_entry *e = scan->entries;
    uint32_t per_extent = scan->placement.records_per_extent;
    size_t kept = 0;

    for (size_t i = 0; i < total;) {
        const struct tutti_scan_entry *best = &e[i];
        uint32_t incarnation;
        uint64_t geometry;
        size_t end = i;

        for (; end < total && e[end].slot / per_extent == e[i].slot / per_extent; end++)
            if (e[end].incarnation > best->incarnation ||
                (e[end].incarnation == best->incarnation && e[end].generation > best->generation))
                best = &e[end];
        incarnation = best->incarnation;
        geometry = best->geometry;
        for (; i < end; i++)
            if (e[i].incarnation == incarnation && e[i].geometry == geometry)
                e[kept++] = e[i];
    }
    scan->report.valid -= total - kept;
    scan->report.void_ += total - kept;
    return kept;
}

static int prepare(struct scan *scan, struct tutti_error *err)
{
    struct tutti_pool *pool = scan->pool;
    const struct tutti_superblock *s = &pool->superblock;
    uint64_t slots;

    scan->placement = pool->placement[0];
    for (uint32_t i = 0; i < s->groups; i++)
        scan->digest[i] = tutti_geometry_digest(&s->geometry[i]);
    scan->piece_records = PIECE_BYTES / s->record_stride;
    if (scan->piece_records > s->records_per_extent)
        scan->piece_records = s->records_per_extent;
    scan->pieces_per_extent =
        (s->records_per_extent + scan->piece_records - 1) / scan->piece_records;
    scan->pieces = (uint64_t)scan->placement.extents * scan->pieces_per_extent;
    slots = (uint64_t)scan->placement.extents * s->records_per_extent;
    scan->entries = malloc((size_t)slots * sizeof(scan->entries[0]));
    scan->found = calloc((size_t)scan->pieces, sizeof(scan->found[0]));
    if (!scan->entries || !scan->found)
        return tutti_error_set(err, -ENOMEM, "%s: no memory to scan %" PRIu64 " slots",
                               pool->member[0].backing.path, slots);
    return 0;
}

static uint32_t choose_threads(const struct scan *scan)
{
    uint32_t piece = scan->piece_records * scan->placement.record_stride;
    uint32_t threads = scan->request->threads;

    if (threads == 0) {
        threads = IN_FLIGHT_BYTES / piece * scan->placement.members; /* 4 or more a member */
        if (threads > MAX_THREADS / 2)
            threads = MAX_THREADS / 2;
    }
    if (threads > scan->pieces)
        threads = (uint32_t)scan->pieces;
    return threads < MAX_THREADS ? threads : MAX_THREADS;
}

int scan_records(struct tutti_pool *pool, const struct scan_request *request,
                 struct tutti_scan_entry **entries, size_t *total, struct tutti_scan_report *report,
                 struct tutti_error *err)
{
    struct scan scan = {.pool = pool, .request = request, .lock = PTHREAD_MUTEX_INITIALIZER};
    uint64_t begin = tutti_clock_now();
    int rc = prepare(&scan, err);

    *entries = NULL;
    *total = 0;
    if (rc == 0) {
        run_parallel(choose_threads(&scan), scan_thread, &scan);
        rc = scan.rc;
        if (rc < 0)
            tutti_error_set(err, rc, "%s", scan.error.message);
    }
    if (rc == 0) {
        struct tutti_scan_entry *smaller;

        *total = keep_latest_incarnation(&scan, gather(&scan));
        smaller = realloc(scan.entries, (*total > 0 ? *total : 1) * sizeof(*smaller));
        *entries = smaller ? smaller : scan.entries;
        scan.entries = NULL;
        scan.report.nanoseconds = tutti_clock_now() - begin;
    }
    if (report)
        *report = scan.report;
    free(scan.entries);
    free(scan.found);
    return rc;
}

int tutti_pool_scan(struct tutti_pool *pool, uint32_t threads, struct tutti_scan_entry **entries,
                    size_t *total, struct tutti_scan_report *report, struct tutti_error *err)
{
    struct scan_request request = {.threads = threads};

    return scan_records(pool, &request, entries, total, report, err);
}
