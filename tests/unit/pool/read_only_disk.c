/* SPDX-License-Identifier: Apache-2.0 */
/* A pool on a read-only file system is refused for serving, and can be looked at. */
#include "mounts.h"

static void refused_and_readable(void **state)
{
    char *folder = fixture_folder();
    char *home = fixture_path(folder, "home");
    struct tutti_pool_options options = fixture_options(home);
    struct tutti_error err = {0};
    struct tutti_pool *pool;

    (void)state;
    fixture_format(&options);
    mounts_begin();
    mount_read_only(folder);
    REFUSED(&options, -EROFS, "rank0.member0.tutti", "read-only", "remount,rw");
    assert_int_equal(tutti_pool_format(&options, &err), -EROFS);
    assert_non_null(strstr(err.message, "read-only"));
    options.read_only = true;
    pool = fixture_open(&options);
    assert_int_equal(tutti_pool_begin_epoch(pool, 1, 0, fixture_identity, &err), -EROFS);
    assert_int_equal(tutti_pool_check(pool, true, NULL, NULL, NULL, NULL, &err), 0);
    tutti_pool_close(pool);
    umount2(folder, MNT_DETACH);
    options.read_only = false;
    tutti_pool_close(fixture_open(&options)); /* negative control */
    free(home);
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(refused_and_readable)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
