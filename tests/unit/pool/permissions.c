/* SPDX-License-Identifier: Apache-2.0 */
/* Files are made for their owner alone; others are refused, and so is a secret that others read. */
#include "fixture.h"

#include <sys/wait.h>

static void modes(void **state)
{
    char *folder = fixture_folder();
    char *home = fixture_path(folder, "home");
    char *secret = fixture_path(home, "secret");
    char *member = fixture_path(home, "rank0.member0.tutti");
    struct tutti_pool_options options = fixture_options(home);
    char *scan = fixture_path(home, "scan.rank0");
    mode_t mask = umask(0);
    struct tutti_error err = {0};
    struct tutti_pool *pool;
    struct stat st;

    (void)state;
    fixture_format(&options);
    pool = fixture_open(&options);
    must(tutti_pool_scan_to_file(pool, 0, scan, NULL, &err), &err);
    tutti_pool_close(pool);
    umask(mask);
    assert_int_equal(stat(home, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    assert_int_equal(stat(secret, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(stat(member, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(stat(scan, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    free(scan);

    assert_int_equal(chmod(secret, 0640), 0);
    REFUSED(&options, -EACCES, secret, "0640", "chmod 600");
    assert_int_equal(chmod(secret, 0600), 0);
    tutti_pool_close(fixture_open(&options));
    free(secret);
    free(member);
    free(home);
    fixture_remove(folder);
}

/* As a user who owns nothing here. Return: 0 when each part is refused by name. */
static int stranger(const struct tutti_pool_options *options, const char *word)
{
    struct tutti_error err = {0};
    struct tutti_pool *pool = NULL;

    if (geteuid() == 0 && (setgid(65534) < 0 || setuid(65534) < 0))
        return 1;
    if (tutti_pool_open(options, &pool, &err) != -EACCES || !strstr(err.message, word) ||
        !strstr(err.message, "owner, mode")) {
        fprintf(stderr, "stranger: %d %s\n", err.code, err.message);
        return 2;
    }
    return 0;
}

static void refuse_stranger(const struct tutti_pool_options *options, const char *word)
{
    pid_t child = fork();
    int status;

    if (child == 0)
        _exit(stranger(options, word));
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void strangers(void **state)
{
    char *folder = fixture_folder();
    char *secret = fixture_path(folder, "secret");
    char *member = fixture_path(folder, "rank0.member0.tutti");
    struct tutti_pool_options options = fixture_options(folder);

    (void)state;
    fixture_format(&options);
    assert_int_equal(chmod(folder, 0000), 0);
    refuse_stranger(&options, secret);
    assert_int_equal(chmod(folder, 0755), 0);
    if (geteuid() == 0) {
        refuse_stranger(&options, secret);
        assert_int_equal(chown(secret, 65534, 65534), 0);
        refuse_stranger(&options, member);
    } else {
        assert_int_equal(chmod(member, 0000), 0);
        refuse_stranger(&options, member);
    }
    free(secret);
    free(member);
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(modes), cmocka_unit_test(strangers)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
