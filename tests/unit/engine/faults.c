/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every fault of src/engine/fault_rule.h in both directions, on data and on
 * records: never a wrong byte called good; the position it was about fails,
 * alone and with its errno; what went wrong once is healed by the one second
 * try, what lasts is not.
 * Seen to fail with layer_good() that says yes, without the second try, with a
 * second record that is believed, a short transfer that counts as whole, and a
 * failed write that is called good.
 */
#include "faults.h"

static const uint32_t spread[COUNT] = {0, 2, 4, 6, 8, 10, 12, 14}; /* a command for each */

/**
 * struct fault - what becomes of a position when a fault is about it, errno or 0
 * @data, @record: reads of its layer, of its record
 * @whole: all of a command is spoiled: seen in a run too, where one command is about many
 * @store: writes: what the store says
 * @stored: and what a later load of layer and record says
 */
static const struct fault {
    const char *fault;
    int data;
    int record;
    bool whole;
    int store;
    int stored_data;
    int stored_record;
} faults[] = {
    {"eio", EIO, EIO, true, EIO, ESTALE, ESTALE},
    {"enospc", ENOSPC, ENOSPC, true, ENOSPC, ESTALE, ESTALE},
    {"erofs", EROFS, EROFS, true, EROFS, ESTALE, ESTALE},
    {"short", EIO, EIO, false, EIO, ESTALE, ESTALE},
    {"lost", EBADMSG, ESTALE, true, 0, EBADMSG, ESTALE},
    {"misdirected:by=512", EBADMSG, ESTALE, true, 0, EBADMSG, ESTALE},
    {"flip:at=100", EBADMSG, EBADMSG, false, 0, EBADMSG, EBADMSG},
    {"delay", 0, 0, true, 0, 0, 0},
};
enum { FAULTS = sizeof(faults) / sizeof(faults[0]) };

static void read_faults(const uint32_t *slots, uint32_t layer)
{
    bool record = layer == TUTTI_LAYER_RECORDS;
    struct rig rig;

    open_filled(&rig, NEW);
    for (uint32_t f = 0; f < FAULTS; f++) {
        int lasting = record ? faults[f].record : faults[f].data;
        bool cut = strcmp(faults[f].fault, "short") == 0; /* each piece counts as a try */

        if (slots == run && !faults[f].whole)
            lasting = 0; /* it hits a neighbour, which is fine the second time */
        spoil(&rig, about(&rig, "read", faults[f].fault, slots[VICTIM], layer, UINT32_MAX));
        expect_load(&rig, slots, VICTIM, lasting);
        if (faults[f].data && !cut) /* one second try for each that was bad, and no third */
            assert_int_equal(rig_counters(&rig).retries,
                             slots == run && faults[f].whole ? COUNT : 1);

        spoil(&rig, about(&rig, "read", faults[f].fault, slots[VICTIM], layer, 1));
        expect_load(&rig, slots, VICTIM, 0);
        assert_int_equal(rig_counters(&rig).verify_failures, 0);
        assert_true(rig_counters(&rig).retries > 0 || !faults[f].data);
    }
    rig_close(&rig);
}

static void faults_of_reads(void **state)
{
    (void)state;
    read_faults(spread, LAYER);
    read_faults(run, LAYER);
    read_faults(spread, TUTTI_LAYER_RECORDS);
    read_faults(run, TUTTI_LAYER_RECORDS);
}

/** What is on disk stays wrong however often it is read. */
static void lasting_flips(void **state)
{
    struct tutti_place place;
    struct rig rig;
    (void)state;

    open_filled(&rig, NEW);
    place = tutti_object_place(&rig.placement, run[VICTIM], LAYER, 1);
    rig_flip(&rig, place, 4095);
    expect_load(&rig, run, VICTIM, EBADMSG);
    assert_int_equal(rig_counters(&rig).retries, 1);
    assert_int_equal(rig_counters(&rig).verify_failures, 1);
    rig_flip(&rig, place, 4095); /* and back */
    expect_load(&rig, run, VICTIM, 0);

    place = tutti_record_place(&rig.placement, run[VICTIM]);
    for (uint64_t at = 0; at < tutti_record_bytes(3); at++) { /* each byte of a record counts */
        rig_flip(&rig, place, at);
        if (at < sizeof(uint64_t) * 2 || at % 37 == 0)
            expect_load(&rig, run, VICTIM, EBADMSG);
        rig_flip(&rig, place, at);
    }
    rig_close(&rig);
}

static void write_faults(uint32_t layer)
{
    bool record = layer == TUTTI_LAYER_RECORDS;
    struct tutti_map *map;
    struct rig rig;

    for (uint32_t f = 0; f < FAULTS; f++) {
        char name[64];

        open_filled(&rig, OLD);
        map = map_of(&rig, spread, NEW);
        /* A record's place is written twice: emptied, then filled. */
        snprintf(name, sizeof(name), "%s%s", faults[f].fault, record ? ":after=1" : "");
        spoil(&rig, about(&rig, "write", name, spread[VICTIM], layer, UINT32_MAX));
        store(&rig, map, NEW);
        expect(map, VICTIM, faults[f].store);
        rig_map_free(map);
        heal(&rig);
        expect_load(&rig, spread, VICTIM, record ? faults[f].stored_record : faults[f].stored_data);
        rig_close(&rig);
    }
}

static void faults_of_writes(void **state)
{
    (void)state;
    write_faults(LAYER);
    write_faults(TUTTI_LAYER_RECORDS);
}

/** A write that is cut short once is carried on with. */
static void short_write_goes_on(void **state)
{
    struct tutti_map *map;
    struct rig rig;
    (void)state;

    open_filled(&rig, OLD);
    map = map_of(&rig, run, NEW);
    spoil(&rig, about(&rig, "write", "short", run[VICTIM], LAYER, 1));
    assert_int_equal(store(&rig, map, NEW), 0);
    expect_load(&rig, run, VICTIM, 0);
    rig_map_free(map);
    rig_close(&rig);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(faults_of_reads),
        cmocka_unit_test(lasting_flips),
        cmocka_unit_test(faults_of_writes),
        cmocka_unit_test(short_write_goes_on),
    };

    inner = argc > 1 ? argv[1] : "uring";
    return cmocka_run_group_tests_name(inner, tests, NULL, NULL);
}
