/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pool has one opener: neither the same process nor another gets it until it is
 * closed or dead, and a forked child does not give it away.
 *
 * Seen to fail without the lock, and with a close that unlocks in a child too.
 */
#include "fixture.h"

#include <signal.h>
#include <sys/wait.h>

static void refused_until_closed(void **state)
{
    char *folder = fixture_folder();
    struct tutti_pool_options options = fixture_options(folder);
    struct tutti_pool_options reader = options;
    struct tutti_pool *pool;
    struct tutti_pool *other;
    struct tutti_error err = {0};
    int status;
    pid_t child;

    (void)state;
    fixture_format(&options);
    pool = fixture_open(&options);
    REFUSED(&options, -EBUSY, "rank0.member0.tutti", "in use", "fuser");
    child = fork();
    if (child == 0)
        _exit(tutti_pool_open(&options, &other, NULL) == -EBUSY ? 0 : 1);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(tutti_pool_format(&options, &err), -EBUSY);
    options.force = true;
    assert_int_equal(tutti_pool_format(&options, &err), -EBUSY);

    reader.read_only = true; /* looking is allowed */
    reader.groups = 0;
    other = fixture_open(&reader);
    tutti_pool_close(other);
    REFUSED(&options, -EBUSY, "in use"); /* and closing the look takes no lock away */

    tutti_pool_close(pool);
    pool = fixture_open(&options);
    tutti_pool_close(pool);
    fixture_remove(folder);
}

static void a_child_that_closes_its_copy(void **state)
{
    char *folder = fixture_folder();
    struct tutti_pool_options options = fixture_options(folder);
    struct tutti_pool *pool;
    struct bytes before, after;
    char *path;
    int status;
    pid_t child;

    (void)state;
    fixture_format(&options);
    pool = fixture_open(&options);
    path = fixture_path(folder, "rank0.member0.tutti");
    tutti_pool_count_written(pool, 4096); /* so that a close has something to write */
    before = fixture_bytes(path);
    child = fork();
    if (child == 0) {
        tutti_pool_close(pool);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    REFUSED(&options, -EBUSY, "in use");
    after = fixture_bytes(path);
    assert_int_equal(after.count, before.count);
    assert_memory_equal(after.data, before.data, before.count); /* nor does it write */
    free(before.data);
    free(after.data);
    free(path);
    tutti_pool_close(pool);
    fixture_remove(folder);
}

static void free_after_kill(void **state)
{
    char *folder = fixture_folder();
    struct tutti_pool_options options = fixture_options(folder);
    struct tutti_pool *pool;
    int ready[2];
    char byte;
    pid_t child;

    (void)state;
    fixture_format(&options);
    assert_int_equal(pipe(ready), 0);
    child = fork();
    if (child == 0) {
        if (tutti_pool_open(&options, &pool, NULL) == 0 && write(ready[1], "x", 1) == 1)
            pause();
        _exit(1);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    REFUSED(&options, -EBUSY, "in use");
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    pool = fixture_open(&options);
    tutti_pool_close(pool);
    close(ready[0]);
    close(ready[1]);
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(refused_until_closed),
                                       cmocka_unit_test(a_child_that_closes_its_copy),
                                       cmocka_unit_test(free_after_kill)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
