/* SPDX-License-Identifier: Apache-2.0 */
/* Of an extent that changed hands, only the latest incarnation's slots count. */
#include "fixture.h"

static void latest_wins(void **state)
{
    char *folder = fixture_folder();
    struct tutti_geometry shapes[2] = {small_shape, small_shape};
    struct tutti_pool_options options = fixture_options(folder);
    struct tutti_scan_entry *entries;
    struct tutti_scan_report report;
    struct tutti_error err = {0};
    struct tutti_placement p;
    struct tutti_pool *pool;
    uint64_t counter = 0;
    size_t count;

    (void)state;
    shapes[1].group = 1;
    shapes[1].object_bytes = 3000;
    options.geometry = shapes;
    options.groups = 2;
    fixture_format(&options);
    pool = fixture_open(&options);
    fixture_begin_epoch(pool, 1, 0);
    tutti_pool_placement(pool, 0, &p);
    for (uint32_t slot = 0; slot < 8; slot++) /* extent 0 was group 0's, */
        fixture_write_slot(pool, &(struct fixture_slot){.slot = slot,
                                                        .incarnation = 4,
                                                        .generation = generation_of(1, ++counter)});
    for (uint32_t slot = 3; slot < 5; slot++) /* and is group 1's now; */
        fixture_write_slot(pool, &(struct fixture_slot){.group = 1,
                                                        .slot = slot,
                                                        .incarnation = 5,
                                                        .generation = generation_of(1, ++counter)});
    for (uint32_t slot = 0; slot < 3; slot++) /* extent 1 is not touched by that */
        fixture_write_slot(pool, &(struct fixture_slot){.slot = p.records_per_extent + slot,
                                                        .incarnation = 1,
                                                        .generation = generation_of(1, ++counter)});
    must(tutti_pool_scan(pool, 0, &entries, &count, &report, &err), &err);
    assert_int_equal(count, 5);
    assert_int_equal(report.valid, 5);
    assert_int_equal(report.void_, 6);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(entries[i].slot, 3 + i);
        assert_int_equal(entries[i].group, 1);
        assert_int_equal(entries[i].incarnation, 5);
    }
    for (size_t i = 2; i < 5; i++)
        assert_int_equal(entries[i].slot, p.records_per_extent + i - 2);
    free(entries);
    tutti_pool_close(pool);
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(latest_wins)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
