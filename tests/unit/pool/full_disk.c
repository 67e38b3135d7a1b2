/* SPDX-License-Identifier: Apache-2.0 */
/* A disk too small for the pool: the message says how much is free, and nothing stays behind. */
#include "mounts.h"

static void nothing_left(void **state)
{
    char *folder = fixture_folder();
    char *home = fixture_path(folder, "home");
    char *file = fixture_path(folder, "home/rank0.member0.tutti");
    struct tutti_pool_options options = fixture_options(home);
    struct tutti_error err = {0};
    struct stat st;

    (void)state;
    mounts_begin();
    mount_memory(folder, "size=3m");
    assert_int_equal(tutti_pool_format(&options, &err), -ENOSPC);
    assert_non_null(strstr(err.message, file));
    assert_non_null(strstr(err.message, "needs 5242880 bytes"));
    assert_non_null(strstr(err.message, "3145728 free"));
    assert_non_null(strstr(err.message, "smaller size"));
    assert_int_equal(stat(home, &st), -1); /* file, secret and folder */
    options.bytes = 2 * MIB;               /* negative control: what fits is made */
    fixture_format(&options);
    assert_int_equal(stat(file, &st), 0);
    assert_int_equal(st.st_size, 2 * MIB);
    umount2(folder, MNT_DETACH);
    free(file);
    free(home);
    fixture_remove(folder);
}

/* The second member does not fit: the first goes again. */
static void first_member_goes(void **state)
{
    char *folder = fixture_folder();
    char *home = fixture_path(folder, "home");
    char *large = fixture_path(folder, "large");
    char *small = fixture_path(folder, "small");
    const char *members[] = {large, small};
    struct tutti_pool_options options = fixture_options(home);
    struct tutti_error err = {0};

    (void)state;
    assert_int_equal(mkdir(large, 0700), 0);
    assert_int_equal(mkdir(small, 0700), 0);
    mounts_begin();
    mount_memory(small, "size=2m");
    options.bytes = 10 * MIB;
    options.member = members;
    options.members = 2;
    assert_int_equal(tutti_pool_format(&options, &err), -ENOSPC);
    assert_non_null(strstr(err.message, "small/rank0.member1.tutti"));
    assert_int_equal(rmdir(large), 0); /* empty */
    umount2(small, MNT_DETACH);
    free(large);
    free(small);
    free(home);
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(nothing_left),
                                       cmocka_unit_test(first_member_goes)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
