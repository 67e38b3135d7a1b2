/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The k-th call to the system fails, for every k: a format leaves nothing or a
 * whole pool; an epoch is begun or not; and afterwards all works again.
 */
#include "fixture.h"

static int countdown = -1; /* fail the call that brings it to 0 */
static int calls;

static int fails(void)
{
    calls++;
    if (countdown < 0 || --countdown != 0)
        return 0;
    countdown = -1;
    errno = EIO;
    return 1;
}

/* The linker brings the library's calls here (meson.build). */
ssize_t __real_pwrite64(int fd, const void *data, size_t bytes, off_t offset);
ssize_t __wrap_pwrite64(int fd, const void *data, size_t bytes, off_t offset);
ssize_t __wrap_pwrite64(int fd, const void *data, size_t bytes, off_t offset)
{
    return fails() ? -1 : __real_pwrite64(fd, data, bytes, offset);
}

int __real_fallocate64(int fd, int mode, off_t offset, off_t length);
int __wrap_fallocate64(int fd, int mode, off_t offset, off_t length);
int __wrap_fallocate64(int fd, int mode, off_t offset, off_t length)
{
    return fails() ? -1 : __real_fallocate64(fd, mode, offset, length);
}

int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
    return fails() ? -1 : __real_fsync(fd);
}

int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);
int __wrap_fdatasync(int fd)
{
    return fails() ? -1 : __real_fdatasync(fd);
}

int __real_renameat2(int a, const char *from, int b, const char *to, unsigned flags);
int __wrap_renameat2(int a, const char *from, int b, const char *to, unsigned flags);
int __wrap_renameat2(int a, const char *from, int b, const char *to, unsigned flags)
{
    return fails() ? -1 : __real_renameat2(a, from, b, to, flags);
}

int __real_link(const char *from, const char *to);
int __wrap_link(const char *from, const char *to);
int __wrap_link(const char *from, const char *to)
{
    return fails() ? -1 : __real_link(from, to);
}

int __real_ftruncate64(int fd, off_t length);
int __wrap_ftruncate64(int fd, off_t length);
int __wrap_ftruncate64(int fd, off_t length)
{
    return fails() ? -1 : __real_ftruncate64(fd, length);
}

int __real_mkdir(const char *path, mode_t mode);
int __wrap_mkdir(const char *path, mode_t mode);
int __wrap_mkdir(const char *path, mode_t mode)
{
    return fails() ? -1 : __real_mkdir(path, mode);
}

struct two {
    char *folder;
    char *home;
    char *file[2];
    struct tutti_pool_options options;
};

static void begin(struct two *t)
{
    t->folder = fixture_folder();
    t->home = fixture_path(t->folder, "home");
    t->file[0] = fixture_path(t->folder, "first");
    t->file[1] = fixture_path(t->folder, "second");
    t->options = fixture_options(t->home);
    t->options.bytes = 10 * MIB;
    t->options.member = (const char *const *)t->file;
    t->options.members = 2;
}

static void end(struct two *t)
{
    free(t->file[0]);
    free(t->file[1]);
    free(t->home);
    fixture_remove(t->folder);
}

static void format_all_or_nothing(void **state)
{
    int failed = 0;
    int k = 0;
    int more;

    (void)state;
    do {
        struct tutti_error err = {0};
        struct two t;
        int rc;

        begin(&t);
        countdown = ++k;
        calls = 0;
        rc = tutti_pool_format(&t.options, &err);
        countdown = -1;
        more = calls >= k;
        if (rc < 0) {
            struct stat st;

            failed++;
            assert_true(strlen(err.message) > 0);
            for (int i = 0; i < 2; i++) {
                char *temporary = NULL;

                assert_true(asprintf(&temporary, "%s.formatting", t.file[i]) > 0);
                assert_int_equal(stat(t.file[i], &st), -1);
                assert_int_equal(stat(temporary, &st), -1);
                free(temporary);
            }
            fixture_format(&t.options);
        }
        tutti_pool_close(fixture_open(&t.options));
        end(&t);
    } while (more);
    assert_true(failed > 10); /* it did fail somewhere */
}

static void epoch_begun_or_not(void **state)
{
    int failed = 0;
    int k = 0;
    int more;

    (void)state;
    do {
        struct tutti_error err = {0};
        struct tutti_pool_info info;
        struct tutti_pool *pool;
        struct two t;
        int rc;

        begin(&t);
        fixture_format(&t.options);
        pool = fixture_open(&t.options);
        fixture_begin_epoch(pool, 1, 0);
        countdown = ++k;
        calls = 0;
        rc = tutti_pool_begin_epoch(pool, 2, 2, fixture_identity, &err);
        countdown = -1;
        more = calls >= k;
        failed += rc < 0;
        tutti_pool_info(pool, &info);
        assert_int_equal(info.superblock.epoch, rc < 0 ? 1 : 2);
        if (rc < 0 && k % 2) /* try again at once, or after a restart */
            fixture_begin_epoch(pool, 2, 2);
        tutti_pool_close(pool);
        pool = fixture_open(&t.options);
        tutti_pool_info(pool, &info);
        if (rc == 0 || k % 2)
            assert_int_equal(info.superblock.epoch, 2);
        else
            assert_true(info.superblock.epoch == 1 || info.superblock.epoch == 2);
        fixture_begin_epoch(pool, 3, 0);
        tutti_pool_close(pool);
        end(&t);
    } while (more);
    assert_int_equal(failed, 8); /* two copies on two members, written and flushed */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(format_all_or_nothing),
                                       cmocka_unit_test(epoch_begun_or_not)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
