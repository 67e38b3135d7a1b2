/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes that were acknowledged and lost, reads of what was there before, writes
 * that hit another slot: old record and old data agree with each other, and are
 * not what was asked for. All are misses.
 * Seen to fail with layer_good() that says yes, records whose generation is not
 * compared, records written for layers that were not, and (as it once was) with
 * "stale" writes, which read old bytes into the store's source.
 */
#include "faults.h"

/** A failed command of a run fails what it was about, and the record of that is not written. */
static void failed_run(void **state)
{
    struct tutti_map *map, *in;
    uint32_t slots[COUNT] = {0, 1, 2, 8, 9, 10, 11, 15}; /* three commands */
    struct rig rig;
    (void)state;

    open_filled(&rig, OLD);
    map = map_of(&rig, slots, NEW);
    spoil(&rig, about(&rig, "write", "enospc", 9, LAYER, 1));
    store(&rig, map, NEW);
    heal(&rig);
    in = load(&rig, slots, NEW);
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_int_equal(map->status[i], i >= 3 && i < 7 ? ENOSPC : 0);
        assert_int_equal(in->status[i], i >= 3 && i < 7 ? ESTALE : 0);
    }
    rig_map_free(map);
    rig_map_free(in);
    rig_close(&rig);
}

/** Every write acknowledged and lost: old record and old data agree, and are not what was asked
 *  for. */
static void all_writes_lost(void **state)
{
    struct tutti_map *map, *in;
    struct rig rig;
    (void)state;

    open_filled(&rig, OLD);
    map = map_of(&rig, run, NEW);
    spoil(&rig, "write:lost");
    assert_int_equal(store(&rig, map, NEW), 0);
    heal(&rig);
    in = load(&rig, run, NEW);
    for (uint32_t i = 0; i < COUNT; i++)
        assert_int_equal(in->status[i], ESTALE);
    rig_map_free(in);
    in = load(&rig, run, OLD);
    expect(in, 0, 0);
    rig_map_free(in);
    rig_map_free(map);
    rig_close(&rig);
}

static struct tutti_transfer *items_of(const struct tutti_map *map)
{
    return (struct tutti_transfer *)(uintptr_t)map->items;
}

static void expect_stale(struct rig *rig, struct tutti_map *map)
{
    rig_load(rig, map);
    for (uint32_t i = 0; i < COUNT; i++)
        assert_int_equal(map->status[i], ESTALE);
    rig_map_free(map);
}

/** A record counts for what it was written as, in every word of it, and for nothing else. */
static void exactly_what_was_asked_for(void **state)
{
    struct tutti_map *map, *old;
    struct rig rig;
    (void)state;

    open_filled(&rig, OLD);
    old = map_of(&rig, run, OLD);
    map = map_of(&rig, run, NEW); /* another generation of the same key */
    for (uint32_t i = 0; i < COUNT; i++)
        items_of(map)[i].key = old->items[i].key;
    expect_stale(&rig, map);
    map = map_of(&rig, run, NEW); /* another key of the same generation */
    for (uint32_t i = 0; i < COUNT; i++)
        items_of(map)[i].generation = old->items[i].generation;
    expect_stale(&rig, map);
    for (uint32_t i = 0; i < 4; i++) {
        struct tutti_record before = rig.stencil;

        rig.stencil.pool[15] ^= i == 0;
        rig.stencil.rank ^= i == 1;
        rig.stencil.geometry ^= i == 2;
        rig.stencil.group ^= i == 3;
        expect_stale(&rig, map_of(&rig, run, OLD));
        rig.stencil = before;
    }
    rig_load(&rig, old);
    expect(old, 0, 0);
    rig_map_free(old);
    rig_close(&rig);
}

/** A record is made only of layers that were all written. */
static void a_layer_never_written(void **state)
{
    struct tutti_map *map;
    struct rig rig;
    (void)state;

    open_filled(&rig, OLD);
    map = map_of(&rig, run, NEW);
    rig_fill(&rig, map, NEW);
    for (uint32_t l = 0; l < 3; l += 2)
        assert_int_equal(
            rig_wait(&rig, rig_issue(&rig, map, l, TUTTI_WRITE, TUTTI_CLASS_STORE, TUTTI_NO_IOCB),
                     NULL),
            0);
    assert_int_equal(rig_wait(&rig,
                              rig_issue(&rig, map, TUTTI_LAYER_RECORDS, TUTTI_WRITE,
                                        TUTTI_CLASS_STORE, TUTTI_NO_IOCB),
                              NULL),
                     -ECANCELED);
    rig_map_free(map);
    expect_stale(&rig, map_of(&rig, run, NEW));
    rig_close(&rig);
}

/** A read that gets what was there before, in each place; and once only. */
static void stale_reads(void **state)
{
    static const struct {
        uint32_t layer;
        int error;
    } places[] = {{LAYER, EBADMSG}, {TUTTI_LAYER_RECORDS, ESTALE}};
    struct tutti_map *map;
    struct rig rig;
    (void)state;

    for (uint32_t i = 0; i < 2; i++)
        for (uint32_t count = 1; count <= 2; count++) {
            open_filled(&rig, OLD);
            map = map_of(&rig, run, NEW);
            spoil(&rig, about(&rig, "any", "stale", run[VICTIM], places[i].layer, count));
            assert_int_equal(store(&rig, map, NEW), 0);
            /* A write is nothing that can be stale, and its source is nobody's to change. */
            assert_int_equal(rig_good(&rig, map, NEW), COUNT);
            expect_load(&rig, run, VICTIM, count == 1 ? 0 : places[i].error);
            rig_map_free(map);
            rig_close(&rig);
        }
}

static void stale_writes_are_refused(void **state)
{
    struct rig_options o = {
        .engine = "fault", .inner = inner, .rules = "write:stale", .may_fail = true};
    struct rig rig;
    (void)state;

    rig_open(&rig, &o);
    assert_int_equal(rig.opened, -EINVAL);
    assert_non_null(strstr(rig.said.message, "stale"));
    rig_close(&rig);
}

/** A write that lands on a slot that was finished: both are misses. */
static void misdirected_onto_another(void **state)
{
    char back[64];
    struct tutti_map *map, *in;
    struct rig rig;
    (void)state;

    open_filled(&rig, OLD);
    rig.options.queue_bytes = 8192; /* in order */
    rig.options.command_bytes = 8192;
    map = map_of(&rig, run, NEW);
    snprintf(back, sizeof(back), "misdirected:by=%llu",
             (unsigned long long)-tutti_layer_stride(&rig.placement));
    spoil(&rig, about(&rig, "write", back, run[VICTIM], LAYER, 1));
    assert_int_equal(store(&rig, map, NEW), 0);
    heal(&rig);
    in = load(&rig, run, NEW);
    for (uint32_t i = 0; i < COUNT; i++)
        assert_int_equal(in->status[i], i == VICTIM || i == VICTIM - 1 ? EBADMSG : 0);
    rig_map_free(map);
    rig_map_free(in);
    rig_close(&rig);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(failed_run),
        cmocka_unit_test(all_writes_lost),
        cmocka_unit_test(exactly_what_was_asked_for),
        cmocka_unit_test(a_layer_never_written),
        cmocka_unit_test(stale_reads),
        cmocka_unit_test(stale_writes_are_refused),
        cmocka_unit_test(misdirected_onto_another),
    };

    inner = argc > 1 ? argv[1] : "uring";
    return cmocka_run_group_tests_name(inner, tests, NULL, NULL);
}
