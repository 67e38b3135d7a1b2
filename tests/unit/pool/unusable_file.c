/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file that was begun and that nothing can be learnt of is no member, and is not left behind: it
 * was closed before it was locked, and stayed as an empty "NAME.formatting" that nobody removed.
 * Another's file under that name stays where it is. Seen to fail with the format as it was.
 */
#include "fixture.h"

static bool fails; /* the next look at an empty file */

int __real_fstat64(int fd, struct stat *st);
int __wrap_fstat64(int fd, struct stat *st);
int __wrap_fstat64(int fd, struct stat *st)
{
    int rc = __real_fstat64(fd, st);

    if (rc == 0 && fails && S_ISREG(st->st_mode) && st->st_size == 0) {
        fails = false;
        errno = EIO;
        return -1;
    }
    return rc;
}

static void is_not_left_behind(void **state)
{
    char *folder = fixture_folder();
    char *begun = fixture_path(folder, "rank0.member0.tutti.formatting");
    struct tutti_pool_options options = fixture_options(folder);
    struct tutti_error err = {0};

    (void)state;
    fails = true;
    assert_int_equal(tutti_pool_format(&options, &err), -EIO);
    assert_false(fails);
    assert_non_null(strstr(err.message, begun));
    assert_int_equal(access(begun, F_OK), -1);
    fixture_format(&options);
    tutti_pool_close(fixture_open(&options));
    free(begun);
    fixture_remove(folder);
}

static void anothers_stays(void **state)
{
    char *folder = fixture_folder();
    char *begun = fixture_path(folder, "rank0.member0.tutti.formatting");
    struct tutti_pool_options options = fixture_options(folder);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    struct tutti_error err = {0};
    int fd = open(begun, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
    fails = true;
    assert_int_equal(tutti_pool_format(&options, &err), -EIO);
    assert_false(fails);
    assert_int_equal(access(begun, F_OK), 0);
    close(fd);
    unlink(begun);

    assert_int_equal(mkfifo(begun, 0600), 0);
    assert_int_equal(tutti_pool_format(&options, &err), -EINVAL);
    assert_non_null(strstr(err.message, "neither"));
    assert_int_equal(access(begun, F_OK), 0);
    free(begun);
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_not_left_behind),
        cmocka_unit_test(anothers_stays),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
