/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Staging is bounded, and that is enough: whatever is asked for at once ends,
 * and no more is taken than there is.
 * Seen to fail with staging_take() that marks or counts nothing, batches that give nothing
 * back, a slot larger than staging that waits; the two meetings of load and store
 * hung with the code as it was, where no staging for one meant no turn for any.
 */
#include "rig.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/staging.h"

static const char *engine;

/* The engine's calls go through here: what is out, in bytes of whole units. */
static uint64_t out, most_out, taken;
static const struct staging *layers; /* the area for layers: a member's first */

int __real_staging_open(struct staging *s, const struct tutti_device *device, size_t bytes,
                        struct tutti_error *err);
int __wrap_staging_open(struct staging *s, const struct tutti_device *device, size_t bytes,
                        struct tutti_error *err);
void *__real_staging_take(struct staging *s, size_t bytes);
void *__wrap_staging_take(struct staging *s, size_t bytes);
void __real_staging_give(struct staging *s, void *memory, size_t bytes);
void __wrap_staging_give(struct staging *s, void *memory, size_t bytes);

static uint64_t whole_units(size_t bytes)
{
    return (bytes + STAGING_UNIT - 1) / STAGING_UNIT * STAGING_UNIT;
}

int __wrap_staging_open(struct staging *s, const struct tutti_device *device, size_t bytes,
                        struct tutti_error *err)
{
    layers = layers ? layers : s;
    return __real_staging_open(s, device, bytes, err);
}

void *__wrap_staging_take(struct staging *s, size_t bytes)
{
    uint8_t *memory = __real_staging_take(s, bytes);

    if (!memory)
        return NULL;
    if (memory < s->memory || memory + bytes > s->memory + s->bytes)
        abort();
    if (s != layers)
        return memory;         /* of the area for records, which engine "nvme" has */
    out += whole_units(bytes); /* one member: one thread */
    if (out > s->bytes)
        abort();
    most_out = out > most_out ? out : most_out;
    __atomic_add_fetch(&taken, 1, __ATOMIC_RELEASE); /* pairs with the acquire of who waits */
    return memory;
}

void __wrap_staging_give(struct staging *s, void *memory, size_t bytes)
{
    if (s == layers)
        out -= whole_units(bytes);
    __real_staging_give(s, memory, bytes);
}

/** The allocator by itself: no two pieces overlap, all comes back, a hole is found again. */
static void pieces(void **state)
{
    struct tutti_error err = {0};
    struct staging s;
    uint8_t *piece[8], *large;
    (void)state;

    assert_int_equal(staging_open(&s, &tutti_device_host, 8 * STAGING_UNIT - 1, &err), 0);
    assert_int_equal(s.units, 8);
    for (uint32_t i = 0; i < 8; i++) {
        piece[i] = __real_staging_take(&s, i % 2 ? STAGING_UNIT : 1);
        assert_non_null(piece[i]);
        assert_int_equal((uintptr_t)piece[i] % STAGING_UNIT, 0);
        for (uint32_t k = 0; k < i; k++)
            assert_ptr_not_equal(piece[i], piece[k]);
    }
    assert_null(__real_staging_take(&s, 1));
    assert_int_equal(s.taken_bytes, s.bytes);
    __real_staging_give(&s, piece[3], STAGING_UNIT);
    __real_staging_give(&s, piece[5], STAGING_UNIT);
    assert_null(__real_staging_take(&s, STAGING_UNIT + 1)); /* two holes are no stretch */
    __real_staging_give(&s, piece[4], 1);
    large = __real_staging_take(&s, 3 * STAGING_UNIT);
    assert_ptr_equal(large, piece[3]);
    assert_null(__real_staging_take(&s, 1));
    __real_staging_give(&s, large, 3 * STAGING_UNIT);
    for (uint32_t i = 0; i < 8; i++)
        if (i < 3 || i > 5)
            __real_staging_give(&s, piece[i], 1);
    assert_int_equal(s.taken_bytes, 0);
    assert_int_equal(s.most_bytes, s.bytes);
    assert_non_null(__real_staging_take(&s, 8 * STAGING_UNIT));
    assert_null(__real_staging_take(&s, 9 * STAGING_UNIT));
    staging_close(&s);
}

/** An engine whose memory is all staged. */
static void open_staged(struct rig *rig, struct rig_options o)
{
    out = most_out = taken = 0;
    o.engine = o.rules ? "fault" : engine;
    o.inner = engine;
    o.unreachable = true;
    layers = NULL;
    rig_open(rig, &o);
}

/** Everything of a map, issued and not waited for. */
static uint32_t issue_all(struct rig *rig, const struct tutti_map *map,
                          enum tutti_direction direction, uint32_t *index)
{
    enum tutti_class class_ = direction == TUTTI_READ ? TUTTI_CLASS_LOAD_AHEAD : TUTTI_CLASS_STORE;
    uint32_t n = 0;

    if (direction == TUTTI_READ)
        index[n++] = rig_issue(rig, map, TUTTI_LAYER_RECORDS, direction, class_, TUTTI_NO_IOCB);
    for (uint32_t l = 0; l < rig->options.layers; l++)
        index[n++] = rig_issue(rig, map, l, direction, class_, TUTTI_NO_IOCB);
    return n;
}

/** Loads and stores of many maps at once, through this much staging. */
static void crowd(struct rig_options o)
{
    enum { MAPS = 8, SLOTS = 4 };
    struct tutti_map *map[MAPS];
    struct tutti_member_state told;
    uint32_t index[MAPS * (TUTTI_MAX_LAYERS + 1)], n = 0;
    struct rig rig;

    open_staged(&rig, o);
    for (uint32_t i = 0; i < MAPS; i++) {
        uint32_t slots[SLOTS], blocks[SLOTS];

        for (uint32_t k = 0; k < SLOTS; k++)
            slots[k] = blocks[k] = i * SLOTS + (k ^ (i & 1)); /* runs and pieces */
        map[i] = rig_map(&rig, slots, blocks, SLOTS, 1);
        rig_fill(&rig, map[i], 1);
        if (i % 2)
            assert_int_equal(rig_store(&rig, map[i]), 0);
    }
    for (uint32_t i = 0; i < MAPS; i++) /* half of them stores, half loads of what was stored */
        n += issue_all(&rig, map[i], i % 2 ? TUTTI_READ : TUTTI_WRITE, index + n);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(rig_wait(&rig, index[i], NULL), 0);
    for (uint32_t i = 0; i < MAPS; i++) {
        assert_int_equal(rig_good(&rig, map[i], 1), SLOTS);
        rig_map_free(map[i]);
    }
    assert_int_equal(rig_counters(&rig).staged_bytes > 0, 1);
    assert_int_equal(tutti_engine_member_state(rig.engine, 0, &told), 0);
    rig_close(&rig);
    assert_int_equal(out, 0);
    assert_int_equal(told.staging_taken, 0);
    assert_int_equal(told.staging_most, most_out);
    assert_int_equal(told.staging_bytes, whole_units(o.staging_bytes));
    assert_true(most_out > 0 && most_out <= whole_units(o.staging_bytes));
}

static void more_than_there_is(void **state)
{
    (void)state;
    for (uint32_t units = 1; units <= 3; units++) {
        size_t bytes = units * STAGING_UNIT;

        crowd((struct rig_options){.staging_bytes = bytes, .command_bytes = 8192});
        crowd((struct rig_options){
            .staging_bytes = bytes, .command_bytes = 8192, .queue_bytes = 8192});
        crowd((struct rig_options){.staging_bytes = bytes, .command_bytes = STAGING_UNIT});
        /* A slot's layer is larger than a command, and as large as staging. */
        crowd((struct rig_options){.staging_bytes = bytes,
                                   .object_bytes = bytes / 2,
                                   .command_bytes = 16384,
                                   .queue_bytes = 16384});
    }
}

/**
 * A load comes while a store, which holds all of staging, is half submitted. The load cannot
 * begin before the store goes on; it once kept the store from doing so, for good.
 */
static void load_meets_half_a_store(void **state)
{
    struct rig_options o = {.rules = "write:delay:ns=1000000:offset=1048576-99999999:after=1",
                            .staging_bytes = 2 * STAGING_UNIT,
                            .object_bytes = STAGING_UNIT, /* two parts: all of staging */
                            .command_bytes = 8192,
                            .queue_bytes = 8192};
    uint32_t stores[8], loads[8], n, m;
    struct tutti_map *old, *in, *map;
    struct rig rig;
    (void)state;

    open_staged(&rig, o);
    old = rig_map_range(&rig, 0, 2, 1);
    rig_fill(&rig, old, 1);
    assert_int_equal(rig_store(&rig, old), 0);
    in = rig_map_range(&rig, 0, 2, 1);
    map = rig_map_range(&rig, 32, 2, 2);
    taken = 0;
    n = issue_all(&rig, map, TUTTI_WRITE, stores);
    while (__atomic_load_n(&taken, __ATOMIC_ACQUIRE) == 0)
        sched_yield();
    m = issue_all(&rig, in, TUTTI_READ, loads);
    for (uint32_t i = 0; i < m; i++)
        assert_int_equal(rig_wait(&rig, loads[i], NULL), 0);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(rig_wait(&rig, stores[i], NULL), 0);
    rig_map_free(old);
    rig_map_free(in);
    rig_map_free(map);
    rig_close(&rig);
}

/** The same with a store that holds staging and has submitted nothing, for the queue is full. */
static void load_meets_a_store_at_the_door(void **state)
{
    struct rig_options o = {.rules = "read:delay:ns=100000000:offset=1048576-1049600:count=1",
                            .staging_bytes = STAGING_UNIT,
                            .command_bytes = 8192,
                            .queue_bytes = 8192};
    uint32_t slow, store, load;
    struct tutti_map *map, *in, *other;
    struct rig rig;
    (void)state;

    open_staged(&rig, o);
    map = rig_map_range(&rig, 0, 1, 1);
    in = rig_map_range(&rig, 16, 1, 1);
    other = rig_map_range(&rig, 32, 1, 1);
    rig_fill(&rig, other, 1);
    in->verify = false;
    slow =
        rig_issue(&rig, map, TUTTI_LAYER_RECORDS, TUTTI_READ, TUTTI_CLASS_LOAD_NOW, TUTTI_NO_IOCB);
    while (rig_counters(&rig).commands == 0)
        sched_yield();
    store = rig_issue(&rig, other, 0, TUTTI_WRITE, TUTTI_CLASS_STORE, TUTTI_NO_IOCB);
    while (__atomic_load_n(&taken, __ATOMIC_ACQUIRE) == 0)
        sched_yield();
    load = rig_issue(&rig, in, 0, TUTTI_READ, TUTTI_CLASS_LOAD_NOW, TUTTI_NO_IOCB);
    assert_int_equal(rig_wait(&rig, load, NULL), 0);
    assert_int_equal(rig_wait(&rig, store, NULL), 0);
    assert_int_equal(rig_wait(&rig, slow, NULL), -ESTALE); /* nothing was ever stored there */
    rig_map_free(map);
    rig_map_free(in);
    rig_map_free(other);
    rig_close(&rig);
}

/** What can never go through staging fails, by position, and does not wait. */
static void larger_than_staging(void **state)
{
    struct rig_options o = {
        .object_bytes = STAGING_UNIT, .staging_bytes = STAGING_UNIT, .command_bytes = 8192};
    struct tutti_map *map;
    struct rig rig;
    (void)state;

    open_staged(&rig, o);
    map = rig_map_range(&rig, 0, 4, 1);
    assert_int_equal(
        rig_wait(&rig, rig_issue(&rig, map, 0, TUTTI_WRITE, TUTTI_CLASS_STORE, TUTTI_NO_IOCB),
                 NULL),
        -ENOBUFS);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(map->status[i], ENOBUFS);
    rig_map_free(map);
    rig_close(&rig);
}

static void less_than_a_command_is_refused(void **state)
{
    struct rig rig;
    (void)state;

    rig_open(&rig, &(struct rig_options){.engine = engine,
                                         .staging_bytes = 65535,
                                         .command_bytes = 65536,
                                         .may_fail = true});
    assert_int_equal(rig.opened, -EINVAL);
    assert_non_null(strstr(rig.said.message, "65535"));
    assert_non_null(strstr(rig.said.message, "give each member at least that"));
    rig_close(&rig);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces),
        cmocka_unit_test(more_than_there_is),
        cmocka_unit_test(load_meets_half_a_store),
        cmocka_unit_test(load_meets_a_store_at_the_door),
        cmocka_unit_test(larger_than_staging),
        cmocka_unit_test(less_than_a_command_is_refused),
    };

    engine = argc > 1 ? argv[1] : "uring";
    return cmocka_run_group_tests_name(engine, tests, NULL, NULL);
}
