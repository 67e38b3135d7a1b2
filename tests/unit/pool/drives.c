/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Members that are NVMe drives of this process's own (here: of software): a
 * pool is formatted, opened, checked and probed on them as on block devices;
 * what is foreign or a pool already is refused; a drive has one owner, in this
 * process and among all; and a child does not give it away.
 *
 * Seen to fail without the claim (two pools on one drive), with a child that
 * finds its parent's drive in the registry (it hangs), with names compared as
 * paths, and with a temporary file made for a drive.
 */
#include "fixture.h"

#include <sys/wait.h>

enum { DRIVES = 2 };

struct drives {
    char *folder;
    char *home;
    char *file[DRIVES];
    char *name[DRIVES];
    struct tutti_pool_options options;
};

static void make(struct drives *d)
{
    d->folder = fixture_folder();
    d->home = fixture_path(d->folder, "home");
    for (uint32_t i = 0; i < DRIVES; i++) {
        int fd;

        d->file[i] = fixture_path(d->folder, i ? "b" : "a");
        assert_true(asprintf(&d->name[i], "soft:%s,mdts=%u", d->file[i], i) > 0);
        fd = open(d->file[i], O_CREAT | O_RDWR, 0600);
        assert_int_equal(ftruncate(fd, 6 * MIB), 0);
        close(fd);
    }
    d->options = fixture_options(d->home);
    d->options.bytes = 10 * MIB;
    d->options.member = (const char *const *)d->name;
    d->options.members = DRIVES;
}

static void unmake(struct drives *d)
{
    fixture_remove(d->folder);
    free(d->home);
    for (uint32_t i = 0; i < DRIVES; i++) {
        free(d->file[i]);
        free(d->name[i]);
    }
}

static void a_pool_on_drives(void **state)
{
    struct tutti_pool_info info;
    struct tutti_error err = {0};
    struct tutti_pool *pool;
    struct drives d;
    (void)state;

    make(&d);
    fixture_format(&d.options);
    pool = fixture_open(&d.options);
    tutti_pool_info(pool, &info);
    assert_true(info.direct);
    assert_int_equal(info.logical_block, 512);
    assert_int_equal(tutti_pool_member_fd(pool, 0), -1);
    assert_non_null(tutti_pool_member_drive(pool, 1));
    assert_null(tutti_pool_member_drive(pool, DRIVES));
    assert_string_equal(tutti_pool_member_path(pool, 1), d.name[1]);
    must(tutti_pool_begin_epoch(pool, 5, 0, (const uint8_t *)"identity of test", &err), &err);
    must(tutti_pool_flush(pool, &err), &err);
    tutti_pool_close(pool);
    pool = fixture_open(&d.options);
    tutti_pool_info(pool, &info);
    assert_int_equal(info.superblock.epoch, 5);
    tutti_pool_close(pool);
    unmake(&d);
}

static void who_may_have_it(void **state)
{
    struct tutti_pool *pool, *other = NULL;
    struct tutti_error err = {0};
    struct drives d;
    int status;
    pid_t child;
    (void)state;

    make(&d);
    fixture_format(&d.options);
    assert_int_equal(tutti_pool_format(&d.options, &err), -EEXIST);
    pool = fixture_open(&d.options);
    REFUSED(&d.options, -EBUSY, d.file[0], "in use");
    d.options.force = true;
    assert_int_equal(tutti_pool_format(&d.options, &err), -EBUSY);
    child = fork();
    if (child == 0) {
        int rc = tutti_pool_open(&d.options, &other, NULL);

        alarm(20);
        d.options.read_only = true; /* looking takes no claim, and wants the drive all the same */
        rc = rc == -EBUSY ? tutti_pool_open(&d.options, &other, NULL) : 0;
        tutti_pool_close(pool); /* the parent's */
        _exit(rc == -EBUSY ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    tutti_pool_count_written(pool, 512);
    tutti_pool_close(pool);
    pool = fixture_open(&d.options);
    tutti_pool_close(pool);
    unmake(&d);
}

static void what_is_refused(void **state)
{
    struct tutti_error err = {0};
    struct drives d;
    int fd;
    (void)state;

    make(&d);
    free(d.name[1]);
    d.name[1] = strdup(d.name[0]);
    assert_int_equal(tutti_pool_format(&d.options, &err), -EINVAL);
    assert_non_null(strstr(err.message, "given twice"));
    free(d.name[1]);
    assert_true(asprintf(&d.name[1], "soft:%s", d.file[1]) > 0);
    fd = open(d.file[1], O_RDWR);
    assert_int_equal(pwrite(fd, "x", 1, 6 * MIB - 512), 1); /* the backup of some partition table */
    close(fd);
    assert_int_equal(tutti_pool_format(&d.options, &err), -EEXIST);
    assert_non_null(strstr(err.message, "not empty"));
    d.options.force = true;
    must(tutti_pool_format(&d.options, &err), &err);
    unlink(d.file[1]);
    REFUSED(&d.options, -ENOENT, d.file[1]);
    unmake(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pool_on_drives),
        cmocka_unit_test(who_may_have_it),
        cmocka_unit_test(what_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
