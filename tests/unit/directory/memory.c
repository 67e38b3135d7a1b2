/* SPDX-License-Identifier: Apache-2.0 */
/*
 * At most 160 bytes a slot, keys and table included, on 10 million slots that a
 * scan filled (fewer under a sanitizer, whose own memory is many times that):
 * what the directory says of itself, and what the process grew by.
 *
 * Seen to fail with 16 more cells a slot in the table.
 */
#include "world.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

#ifdef SANITIZED
#define EXTENTS 200u
#else
#define EXTENTS 10000u
#endif

static uint64_t resident(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long long total;
    unsigned long long pages = 0;

    assert_non_null(file);
    assert_int_equal(fscanf(file, "%llu %llu", &total, &pages), 2);
    fclose(file);
    return pages * 4096;
}

static void bytes_a_slot(void **state)
{
    struct tutti_directory_options o = options_of(EXTENTS, 1000, 4, 1);
    uint32_t slots = EXTENTS * 1000;
    struct tutti_scan_entry *scan = calloc(slots, sizeof(*scan));
    const struct tutti_scan_entry *entries[1] = {scan};
    size_t counts[1] = {slots};
    struct tutti_directory_stats s;
    struct tutti_directory *d;
    uint64_t seed = 1;
    uint64_t before;
    uint32_t i;

    (void)state;
    assert_non_null(scan);
    for (i = 0; i < slots; i++) {
        scan[i].slot = i;
        scan[i].generation = i + 1;
        scan[i].geometry = tutti_geometry_digest(&o.geometry);
        scan[i].key = (struct tutti_key){{draw(&seed), draw(&seed)}};
        if (i % 2000)
            scan[i].parent = scan[i - 1].key;
        memcpy(scan[i].identity, o.identity, sizeof(o.identity));
    }
    before = resident();
    assert_int_equal(tutti_directory_new(&o, &d, NULL), 0);
    assert_int_equal(tutti_directory_load(d, entries, counts, NULL), 0);
    s = stats_of(d);
    assert_int_equal(s.visible, slots);
    print_message("%u slots: %.1f bytes each\n", slots, (double)s.memory_bytes / slots);
    assert_true(s.memory_bytes <= 160ull * slots);
#ifndef SANITIZED
    assert_true(resident() - before <= 160ull * slots);
#else
    (void)before;
#endif
    tutti_directory_free(d);
    free(scan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(bytes_a_slot)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
