/* SPDX-License-Identifier: Apache-2.0 */
/* A scan handed over as a file is what the scan found, and is refused when any byte of it changed.
 */
#include "fixture.h"

static void same_as_scan(void **state)
{
    char *folder = fixture_folder();
    char *path = fixture_path(folder, "scan");
    struct tutti_pool_options options = fixture_options(folder);
    const struct tutti_scan_entry *mapped;
    struct tutti_scan_entry *entries;
    struct tutti_scan_report report;
    struct tutti_error err = {0};
    struct tutti_pool *pool;
    struct bytes good;
    size_t found;
    size_t count;
    struct stat st;
    void *handle;

    (void)state;
    fixture_format(&options);
    pool = fixture_open(&options);
    fixture_begin_epoch(pool, 1, 0);
    for (uint32_t slot = 0; slot < 20; slot += 3)
        fixture_write_slot(
            pool, &(struct fixture_slot){.slot = slot, .generation = generation_of(1, slot + 1)});
    must(tutti_pool_scan(pool, 0, &entries, &found, NULL, &err), &err);
    must(tutti_pool_scan_to_file(pool, 0, path, &report, &err), &err);
    must(tutti_pool_scan_to_file(pool, 0, path, &report, &err), &err); /* over an old one */
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    must(tutti_scan_file_open(path, &mapped, &count, &handle, &err), &err);
    assert_int_equal(found, 7);
    assert_int_equal(count, found);
    assert_memory_equal(mapped, entries, count * sizeof(*mapped));
    tutti_scan_file_close(handle);

    good = fixture_bytes(path);
    for (size_t at = 0; at < good.count; at++) {
        fixture_flip(path, (off_t)at);
        assert_int_equal(tutti_scan_file_open(path, &mapped, &count, &handle, &err), -EUCLEAN);
        assert_non_null(strstr(err.message, path));
        assert_null(handle);
        fixture_poke(path, (off_t)at, &good.data[at], 1);
    }
    must(tutti_scan_file_open(path, &mapped, &count, &handle, &err), &err);
    tutti_scan_file_close(handle);
    for (size_t length = good.count; length-- > 0;) {
        assert_int_equal(truncate(path, (off_t)length), 0);
        assert_int_equal(tutti_scan_file_open(path, &mapped, &count, &handle, &err), -EUCLEAN);
    }
    assert_int_equal(unlink(path), 0);
    assert_int_equal(tutti_scan_file_open(path, &mapped, &count, &handle, &err), -ENOENT);
    tutti_scan_file_close(NULL);
    free(good.data);
    free(entries);
    tutti_pool_close(pool);
    free(path);
    fixture_remove(folder);
}

static void of_an_empty_pool(void **state)
{
    char *folder = fixture_folder();
    char *path = fixture_path(folder, "scan");
    struct tutti_pool_options options = fixture_options(folder);
    const struct tutti_scan_entry *mapped;
    struct tutti_error err = {0};
    struct tutti_pool *pool;
    size_t count = 1;
    void *handle;

    (void)state;
    fixture_format(&options);
    pool = fixture_open(&options);
    must(tutti_pool_scan_to_file(pool, 0, path, NULL, &err), &err);
    must(tutti_scan_file_open(path, &mapped, &count, &handle, &err), &err);
    assert_int_equal(count, 0);
    tutti_scan_file_close(handle);
    assert_int_equal(tutti_pool_scan_to_file(pool, 0, "/nowhere/scan", NULL, &err), -ENOENT);
    tutti_pool_close(pool);
    free(path);
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_as_scan),
                                       cmocka_unit_test(of_an_empty_pool)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
