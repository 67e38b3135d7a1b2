/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A member that errs too much is given no more commands: what is asked of it ends at once with
 * ENODEV, the other member serves on, and once it is opened again it holds what it held. The bound
 * is exact, a command that does not end counts, and what waits for a word that never comes ends
 * too. Seen to fail with a gate that look_at() does not look at, with a bound of one more, without
 * fence_look_for_late(), and with the second try of a stretch counted as a further error.
 */
#include "rig.h"

#include <errno.h>
#include <string.h>
#include <time.h>

enum { BOUND = 4, SLOTS = 8, COUNT = 24 };

static const char *engine;

static struct tutti_member_state state_of(struct rig *rig, uint32_t member)
{
    struct tutti_member_state state;

    assert_int_equal(tutti_engine_member_state(rig->engine, member, &state), 0);
    return state;
}

static void open_two(struct rig *rig)
{
    struct rig_options o = {.engine = engine,
                            .members = 2,
                            .slots = SLOTS,
                            .extents = 8,
                            .blocks = COUNT,
                            .fence_errors = BOUND};

    rig_open(rig, &o);
}

/** @count slots of which none has a neighbour: a command for each, @member or (2) both. */
static struct tutti_map *map_of(struct rig *rig, uint32_t member, uint32_t count)
{
    uint32_t slots[COUNT], blocks[COUNT];

    for (uint32_t i = 0; i < count; i++) {
        uint32_t extent = member == 2 ? i % 8 : i % 4 * 2 + member;

        slots[i] = extent * SLOTS + i / (member == 2 ? 8 : 4) * 2;
        blocks[i] = i;
    }
    return rig_map(rig, slots, blocks, count, 1);
}

static uint32_t member_of(const struct rig *rig, const struct tutti_map *map, uint32_t i)
{
    return tutti_record_place(&rig->placement, map->items[i].slot).member;
}

static void store_all(struct rig *rig)
{
    struct tutti_map *map = map_of(rig, 2, COUNT);

    rig_fill(rig, map, 1);
    assert_int_equal(rig_store(rig, map), 0);
    rig_map_free(map);
}

/** Load everything: member 1's positions end with @error, all others are good. */
static void load_all(struct rig *rig, int error)
{
    struct tutti_map *map = map_of(rig, 2, COUNT);

    rig_wipe(rig);
    rig_load(rig, map);
    rig_good(rig, map, 1);
    for (uint32_t i = 0; i < COUNT; i++)
        assert_int_equal(map->status[i], member_of(rig, map, i) == 1 ? error : 0);
    rig_map_free(map);
}

/** @errors writes that fail, in a row. */
static void err(struct rig *rig, uint32_t errors)
{
    struct tutti_map *map = map_of(rig, 1, errors);

    rig_fill(rig, map, 1);
    rig_wait(rig, rig_issue(rig, map, 0, TUTTI_WRITE, TUTTI_CLASS_STORE, TUTTI_NO_IOCB), NULL);
    rig_map_free(map);
}

static void the_bound_is_exact(void **state)
{
    struct rig rig;
    uint64_t commands;
    (void)state;

    open_two(&rig);
    store_all(&rig);
    rig_reopen(&rig, "fault", "write:eio:member=1", engine);
    err(&rig, BOUND - 1);
    assert_false(state_of(&rig, 1).fenced);
    load_all(&rig, 0); /* and what succeeds ends the row */
    err(&rig, BOUND - 1);
    assert_false(state_of(&rig, 1).fenced);
    err(&rig, 1);
    assert_true(state_of(&rig, 1).fenced);
    assert_false(state_of(&rig, 0).fenced);
    assert_non_null(strstr(state_of(&rig, 1).reason, "in a row"));
    assert_non_null(strstr(state_of(&rig, 1).reason, rig.path[1]));
    assert_int_equal(state_of(&rig, 1).io_errors, 2 * BOUND - 1);

    commands = rig_counters(&rig).commands;
    err(&rig, 5);
    assert_int_equal(rig_counters(&rig).commands, commands);
    load_all(&rig, ENODEV);
    assert_int_equal(tutti_engine_unfence(rig.engine, 1), 0);
    load_all(&rig, 0);
    assert_false(state_of(&rig, 1).fenced);
    err(&rig, BOUND - 1); /* counted from the start */
    assert_false(state_of(&rig, 1).fenced);
    assert_int_equal(tutti_engine_fence(rig.engine, 2, "no such member"), -EINVAL);
    rig_close(&rig);
}

/** One stretch that cannot be read, and is tried again slot by slot, is one error. */
static void second_tries_are_no_further_errors(void **state)
{
    struct rig rig;
    struct tutti_map *map;
    (void)state;

    open_two(&rig);
    store_all(&rig);
    rig_reopen(&rig, "fault", "read:eio:member=1", engine);
    map = rig_map_range(&rig, SLOTS, SLOTS, 1); /* member 1's first extent: one run */
    rig_wait(&rig, rig_issue(&rig, map, 0, TUTTI_READ, TUTTI_CLASS_LOAD_NOW, TUTTI_NO_IOCB), NULL);
    for (uint32_t i = 0; i < SLOTS; i++)
        assert_int_equal(map->status[i], EIO);
    assert_false(state_of(&rig, 1).fenced);
    assert_true(state_of(&rig, 1).io_errors > BOUND);
    rig_map_free(map);
    rig_close(&rig);
}

/** A device that does not answer: fenced by the clock; what it holds comes back when it does. */
static void late_commands_count(void **state)
{
    uint64_t tries = 0;
    uint32_t index;
    struct tutti_map *map;
    struct rig rig;
    (void)state;

    open_two(&rig);
    store_all(&rig);
    rig.options.late_ns = 20000000;
    rig_reopen(&rig, "fault", "read:delay:member=1:ns=600000000", engine);
    map = rig_map_range(&rig, SLOTS, 1, 1); /* one command is enough: it is late again and again */
    index =
        rig_issue(&rig, map, TUTTI_LAYER_RECORDS, TUTTI_READ, TUTTI_CLASS_LOAD_NOW, TUTTI_NO_IOCB);
    while (!state_of(&rig, 1).fenced && tries++ < 20000)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    assert_true(state_of(&rig, 1).fenced);
    assert_true(state_of(&rig, 1).late_commands >= BOUND);
    assert_non_null(strstr(state_of(&rig, 1).reason, "does not end"));
    assert_int_equal(state_of(&rig, 0).late_commands, 0);
    assert_int_equal(rig_wait(&rig, index, NULL), 0); /* it was read all the same */
    rig_map_free(map);
    rig_close(&rig);
}

/** By hand, with work that waits for what never happens. */
static void what_is_held_ends(void **state)
{
    uint32_t word = 0, index[3];
    struct tutti_iocb *iocb;
    struct tutti_map *map;
    struct rig rig;
    (void)state;

    open_two(&rig);
    map = map_of(&rig, 1, SLOTS);
    iocb = rig_get(&rig, map, 0, TUTTI_WRITE, TUTTI_CLASS_STORE, &index[0]);
    iocb->ready = &word;
    iocb->ready_value = 1;
    assert_int_equal(tutti_ring_issue(rig.ring, index[0]), 0);
    for (uint32_t i = 1; i < 3; i++)
        index[i] = rig_issue(&rig, map, i, TUTTI_WRITE, TUTTI_CLASS_STORE, index[i - 1]);
    assert_int_equal(tutti_ring_wait(rig.ring, index[0], 20000000), -ETIMEDOUT);
    assert_int_equal(tutti_engine_fence(rig.engine, 1, "the drive is being replaced"), 0);
    assert_string_equal(state_of(&rig, 1).reason, "the drive is being replaced");
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(rig_wait(&rig, index[i], NULL), -ENODEV);
    assert_int_equal(rig_counters(&rig).commands, 0);
    rig_map_free(map);
    rig_close(&rig);
}

/** Closed and opened at any moment, from another thread than the member's: every IOCB ends. */
static void at_any_moment(void **state)
{
    static struct rig rig;
    (void)state;

    open_two(&rig);
    store_all(&rig);
    for (uint32_t round = 0; round < 200; round++) {
        struct tutti_map *map = map_of(&rig, 2, COUNT);
        uint32_t index[4];

        index[0] = rig_issue(&rig, map, TUTTI_LAYER_RECORDS, TUTTI_READ, TUTTI_CLASS_LOAD_NOW,
                             TUTTI_NO_IOCB);
        for (uint32_t l = 0; l < 3; l++)
            index[l + 1] = rig_issue(&rig, map, l, TUTTI_READ, TUTTI_CLASS_LOAD_NOW, TUTTI_NO_IOCB);
        if (round % 2)
            tutti_engine_fence(rig.engine, 1, "by hand");
        else
            tutti_engine_unfence(rig.engine, 1);
        for (uint32_t i = 0; i < 4; i++)
            rig_wait(&rig, index[i], NULL);
        for (uint32_t i = 0; i < COUNT; i++)
            assert_true(map->status[i] == 0 ||
                        (map->status[i] == ENODEV && member_of(&rig, map, i) == 1));
        rig_good(&rig, map, 1);
        rig_map_free(map);
    }
    tutti_engine_unfence(rig.engine, 1);
    load_all(&rig, 0);
    rig_close(&rig);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bound_is_exact),  cmocka_unit_test(second_tries_are_no_further_errors),
        cmocka_unit_test(late_commands_count), cmocka_unit_test(what_is_held_ends),
        cmocka_unit_test(at_any_moment),
    };

    engine = argc > 1 ? argv[1] : "uring";
    return cmocka_run_group_tests_name(engine, tests, NULL, NULL);
}
