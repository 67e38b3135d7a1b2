/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Members that are NVMe drives of this process's own (here: of software): a
 * pool is formatted, opened, checked and probed on them as on block devices;
 * what is foreign or a pool already is refused; a drive has one owner, in this
 * process and among all; and a child does not give it away.
 *
 * Seen to fail without the claim (two pools on one drive), with a child that
 * finds its parent's drive in the registry (it hangs), with names compared as
 * paths, and with a temporary file made for a drive; what_drives_say where the temperature was
 * taken for Celsius.
 */
#include "fixture.h"

#include <sys/wait.h>

#include "nvme/drive_internal.h"

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

static void what_drives_say(void **state)
{
    struct tutti_member_health h = {0};
    char text[TUTTI_HEALTH_TEXT];
    struct nvme_drive *drive;
    struct tutti_pool *pool;
    struct drives d;
    (void)state;

    make(&d);
    free(d.name[1]);
    assert_true(asprintf(&d.name[1], "soft:%s,warns=31", d.file[1]) > 0);
    fixture_format(&d.options);
    pool = fixture_open(&d.options);
    assert_int_equal(tutti_pool_member_health(pool, 0, &h), 0);
    assert_false(h.low_on_spare || h.hot || h.unreliable || h.read_only || h.unprotected);
    tutti_member_health_text(&h, text);
    assert_string_equal(text, "3 % worn, 100 % spare, 37 C, 2 media errors");
    assert_int_equal(tutti_pool_member_health(pool, 1, &h), 0);
    assert_true(h.low_on_spare && h.hot && h.unreliable && h.read_only && h.unprotected);
    h = (struct tutti_member_health){true,       true,       true,      true,      true,
                                     UINT32_MAX, UINT32_MAX, INT32_MAX, UINT64_MAX};
    tutti_member_health_text(&h, text);
    assert_non_null(strstr(text, "WARNS: read-only, unreliable, low on spare blocks, too hot"));
    assert_non_null(strstr(text, "lost with the power"));
    h = (struct tutti_member_health){.celsius = INT32_MIN, .read_only = true};
    tutti_member_health_text(&h, text);
    assert_string_equal(text, "0 % worn, 0 % spare, 0 media errors; WARNS: read-only");
    assert_int_equal(tutti_pool_member_health(pool, DRIVES, &h), -EINVAL);

    drive = tutti_pool_member_drive(pool, 0);
    pthread_mutex_lock(&drive->word_lock);
    drive->health = (struct nvme_health){0}; /* one without the log, and without temperature */
    pthread_mutex_unlock(&drive->word_lock);
    assert_int_equal(tutti_pool_member_health(pool, 0, &h), -ENODATA);
    pthread_mutex_lock(&drive->word_lock);
    drive->health.known = true;
    pthread_mutex_unlock(&drive->word_lock);
    assert_int_equal(tutti_pool_member_health(pool, 0, &h), 0);
    assert_int_equal(h.celsius, INT32_MIN);
    tutti_pool_close(pool);

    free(d.name[0]);
    free(d.name[1]);
    d.name[0] = strdup(d.folder); /* files are the kernel's */
    d.name[1] = strdup(d.folder);
    d.options.bytes = 5 * MIB;
    d.options.home = d.folder;
    fixture_format(&d.options);
    pool = fixture_open(&d.options);
    assert_int_equal(tutti_pool_member_health(pool, 0, &h), -EOPNOTSUPP);
    tutti_pool_close(pool);
    unmake(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pool_on_drives),
        cmocka_unit_test(who_may_have_it),
        cmocka_unit_test(what_is_refused),
        cmocka_unit_test(what_drives_say),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
