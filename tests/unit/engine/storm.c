/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Torn commands, and all faults at once, at random: whatever came of it, what is
 * called good is.
 * Seen to fail with layer_good() that says yes.
 */
#include "faults.h"

static const uint32_t spread[COUNT] = {0, 2, 4, 6, 8, 10, 12, 14}; /* a command for each */

/** Sectors of before and after, mixed: whatever came of it, what is called good is. */
static void torn(void **state)
{
    static const char *const directions[] = {"read", "write"};
    uint32_t bad = 0;
    (void)state;

    for (uint32_t seed = 1; seed <= 8; seed++)
        for (uint32_t d = 0; d < 2; d++) {
            struct tutti_map *map, *in;
            char rules[64];
            struct rig rig;

            open_filled(&rig, OLD);
            map = map_of(&rig, run, NEW);
            snprintf(rules, sizeof(rules), "%s:torn:permille=500:seed=%u", directions[d], seed);
            spoil(&rig, rules);
            store(&rig, map, NEW);
            in = load(&rig, run, NEW);
            bad += rig_good(&rig, in, NEW) < COUNT;
            rig_map_free(map);
            rig_map_free(in);
            rig_close(&rig);
        }
    assert_true(bad > 4);
}

/** All at once, at random. */
static void storm(void **state)
{
    uint32_t bad = 0, good = 0;
    (void)state;

    for (uint32_t seed = 1; seed <= 12; seed++) {
        struct tutti_map *map, *in;
        char rules[512];
        struct rig rig;

        open_filled(&rig, OLD);
        map = map_of(&rig, seed % 2 ? run : spread, NEW);
        snprintf(rules, sizeof(rules),
                 "any:flip:permille=60:seed=%u;any:lost:permille=60:seed=%u;"
                 "any:misdirected:by=8192:permille=60:seed=%u;any:torn:permille=60:seed=%u;"
                 "read:stale:permille=60:seed=%u;any:short:permille=60:seed=%u;"
                 "any:eio:permille=60:seed=%u;any:delay:ns=100000:permille=100:seed=%u",
                 seed, seed + 100, seed + 200, seed + 300, seed + 400, seed + 500, seed + 600,
                 seed + 700);
        spoil(&rig, rules);
        store(&rig, map, NEW);
        in = load(&rig, seed % 2 ? run : spread, NEW);
        rig_map_free(in);
        heal(&rig);
        in = load(&rig, seed % 2 ? run : spread, NEW);
        good += rig_good(&rig, in, NEW);
        bad += COUNT - rig_good(&rig, in, NEW);
        rig_check_guards(&rig, in);
        rig_map_free(map);
        rig_map_free(in);
        rig_close(&rig);
    }
    assert_true(bad > 8 && good > 8);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(torn),
        cmocka_unit_test(storm),
    };

    inner = argc > 1 ? argv[1] : "uring";
    return cmocka_run_group_tests_name(inner, tests, NULL, NULL);
}
