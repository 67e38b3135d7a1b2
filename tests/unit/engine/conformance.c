/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every engine must do on every medium: what was stored comes back, byte
 * for byte, and nothing else changes. Run once per engine and medium:
 *     conformance ENGINE MEDIUM
 * Seen to fail with add_objects() that begins every command at part 0, padding
 * read into memory behind the object, a staged copy one byte too long, an object's
 * place without its layer, and runs that go on over the end of an extent.
 */
#include "media.h"
#include "rig.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *engine_name = "uring";

static void shuffle(uint32_t *numbers, uint32_t count, uint32_t seed)
{
    for (uint32_t i = count - 1; i > 0; i--) {
        uint32_t k, swap;

        seed = seed * 1664525u + 1013904223u;
        k = (seed >> 8) % (i + 1);
        swap = numbers[i];
        numbers[i] = numbers[k];
        numbers[k] = swap;
    }
}

/** Store, wipe, load into other blocks, compare; guards around. */
static void round_trip(struct rig_options o, uint32_t count)
{
    struct rig rig;
    struct tutti_map *out, *in;
    uint32_t slots[256], from[256], to[256];

    o.engine = engine_name;
    rig_open(&rig, &o);
    for (uint32_t i = 0; i < count; i++) {
        slots[i] = i;
        from[i] = i;
        to[i] = rig.options.blocks - 1 - i;
    }
    shuffle(from, count, 1);
    shuffle(slots + count * 3 / 4, count - count * 3 / 4, 5); /* a run over extents, then pieces */
    out = rig_map(&rig, slots, from, count, 1);
    in = rig_map(&rig, slots, to, count, 1);
    if (getenv("TUTTI_TEST_DEVICE_0"))
        assert_true(rig.member[0].direct);
    memset(rig.memory, 0x3c, rig.memory_bytes); /* what lies between must not come back */
    rig_fill(&rig, out, 9);
    assert_int_equal(rig_store(&rig, out), 0);
    rig_wipe(&rig);
    assert_int_equal(rig_load(&rig, in), 0);
    assert_int_equal(rig_good(&rig, in, 9), count);
    rig_check_guards(&rig, in);
    rig_map_free(out);
    rig_map_free(in);
    rig_close(&rig);
}

static void parts_and_layouts(void **state)
{
    static const uint32_t parts[] = {1, 2, 4};
    (void)state;

    for (uint32_t p = 0; p < 3; p++)
        for (uint32_t layout = RIG_SEPARATE; layout <= RIG_PERMUTED; layout++)
            round_trip((struct rig_options){.parts = parts[p], .layout = layout}, 24);
}

static void object_sizes(void **state)
{
    static const uint64_t bytes[] = {1, 511, 512, 1000, 4096, 4097, 12288, 65536, 100000};
    const uint32_t skewed = 64;
    (void)state;

    for (uint32_t i = 0; i < sizeof(bytes) / sizeof(bytes[0]); i++)
        for (uint32_t skew = 0; skew <= (bytes[i] % 512 ? 0 : skewed); skew += skewed)
            round_trip((struct rig_options){.object_bytes = bytes[i],
                                            .layers = 2,
                                            .blocks = 20,
                                            .skew = skew,
                                            .layout = RIG_GAPPED},
                       20);
}

static void larger_than_a_command(void **state)
{
    (void)state;
    for (uint32_t skew = 0; skew <= 64; skew += 64) {
        round_trip(
            (struct rig_options){
                .object_bytes = 768 << 10, .layers = 2, .slots = 4, .blocks = 6, .skew = skew},
            6);
        round_trip((struct rig_options){.object_bytes = 100000,
                                        .layers = 2,
                                        .skew = skew,
                                        .command_bytes = 16384,
                                        .queue_bytes = 65536},
                   8);
    }
}

static void several_members(void **state)
{
    (void)state;
    for (uint32_t members = 2; members <= 4; members++)
        round_trip((struct rig_options){.members = members, .slots = 8, .extents = 12}, 44);
}

static void small_queue_and_staging(void **state)
{
    (void)state;
    for (uint32_t skew = 0; skew <= 64; skew += 64)
        round_trip(
            (struct rig_options){
                .command_bytes = 8192, .queue_bytes = 8192, .staging_bytes = 65536, .skew = skew},
            24);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_and_layouts),       cmocka_unit_test(object_sizes),
        cmocka_unit_test(larger_than_a_command),   cmocka_unit_test(several_members),
        cmocka_unit_test(small_queue_and_staging),
    };

    if (argc > 1)
        engine_name = argv[1];
    media_begin(argc > 2 ? argv[2] : "folder");
    return cmocka_run_group_tests_name(engine_name, tests, NULL, NULL);
}
