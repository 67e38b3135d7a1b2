/* SPDX-License-Identifier: Apache-2.0 */
/* What was written is found again, by another opening, sorted, on one member and on several. */
#include "fixture.h"

static int wrote(uint32_t slot)
{
    return slot % 7 != 2;
}

static void expect_slots(struct tutti_pool *pool, const struct tutti_placement *p, uint32_t threads)
{
    struct tutti_scan_entry *entries;
    struct tutti_scan_report report;
    struct tutti_error err = {0};
    uint64_t expected = 0;
    size_t count;
    size_t at = 0;

    must(tutti_pool_scan(pool, threads, &entries, &count, &report, &err), &err);
    for (uint32_t slot = 0; slot < p->extents * p->records_per_extent; slot++) {
        if (!tutti_slot_valid(p, slot) || !wrote(slot))
            continue;
        expected++;
        assert_true(at < count);
        assert_int_equal(entries[at].slot, slot);
        assert_int_equal(entries[at].generation, generation_of(1, slot + 1));
        at++;
    }
    assert_int_equal(at, count);
    assert_int_equal(report.valid, expected);
    assert_int_equal(report.torn + report.void_ + report.alien, 0);
    assert_int_equal(report.bytes, (uint64_t)p->extents * p->records_per_extent * p->record_stride);
    free(entries);
}

static void round_trip(uint32_t members, uint32_t alignment, uint32_t extents)
{
    char *folder = fixture_folder();
    char *home = fixture_path(folder, "home");
    struct tutti_pool_options options = fixture_options(home);
    struct tutti_placement p;
    struct tutti_pool *pool;
    char *drive[TUTTI_MAX_MEMBERS] = {0};

    for (uint32_t i = 0; i < members && members > 1; i++) {
        char name[16];

        snprintf(name, sizeof(name), "drive%u", i);
        drive[i] = fixture_path(folder, name);
        assert_int_equal(mkdir(drive[i], 0700), 0);
    }
    options.alignment = alignment;
    options.bytes = members * (1 + extents) * MIB;
    if (members > 1) {
        options.member = (const char *const *)drive;
        options.members = members;
    }
    fixture_format(&options);
    pool = fixture_open(&options);
    fixture_begin_epoch(pool, 1, 0);
    assert_int_equal(tutti_pool_placement(pool, 0, &p), 0);
    assert_int_equal(p.extents, extents * members);
    for (uint32_t slot = 0; slot < p.extents * p.records_per_extent; slot++) {
        struct fixture_slot f = {.slot = slot, .generation = generation_of(1, slot + 1), .seed = 1};

        if (tutti_slot_valid(&p, slot) && wrote(slot))
            fixture_write_slot(pool, &f);
    }
    tutti_pool_close(pool);
    pool = fixture_open(&options);
    for (uint32_t threads = 0; threads <= 5; threads++)
        expect_slots(pool, &p, threads);
    assert_int_equal(tutti_pool_check(pool, true, NULL, NULL, NULL, NULL, NULL), 0);
    tutti_pool_close(pool);
    for (uint32_t i = 0; i < members; i++)
        free(drive[i]);
    free(home);
    fixture_remove(folder);
}

static void one_member(void **state)
{
    (void)state;
    round_trip(1, 0, 4);
}

static void small_alignment(void **state)
{
    (void)state;
    round_trip(1, 512, 1);
}

static void three_members(void **state)
{
    (void)state;
    round_trip(3, 4096, 2);
}

static void most_members(void **state)
{
    (void)state;
    round_trip(TUTTI_MAX_MEMBERS, 512, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_member), cmocka_unit_test(small_alignment),
        cmocka_unit_test(three_members), cmocka_unit_test(most_members)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
