/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a drive's controller can do wrong, with engine "nvme" as a whole over it: data that is half
 * there though it says good, of a read and of a write; completions that come twice (at once, or
 * when another command has the identifier by then), of nothing, late; errors. (In any order:
 * nvme/queues.c. Commands that never end, and death: nvme/recovery.c.) Never a
 * wrong byte called good, each wait ends, and after it the drive serves what it has.
 *
 * Seen to fail with maps that are not verified (half a read, half a write, and the completion that
 * another command's is taken for: wrong bytes called good), and without the second try.
 */
#include "rig.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "nvme/drive_internal.h"
#include "nvme/soft/port.h"
#include "nvme/soft/soft.h"

#define MS UINT64_C(1000000)

enum { COUNT = 4, SEED = 7 };

static struct soft *soft_of(const struct rig *rig)
{
    return soft_port_soft(&rig->member[0].drive->port);
}

static void inject(struct rig *rig, struct soft_fault fault)
{
    soft_stop(soft_of(rig));
    assert_int_equal(soft_inject(soft_of(rig), &fault), 0);
    assert_int_equal(soft_start(soft_of(rig)), 0);
}

static struct tutti_map *open_filled(struct rig *rig, bool store)
{
    struct tutti_map *map;

    rig_open(rig, &(struct rig_options){.engine = "nvme"});
    map = rig_map_range(rig, 0, COUNT, SEED);
    rig_fill(rig, map, SEED);
    if (store) {
        assert_int_equal(rig_store(rig, map), 0);
        rig_wipe(rig);
    }
    return map;
}

/** One more load. Return: whether everything is there; what is not is not called good. */
static bool load_again(struct rig *rig, struct tutti_map *map)
{
    rig_wipe(rig);
    memset(map->status, 0, COUNT);
    return rig_load(rig, map) == 0 && rig_good(rig, map, SEED) == COUNT;
}

static void close_healed(struct rig *rig, struct tutti_map *map)
{
    assert_true(load_again(rig, map));
    assert_string_equal(soft_first_broken(soft_of(rig)), "");
    rig_map_free(map);
    rig_close(rig);
}

/** Reads that go wrong once: all is there by the second try, or by a reset's. */
static void once(void **state)
{
    static const struct soft_fault fault[] = {
        {.kind = SOFT_TORN, .opcode = NVME_READ, .count = 1},
        {.kind = SOFT_TORN, .opcode = NVME_READ, .count = 1, .skip = 2},
        {.kind = SOFT_STATUS, .opcode = NVME_READ, .count = 1, .status = NVME_READ_ERROR},
        {.kind = SOFT_STATUS, .opcode = NVME_READ, .count = 1, .skip = 1, .status = NVME_INTERNAL},
        {.kind = SOFT_TWICE, .opcode = NVME_READ, .count = 1},
        {.kind = SOFT_FOREIGN, .opcode = NVME_READ, .count = 1, .skip = 1},
        {.kind = SOFT_LATE, .opcode = NVME_READ, .count = 3, .delay_ns = 20 * MS},
    };
    (void)state;

    for (uint32_t i = 0; i < sizeof(fault) / sizeof(fault[0]); i++) {
        struct tutti_map *map;
        struct rig rig;

        map = open_filled(&rig, true);
        inject(&rig, fault[i]);
        (void)rig_load(&rig, map);
        assert_int_equal(rig_good(&rig, map, SEED), COUNT);
        close_healed(&rig, map);
    }
}

/** Half of a layer's write is there: what it holds is not called good, the rest is. */
static void half_a_write(void **state)
{
    struct tutti_map *map;
    struct rig rig;
    (void)state;

    map = open_filled(&rig, false);
    inject(&rig,
           (struct soft_fault){.kind = SOFT_TORN, .opcode = NVME_WRITE, .count = 1, .skip = 1});
    assert_int_equal(rig_store(&rig, map), 0); /* the empty records, then layer 0 */
    rig_wipe(&rig);
    (void)rig_load(&rig, map);
    assert_int_equal(rig_good(&rig, map, SEED), COUNT / 2);
    memset(map->status, 0, COUNT);
    rig_fill(&rig, map, SEED);
    assert_int_equal(rig_store(&rig, map), 0);
    close_healed(&rig, map);
}

/**
 * The records' command completes once more when a layer's has its identifier and no data yet: no
 * driver can see that, and the layer's bytes do not match. What is read instead has the identifier
 * as well, which the drive refuses while the layer's own command is out there. Then all is well.
 */
static void a_ghost(void **state)
{
    struct soft_fault again = {
        .kind = SOFT_TWICE, .opcode = NVME_READ, .count = 1, .delay_ns = 400 * MS};
    struct soft_fault late = {
        .kind = SOFT_LATE, .opcode = NVME_READ, .count = 1, .delay_ns = 2000 * MS};
    struct tutti_map *map;
    uint64_t before;
    struct rig rig;
    uint32_t index;
    (void)state;

    map = open_filled(&rig, true);
    inject(&rig, again); /* of the first read, and what follows of the next */
    inject(&rig, late);
    before = rig_counters(&rig).retries;
    assert_int_equal(rig_wait(&rig,
                              rig_issue(&rig, map, TUTTI_LAYER_RECORDS, TUTTI_READ,
                                        TUTTI_CLASS_LOAD_NOW, TUTTI_NO_IOCB),
                              NULL),
                     0);
    index = rig_issue(&rig, map, 0, TUTTI_READ, TUTTI_CLASS_LOAD_NOW, TUTTI_NO_IOCB);
    (void)rig_wait(&rig, index, NULL);
    for (uint32_t i = 0; i < COUNT; i++)
        assert_true(map->status[i] != 0 || rig_holds(&rig, map, i, 0, SEED));
    assert_true(rig_counters(&rig).retries > before); /* it was the ghost that it met */
    for (uint32_t tries = 0; !load_again(&rig, map); tries++)
        assert_true(tries < 10000); /* the drive takes two seconds, the warden one */
    assert_int_equal(soft_broken_any(soft_of(&rig)),
                     soft_broken(soft_of(&rig), SOFT_IDENTIFIER)); /* that was its own doing */
    rig_map_free(map);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(once),
        cmocka_unit_test(half_a_write),
        cmocka_unit_test(a_ghost),
    };

    return cmocka_run_group_tests_name("nvme", tests, NULL, NULL);
}
