/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Neighbouring slots of a layer are one command, whatever blocks they go to:
 * exact numbers of commands for runs, scattered slots, ends of extents, members
 * and the limits of a command; and system calls that follow commands and queue,
 * never objects.
 * Seen to fail with tutti_slot_follows() that says no, or yes over the end of an
 * extent, with the limits of a command's bytes and segments times eight and four,
 * and with everything staged.
 */
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 512 };

static const char *engine;

/** Commands that one read of layer 0 (or records) of a stored map takes; its bytes are checked. */
static struct tutti_engine_counters read_once(struct rig *rig, const struct tutti_map *map,
                                              uint32_t layer)
{
    struct tutti_engine_counters before, after;
    struct tutti_completion completion;
    uint64_t bytes = 0;

    before = rig_counters(rig);
    assert_int_equal(
        rig_wait(rig, rig_issue(rig, map, layer, TUTTI_READ, TUTTI_CLASS_LOAD_AHEAD, TUTTI_NO_IOCB),
                 &completion),
        0);
    after = rig_counters(rig);
    for (size_t i = 0; i < sizeof(after) / sizeof(uint64_t); i++)
        ((uint64_t *)(void *)&after)[i] -= ((uint64_t *)(void *)&before)[i];
    assert_int_equal(completion.commands, after.commands);
    assert_int_equal(completion.retried, 0);
    for (uint32_t m = 0; m < rig->options.members; m++)
        bytes += completion.bytes[m];
    assert_int_equal(bytes, after.read_bytes);
    return after;
}

/** What reading layer 0 of these slots costs, and what reading their records does. */
struct cost {
    struct tutti_engine_counters layer;
    struct tutti_engine_counters records;
};

static struct cost cost_of(struct rig *rig, const uint32_t *slots, uint32_t count)
{
    uint32_t blocks[MOST] = {0};
    struct tutti_map *out, *in;
    struct cost cost;

    for (uint32_t i = 0; i < count; i++)
        blocks[i] = (i * 7 + 3) % count; /* never neighbours; 7 divides no count here */
    out = rig_map(rig, slots, blocks, count, 1);
    in = rig_map(rig, slots, blocks, count, 1);
    rig_fill(rig, out, 1);
    assert_int_equal(rig_store(rig, out), 0);
    rig_wipe(rig);
    cost.records = read_once(rig, in, TUTTI_LAYER_RECORDS);
    cost.layer = read_once(rig, in, 0);
    for (uint32_t i = 0; i < count; i++)
        assert_true(rig_holds(rig, in, i, 0, 1));
    rig_map_free(out);
    rig_map_free(in);
    return cost;
}

static struct cost cost_in(struct rig_options o, const uint32_t *slots, uint32_t count)
{
    struct cost cost;
    struct rig rig;

    o.engine = engine;
    o.blocks = count;
    o.layers = 1;
    rig_open(&rig, &o);
    cost = cost_of(&rig, slots, count);
    rig_close(&rig);
    return cost;
}

/** Slots first, first + step, ... */
static const uint32_t *slots_from(uint32_t first, uint32_t step)
{
    static uint32_t slots[MOST];

    for (uint32_t i = 0; i < MOST; i++)
        slots[i] = first + i * step;
    return slots;
}

static void runs(void **state)
{
    struct cost c = cost_in((struct rig_options){.slots = 64}, slots_from(0, 1), 64);
    (void)state;

    assert_int_equal(c.layer.commands, 1); /* 64 slots, 128 objects, 512 KiB */
    assert_int_equal(c.records.commands, 1);
    assert_int_equal(c.layer.read_bytes, 64 * 8192);
    c = cost_in((struct rig_options){.slots = 64}, slots_from(5, 1), 1);
    assert_int_equal(c.layer.commands, 1);
}

static void scattered(void **state)
{
    struct cost c = cost_in((struct rig_options){.slots = 64}, slots_from(0, 2), 32);
    uint32_t pairs[32], down[32];
    (void)state;

    assert_int_equal(c.layer.commands, 32);
    assert_int_equal(c.records.commands, 32);
    for (uint32_t i = 0; i < 32; i++) {
        pairs[i] = i / 2 * 3 + i % 2;
        down[i] = 31 - i;
    }
    c = cost_in((struct rig_options){.slots = 64}, pairs, 32);
    assert_int_equal(c.layer.commands, 16);
    assert_int_equal(c.records.commands, 16);
    c = cost_in((struct rig_options){.slots = 64}, down, 32); /* neighbours in order only */
    assert_int_equal(c.layer.commands, 32);
}

static void ends_of_extents(void **state)
{
    struct cost c = cost_in((struct rig_options){0}, slots_from(12, 1), 8);
    (void)state;

    assert_int_equal(c.layer.commands, 2); /* 12..15, 16..19 */
    assert_int_equal(c.records.commands, 2);
    c = cost_in((struct rig_options){0}, slots_from(0, 1), 64);
    assert_int_equal(c.layer.commands, 4);
    c = cost_in((struct rig_options){0}, slots_from(15, 1), 1);
    assert_int_equal(c.layer.commands, 1);
}

/** Extents go round the members: a run of three extents is three commands of three members. */
static void members(void **state)
{
    struct rig_options o = {.members = 3, .extents = 6};
    struct cost c = cost_in(o, slots_from(0, 1), 48);
    (void)state;

    assert_int_equal(c.layer.commands, 3);
    assert_int_equal(c.records.commands, 3);
    c = cost_in(o, slots_from(0, 1), 96);
    assert_int_equal(c.layer.commands, 6);
    c = cost_in(o, slots_from(16, 1), 16); /* all of one member */
    assert_int_equal(c.layer.commands, 1);
}

static void limits_of_a_command(void **state)
{
    struct cost c;
    (void)state;

    c = cost_in((struct rig_options){.slots = 64, .command_bytes = 65536}, slots_from(0, 1), 64);
    assert_int_equal(c.layer.commands, 8);
    c = cost_in((struct rig_options){.slots = 64, .command_bytes = 20480}, slots_from(0, 1), 9);
    assert_int_equal(c.layer.commands, 5); /* whole slots: two a command */
    c = cost_in((struct rig_options){.object_bytes = 65536, .command_bytes = 4096},
                slots_from(0, 1), 2);
    assert_int_equal(c.layer.commands, 64); /* a slot larger than a command */
    /* An iovec has 1,024 entries at most: 256 slots of 4 parts. */
    c = cost_in((struct rig_options){.slots = 512, .extents = 1, .parts = 4, .object_bytes = 512},
                slots_from(0, 1), 512);
    assert_int_equal(c.layer.commands, 2);
}

/** What is not aligned goes through staging, merged all the same; what is does not. */
static void staged(void **state)
{
    struct rig_options o = {.slots = 64};
    struct cost c = cost_in(o, slots_from(0, 1), 64);
    struct rig rig;
    bool direct;
    (void)state;

    rig_open(&rig, &(struct rig_options){.engine = engine});
    direct = rig.member[0].direct; /* otherwise nothing need be aligned */
    rig_close(&rig);

    assert_int_equal(c.layer.staged_bytes, 0);
    o.skew = 64;
    c = cost_in(o, slots_from(0, 1), 64);
    assert_int_equal(c.layer.staged_bytes, direct ? 64 * 8192 : 0);
    assert_int_equal(c.layer.commands, 1);
    o.skew = 512; /* a sector is enough */
    assert_int_equal(cost_in(o, slots_from(0, 1), 64).layer.staged_bytes, 0);
    o.alignment = 4096;
    assert_int_equal(cost_in(o, slots_from(0, 1), 64).layer.staged_bytes, direct ? 64 * 8192 : 0);
    o = (struct rig_options){.slots = 64, .object_bytes = 1000, .layout = RIG_GAPPED};
    c = cost_in(o, slots_from(0, 1), 64);
    assert_int_equal(c.layer.staged_bytes, direct ? 64 * 2048 : 0); /* padding goes along */
    assert_int_equal(c.layer.commands, 1);
    o = (struct rig_options){.slots = 64, .unreachable = true};
    c = cost_in(o, slots_from(0, 1), 64);
    assert_int_equal(c.layer.staged_bytes, 64 * 8192);
    assert_int_equal(c.layer.commands, 1);
}

/*
 * A command costs two calls at most (hand over, wait), and an IOCB a few for going to sleep;
 * objects cost none. So one command is as cheap for 512 objects as for one.
 */
static void system_calls(void **state)
{
    static const uint32_t counts[] = {1, 64, 512};
    struct rig_options o = {.slots = 512, .extents = 1, .parts = 1, .object_bytes = 512};
    /* Engines "nvme" and "gpu" look by sleeping, many times a second, whatever is out. */
    uint64_t waits = strcmp(engine, "nvme") == 0  ? 300
                     : strcmp(engine, "gpu") == 0 ? 1500 /* its double of a GPU is slow */
                                                  : 0;
    struct cost c;
    (void)state;

    for (uint32_t i = 0; i < 3; i++) {
        c = cost_in(o, slots_from(0, 1), counts[i]);
        assert_int_equal(c.layer.commands, 1);
        assert_true(c.layer.system_calls <= 10 + waits);
        assert_true(c.records.system_calls <= 10 + waits);
    }
    c = cost_in(o, slots_from(0, 2), 200);
    assert_int_equal(c.layer.commands, 200);
    assert_true(c.layer.system_calls <= 2 * 200 + 10 + waits);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs),
        cmocka_unit_test(scattered),
        cmocka_unit_test(ends_of_extents),
        cmocka_unit_test(members),
        cmocka_unit_test(limits_of_a_command),
        cmocka_unit_test(staged),
        cmocka_unit_test(system_calls),
    };

    engine = argc > 1 ? argv[1] : "uring";
    return cmocka_run_group_tests_name(engine, tests, NULL, NULL);
}
