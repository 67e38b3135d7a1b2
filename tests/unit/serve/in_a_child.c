/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A child of fork() that closes what its parent serves takes nothing from it: no thread, no lock,
 * and it writes no superblock.
 * Seen to fail with a backing_close() that lets the lock go whoever opened it, and to hang with a
 * tutti_serve_close() that looks at no opener.
 */
#include "rig.h"

#include <errno.h>
#include <sys/wait.h>

enum { BLOCKS = 8 };

static struct rig r;
static const char *engine;

static void takes_nothing(void **state)
{
    struct tutti_pool_options options;
    struct tutti_error err = {0};
    struct tutti_pool *second;
    int status;
    pid_t child;
    (void)state;

    rig_make(&r, engine, NULL);
    assert_int_equal(rig_store(&r, 0, 0, BLOCKS), BLOCKS); /* counted, and not written yet */
    fflush(NULL);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(20);
        tutti_serve_close(r.serve);
        tutti_pool_close(r.pool);
        exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    options = rig_pool_options(&r);
    assert_int_equal(tutti_pool_open(&options, &second, &err), -EBUSY);
    assert_int_equal(rig_load(&r, 0, BLOCKS, 40), BLOCKS);
    rig_close(&r);
    rig_open(&r, engine, NULL);
    assert_int_equal(rig_load(&r, 0, BLOCKS, 40), BLOCKS);
    rig_close(&r);
    rig_remove(&r);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(takes_nothing)};

    engine = argc > 1 ? argv[1] : "auto";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
