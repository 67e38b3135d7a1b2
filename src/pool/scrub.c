/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scrub.c: dropping for good what a check finds.
 *
 * Knows no checksum: check.c finds, this remembers the slots and overwrites
 * their records by zeros, once all was looked at. A device that fails must not
 * cost what lies on it: so many unreadable slots in a row end it, and nothing
 * is dropped then.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "pool/internal.h"

#define UNREADABLE_IN_A_ROW 16u

struct scrub {
    struct tutti_pool *pool;
    tutti_check_fn bad;
    void (*progress)(void *, uint64_t, uint64_t);
    void *argument;
    uint32_t *slots; /* whose records are to be emptied */
    size_t count;
    size_t room;
    uint32_t unreadable; /* in a row */
    uint32_t last;       /* the slot before */
    uint64_t bytes;
    int rc;
};

static int remember(struct scrub *s, uint32_t slot)
{
    if (s->count == s->room) {
        size_t room = s->room ? 2 * s->room : 256;
        uint32_t *more = realloc(s->slots, room * sizeof(*more));

        if (!more)
            return -ENOMEM;
        s->slots = more;
        s->room = room;
    }
    s->slots[s->count++] = slot;
    return 0;
}

static int found(void *argument, const struct tutti_scan_entry *entry, uint32_t layer,
                 const char *what)
{
    struct scrub *s = argument;

    if (!check_is_unreadable(what))
        s->unreadable = 0;
    else
        s->unreadable = entry->slot == s->last + 1 ? s->unreadable + 1 : 1;
    s->last = entry->slot;
    if (s->unreadable == UNREADABLE_IN_A_ROW)
        s->rc = -EIO;
    if (s->rc == 0)
        s->rc = remember(s, entry->slot);
    if (s->bad && s->bad(s->argument, entry, layer, what) != 0 && s->rc == 0)
        s->rc = -ECANCELED;
    return s->rc;
}

static void done(void *argument, uint64_t bytes, uint64_t all)
{
    struct scrub *s = argument;

    s->bytes = bytes;
    if (s->progress)
        s->progress(s->argument, bytes, all);
}

static int empty_record(const struct scrub *s, uint32_t slot, const void *zeros,
                        struct tutti_error *err)
{
    const struct tutti_placement *p = &s->pool->placement[0]; /* records lie alike for all shapes */
    struct tutti_place place = tutti_record_place(p, slot);
    const struct backing *b = &s->pool->member[place.member].backing;
    int rc = backing_write(b, zeros, p->record_stride, place.offset);

    return rc < 0 ? backing_error(rc, "emptying a record of", b->path, place.offset, err) : 0;
}

static int empty_all(struct scrub *s, uint64_t *dropped, struct tutti_error *err)
{
    uint32_t stride = s->pool->placement[0].record_stride;
    void *zeros = backing_buffer(stride);
    int rc = 0;

    if (!zeros)
        return tutti_error_set(err, -ENOMEM, "%s: no memory for a record", s->pool->home);
    memset(zeros, 0, stride);
    for (size_t i = 0; i < s->count && rc == 0; i++) {
        rc = empty_record(s, s->slots[i], zeros, err);
        *dropped += rc == 0;
    }
    free(zeros);
    tutti_pool_count_written(s->pool, *dropped * stride);
    return rc == 0 && *dropped > 0 ? tutti_pool_flush(s->pool, err) : rc;
}

int tutti_pool_scrub(struct tutti_pool *pool, uint64_t bytes_per_second,
                     struct tutti_pool_scrub *report, tutti_check_fn bad,
                     void (*progress)(void *, uint64_t, uint64_t), void *argument,
                     struct tutti_error *err)
{
    struct scrub s = {.pool = pool,
                      .bad = bad,
                      .progress = progress,
                      .argument = argument,
                      .last = UINT32_MAX - 1};
    uint64_t began = tutti_clock_now();
    int64_t mismatched;
    int rc;

    memset(report, 0, sizeof(*report));
    if (pool->read_only)
        return tutti_error_set(err, -EROFS, "%s: the pool is open for reading only", pool->home);
    mismatched = check_pool(pool, true, bytes_per_second, &report->records, found, done, &s, err);
    rc = mismatched < 0 ? (int)mismatched : s.rc;
    if (s.rc == -EIO)
        tutti_error_set(
            err, -EIO,
            "%s: %u slots in a row from slot %u on cannot be read: its device fails; "
            "nothing was dropped. See the kernel's log (dmesg)",
            tutti_pool_member_path(pool, tutti_record_place(&pool->placement[0], s.last).member),
            UNREADABLE_IN_A_ROW, s.last - UNREADABLE_IN_A_ROW + 1);
    else if (s.rc == -ENOMEM)
        tutti_error_set(err, -ENOMEM, "%s: no memory to remember bad slots", pool->home);
    if (rc == 0)
        rc = empty_all(&s, &report->dropped, err);
    report->bad = mismatched > 0 ? (uint64_t)mismatched : 0;
    report->bytes = s.bytes;
    report->nanoseconds = tutti_clock_now() - began;
    free(s.slots);
    return rc;
}
