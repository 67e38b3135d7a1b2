/* SPDX-License-Identifier: Apache-2.0 */
/* A sector that cannot be read costs the slot it is in, and no more: not the scan, not the pool. */
#include "fixture.h"

static off_t bad = -1; /* reads that touch this byte fail */
static int singly;     /* how small ones do: an errno, or 0 for the same way */

ssize_t __real_pread64(int fd, void *data, size_t bytes, off_t offset);
ssize_t __wrap_pread64(int fd, void *data, size_t bytes, off_t offset);
ssize_t __wrap_pread64(int fd, void *data, size_t bytes, off_t offset)
{
    if (bad >= offset && bad < offset + (off_t)bytes) {
        errno = singly && bytes <= 4096 ? singly : EIO;
        return -1;
    }
    return __real_pread64(fd, data, bytes, offset);
}

static int on_bad(void *argument, const struct tutti_scan_entry *entry, uint32_t layer,
                  const char *what)
{
    (void)layer;
    (void)what;
    *(uint32_t *)argument = entry->slot;
    return 0;
}

static void costs_one_slot(void **state)
{
    char *folder = fixture_folder();
    struct tutti_pool_options options = fixture_options(folder);
    struct tutti_scan_report report;
    struct tutti_error err = {0};
    struct tutti_placement p;
    struct tutti_pool *pool;
    uint32_t slot;

    (void)state;
    fixture_format(&options);
    pool = fixture_open(&options);
    fixture_begin_epoch(pool, 1, 0);
    tutti_pool_placement(pool, 0, &p);
    for (slot = 0; slot < 20; slot++)
        fixture_write_slot(
            pool, &(struct fixture_slot){.slot = slot, .generation = generation_of(1, slot + 1)});

    bad = (off_t)tutti_record_place(&p, 8).offset;
    assert_int_equal(tutti_pool_check(pool, true, &report, on_bad, NULL, &slot, &err), 0);
    assert_int_equal(report.valid, 19);
    assert_int_equal(report.torn, 1);
    assert_int_equal(slot, 8);

    singly = ENODEV; /* the drive went away meanwhile */
    assert_int_equal(tutti_pool_check(pool, true, &report, NULL, NULL, NULL, &err), -ENODEV);
    assert_non_null(strstr(err.message, "reading the records of"));
    singly = 0;

    bad = (off_t)tutti_object_place(&p, 11, 2, 1).offset;
    assert_int_equal(tutti_pool_check(pool, true, &report, on_bad, NULL, &slot, &err), 1);
    assert_int_equal(report.valid, 20);
    assert_int_equal(slot, 11);
    tutti_pool_close(pool);

    for (bad = 0; bad <= TUTTI_SUPERBLOCK_COPY; bad += TUTTI_SUPERBLOCK_COPY)
        tutti_pool_close(fixture_open(&options)); /* the other copy serves */
    bad = -1;
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(costs_one_slot)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
