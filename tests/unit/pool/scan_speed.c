/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scan at start is no slower than half the speed of reading the same record
 * bytes one after the other: pairs of passes over one pool, the median ratio.
 *
 * Seen to fail with one record a read (RECORDS_A_PIECE of scan.c at 1).
 */
#include "fixture.h"

#include "base/clock.h"

enum { PAIRS = 7 };

/* As many records as bytes of data: a scan has nothing to skip, and much to look at. */
static const struct tutti_geometry thin_shape = {
    .layers = 1, .parts = 1, .object_bytes = 512, .block_tokens = 16, .layout_tag = 1};

static void *buffer_new(size_t bytes)
{
    void *buffer = aligned_alloc(4096, bytes);

    assert_non_null(buffer);
    memset(buffer, 0, bytes);
    return buffer;
}

/** Write a whole record at each slot's place, an extent at a time. */
static uint64_t fill_records(const struct tutti_pool *pool, const struct tutti_placement *p)
{
    size_t bytes = (size_t)p->records_per_extent * p->record_stride;
    unsigned char *area = buffer_new(bytes);
    struct tutti_pool_info info;

    tutti_pool_info(pool, &info);
    for (uint32_t extent = 0; extent < p->extents; extent++) {
        uint32_t first = extent * p->records_per_extent;

        for (uint32_t i = 0; i < p->slots_per_extent; i++) {
            struct tutti_record *r =
                (struct tutti_record *)(void *)(area + (size_t)i * p->record_stride);

            *r = (struct tutti_record){.magic = TUTTI_RECORD_MAGIC,
                                       .version = TUTTI_FORMAT_VERSION,
                                       .member = tutti_record_place(p, first + i).member,
                                       .slot = first + i,
                                       .incarnation = 1,
                                       .geometry = tutti_geometry_digest(&thin_shape),
                                       .generation =
                                           UINT64_C(1) << TUTTI_EPOCH_SHIFT | (first + i + 1),
                                       .key = {{first + i + 1, 1}},
                                       .layers = 1,
                                       .engine_hash_bytes = 32};
            memcpy(r->pool, info.superblock.pool, sizeof(r->pool));
            tutti_record_seal(r);
        }
        assert_int_equal(pwrite(tutti_pool_member_fd(pool, tutti_record_place(p, first).member),
                                area, bytes, (off_t)tutti_record_place(p, first).offset),
                         bytes);
    }
    free(area);
    return (uint64_t)p->extents * bytes;
}

static double read_pass(const struct tutti_pool *pool, const struct tutti_placement *p)
{
    size_t bytes = (size_t)p->records_per_extent * p->record_stride;
    unsigned char *area = buffer_new(bytes);
    uint64_t began = tutti_clock_now();

    for (uint32_t extent = 0; extent < p->extents; extent++) {
        struct tutti_place at = tutti_record_place(p, extent * p->records_per_extent);

        assert_int_equal(
            pread(tutti_pool_member_fd(pool, at.member), area, bytes, (off_t)at.offset), bytes);
    }
    free(area);
    return (double)(tutti_clock_now() - began) / 1e9;
}

static double scan_pass(struct tutti_pool *pool, uint64_t slots)
{
    struct tutti_scan_entry *entries;
    struct tutti_error err = {0};
    uint64_t began = tutti_clock_now();
    double seconds;
    size_t count;

    must(tutti_pool_scan(pool, 0, &entries, &count, NULL, &err), &err);
    seconds = (double)(tutti_clock_now() - began) / 1e9;
    assert_int_equal(count, slots);
    free(entries);
    return seconds;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;

    return (x > y) - (x < y);
}

static void half_the_speed_of_reading(void **state)
{
    char *folder = fixture_folder();
    char *home = fixture_path(folder, "home");
    struct tutti_pool_options options = fixture_options(home);
    static const uint8_t identity[TUTTI_IDENTITY_BYTES];
    struct tutti_placement p;
    struct tutti_pool *pool;
    struct tutti_error err = {0};
    double ratio[PAIRS];
    uint64_t bytes;

    (void)state;
    options.geometry = &thin_shape;
    options.alignment = 512;
    options.bytes = 256 * MIB;
    options.extent_bytes = 2 * MIB;
    fixture_format(&options);
    pool = fixture_open(&options);
    must(tutti_pool_begin_epoch(pool, 1, 0, identity, &err), &err);
    assert_int_equal(tutti_pool_placement(pool, 0, &p), 0);
    bytes = fill_records(pool, &p);
    for (int i = 0; i < PAIRS; i++) {
        double reading = read_pass(pool, &p);

        ratio[i] = reading / scan_pass(pool, (uint64_t)p.extents * p.slots_per_extent);
    }
    qsort(ratio, PAIRS, sizeof(ratio[0]), by_value);
    print_message(
        "%.0f MB of records: speed of the scan / of reading = %.2f (min %.2f, max %.2f)\n",
        (double)bytes / 1e6, ratio[PAIRS / 2], ratio[0], ratio[PAIRS - 1]);
    assert_true(ratio[PAIRS / 2] >= 0.5);
    tutti_pool_close(pool);
    free(home);
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(half_the_speed_of_reading)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
