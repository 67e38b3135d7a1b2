/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A scrub finds what rotted, tells it by slot and generation, and after the drop and the erasure
 * the next round is clean and the other slots still hit. It keeps to its rate by the clock that it
 * is given, waits while a load is under way, and leaves alone what a store has.
 * Seen to fail with layer_good() that says yes (nothing is found), with the record's generation
 * not told, without the look at retrieves, with next_at that does not grow, without
 * drop_disturbed(), and with a cursor that does not pass over fenced members.
 */
#include "rig.h"

#include <errno.h>
#include <fcntl.h>

#include "tutti/scrub.h"

enum { BLOCKS = 24 };

static const char *engine;

/** Until it is through once more; the clock goes as fast as it likes. Return: bad slots told. */
static uint32_t round_of(struct tutti_scrub *scrub, struct tutti_transfer *bad)
{
    struct tutti_scrub_report report;
    uint64_t now = 0, rounds;
    uint32_t told = 0;

    tutti_scrub_report(scrub, &report);
    rounds = report.rounds;
    for (uint64_t i = 0; i < 4000000; i++) {
        told += tutti_scrub_step(scrub, now += 1000 * SECOND, bad + told, 64 - told);
        tutti_scrub_report(scrub, &report);
        if (report.rounds > rounds)
            return told;
        usleep(20);
    }
    fail_msg("it is never through");
    return 0;
}

static void flip(const struct rig *r, struct tutti_place place, off_t at)
{
    int fd = rig_open_member(r, place.member, O_RDWR);
    off_t offset = (off_t)place.offset + at;
    uint8_t byte;

    assert_int_equal(pread(fd, &byte, 1, offset), 1);
    byte ^= 4;
    assert_int_equal(pwrite(fd, &byte, 1, offset), 1);
    fsync(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
}

/** What is told goes the way it goes between worker and scheduler. */
static int drop(struct rig *r, const struct tutti_transfer *bad)
{
    struct tutti_transfer erased[64];
    struct tutti_error err = {0};
    int hidden = tutti_directory_drop(r->directory, bad->slot, bad->generation);
    size_t count = tutti_directory_take_erased(r->directory, erased, 64);

    rig_ok(tutti_serve_erase(r->serve, 0, erased, (uint32_t)count, &err), &err);
    return hidden;
}

static struct tutti_scrub *scrub_of(struct rig *r, uint64_t rate)
{
    struct tutti_scrub *scrub;
    struct tutti_error err = {0};

    rig_ok(tutti_scrub_open(r->serve, 0, rate, 0, &scrub, &err), &err);
    return scrub;
}

static void finds_and_forgets(void **state)
{
    struct tutti_transfer items[64], bad[64];
    struct tutti_scrub_report report;
    struct tutti_scrub *scrub;
    struct tutti_match match;
    struct tutti_placement p;
    struct tutti_error err = {0};
    struct rig r;
    (void)state;

    rig_make(&r, engine, NULL);
    for (uint32_t chain = 0; chain < 8; chain += 2)
        assert_int_equal(rig_store(&r, chain, 0, BLOCKS), BLOCKS);
    assert_int_equal(tutti_pool_placement(r.pool, 0, &p), 0);
    scrub = scrub_of(&r, 0);
    assert_int_equal(tutti_scrub_open(r.serve, 0, 0, 0, &scrub, &err), -EBUSY);
    assert_int_equal(round_of(scrub, bad), 0);
    tutti_scrub_report(scrub, &report);
    assert_int_equal(report.verified, 4 * BLOCKS);
    assert_int_equal(report.slots, p.extents * p.slots_per_extent);
    assert_int_equal(report.bad + report.torn + report.skipped, 0);
    assert_true(report.bytes >= (uint64_t)4 * BLOCKS * RIG_LAYERS * RIG_PARTS * RIG_OBJECT);

    assert_int_equal(rig_find(&r, 2, BLOCKS, 40, &match, items), BLOCKS);
    assert_int_equal(tutti_directory_unpin(r.directory, match.slot, match.generation), 0);
    flip(&r, tutti_object_place(&p, items[20].slot, 5, 1), 77);
    flip(&r, tutti_record_place(&p, items[22].slot), 64);
    assert_int_equal(round_of(scrub, bad), 2);
    assert_int_equal(bad[0].slot, items[20].slot);
    assert_int_equal(bad[0].generation, items[20].generation);
    assert_true(tutti_key_equal(bad[0].key, items[20].key));
    assert_int_equal(bad[1].slot, items[22].slot);
    assert_int_equal(bad[1].generation, 0);
    tutti_scrub_report(scrub, &report);
    assert_int_equal(report.torn, 1);

    assert_int_equal(drop(&r, &bad[1]), 2);
    assert_int_equal(drop(&r, &bad[0]), 2);
    assert_int_equal(drop(&r, &bad[0]), 0); /* it has moved on */
    assert_int_equal(round_of(scrub, bad), 0);
    assert_int_equal(rig_load(&r, 2, BLOCKS, 40), 20);
    for (uint32_t chain = 0; chain < 8; chain += 2)
        assert_int_equal(rig_load(&r, chain, BLOCKS, 40), chain == 2 ? 20 : BLOCKS);
    tutti_scrub_close(scrub);

    /* Emptied on disk: the next start finds none of the four. */
    rig_close(&r);
    rig_open(&r, engine, NULL);
    scrub = scrub_of(&r, 0);
    assert_int_equal(round_of(scrub, bad), 0);
    tutti_scrub_report(scrub, &report);
    assert_int_equal(report.verified, 4 * BLOCKS - 4);
    rig_close(&r); /* with the scrub open */
    rig_remove(&r);
}

/** Who asks for one bad slot at a time is told one at a time, and all of them. */
static void tells_one_at_a_time(void **state)
{
    struct tutti_transfer items[64], bad;
    struct tutti_scrub_report report = {0};
    struct tutti_scrub *scrub;
    struct tutti_match match;
    struct tutti_placement p;
    struct tutti_error err = {0};
    uint32_t told = 0, seen = 0;
    struct rig r;
    (void)state;

    rig_make(&r, engine, NULL);
    assert_int_equal(tutti_scrub_open(r.serve, 1, 0, 0, &scrub, &err), -EINVAL);
    assert_int_equal(tutti_scrub_open(r.serve, TUTTI_MAX_GROUPS, 0, 0, &scrub, &err), -EINVAL);
    assert_non_null(strstr(err.message, "no KV memory"));
    assert_int_equal(rig_store(&r, 0, 0, BLOCKS), BLOCKS);
    assert_int_equal(rig_find(&r, 0, BLOCKS, 40, &match, items), BLOCKS);
    assert_int_equal(tutti_pool_placement(r.pool, 0, &p), 0);
    for (uint32_t i = 0; i < 3; i++)
        flip(&r, tutti_object_place(&p, items[i].slot, 2, 0), 9);
    scrub = scrub_of(&r, 0);
    for (uint64_t now = SECOND; report.rounds == 0; now += 1000 * SECOND) {
        uint32_t n = tutti_scrub_step(scrub, now, &bad, 1);

        assert_true(n <= 1);
        for (uint32_t i = 0; n && i < 3; i++)
            seen |= (uint32_t)(bad.slot == items[i].slot) << i;
        told += n;
        tutti_scrub_report(scrub, &report);
        usleep(20);
    }
    assert_int_equal(told, 3);
    assert_int_equal(seen, 7);
    tutti_scrub_close(scrub);
    rig_close(&r);
    rig_remove(&r);
}

/** Bytes read while a clock that is handed in goes from 0 to a second. */
static void keeps_to_its_rate(void **state)
{
    const uint64_t rate = 4u << 20;
    struct tutti_scrub_report report;
    struct tutti_transfer bad[64];
    struct tutti_scrub *scrub;
    struct rig r;
    (void)state;

    rig_make(&r, engine, NULL);
    for (uint32_t chain = 0; chain < 8; chain += 2)
        assert_int_equal(rig_store(&r, chain, 0, BLOCKS), BLOCKS);
    scrub = scrub_of(&r, rate);
    for (uint64_t now = 0; now < SECOND; now += SECOND / 200) {
        assert_int_equal(tutti_scrub_step(scrub, now, bad, 64), 0);
        usleep(2000);
    }
    tutti_scrub_report(scrub, &report);
    assert_true(report.bytes > 0);
    assert_true(report.bytes <= rate + (1u << 20)); /* and the piece that the second ends in */
    tutti_scrub_close(scrub);
    rig_close(&r);
    rig_remove(&r);
}

static void waits_for_loads(void **state)
{
    struct tutti_transfer items[64], bad[64];
    struct tutti_scrub_report before, after;
    struct tutti_retrieve *retrieve;
    struct tutti_scrub *scrub;
    struct tutti_match match;
    struct tutti_error err = {0};
    uint64_t now = 0;
    struct rig r;
    (void)state;

    rig_make(&r, engine, NULL);
    assert_int_equal(rig_store(&r, 0, 0, BLOCKS), BLOCKS);
    scrub = scrub_of(&r, 0);
    /* In step, so that it waits for us, and not for the disk. */
    assert_int_equal(rig_find(&r, 0, BLOCKS, 40, &match, items), BLOCKS);
    rig_ok(tutti_retrieve_begin(r.serve, 0, items, BLOCKS, true, 1, &retrieve, &err), &err);
    tutti_scrub_report(scrub, &before);
    for (uint32_t i = 0; i < 200; i++)
        assert_int_equal(tutti_scrub_step(scrub, now += 1000 * SECOND, bad, 64), 0);
    tutti_scrub_report(scrub, &after);
    assert_int_equal(after.bytes, before.bytes);
    assert_int_equal(tutti_retrieve_wait(retrieve, 20 * SECOND), 0);
    assert_int_equal(tutti_scrub_step(scrub, now += 1000 * SECOND, bad, 64), 0);
    tutti_scrub_report(scrub, &after);
    assert_true(after.bytes > before.bytes);
    assert_int_equal(tutti_retrieve_end(retrieve), 0);
    tutti_scrub_close(scrub);
    rig_close(&r);
    rig_remove(&r);
}

/** A store begins after the scrub has read the slots' records: what it makes of them is no fault.
 */
static void leaves_stores_alone(void **state)
{
    struct tutti_origin origins[64] = {{.engine_hash_bytes = 32}};
    struct tutti_transfer items[64], bad[64];
    struct tutti_scrub_report report;
    struct tutti_scrub *scrub;
    struct tutti_match match;
    struct tutti_store *store;
    struct tutti_error err = {0};
    uint64_t now = 0;
    struct rig r;
    (void)state;

    rig_make(&r, engine, NULL);
    assert_int_equal(rig_store(&r, 0, 0, BLOCKS), BLOCKS);
    assert_int_equal(rig_find(&r, 0, BLOCKS, 40, &match, items), BLOCKS);
    scrub = scrub_of(&r, 0);
    do { /* until the records of the chain's slots are read, and so no layer yet */
        tutti_scrub_step(scrub, now += 1000 * SECOND, bad, 64);
        tutti_scrub_report(scrub, &report);
    } while (report.cursor + 256 <= items[0].slot);
    usleep(50000);
    for (uint32_t i = 0; i < BLOCKS; i++) {
        items[i].generation = r.epoch << TUTTI_EPOCH_SHIFT | (0xff00 + i);
        items[i].block = i;
        origins[i] = (struct tutti_origin){.engine_hash_bytes = 32};
        rig_fill(&r, 9, i, i);
    }
    rig_ok(tutti_store_begin(r.serve, 0, items, origins, BLOCKS, RIG_LAYERS, 1, &store, &err),
           &err);
    assert_int_equal(tutti_store_wait(store, 20 * SECOND), 0);
    assert_int_equal(tutti_store_end(store), 0);
    assert_int_equal(round_of(scrub, bad), 0);
    tutti_scrub_report(scrub, &report);
    assert_int_equal(report.skipped, BLOCKS);
    assert_int_equal(round_of(scrub, bad), 0);
    tutti_scrub_report(scrub, &report);
    assert_int_equal(report.verified, BLOCKS);
    tutti_scrub_close(scrub);
    rig_close(&r);
    rig_remove(&r);
}

/** Slots of a fenced member are passed over, and nothing is made of them. */
static void passes_over_fenced_members(void **state)
{
    struct tutti_scrub_report report;
    struct tutti_transfer bad[64];
    struct tutti_scrub *scrub;
    struct tutti_placement p;
    struct tutti_error err = {0};
    uint32_t extents;
    struct rig r;
    (void)state;

    rig_make(&r, engine, NULL);
    assert_int_equal(rig_store(&r, 0, 0, BLOCKS), BLOCKS);
    assert_int_equal(rig_store(&r, 2, 0, BLOCKS), BLOCKS);
    rig_ok(tutti_pool_disable_member(r.home, 0, 0, "off", NULL, &err), &err);
    assert_int_equal(tutti_serve_watch_members(r.serve), 1);
    scrub = scrub_of(&r, 0);
    assert_int_equal(round_of(scrub, bad), 0);
    tutti_scrub_report(scrub, &report);
    assert_int_equal(report.verified, BLOCKS);
    assert_int_equal(tutti_pool_placement(r.pool, 0, &p), 0);
    /* It was through when it came round: the first extent of each member is in it once more. */
    extents = p.extents / 2 + 1;
    assert_int_equal(report.skipped, extents * p.slots_per_extent);
    assert_int_equal(report.bytes, extents * p.slots_per_extent * p.record_stride +
                                       BLOCKS * RIG_LAYERS * tutti_layer_stride(&p));
    rig_ok(tutti_pool_disable_member(r.home, 0, 1, "off", NULL, &err), &err);
    assert_int_equal(tutti_serve_watch_members(r.serve), 3);
    for (uint64_t now = SECOND << 20; now < SECOND << 21; now += SECOND << 12)
        assert_int_equal(tutti_scrub_step(scrub, now, bad, 64), 0);
    tutti_scrub_close(scrub);
    rig_close(&r);
    rig_remove(&r);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_and_forgets),   cmocka_unit_test(tells_one_at_a_time),
        cmocka_unit_test(keeps_to_its_rate),   cmocka_unit_test(waits_for_loads),
        cmocka_unit_test(leaves_stores_alone), cmocka_unit_test(passes_over_fenced_members),
    };

    engine = argc > 1 ? argv[1] : "auto";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
