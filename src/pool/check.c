/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check.c: comparing every layer on disk with its record. Writes nothing.
 *
 * A scan says which slots count; threads then take stretches of neighbouring
 * slots, a few MiB of one layer at a time, read them as one piece and compute
 * the layers' sums. The pool may be in use meanwhile (it was opened for reading
 * only): what does not match counts only if the record is still the one that
 * was read first. With a rate, one thread does it, and rests before each read.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/checksum.h"
#include "base/clock.h"
#include "layout/record.h"
#include "pool/internal.h"

#define READ_BYTES (4u << 20)
#define READ_BYTES_AT_RATE (256u << 10)
#define MAX_STRETCH 64u
#define CHECK_THREADS 8u
#define NO_LAYER UINT32_MAX

static const char unreadable_layer[] = "the layer cannot be read (I/O error)";
static const char unreadable_record[] = "the record cannot be read again (I/O error)";

struct check {
    struct tutti_pool *pool;
    uint64_t bytes_per_second; /* 0: no bound */
    uint64_t next_at;          /* when the rate allows the next read */
    tutti_check_fn bad;
    void (*progress)(void *, uint64_t, uint64_t);
    void *argument;
    const struct tutti_scan_entry *entries;
    size_t count;
    size_t buffer_bytes;
    uint64_t bytes;       /* of all valid slots, for progress */
    pthread_mutex_t lock; /* the rest, and calls of bad and progress: */
    size_t next;
    uint64_t done;
    uint64_t mismatched;
    int rc;
    struct tutti_error error;
    bool stop; /* bad() asked to stop */
};

/* Neighbouring slots of one shape, and what a thread works with. */
struct stretch {
    const struct tutti_scan_entry *entry;
    uint32_t count;
    const struct tutti_placement *placement;
    unsigned char *records;
    unsigned char *data;
    uint32_t bad_layer[MAX_STRETCH]; /* first one, or NO_LAYER */
    bool skip[MAX_STRETCH];          /* moved on since the scan */
    const char *what[MAX_STRETCH];
};

bool check_is_unreadable(const char *what)
{
    return what == unreadable_layer || what == unreadable_record;
}

static void tell(struct check *c, const struct tutti_scan_entry *entry, uint32_t layer,
                 const char *what)
{
    if (c->bad && !c->stop && c->bad(c->argument, entry, layer, what) != 0)
        c->stop = true;
}

static void bad_record(void *argument, uint32_t slot, int code)
{
    struct check *c = argument;
    struct tutti_scan_entry entry = {.slot = slot};

    pthread_mutex_lock(&c->lock);
    tell(c, &entry, NO_LAYER,
         code == -EXDEV ? "the record belongs elsewhere (pool, rank, member, slot or shape)"
                        : "the record is torn: its own checksum does not match");
    pthread_mutex_unlock(&c->lock);
}

/* Of an entry's shape: the scan lets through none that the pool does not know. */
static const struct tutti_placement *placement_of(const struct check *c, uint64_t digest)
{
    uint32_t i = 0;

    while (tutti_geometry_digest(&c->pool->superblock.geometry[i]) != digest)
        i++;
    return &c->pool->placement[i];
}

/* Take the next stretch. Return: false when there is none. */
static bool take(struct check *c, struct stretch *s)
{
    const struct tutti_scan_entry *e = c->entries;
    uint32_t most;
    size_t i;

    pthread_mutex_lock(&c->lock);
    i = c->next;
    s->count = 0;
    if (i < c->count && !c->stop && c->rc == 0) {
        s->entry = &e[i];
        s->placement = placement_of(c, e[i].geometry);
        most = (uint32_t)(c->buffer_bytes / tutti_layer_stride(s->placement));
        most = most > MAX_STRETCH ? MAX_STRETCH : most; /* 1 or more: check_data() saw to it */
        do
            s->count++;
        while (s->count < most && i + s->count < c->count &&
               e[i + s->count].geometry == e[i].geometry &&
               tutti_slot_follows(s->placement, e[i + s->count - 1].slot, e[i + s->count].slot));
        c->next = i + s->count;
    }
    pthread_mutex_unlock(&c->lock);
    return s->count > 0;
}

static struct tutti_record *record_at(const struct stretch *s, uint32_t i)
{
    return (struct tutti_record *)(void *)(s->records + (size_t)i * s->placement->record_stride);
}

/* Whether this is the record that the scan told of. */
static bool is_entry(const struct stretch *s, uint32_t i, const struct tutti_record *r)
{
    const struct tutti_scan_entry *e = &s->entry[i];

    return tutti_record_whole(r, s->placement->record_stride) == 0 && r->slot == e->slot &&
           r->generation == e->generation && r->geometry == e->geometry &&
           tutti_key_equal(r->key, e->key);
}

/** Read when the rate allows it. Return: as backing_read(). */
static int read_at_rate(struct check *c, struct tutti_place place, void *to, uint64_t bytes)
{
    if (c->bytes_per_second != 0) {
        uint64_t now = tutti_clock_now();
        uint64_t rest = c->next_at > now ? c->next_at - now : 0;
        struct timespec t = {.tv_sec = (time_t)(rest / 1000000000),
                             .tv_nsec = (long)(rest % 1000000000)};

        if (rest > 0)
            nanosleep(&t, NULL); /* a signal makes it shorter, and the next one longer */
        c->next_at = now + rest + (uint64_t)((double)bytes * 1e9 / (double)c->bytes_per_second);
    }
    return backing_read(&c->pool->member[place.member].backing, to, (size_t)bytes, place.offset);
}

static int read_records(struct check *c, struct stretch *s)
{
    struct tutti_place place = tutti_record_place(s->placement, s->entry[0].slot);
    int rc = read_at_rate(c, place, s->records, (uint64_t)s->count * s->placement->record_stride);

    for (uint32_t i = 0; i < s->count; i++) {
        s->bad_layer[i] = NO_LAYER;
        s->what[i] = NULL;
        s->skip[i] = rc == 0 && !is_entry(s, i, record_at(s, i));
    }
    return rc;
}

static void mark(struct stretch *s, uint32_t i, uint32_t layer, const char *what)
{
    if (!s->what[i]) {
        s->bad_layer[i] = layer;
        s->what[i] = what;
    }
}

/* Compare one layer of slots [first, first + count), whose bytes are in s->data. */
static void compare(struct stretch *s, uint32_t first, uint32_t count, uint32_t layer)
{
    const struct tutti_placement *p = s->placement;

    for (uint32_t i = 0; i < count; i++) {
        const unsigned char *at = s->data + i * tutti_layer_stride(p);
        const void *part[TUTTI_MAX_PARTS];

        for (uint32_t k = 0; k < p->parts; k++)
            part[k] = at + k * p->object_stride;
        if (!s->skip[first + i] && tutti_layer_sum(part, p->parts, p->object_bytes) !=
                                       tutti_record_sum(record_at(s, first + i), layer))
            mark(s, first + i, layer, "the layer's checksum does not match its record");
    }
}

static void check_layer(struct check *c, struct stretch *s, uint32_t layer)
{
    const struct tutti_placement *p = s->placement;
    uint64_t bytes = tutti_layer_stride(p);
    struct tutti_place place = tutti_object_place(p, s->entry[0].slot, layer, 0);

    if (read_at_rate(c, place, s->data, bytes * s->count) == 0) {
        compare(s, 0, s->count, layer);
        return;
    }
    for (uint32_t i = 0; i < s->count; i++) { /* whose sector was it? */
        if (read_at_rate(c, place, s->data, bytes) < 0)
            mark(s, i, layer, unreadable_layer);
        else
            compare(s, i, 1, layer);
        place.offset += bytes;
    }
}

/* Read the record of a failed slot once more: a running server may have moved on. */
static bool still_there(const struct check *c, struct stretch *s, uint32_t i)
{
    struct tutti_place place = tutti_record_place(s->placement, s->entry[i].slot);

    return backing_read(&c->pool->member[place.member].backing, s->data,
                        s->placement->record_stride, place.offset) < 0 ||
           is_entry(s, i, (struct tutti_record *)(void *)s->data);
}

static void finish(struct check *c, struct stretch *s)
{
    for (uint32_t i = 0; i < s->count; i++)
        if (s->what[i] && !still_there(c, s, i))
            s->what[i] = NULL;
    pthread_mutex_lock(&c->lock);
    for (uint32_t i = 0; i < s->count; i++)
        if (s->what[i]) {
            c->mismatched++;
            tell(c, &s->entry[i], s->bad_layer[i], s->what[i]);
        }
    c->done += s->count * tutti_layer_stride(s->placement) * s->placement->layers;
    if (c->progress)
        c->progress(c->argument, c->done, c->bytes);
    pthread_mutex_unlock(&c->lock);
}

static void *check_thread(void *argument)
{
    struct check *c = argument;
    struct stretch s = {.records =
                            backing_buffer((size_t)MAX_STRETCH * c->pool->superblock.record_stride),
                        .data = backing_buffer(c->buffer_bytes)};

    if (!s.records || !s.data) {
        pthread_mutex_lock(&c->lock);
        c->rc = tutti_error_set(&c->error, -ENOMEM, "check: no memory for read buffers");
        pthread_mutex_unlock(&c->lock);
    } else {
        while (take(c, &s)) {
            if (read_records(c, &s) < 0)
                for (uint32_t i = 0; i < s.count; i++)
                    mark(&s, i, NO_LAYER, unreadable_record);
            else
                for (uint32_t layer = 0; layer < s.placement->layers; layer++)
                    check_layer(c, &s, layer);
            finish(c, &s);
        }
    }
    free(s.records);
    free(s.data);
    return NULL;
}

static int check_data(struct check *c, struct tutti_error *err)
{
    const struct tutti_superblock *s = &c->pool->superblock;

    c->buffer_bytes = c->bytes_per_second ? READ_BYTES_AT_RATE : READ_BYTES;
    for (uint32_t i = 0; i < s->groups; i++) /* a slot's layer is checked as one piece */
        if (tutti_layer_stride(&c->pool->placement[i]) > c->buffer_bytes)
            c->buffer_bytes = (size_t)tutti_layer_stride(&c->pool->placement[i]);
    for (size_t i = 0; i < c->count; i++) {
        const struct tutti_placement *p = placement_of(c, c->entries[i].geometry);

        c->bytes += tutti_layer_stride(p) * p->layers;
    }
    run_parallel(c->bytes_per_second ? 1 : CHECK_THREADS, check_thread, c);
    return c->rc < 0 ? tutti_error_set(err, c->rc, "%s", c->error.message) : 0;
}

int64_t check_pool(struct tutti_pool *pool, bool data, uint64_t bytes_per_second,
                   struct tutti_scan_report *report, tutti_check_fn bad,
                   void (*progress)(void *, uint64_t, uint64_t), void *argument,
                   struct tutti_error *err)
{
    struct check c = {.pool = pool,
                      .bytes_per_second = bytes_per_second,
                      .bad = bad,
                      .progress = progress,
                      .argument = argument,
                      .lock = PTHREAD_MUTEX_INITIALIZER};
    struct scan_request request = {.bad = bad ? bad_record : NULL, .argument = &c};
    struct tutti_scan_entry *entries;
    int rc = scan_records(pool, &request, &entries, &c.count, report, err);

    if (rc < 0)
        return rc;
    c.entries = entries;
    if (data && !c.stop)
        rc = check_data(&c, err);
    free(entries);
    return rc < 0 ? rc : (int64_t)c.mismatched;
}

int64_t tutti_pool_check(struct tutti_pool *pool, bool data, struct tutti_scan_report *report,
                         tutti_check_fn bad, void (*progress)(void *, uint64_t, uint64_t),
                         void *argument, struct tutti_error *err)
{
    return check_pool(pool, data, 0, report, bad, progress, argument, err);
}
