/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The k-th allocation, system call, read or write fails, for every k, from
 * opening an engine to the end of a store and a load: what is called good is
 * right, what a store promised is there, what failed says so, waiting has its
 * bound, and afterwards all works again. Over both engines.
 * Seen to fail with a store whose failed write, or one that was cut short, is
 * called good, with a session that can be ended while a read is under way, with
 * a wait that looks at no deadline, and (LeakSanitizer) without free(s->step)
 * in session_free().
 */
#include "../unit/serve/rig.h"

#include "kth.h"

#include "tutti/scrub.h"

#include <errno.h>
#include <sched.h>

enum { COUNT = 6, ELSEWHERE = 32 };

static const char *engine;

/* One transfer of COUNT blocks and what it shall hold. */
struct lot {
    struct tutti_transfer items[COUNT];
    struct tutti_origin origins[COUNT];
    uint32_t chain;
};

static struct lot lot_of(const struct rig *r, uint32_t first, uint32_t chain)
{
    struct tutti_placement p;
    struct lot lot = {.chain = chain};

    assert_int_equal(tutti_pool_placement(r->pool, 0, &p), 0);
    for (uint32_t i = 0; i < COUNT; i++) {
        uint32_t n = 2 * (first + i); /* no two are neighbours: a command for each */

        lot.items[i].slot = n / p.slots_per_extent * p.records_per_extent + n % p.slots_per_extent;
        lot.items[i].block = first + i;
        lot.items[i].generation = r->epoch << TUTTI_EPOCH_SHIFT | (chain * 1000u + i + 1);
        lot.items[i].key.word[0] = chain + 1;
        lot.items[i].key.word[1] = i + 1;
        lot.origins[i].engine_hash_bytes = 32;
    }
    return lot;
}

static void fill(struct rig *r, const struct lot *lot)
{
    for (uint32_t i = 0; i < COUNT; i++)
        rig_fill(r, lot->chain, i, lot->items[i].block);
}

static void wipe(struct rig *r, const struct lot *lot)
{
    for (uint32_t i = 0; i < COUNT; i++)
        for (uint32_t k = 0; k < RIG_LAYERS * RIG_PARTS; k++)
            memset(rig_object(r, k / RIG_PARTS, k % RIG_PARTS, lot->items[i].block), 0xaa,
                   RIG_OBJECT);
}

/** No position that is called good holds a wrong byte. Return: how many are good. */
static uint32_t good_ones(const struct rig *r, const struct lot *lot,
                          const struct tutti_result *result)
{
    uint32_t good = 0;

    for (uint32_t i = 0; i < COUNT; i++)
        if (result->position[i] == 0) {
            assert_int_equal(rig_wrong(r, lot->chain, i, lot->items[i].block), 0);
            good++;
        }
    assert_int_equal(good, result->good);
    return good;
}

static struct tutti_store *begin_store(struct rig *r, const struct lot *lot)
{
    struct tutti_store *store = NULL;
    struct tutti_error err = {0};
    int rc = tutti_store_begin(r->serve, 0, lot->items, lot->origins, COUNT, RIG_LAYERS, 1, &store,
                               &err);

    assert_true(rc == 0 || strlen(err.message) > 0);
    return rc == 0 ? store : NULL;
}

static struct tutti_retrieve *begin_load(struct rig *r, const struct lot *lot)
{
    struct tutti_retrieve *load = NULL;
    struct tutti_error err = {0};
    int rc = tutti_retrieve_begin(r->serve, 0, lot->items, COUNT, false, 1, &load, &err);

    assert_true(rc == 0 || strlen(err.message) > 0);
    return rc == 0 ? load : NULL;
}

/** Store; which positions are good goes to @good. */
static void store(struct rig *r, const struct lot *lot, bool good[COUNT])
{
    struct tutti_store *s = begin_store(r, lot);
    struct tutti_result result;

    memset(good, 0, COUNT * sizeof(good[0]));
    if (!s)
        return;
    assert_int_equal(tutti_store_wait(s, 60 * SECOND), 0);
    tutti_store_result(s, &result);
    for (uint32_t i = 0; i < COUNT; i++)
        good[i] = result.position[i] == 0;
    assert_int_equal(tutti_store_end(s), 0);
}

/** Load. Return: how many are good; @good, where given, says which must be. */
static uint32_t load(struct rig *r, const struct lot *lot, const bool *good)
{
    struct tutti_retrieve *l = begin_load(r, lot);
    struct tutti_result result;
    uint32_t count;

    if (!l)
        return 0;
    assert_int_equal(tutti_retrieve_wait(l, 60 * SECOND), 0);
    tutti_retrieve_result(l, &result);
    count = good_ones(r, lot, &result);
    for (uint32_t i = 0; good && i < COUNT; i++)
        assert_true(!good[i] || result.position[i] == 0); /* it was promised */
    assert_int_equal(tutti_retrieve_end(l), 0);
    return count;
}

static void make(struct rig *r)
{
    rig_make(r, engine, NULL);
    rig_close(r);
    r->fence_errors = UINT32_MAX; /* so many failures would have the member fenced */
    rig_open(r, engine, NULL);
}

static void unmake(struct rig *r)
{
    rig_close(r);
    rig_remove(r);
}

/** Open and register with a failure: an engine that works, or a sentence. */
static void try_open(struct rig *r, const char *name, uint32_t chain)
{
    struct tutti_serve_options options = {
        .pool = r->pool, .engine = name, .staging_bytes = 1u << 20, .ring_depth = 64};
    struct tutti_kv_region region = {(uint64_t)(uintptr_t)r->kv, r->kv_bytes};
    struct tutti_kv_plane plane[RIG_LAYERS * RIG_PARTS];
    struct tutti_error err[2] = {{0}};
    struct lot lot = lot_of(r, 0, chain);
    bool good[COUNT];
    int opened, registered = -1;

    for (uint32_t i = 0; i < RIG_LAYERS * RIG_PARTS; i++)
        plane[i] = (struct tutti_kv_plane){region.base + (uint64_t)i * RIG_BLOCKS * RIG_OBJECT,
                                           RIG_OBJECT};
    r->serve = NULL;
    kth_arm();
    opened = tutti_serve_open(&options, &r->serve, &err[0]);
    if (opened == 0)
        registered = tutti_serve_register(r->serve, 0, plane, RIG_BLOCKS, &region, 1, &err[1]);
    kth_disarm();
    assert_true(opened == 0 || strlen(err[0].message) > 0);
    if (opened == 0 && registered < 0) {
        assert_true(strlen(err[1].message) > 0);
        registered = tutti_serve_register(r->serve, 0, plane, RIG_BLOCKS, &region, 1, &err[1]);
        assert_true(registered >= 0); /* it can be asked again */
    }
    if (opened == 0) {
        tutti_serve_watch_members(r->serve); /* one that can't be read was off */
        fill(r, &lot);
        store(r, &lot, good);
        wipe(r, &lot);
        assert_int_equal(load(r, &lot, good), COUNT);
    }
    tutti_serve_close(r->serve);
}

static void opening(void **state)
{
    const char *names[] = {engine, "auto"};
    uint64_t met = 0;
    uint32_t chain = 0;
    struct rig r;
    (void)state;

    make(&r);
    tutti_serve_close(r.serve);
    for (int i = 0; i < 2; i++) {
        for (kth_every(KTH_MEMORY, ENOMEM); kth_more();)
            try_open(&r, names[i], chain++);
        met += kth_met();
        for (kth_every(KTH_SYSTEM, EPERM); kth_more();)
            try_open(&r, names[i], chain++);
        met += kth_met();
        for (kth_from_every(KTH_SYSTEM, ENOMEM); kth_more();)
            try_open(&r, names[i], chain++);
        met += kth_met();
    }
    r.serve = NULL;
    print_message("open: %llu failures\n", (unsigned long long)met);
    assert_true(met > 50);
    unmake(&r);
}

/** Store and load, each with its failure; then without. @whole: a load survives it. */
static void try_moving(struct rig *r, uint32_t chain, bool whole)
{
    struct lot lot = lot_of(r, 0, chain);
    bool good[COUNT], all[COUNT];
    struct tutti_error err = {0};
    uint32_t count;
    int rc;

    fill(r, &lot);
    kth_arm();
    store(r, &lot, good);
    kth_disarm();
    wipe(r, &lot);
    load(r, &lot, good);

    fill(r, &lot);
    store(r, &lot, all); /* and whole, for the load */
    for (uint32_t i = 0; i < COUNT; i++)
        assert_true(all[i]);
    wipe(r, &lot);
    kth_arm();
    count = load(r, &lot, NULL);
    kth_disarm();
    assert_true(!whole || count == COUNT); /* it is read once more */
    wipe(r, &lot);
    assert_int_equal(load(r, &lot, all), COUNT);

    kth_arm(); /* an erasure may fail as well */
    rc = tutti_serve_erase(r->serve, 0, lot.items, COUNT, &err);
    kth_disarm();
    assert_true(rc == 0 || (rc == -ENOMEM && strlen(err.message) > 0));
    tutti_serve_progress(r->serve);
}

static void moving(void **state)
{
    static const int how[] = {EIO, ENOSPC, EAGAIN, ETIMEDOUT, KTH_SHORT, KTH_LATE};
    uint64_t met = 0;
    uint32_t chain = 0;
    struct rig r;
    (void)state;

    make(&r);
    for (size_t i = 0; i < sizeof(how) / sizeof(how[0]); i++) {
        for (kth_every(KTH_IO, how[i]); kth_more();)
            try_moving(&r, chain++, true);
        met += kth_met();
    }
    for (kth_every(KTH_MEMORY, ENOMEM); kth_more();)
        try_moving(&r, chain++, false);
    met += kth_met();
    for (kth_every(KTH_SYSTEM, EAGAIN); kth_more() && kth_met() < 40;)
        try_moving(&r, chain++, true);
    met += kth_met();
    for (kth_from_every(KTH_IO, EIO); kth_more();)
        try_moving(&r, chain++, false);
    met += kth_met();
    print_message("store, load: %llu failures\n", (unsigned long long)met);
    assert_true(met > 300);
    unmake(&r);
}

/** A read that never ends: waiting has its bound, its blocks stay its own, others go on. */
static void try_never_read(struct rig *r)
{
    struct lot lot = lot_of(r, 0, 9000), other = lot_of(r, ELSEWHERE / 2, 9001);
    struct tutti_result result;
    struct tutti_retrieve *l;

    wipe(r, &lot);
    wipe(r, &other);
    kth_arm();
    l = begin_load(r, &lot);
    assert_non_null(l);
    while (!tutti_retrieve_poll(l) && !kth_holds())
        sched_yield();
    if (kth_disarm()) {
        kth_fast_clock(true);
        assert_int_equal(tutti_retrieve_wait(l, 20 * SECOND), -ETIMEDOUT);
        assert_int_equal(tutti_retrieve_end(l), -EBUSY);
        tutti_retrieve_cancel(l);
        assert_int_equal(tutti_retrieve_wait(l, 20 * SECOND), -ETIMEDOUT);
        assert_int_equal(tutti_retrieve_end(l), -EBUSY);
        kth_fast_clock(false);
        assert_int_equal(load(r, &other, NULL), COUNT);
        kth_release();
    }
    assert_int_equal(tutti_retrieve_wait(l, 60 * SECOND), 0);
    tutti_retrieve_result(l, &result);
    good_ones(r, &lot, &result);
    assert_int_equal(tutti_retrieve_end(l), 0);
}

/** A write that never ends: the fence says so, and a load goes by. */
static void try_never_write(struct rig *r, uint32_t chain)
{
    struct lot lot = lot_of(r, 0, chain), other = lot_of(r, ELSEWHERE / 2, 9001);
    uint32_t block = lot.items[0].block;
    struct tutti_store *s;
    struct tutti_result result;
    bool good[COUNT];

    fill(r, &lot);
    kth_arm();
    s = begin_store(r, &lot);
    assert_non_null(s);
    while (!tutti_store_poll(s) && !kth_holds())
        sched_yield();
    if (kth_disarm()) {
        kth_fast_clock(true);
        assert_int_equal(tutti_serve_fence(r->serve, &block, 1, 20 * SECOND), -ETIMEDOUT);
        assert_int_equal(tutti_store_end(s), -EBUSY);
        kth_fast_clock(false);
        assert_int_equal(load(r, &other, NULL), COUNT);
        kth_release();
        assert_true(tutti_serve_fence(r->serve, &block, 1, 60 * SECOND) >= 0);
    }
    assert_int_equal(tutti_store_wait(s, 60 * SECOND), 0);
    tutti_store_result(s, &result);
    for (uint32_t i = 0; i < COUNT; i++)
        good[i] = result.position[i] == 0;
    assert_int_equal(tutti_store_end(s), 0);
    wipe(r, &lot);
    load(r, &lot, good);
}

/** A scrub is open or is not; one that is reads. */
static void try_scrub_open(struct rig *r)
{
    struct tutti_scrub_report report = {0};
    struct tutti_scrub *scrub = NULL;
    struct tutti_transfer bad[4];
    struct tutti_error err = {0};
    int rc;

    kth_arm();
    rc = tutti_scrub_open(r->serve, 0, 0, 0, &scrub, &err);
    if (kth_disarm())
        assert_true(rc == 0 || (rc == -ENOMEM && strlen(err.message) > 0));
    if (rc < 0) /* and nothing of it is left that would be in the way */
        rig_ok(tutti_scrub_open(r->serve, 0, 0, 0, &scrub, &err), &err);
    for (uint64_t now = SECOND; report.bytes == 0; now += SECOND) {
        tutti_scrub_step(scrub, now, bad, 4);
        tutti_scrub_report(scrub, &report);
    }
    tutti_scrub_close(scrub);
}

static void scrub_open_or_not(void **state)
{
    struct rig r;
    (void)state;

    make(&r);
    for (kth_every(KTH_MEMORY, ENOMEM); kth_more();)
        try_scrub_open(&r);
    assert_true(kth_met() >= 4);
    unmake(&r);
}

/** A scrub's read that never ends: closing the scrub has its bound, and its memory stays. */
static void scrub_never_ends(void **state)
{
    struct tutti_scrub_report report;
    struct tutti_scrub *scrub = NULL, *second = NULL;
    struct tutti_transfer bad[4];
    struct tutti_error err = {0};
    struct rig r;
    (void)state;

    make(&r);
    rig_ok(tutti_scrub_open(r.serve, 0, 0, 0, &scrub, &err), &err);
    kth_every(KTH_IO, KTH_NEVER);
    assert_true(kth_more());
    kth_arm();
    tutti_scrub_step(scrub, SECOND, bad, 4);
    while (!kth_holds())
        sched_yield();
    kth_fast_clock(true);
    tutti_scrub_close(scrub);
    kth_fast_clock(false);
    assert_true(kth_disarm());
    tutti_scrub_report(scrub, &report); /* it is there */
    assert_int_equal(tutti_scrub_open(r.serve, 0, 0, 0, &second, &err), -EBUSY);
    kth_release();
    unmake(&r);
}

static void never(void **state)
{
    uint64_t met = 0;
    uint32_t chain = 0;
    struct lot lot;
    struct rig r;
    bool good[COUNT];
    (void)state;

    make(&r);
    for (uint32_t c = 0; c < 2; c++) {
        lot = lot_of(&r, c * ELSEWHERE / 2, 9000 + c);
        fill(&r, &lot);
        store(&r, &lot, good);
    }
    for (kth_every(KTH_IO, KTH_NEVER); kth_more();)
        try_never_read(&r);
    met += kth_met();
    assert_true(met >= COUNT);
    for (kth_every(KTH_IO, KTH_NEVER); kth_more();)
        try_never_write(&r, chain++);
    met += kth_met();
    print_message("never: %llu times\n", (unsigned long long)met);
    unmake(&r);
}

/** Closed with a load and a store under way, and something late. */
static void closing(void **state)
{
    uint32_t chain = 0;
    (void)state;

    for (kth_every(KTH_IO, KTH_LATE); kth_more() && kth_met() < 12;) {
        struct lot lot, other;
        struct rig r;

        make(&r);
        lot = lot_of(&r, 0, chain++);
        other = lot_of(&r, ELSEWHERE / 2, 9001);
        kth_arm();
        assert_non_null(begin_store(&r, &lot));
        assert_non_null(begin_load(&r, &other));
        tutti_serve_close(r.serve);
        kth_disarm();
        r.serve = NULL;
        unmake(&r);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opening),
        cmocka_unit_test(moving),
        cmocka_unit_test(never),
        cmocka_unit_test(closing),
        cmocka_unit_test(scrub_open_or_not),
        cmocka_unit_test(scrub_never_ends),
    };

    engine = argc > 1 ? argv[1] : "uring";
    return cmocka_run_group_tests_name(engine, tests, NULL, NULL);
}
