/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A scrub of a pool drops what does not verify and nothing else; it drops nothing when it was
 * stopped, and when so many slots in a row cannot be read that the device is what is bad.
 * Seen to fail without the count of unreadable slots, and with records emptied after -ECANCELED.
 */
#include "fixture.h"

enum { SLOTS = 40, MANY = 300 };

static off_t unreadable[2] = {-1, -1}; /* reads that touch bytes [from, to) fail */

ssize_t __real_pread64(int fd, void *data, size_t bytes, off_t at);
ssize_t __wrap_pread64(int fd, void *data, size_t bytes, off_t at);
ssize_t __wrap_pread64(int fd, void *data, size_t bytes, off_t at)
{
    if (at < unreadable[1] && at + (off_t)bytes > unreadable[0]) {
        errno = EIO;
        return -1;
    }
    return __real_pread64(fd, data, bytes, at);
}

static char *folder, *member;
static struct tutti_pool_options options;
static struct tutti_pool *pool;
static struct tutti_placement p;

/** The slot of block n: the first of the second extent follows the last of the first. */
static uint32_t slot_of(uint32_t n)
{
    return n / p.slots_per_extent * p.records_per_extent + n % p.slots_per_extent;
}

static int begin(void **state)
{
    struct tutti_error err = {0};
    (void)state;

    folder = fixture_folder();
    member = fixture_path(folder, "rank0.member0.tutti");
    options = fixture_options(folder);
    fixture_format(&options);
    pool = fixture_open(&options);
    fixture_begin_epoch(pool, 1, 0);
    must(tutti_pool_placement(pool, 0, &p), &err);
    for (uint32_t n = 0; n < SLOTS; n++)
        fixture_write_slot(pool, &(struct fixture_slot){.slot = slot_of(n),
                                                        .generation = generation_of(1, n + 1)});
    return 0;
}

static int end(void **state)
{
    (void)state;
    unreadable[0] = unreadable[1] = -1;
    tutti_pool_close(pool);
    free(member);
    fixture_remove(folder);
    return 0;
}

struct heard {
    int count;
    int stop_at;
    uint64_t done, all;
};

static int on_bad(void *argument, const struct tutti_scan_entry *entry, uint32_t layer,
                  const char *what)
{
    struct heard *h = argument;

    (void)entry;
    (void)layer;
    assert_true(strlen(what) > 0);
    return ++h->count == h->stop_at;
}

static void on_progress(void *argument, uint64_t done, uint64_t all)
{
    struct heard *h = argument;

    h->done = done;
    h->all = all;
}

static uint64_t valid_now(void)
{
    struct tutti_scan_report report;
    struct tutti_error err = {0};
    struct tutti_pool_options reader = options;
    struct tutti_pool *now;

    tutti_pool_close(pool); /* and after a restart */
    reader.read_only = true;
    now = fixture_open(&reader);
    assert_true(tutti_pool_check(now, true, &report, NULL, NULL, NULL, &err) >= 0);
    tutti_pool_close(now);
    pool = fixture_open(&options);
    return report.valid;
}

static void flip(uint32_t n)
{
    fixture_flip(member, (off_t)tutti_object_place(&p, slot_of(n), 2, 1).offset + 7);
}

static void what_is_bad(void **state)
{
    struct tutti_pool_scrub report;
    struct tutti_error err = {0};
    struct heard heard = {0};
    (void)state;

    flip(3);
    flip(39);
    fixture_poke(member, (off_t)tutti_record_place(&p, slot_of(11)).offset, "torn", 4);
    must(tutti_pool_scrub(pool, UINT64_C(1) << 40, &report, on_bad, on_progress, &heard, &err),
         &err);
    assert_int_equal(report.bad, 2);
    assert_int_equal(report.dropped, 3);
    assert_int_equal(report.records.torn, 1);
    assert_int_equal(heard.count, 3);
    assert_int_equal(heard.done, heard.all);
    assert_int_equal(report.bytes, heard.all);
    assert_int_equal(valid_now(), SLOTS - 3);
    must(tutti_pool_scrub(pool, 0, &report, NULL, NULL, NULL, &err), &err);
    assert_int_equal(report.bad + report.dropped + report.records.torn, 0);
    assert_int_equal(valid_now(), SLOTS - 3);
    must(tutti_pool_scrub(pool, 32 * MIB, &report, NULL, NULL, NULL, &err), &err);
    assert_true(report.nanoseconds >= (report.bytes - MIB) * UINT64_C(1000000000) / (32 * MIB));
}

static void nothing_when_stopped(void **state)
{
    struct tutti_pool_scrub report;
    struct tutti_error err = {0};
    struct heard heard = {.stop_at = 1};
    (void)state;

    flip(3); /* in the first piece that is read; others follow */
    assert_int_equal(tutti_pool_scrub(pool, UINT64_C(1) << 40, &report, on_bad, NULL, &heard, &err),
                     -ECANCELED);
    assert_int_equal(heard.count, 1);
    assert_int_equal(report.dropped, 0);
    assert_int_equal(report.bad, 1);
    heard = (struct heard){.stop_at = 1};
    for (uint32_t n = 5; n < 7; n++) /* and while records are read: once is told */
        fixture_poke(member, (off_t)tutti_record_place(&p, slot_of(n)).offset, "torn", 4);
    assert_int_equal(tutti_pool_scrub(pool, 0, &report, on_bad, NULL, &heard, &err), -ECANCELED);
    assert_int_equal(heard.count, 1);
    assert_int_equal(report.dropped, 0);
}

static void nothing_of_a_failing_device(void **state)
{
    struct tutti_pool_scrub report;
    struct tutti_error err = {0};
    struct heard heard = {.stop_at = 16};
    (void)state;

    for (int layers = 0; layers < 2; layers++) { /* one told at the 16th that it stop, one not */
        memset(&err, 0, sizeof(err));
        unreadable[0] = (off_t)tutti_object_place(&p, 2, 1, 0).offset;
        unreadable[1] = (off_t)tutti_object_place(&p, 20, 1, 0).offset;
        assert_int_equal(tutti_pool_scrub(pool, UINT64_C(1) << 40, &report, layers ? on_bad : NULL,
                                          NULL, &heard, &err),
                         -EIO);
        assert_non_null(strstr(err.message, member));
        assert_non_null(strstr(err.message, "16 slots in a row from slot 2 on"));
        assert_int_equal(report.dropped, 0);
    }
    unreadable[1] = (off_t)tutti_object_place(&p, 4, 1, 0).offset;
    must(tutti_pool_scrub(pool, UINT64_C(1) << 40, &report, NULL, NULL, NULL, &err), &err);
    assert_int_equal(report.dropped, 2); /* two sectors are no device */
    unreadable[0] = unreadable[1] = -1;
    assert_int_equal(valid_now(), SLOTS - 2);
}

/** Records are read by the scan and not once more. */
static void on_first(void *argument, uint64_t done, uint64_t all)
{
    (void)argument;
    (void)done;
    (void)all;
    unreadable[0] = (off_t)tutti_record_place(&p, slot_of(30)).offset;
    unreadable[1] = unreadable[0] + 1;
}

static void what_cannot_be_read_again(void **state)
{
    struct tutti_pool_scrub report;
    struct tutti_error err = {0};
    (void)state;

    must(tutti_pool_scrub(pool, UINT64_C(1) << 40, &report, NULL, on_first, NULL, &err), &err);
    assert_int_equal(report.records.torn, 0);
    assert_true(report.bad > 0 && report.bad < 16); /* the rest of one piece */
    unreadable[0] = unreadable[1] = -1;
    assert_int_equal(valid_now(), SLOTS - report.dropped);
}

static void only_where_it_may_write(void **state)
{
    struct tutti_pool_scrub report;
    struct tutti_error err = {0};
    struct tutti_pool *reader;
    struct tutti_pool_options o = options;
    (void)state;

    o.read_only = true;
    reader = fixture_open(&o);
    assert_int_equal(tutti_pool_scrub(reader, 0, &report, NULL, NULL, NULL, &err), -EROFS);
    assert_non_null(strstr(err.message, folder));
    tutti_pool_close(reader);
}

static void many(void **state)
{
    struct tutti_geometry shape = {
        .layers = 1, .parts = 1, .object_bytes = 512, .block_tokens = 16, .layout_tag = 3};
    struct tutti_pool_scrub report;
    struct tutti_error err = {0};
    (void)state;

    tutti_pool_close(pool);
    unlink(member);
    options.geometry = &shape;
    fixture_format(&options);
    pool = fixture_open(&options);
    must(tutti_pool_placement(pool, 0, &p), &err);
    for (uint32_t n = 0; n < MANY; n++)
        fixture_poke(member, (off_t)tutti_record_place(&p, slot_of(n)).offset, "torn", 4);
    must(tutti_pool_scrub(pool, 0, &report, NULL, NULL, NULL, &err), &err);
    assert_int_equal(report.dropped, MANY);
    assert_int_equal(tutti_pool_check(pool, true, &report.records, NULL, NULL, NULL, &err), 0);
    assert_int_equal(report.records.torn, 0);
}

/** A layer larger than a piece of a scrub that has a rate. */
static void large_layers(void **state)
{
    struct tutti_geometry shape = {
        .layers = 1, .parts = 2, .object_bytes = 200000, .block_tokens = 16, .layout_tag = 3};
    struct tutti_pool_scrub report;
    struct tutti_error err = {0};
    (void)state;

    tutti_pool_close(pool);
    unlink(member);
    options.geometry = &shape;
    fixture_format(&options);
    pool = fixture_open(&options);
    fixture_begin_epoch(pool, 1, 0);
    must(tutti_pool_placement(pool, 0, &p), &err);
    fixture_write_slot(pool, &(struct fixture_slot){.generation = generation_of(1, 1)});
    must(tutti_pool_scrub(pool, UINT64_C(1) << 40, &report, NULL, NULL, NULL, &err), &err);
    assert_int_equal(report.dropped, 0);
    assert_int_equal(report.bytes, tutti_layer_stride(&p));
    fixture_flip(member, (off_t)tutti_object_place(&p, 0, 0, 1).offset + 199999);
    must(tutti_pool_scrub(pool, UINT64_C(1) << 40, &report, NULL, NULL, NULL, &err), &err);
    assert_int_equal(report.dropped, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_bad),
        TEST(nothing_when_stopped),
        TEST(nothing_of_a_failing_device),
        TEST(what_cannot_be_read_again),
        TEST(only_where_it_may_write),
        TEST(many),
        TEST(large_layers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
