/* SPDX-License-Identifier: Apache-2.0 */
/* The kill switch: thrown with a reason, seen, taken back; readable by the server whoever throws
 * it. */
#include "fixture.h"

static void thrown_and_taken_back(void **state)
{
    char *folder = fixture_folder();
    char *path = fixture_path(folder, "disabled");
    char *gone = fixture_path(folder, "gone");
    struct tutti_error err = {0};
    mode_t mask = umask(077);
    char reason[64];
    char little[6];
    struct stat st;

    (void)state;
    assert_int_equal(tutti_pool_disabled(folder, reason, sizeof(reason)), 0);
    assert_string_equal(reason, "");
    must(tutti_pool_disable(folder, "drive 3 errs", &err), &err);
    umask(mask);
    assert_int_equal(tutti_pool_disabled(folder, reason, sizeof(reason)), 1);
    assert_string_equal(reason, "drive 3 errs");
    assert_int_equal(tutti_pool_disabled(folder, little, sizeof(little)), 1);
    assert_string_equal(little, "drive");
    assert_int_equal(tutti_pool_disabled(folder, NULL, 0), 1);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0644);
    must(tutti_pool_disable(folder, "once more", &err), &err);
    assert_int_equal(tutti_pool_disabled(folder, reason, sizeof(reason)), 1);
    assert_string_equal(reason, "once more");
    must(tutti_pool_enable(folder, &err), &err);
    assert_int_equal(tutti_pool_disabled(folder, reason, sizeof(reason)), 0);
    must(tutti_pool_enable(folder, &err), &err);
    assert_int_equal(tutti_pool_disable(gone, "x", &err), -ENOENT);
    assert_int_equal(tutti_pool_disabled(gone, reason, sizeof(reason)), 0);
    free(gone);
    free(path);
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(thrown_and_taken_back)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
