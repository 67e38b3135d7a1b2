/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nothing is allocated between begin and end of a thousand layers: loads and
 * stores, direct and staged, with second tries too. The linker sends the
 * library's calls here.
 * Seen to fail with a malloc() in batch_open(), and with one in verify_again().
 */
#include "rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { LAYERS = 10, ROUNDS = 34 }; /* 3 passes of each: 1,020 layers */

static const char *engine;
static bool counting;
static uint64_t calls;

static void count(void)
{
    if (__atomic_load_n(&counting, __ATOMIC_ACQUIRE)) /* pairs with the release in begin, end */
        __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
}

#define WRAP(result, name, parameters, arguments)                                                  \
    result __real_##name parameters;                                                               \
    result __wrap_##name parameters;                                                               \
    result __wrap_##name parameters                                                                \
    {                                                                                              \
        count();                                                                                   \
        return __real_##name arguments;                                                            \
    }

WRAP(void *, malloc, (size_t bytes), (bytes))
WRAP(void *, calloc, (size_t number, size_t bytes), (number, bytes))
WRAP(void *, realloc, (void *memory, size_t bytes), (memory, bytes))
WRAP(void *, aligned_alloc, (size_t alignment, size_t bytes), (alignment, bytes))
WRAP(int, posix_memalign, (void **memory, size_t alignment, size_t bytes),
     (memory, alignment, bytes))
WRAP(void *, mmap, (void *at, size_t bytes, int prot, int flags, int fd, off_t offset),
     (at, bytes, prot, flags, fd, offset))
WRAP(void *, mmap64, (void *at, size_t bytes, int prot, int flags, int fd, off_t offset),
     (at, bytes, prot, flags, fd, offset))

/** Store and load, over and over; with a bad slot each load ends with a second try in vain. */
static void work(struct rig_options o, bool bad)
{
    struct tutti_map *out, *in;
    struct rig rig;

    o.engine = engine;
    o.layers = LAYERS;
    o.members = 2;
    calls = 0;
    rig_open(&rig, &o);
    assert_true(calls == 0 && !counting);
    out = rig_map_range(&rig, 8, 16, 1);
    in = rig_map_range(&rig, 8, 16, 1);
    rig_fill(&rig, out, 1);
    __atomic_store_n(&counting, true, __ATOMIC_RELEASE);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        assert_int_equal(rig_store(&rig, out), 0);
        for (uint32_t i = 0; i < 2; i++) {
            struct tutti_place place = tutti_object_place(&rig.placement, 11, 4, 0);

            __atomic_store_n(&counting, false, __ATOMIC_RELEASE);
            if (bad && i == 0)
                rig_flip(&rig, place, 99);
            __atomic_store_n(&counting, true, __ATOMIC_RELEASE);
            memset(in->status, 0, in->count);
            assert_int_equal(rig_load(&rig, in), bad ? -EBADMSG : 0);
        }
    }
    __atomic_store_n(&counting, false, __ATOMIC_RELEASE);
    assert_int_equal(__atomic_load_n(&calls, __ATOMIC_RELAXED), 0);
    assert_int_equal(rig_counters(&rig).retries, bad ? 2 * ROUNDS : 0);
    assert_int_equal(rig_good(&rig, in, 1), bad ? 15 : 16);
    rig_map_free(out);
    rig_map_free(in);
    rig_close(&rig);
}

static void direct(void **state)
{
    (void)state;
    work((struct rig_options){0}, false);
}

static void staged(void **state)
{
    (void)state;
    work((struct rig_options){.unreachable = true, .staging_bytes = 1 << 20}, false);
}

static void second_tries(void **state)
{
    (void)state;
    work((struct rig_options){0}, true);
}

/** That it counts at all: opening an engine allocates. */
static void counts(void **state)
{
    struct rig rig;
    (void)state;

    calls = 0;
    __atomic_store_n(&counting, true, __ATOMIC_RELEASE);
    rig_open(&rig, &(struct rig_options){.engine = engine});
    __atomic_store_n(&counting, false, __ATOMIC_RELEASE);
    assert_true(__atomic_load_n(&calls, __ATOMIC_RELAXED) > 5);
    rig_close(&rig);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts),
        cmocka_unit_test(direct),
        cmocka_unit_test(staged),
        cmocka_unit_test(second_tries),
    };

    engine = argc > 1 ? argv[1] : "uring";
    return cmocka_run_group_tests_name(engine, tests, NULL, NULL);
}
