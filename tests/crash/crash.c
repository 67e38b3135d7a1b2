/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whatever a crash leaves of the writes of a busy store, opening it finds a
 * pool, not one byte is served under a key that it was not written under, and
 * what had been promised holds: epochs that were begun, resets, what was stored
 * before a flush.
 *
 * A workload with more prefixes than the pool holds formats, stores, evicts,
 * drops, erases, resets and restarts on two members while every write is
 * recorded; slots rot and are scrubbed away, while it is served and while it is
 * not; a member is fenced, the other goes on, and it comes back. Then crash images are made
 * (recorder.h): prefixes of the record in turn with subsets of what was not flushed. Each is opened
 * and checked; every prefix that the directory offers is loaded and compared, and the checker must
 * have found what the loads refuse; what fails is dropped as a server would,
 * something is stored, and a second life must find it. Arguments: images, seed.
 *
 * The negative controls are part of it: read with verification off, the images
 * must serve wrong bytes; and where disks lie about their flushes, promises
 * must break. Otherwise the images are too tame to show anything.
 */
#include <errno.h>

#include "../unit/serve/rig.h"

#include "base/clock.h"
#include "tutti/scrub.h"

#include "recorder.h"

enum { CHAINS = 12, ROUNDS = 90, LONGEST = 24, PROMISES = 400, CONTROLS = 16, ERASED = 128 };

static unsigned images = 500;
static uint64_t seed = 1;
static size_t entries;

/**
 * struct promise - what holds for every crash at @place or behind it
 * @flushed: blocks of each chain were there when the pool was flushed; holds while nothing is
 *   written behind it
 */
static struct promise {
    size_t place;
    uint64_t epoch;
    uint64_t oldest;
    bool after_flush;
    uint32_t flushed[CHAINS];
} promises[PROMISES];
static uint32_t promise_count;
static uint64_t scrubbed, fences;
static struct tutti_transfer erased[ERASED]; /* the last time */
static uint32_t erased_count;

static uint32_t draw(uint32_t below)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((seed >> 33) % below);
}

static struct promise *promise(void)
{
    struct promise *p = &promises[promise_count++];

    assert_true(promise_count <= PROMISES);
    if (p > promises) {
        p->epoch = p[-1].epoch;
        p->oldest = p[-1].oldest;
    }
    p->place = recorder_mark();
    return p;
}

static void promise_epoch(const struct rig *r)
{
    struct tutti_pool_info info;
    struct promise *p = promise();

    tutti_pool_info(r->pool, &info);
    p->epoch = info.superblock.epoch;
    p->oldest = info.superblock.oldest_epoch;
}

static uint32_t visible(const struct rig *r, uint32_t chain)
{
    uint8_t hashes[LONGEST * 32];
    struct tutti_match match;

    rig_hashes(chain, LONGEST, hashes);
    assert_int_equal(tutti_directory_find(r->directory, hashes, 32, LONGEST, &match), 0);
    return match.blocks;
}

static void flush(struct rig *r)
{
    struct tutti_error err = {0};
    struct promise *p;

    rig_ok(tutti_pool_flush(r->pool, &err), &err);
    p = promise();
    p->after_flush = true;
    for (uint32_t c = 0; c < CHAINS; c++)
        p->flushed[c] = visible(r, c);
}

static void erase(struct rig *r)
{
    struct tutti_error err = {0};

    erased_count = (uint32_t)tutti_directory_take_erased(r->directory, erased, ERASED);
    rig_ok(tutti_serve_erase(r->serve, 0, erased, erased_count, &err), &err);
}

/** How many slots are found of those that were erased last. */
static uint64_t came_back(struct rig *r)
{
    uint64_t found = 0;

    for (uint32_t chain = 0; chain < CHAINS; chain++) {
        struct tutti_transfer items[64];
        struct tutti_match match;
        uint32_t n = rig_find(r, chain, LONGEST, 0, &match, items);

        if (n > 0)
            tutti_directory_unpin(r->directory, match.slot, match.generation);
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t k = 0; k < erased_count; k++)
                found +=
                    items[i].slot == erased[k].slot && items[i].generation == erased[k].generation;
    }
    return found;
}

static void random_drop(struct rig *r, uint32_t chain)
{
    struct tutti_transfer items[64];
    struct tutti_match match;
    uint32_t n = rig_find(r, chain, LONGEST, 0, &match, items), at;

    if (n == 0)
        return;
    tutti_directory_unpin(r->directory, match.slot, match.generation);
    at = draw(n);
    tutti_directory_drop(r->directory, items[at].slot, items[at].generation);
    erase(r);
}

static void reset(struct rig *r)
{
    struct tutti_error err = {0};

    r->epoch++;
    rig_ok(tutti_pool_begin_epoch(r->pool, r->epoch, r->epoch, (const uint8_t *)RIG_IDENTITY, &err),
           &err);
    rig_ok(tutti_directory_begin_epoch(r->directory, r->epoch, true, NULL, &err), &err);
    promise_epoch(r);
}

static void restart(struct rig *r)
{
    rig_close(r);
    rig_open(r, "threads", NULL);
    promise_epoch(r);
}

static uint32_t store(struct rig *r, uint32_t chain, uint32_t count)
{
    uint32_t have = visible(r, chain);

    return have < count ? rig_store(r, chain, have, count - have) : 0;
}

/** One layer of a slot that is found rots. Return: whether there was one. */
static bool rot(struct rig *r, uint32_t chain)
{
    unsigned char rotten[RECORDER_SECTOR];
    struct tutti_transfer items[64];
    struct tutti_placement p;
    struct tutti_place place;
    struct tutti_match match;
    uint32_t n = rig_find(r, chain, LONGEST, 0, &match, items);

    if (n == 0)
        return false;
    tutti_directory_unpin(r->directory, match.slot, match.generation);
    assert_int_equal(tutti_pool_placement(r->pool, 0, &p), 0);
    place = tutti_object_place(&p, items[draw(n)].slot, draw(RIG_LAYERS), 0);
    memset(rotten, (int)draw(256), sizeof(rotten));
    assert_int_equal(pwrite(tutti_pool_member_fd(r->pool, place.member), rotten, sizeof(rotten),
                            (off_t)place.offset),
                     sizeof(rotten));
    return true;
}

/** Beside serving: what it finds is dropped and erased, as a server does between its steps. */
static void scrub(struct rig *r)
{
    struct tutti_scrub_report report = {0};
    struct tutti_transfer bad[64];
    struct tutti_scrub *scrub;
    struct tutti_error err = {0};

    rig_ok(tutti_scrub_open(r->serve, 0, UINT64_C(1) << 40, 0, &scrub, &err), &err);
    while (report.rounds == 0) {
        uint32_t count = tutti_scrub_step(scrub, tutti_clock_now(), bad, 64);

        for (uint32_t i = 0; i < count; i++)
            tutti_directory_drop(r->directory, bad[i].slot, bad[i].generation);
        tutti_scrub_report(scrub, &report);
    }
    tutti_scrub_close(scrub);
    scrubbed += report.bad;
    erase(r);
}

/** While nobody serves. */
static void scrub_offline(struct rig *r)
{
    struct tutti_pool_options options = rig_pool_options(r);
    struct tutti_pool_scrub report;
    struct tutti_error err = {0};

    rig_close(r);
    rig_ok(tutti_pool_open(&options, &r->pool, &err), &err);
    rig_ok(tutti_pool_scrub(r->pool, 0, &report, NULL, NULL, NULL, &err), &err);
    scrubbed += report.dropped;
    tutti_pool_close(r->pool);
    rig_open(r, "threads", NULL);
    promise_epoch(r);
}

/** A member is given no commands, or is again; the directory hears of it. */
static void watch(struct rig *r)
{
    tutti_directory_fence_members(r->directory, tutti_serve_watch_members(r->serve));
}

/** One member is fenced while the other stores on, is flushed, and begins epochs. */
static void without_a_member(struct rig *r)
{
    uint32_t member = draw(2);
    struct tutti_error err = {0};

    rig_ok(tutti_pool_disable_member(r->home, 0, member, "for a while", NULL, &err), &err);
    watch(r);
    for (uint32_t round = 0; round < 6; round++) {
        store(r, draw(CHAINS), 1 + draw(LONGEST));
        random_drop(r, draw(CHAINS));
        if (draw(3) == 0)
            flush(r);
        if (draw(8) == 0)
            reset(r);
    }
    rig_ok(tutti_pool_probe_member(r->home, 0, member, &err), &err);
    rig_ok(tutti_pool_enable_member(r->home, 0, member, &err), &err);
    watch(r);
    fences++;
}

static void workload(struct rig *r)
{
    for (uint32_t round = 0; round < ROUNDS; round++) {
        store(r, draw(CHAINS), 1 + draw(LONGEST));
        if (draw(8) == 0)
            random_drop(r, draw(CHAINS));
        if (draw(6) == 0)
            flush(r);
        if (draw(30) == 0)
            reset(r);
        if (draw(20) == 0)
            restart(r);
        if (draw(10) == 0 && rot(r, draw(CHAINS)))
            draw(2) ? scrub(r) : scrub_offline(r);
        if (draw(12) == 0)
            without_a_member(r);
    }
}

struct outcome {
    uint64_t opened, unmade, wrong, hits, refused, unseen;
    uint64_t promised, broken;
    uint64_t second, forgotten, returned;
};

/* What the checker says of the image that is being read. */
struct verdict {
    uint32_t bad[4096];
    uint32_t count;
};

static int remember(void *argument, const struct tutti_scan_entry *entry, uint32_t layer,
                    const char *what)
{
    struct verdict *v = argument;

    (void)what;
    if (layer != UINT32_MAX && v->count < 4096)
        v->bad[v->count++] = entry->slot;
    return 0;
}

static bool is_bad(const struct verdict *v, uint32_t slot)
{
    for (uint32_t i = 0; i < v->count; i++)
        if (v->bad[i] == slot)
            return true;
    return false;
}

/** Load the first blocks of a chain; what fails is dropped. Return: the good prefix. */
static uint32_t read_chain(struct rig *r, uint32_t chain, const struct verdict *v,
                           struct outcome *o)
{
    struct tutti_transfer items[64];
    struct tutti_match match;
    struct tutti_retrieve *retrieve;
    struct tutti_result result;
    struct tutti_error err = {0};
    uint32_t n = rig_find(r, chain, LONGEST, 0, &match, items), good;

    if (n == 0)
        return 0;
    for (uint32_t part = 0; part < RIG_LAYERS * RIG_PARTS; part++)
        memset(rig_object(r, part / RIG_PARTS, part % RIG_PARTS, 0), 0xaa, (size_t)n * RIG_OBJECT);
    rig_ok(tutti_retrieve_begin(r->serve, 0, items, n, false, 1, &retrieve, &err), &err);
    assert_int_equal(tutti_retrieve_wait(retrieve, 20 * SECOND), 0);
    tutti_retrieve_result(retrieve, &result);
    good = result.verified;
    for (uint32_t b = 0; b < n; b++) {
        o->hits += result.position[b] == 0;
        o->refused += result.position[b] != 0;
        if (result.position[b] == 0)
            o->wrong += rig_wrong(r, chain, b, b) != 0;
        if (v && (result.position[b] != 0) != is_bad(v, items[b].slot))
            o->unseen++; /* a load and the checker must agree */
    }
    tutti_directory_unpin(r->directory, match.slot, match.generation);
    if (good < n)
        tutti_directory_drop(r->directory, items[good].slot, items[good].generation);
    assert_int_equal(tutti_retrieve_end(retrieve), 0);
    return good;
}

/** What had been promised before the crash, of which the latest is @p. */
static void judge_epochs(const struct rig *r, const struct promise *p, struct outcome *o)
{
    o->promised++;
    /* The rig has begun one epoch more by now. */
    o->broken += p && r->epoch - 1 < p->epoch;
    if (p) {
        struct tutti_pool_info info;

        tutti_pool_info(r->pool, &info);
        o->broken += info.superblock.oldest_epoch < p->oldest;
    }
}

static void second_life(struct rig *r, uint32_t chain, struct outcome *o)
{
    uint32_t have, good;

    erase(r);
    tutti_serve_progress(r->serve);
    store(r, chain, 8);
    have = visible(r, chain);
    rig_close(r);
    rig_open(r, "threads", NULL);
    o->second += have;
    good = read_chain(r, chain, NULL, o);
    o->forgotten += good < have ? have - good : 0;
    /* More than there were: a child that had lost its parent in the crash has one again. */
    o->returned += came_back(r);
    assert_int_equal(tutti_directory_audit(r->directory, NULL), 0);
}

/** A crash while the pool was made: nothing, or an empty pool that is one. */
static bool is_pool(struct rig *r, struct outcome *o)
{
    struct tutti_pool_options options = rig_pool_options(r);
    struct tutti_error err = {0};
    int rc = tutti_pool_open(&options, &r->pool, &err);

    if (rc == 0) {
        tutti_pool_close(r->pool);
        return true;
    }
    assert_true(rc == -ENOENT || rc == -EUCLEAN || rc == -EFBIG);
    assert_true(strlen(err.message) > 0);
    o->unmade++;
    return false;
}

static void read_image(struct rig *r, const struct promise *p, bool exact, struct outcome *o)
{
    static struct verdict v;
    struct tutti_error err = {0};
    struct tutti_scan_report report;

    if (!is_pool(r, o)) {
        o->promised += p != NULL;
        o->broken += p != NULL;
        return;
    }
    o->opened++;
    rig_open(r, "threads", NULL);
    judge_epochs(r, p, o);
    v.count = 0;
    if (tutti_pool_check(r->pool, true, &report, remember, NULL, &v, &err) < 0)
        fail_msg("%s", err.message);
    assert_int_equal(tutti_directory_audit(r->directory, &err), 0);
    for (uint32_t chain = 0; chain < CHAINS; chain++) {
        uint32_t good = read_chain(r, chain, r->unverified ? NULL : &v, o);

        if (exact && p && p->after_flush) {
            o->promised++;
            o->broken += good < p->flushed[chain];
        }
    }
    if (!r->unverified)
        second_life(r, (uint32_t)(o->opened % CHAINS), o);
    rig_close(r);
}

static const struct promise *latest(size_t at)
{
    const struct promise *found = NULL;

    for (uint32_t i = 0; i < promise_count && promises[i].place <= at; i++)
        found = &promises[i];
    return found;
}

/** One image in the folder of @r, read in every way. */
static void try_image(struct rig *r, const struct recorder_crash *crash, struct outcome *o)
{
    const struct promise *p = latest(crash->at);
    uint64_t before = o->wrong + o->broken + o->forgotten + o->returned + o->unseen;

    recorder_crash(crash, r->home);
    read_image(r, p, p && p->place == crash->at && crash->under_way == 0, o);
    if (!crash->lying && !r->unverified &&
        o->wrong + o->broken + o->forgotten + o->returned + o->unseen != before)
        print_message("entry %zu, seed %llu, %u of 100 land, %u under way: not as it should be\n",
                      crash->at, (unsigned long long)crash->seed, crash->lands, crash->under_way);
}

/** The images: in turn a prefix, a random crash, and the next moment just behind a flush. A tenth
 * of them is of the pool in the making. */
static void run_images(struct rig *r, unsigned count, bool lying, struct outcome *o)
{
    static const unsigned lands[] = {0, 10, 50, 90};
    unsigned first = count / 10;
    uint32_t next = 0;

    for (unsigned i = 0; i < count; i++) {
        struct recorder_crash crash = {.at = i < first ? promises[0].place * i / first
                                                       : entries * (i + 1) / count,
                                       .seed = seed + i * 7919,
                                       .lands = 100,
                                       .lying = lying};

        if (lying || (i >= first && i % 4 == 3)) {
            while (next + 1 < promise_count && promises[next].place < crash.at)
                next++;
            crash.at = promises[next].place;
            crash.lands = lands[i / 4 % 4];
        } else if (i % 2 == 1) {
            crash.lands = lands[i / 4 % 4];
            crash.under_way = 6;
        }
        try_image(r, &crash, o);
    }
}

static void copy_secret(const struct rig *from, const struct rig *to)
{
    char command[700];

    snprintf(command, sizeof(command), "cp -p %s/secret %s/secret", from->home, to->home);
    assert_int_equal(system(command), 0); /* NOLINT(bugprone-command-processor,cert-env33-c) */
}

/** Images lie in memory where there is some: a flush of them shows nothing. */
static void make_folder(struct rig *r, const char *name)
{
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : ".";

    rig_init(r, UINT64_C(6) << 20, UINT64_C(1) << 20);
    snprintf(r->home, sizeof(r->home), "%s/tutti-%s-XXXXXX", base, name);
    assert_non_null(mkdtemp(r->home));
}

static void record(struct rig *r)
{
    struct tutti_pool_options options;
    struct tutti_error err = {0};

    make_folder(r, "work");
    recorder_start(r->home);
    options = rig_pool_options(r);
    rig_ok(tutti_pool_format(&options, &err), &err);
    promise();
    rig_open(r, "threads", NULL);
    promise_epoch(r);
    workload(r);
    rig_close(r);
    entries = recorder_stop();
}

static void no_image_serves_a_wrong_byte(void **state)
{
    struct outcome o = {0}, unverified = {0}, lying = {0};
    struct rig work, image;
    (void)state;

    record(&work);
    make_folder(&image, "image");
    copy_secret(&work, &image);
    run_images(&image, images, false, &o);
    print_message(
        "%u images of %zu entries: %llu opened, %llu not yet made; %llu slots served, "
        "%llu refused, %llu wrong; %llu not as the checker says; %llu promises, %llu "
        "broken; second lives: %llu slots, %llu forgotten, %llu back; %llu slots were "
        "scrubbed away, a member was fenced %llu times\n",
        images, entries, (unsigned long long)o.opened, (unsigned long long)o.unmade,
        (unsigned long long)o.hits, (unsigned long long)o.refused, (unsigned long long)o.wrong,
        (unsigned long long)o.unseen, (unsigned long long)o.promised, (unsigned long long)o.broken,
        (unsigned long long)o.second, (unsigned long long)o.forgotten,
        (unsigned long long)o.returned, (unsigned long long)scrubbed, (unsigned long long)fences);
    image.unverified = true;
    run_images(&image, CONTROLS * 2, false, &unverified);
    image.unverified = false;
    run_images(&image, CONTROLS, true, &lying);
    print_message("controls: %llu wrong without verification; %llu promises broken by disks that "
                  "lie\n",
                  (unsigned long long)unverified.wrong, (unsigned long long)lying.broken);
    assert_int_equal(o.wrong + o.unseen + o.broken + o.forgotten + o.returned, 0);
    assert_true(scrubbed > 0 && fences > 0);
    assert_int_equal(lying.wrong, 0);
    assert_true(o.hits > images); /* or it showed nothing */
    assert_true(o.refused > 0);   /* or the crashes were too kind */
    assert_true(unverified.wrong > 0);
    assert_true(lying.broken > 0);
    rig_remove(&image);
    rig_remove(&work);
    recorder_free();
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_image_serves_a_wrong_byte),
    };

    if (argc > 1)
        images = (unsigned)atoi(argv[1]);
    if (argc > 2)
        seed = (uint64_t)atoll(argv[2]);
    if (getenv("TUTTI_TORTURE"))
        images *= 20;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
