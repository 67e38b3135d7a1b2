/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A child of fork() that closes what its parent serves takes nothing from it: no thread, no lock,
 * and it writes no superblock.
 * Seen to fail with a backing_close() that lets the lock go whoever opened it, with a
 * tutti_pool_close() that writes its counters whoever it is, and (AddressSanitizer) with a
 * tutti_serve_close() that looks at no opener.
 */
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>

enum { BLOCKS = 8 };

static struct rig r;
static const char *engine;

/** Both superblocks of both members. */
static void superblocks(struct tutti_superblock s[4])
{
    for (uint32_t i = 0; i < 4; i++) {
        int fd = rig_open_member(&r, i / 2, O_RDONLY);

        assert_int_equal(pread(fd, &s[i], sizeof(s[i]), (off_t)(i % 2) * TUTTI_SUPERBLOCK_COPY),
                         sizeof(s[i]));
        close(fd);
    }
}

static void takes_nothing(void **state)
{
    struct tutti_superblock before[4], after[4];
    struct tutti_pool_options options;
    struct tutti_error err = {0};
    struct tutti_pool *second;
    int status;
    pid_t child;
    (void)state;

    rig_make(&r, engine, NULL);
    assert_int_equal(rig_store(&r, 0, 0, BLOCKS), BLOCKS); /* counted, and not written yet */
    tutti_serve_progress(r.serve);
    superblocks(before);
    fflush(NULL);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(20);
        tutti_serve_close(r.serve);
        tutti_pool_close(r.pool);
        exit(strcmp(tutti_serve_engine(r.serve), engine) != 0); /* it is still there */
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    superblocks(after);
    assert_memory_equal(before, after, sizeof(before));
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

    engine = argc > 1 ? argv[1] : "uring";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
