/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scrub.c: a scrub beside all that goes on, one of a quiet rank, and one of a
 * pool that nobody has open; and what the simulated disks hold in truth.
 *
 * What a scrub tells of is compared with the images: where disks do nothing
 * wrong, what verifies is never told; and a quiet rank's round tells all that
 * does not, and nothing else.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dice.h"
#include "layout/record.h"
#include "machine.h"
#include "serve/internal.h"
#include "world.h"

enum { MOST_TOLD = 8 };

#define FAST (UINT64_C(1) << 40) /* bytes a second: as fast as the disks go */

/* The truth. */

static bool is_this_place(const struct tutti_record *r, const struct tutti_superblock *s,
                          uint32_t member, uint32_t slot)
{
    return memcmp(r->pool, s->pool, sizeof(r->pool)) == 0 && r->rank == s->rank &&
           r->member == member && r->slot == slot;
}

static bool is_of_shape(const struct tutti_record *r, const struct tutti_geometry *g)
{
    return r->geometry == tutti_geometry_digest(g) && r->group == g->group &&
           r->layers == g->layers;
}

static bool layer_verifies(const struct rank *r, uint32_t slot, uint32_t layer, uint64_t sum)
{
    const struct tutti_placement *p = &r->placement;
    struct tutti_place place = tutti_object_place(p, slot, layer, 0);
    const struct disk *d = &r->disk[place.member];
    size_t at = disk_place(d, place.offset, tutti_layer_stride(p));
    const void *part[TUTTI_MAX_PARTS];

    must(at != SIZE_MAX);
    for (uint32_t k = 0; k < p->parts; k++)
        part[k] = d->image + at + k * p->object_stride;
    return !disk_unreadable(d, at, tutti_layer_stride(p)) &&
           tutti_layer_sum(part, p->parts, p->object_bytes) == sum;
}

enum truth scrub_truth(const struct rank *r, uint32_t slot, uint64_t *generation)
{
    const struct tutti_geometry *g = &world.shape->geometry[world.geometry];
    struct tutti_place place = tutti_record_place(&r->placement, slot);
    const struct disk *d = &r->disk[place.member];
    size_t at = disk_place(d, place.offset, r->placement.record_stride);
    const struct tutti_record *record = (const void *)(d->image + at);
    struct tutti_pool_info info;
    uint64_t epoch;
    int rc;

    *generation = 0;
    must(at != SIZE_MAX);
    tutti_pool_info(r->pool, &info);
    if (disk_unreadable(d, at, r->placement.record_stride))
        return TRUTH_BAD;
    rc = tutti_record_whole(record, r->placement.record_stride);
    if (rc == -ENODATA)
        return TRUTH_NOTHING;
    if (rc < 0 || !is_this_place(record, &info.superblock, place.member, slot))
        return TRUTH_BAD;
    epoch = tutti_generation_epoch(record->generation);
    if (!is_of_shape(record, g) || record->generation == 0 ||
        epoch < info.superblock.oldest_epoch || epoch > info.superblock.epoch)
        return TRUTH_NOTHING;
    *generation = record->generation;
    for (uint32_t layer = 0; layer < g->layers; layer++)
        if (!layer_verifies(r, slot, layer, tutti_record_sum(record, layer)))
            return TRUTH_BAD;
    return TRUTH_WHOLE;
}

/* Beside what goes on. */

void scrub_begin(struct rank *r)
{
    uint32_t cursor = dice_below(r->placement.extents * r->placement.records_per_extent);
    uint64_t rate = dice_chance(5000) ? 0 : FAST;
    struct tutti_error err = {0};
    int rc;

    if (r->scrub)
        return;
    rc = tutti_scrub_open(r->serve, 0, rate, cursor, &r->scrub, &err);
    if (rc < 0 && !(rc == -EBUSY && r->serve->scrub)) /* one that a disk keeps from ending */
        sim_fail("a scrub: %s", err.message);
}

void scrub_end(struct rank *r)
{
    if (r->scrub)
        tutti_scrub_close(r->scrub);
    r->scrub = NULL;
}

static void check_told(const struct rank *r, const struct tutti_transfer *bad)
{
    uint64_t generation;

    if (world.profile == PROFILE_CLEAN &&
        !r->disk[tutti_record_place(&r->placement, bad->slot).member].gone &&
        (scrub_truth(r, bad->slot, &generation) != TRUTH_BAD || generation != bad->generation))
        sim_fail("rank %u: a scrub tells of slot %u, generation %llx; there is %llx and nothing is "
                 "wrong with it",
                 r->number, bad->slot, (unsigned long long)bad->generation,
                 (unsigned long long)generation);
}

void scrub_step(struct rank *r)
{
    struct tutti_transfer *bad = world_memory(MOST_TOLD * sizeof(*bad));
    uint32_t count = tutti_scrub_step(r->scrub, machine_now(), bad, MOST_TOLD);
    struct report *report;

    for (uint32_t i = 0; i < count; i++)
        check_told(r, &bad[i]);
    if (count == 0)
        return;
    report = rank_report(r);
    report->bad = bad;
    report->bad_count = count;
    trace("scrubbed (rank, bad)", r->number, count, 0, 0);
}

/* Of a quiet rank. */

/** What was told of is what does not verify; slots of fenced members are left out. */
static void compare(const struct rank *r, const struct tutti_transfer *bad, uint32_t count,
                    uint32_t fenced, const struct tutti_scrub_report *report)
{
    const struct tutti_placement *p = &r->placement;
    uint64_t whole = 0, generation;
    uint32_t told = 0;

    for (uint32_t slot = 0; slot < p->extents * p->records_per_extent; slot++) {
        enum truth truth;

        if (!tutti_slot_valid(p, slot) || (fenced >> tutti_record_place(p, slot).member & 1))
            continue;
        truth = scrub_truth(r, slot, &generation);
        whole += truth == TRUTH_WHOLE;
        if (truth == TRUTH_BAD &&
            (told == count || bad[told].slot != slot || bad[told].generation != generation))
            sim_fail("rank %u: slot %u, generation %llx, does not verify, and a scrub does not see "
                     "it",
                     r->number, slot, (unsigned long long)generation);
        told += truth == TRUTH_BAD;
    }
    if (told != count || report->verified != whole)
        sim_fail("rank %u: a scrub tells of %u slots, %u are bad; %llu verified, %llu do",
                 r->number, count, told, (unsigned long long)report->verified,
                 (unsigned long long)whole);
}

void scrub_round(struct rank *r)
{
    struct disk_faults faults[MOST_MEMBERS];
    struct tutti_transfer *bad = world_memory((MOST_SLOTS + MOST_TOLD) * sizeof(*bad));
    struct tutti_scrub_report report = {0};
    uint32_t fenced = tutti_serve_fenced(r->serve);
    struct tutti_scrub *scrub;
    uint32_t count = 0;

    if (r->serve->scrub || fenced == (1u << world.shape->members) - 1)
        return;
    for (uint32_t m = 0; m < world.shape->members; m++) {
        faults[m] = r->disk[m].faults;
        memset(&r->disk[m].faults, 0, sizeof(faults[m]));
        r->disk[m].sick = 0;
    }
    must(tutti_scrub_open(r->serve, 0, FAST, 0, &scrub, NULL) == 0);
    /* Sectors that cannot be read may have it fenced. */
    while (report.rounds == 0 && tutti_serve_fenced(r->serve) == fenced) {
        count += tutti_scrub_step(scrub, machine_now(), bad + count, MOST_TOLD);
        must(count <= MOST_SLOTS);
        tutti_scrub_report(scrub, &report);
        machine_sleep(20 * US);
    }
    tutti_scrub_close(scrub);
    if (report.rounds > 0)
        compare(r, bad, count, fenced, &report);
    for (uint32_t m = 0; m < world.shape->members; m++)
        r->disk[m].faults = faults[m];
    for (uint32_t i = 0; i < count; i++)
        scheduler_drop_bad(r, &bad[i]);
    world.scrubbed += report.slots;
}

/* Of a pool that nobody has open. */

static int told_offline(void *argument, const struct tutti_scan_entry *entry, uint32_t layer,
                        const char *what)
{
    const struct rank *r = argument;
    uint64_t generation;

    if (scrub_truth(r, entry->slot, &generation) == TRUTH_WHOLE)
        sim_fail("rank %u: slot %u verifies, and is to be dropped (layer %u): %s", r->number,
                 entry->slot, layer, what);
    return 0;
}

void scrub_offline(struct rank *r, const struct tutti_pool_options *options)
{
    struct tutti_pool_scrub report;
    struct tutti_error err = {0};
    uint64_t generation;

    for (uint32_t m = 0; m < world.shape->members; m++) {
        r->disk[m].ghost = false; /* it is a new process's */
        r->disk[m].pool_error = 0;
    }
    if (tutti_pool_open(options, &r->pool, &err) < 0)
        sim_fail("rank %u: %s", r->number, err.message);
    must(tutti_pool_placement(r->pool, 0, &r->placement) == 0);
    if (tutti_pool_scrub(r->pool, FAST, &report, told_offline, NULL, r, &err) < 0)
        sim_fail("rank %u: %s", r->number, err.message);
    for (uint32_t slot = 0; slot < r->placement.extents * r->placement.records_per_extent; slot++)
        if (tutti_slot_valid(&r->placement, slot) && scrub_truth(r, slot, &generation) == TRUTH_BAD)
            sim_fail("rank %u: slot %u does not verify behind a scrub", r->number, slot);
    trace("scrubbed offline (rank, dropped)", r->number, report.dropped, 0, 0);
    tutti_pool_close(r->pool);
    r->pool = NULL;
}
