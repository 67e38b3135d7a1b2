/* SPDX-License-Identifier: Apache-2.0 */
/* A pool on tmpfs works, without direct I/O, and says why. */
#include "mounts.h"

static void says_why(void **state)
{
    char *folder = fixture_folder();
    char *home = fixture_path(folder, "home");
    struct tutti_pool_options options = fixture_options(home);
    struct fixture_slot slot = {.slot = 1, .generation = generation_of(1, 1)};
    struct tutti_pool_info info;
    struct tutti_pool *pool;

    (void)state;
    mounts_begin();
    mount_memory(folder, "size=16m");
    fixture_format(&options);
    pool = fixture_open(&options);
    tutti_pool_info(pool, &info);
    assert_false(info.direct);
    assert_non_null(strstr(info.direct_reason, "tmpfs"));
    fixture_begin_epoch(pool, 1, 0);
    fixture_write_slot(pool, &slot);
    assert_int_equal(tutti_pool_check(pool, true, NULL, NULL, NULL, NULL, NULL), 0);
    tutti_pool_close(pool);
    umount2(folder, MNT_DETACH);
    free(home);
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(says_why)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
