/* SPDX-License-Identifier: Apache-2.0 */
/* Formatting never takes a file or device that holds something, unless told, and never a pool. */
#include "mounts.h"

#include <sys/wait.h>

static int format(const struct tutti_pool_options *options, struct tutti_error *err)
{
    memset(err, 0, sizeof(*err));
    return tutti_pool_format(options, err);
}

static void a_file(void **state)
{
    char *folder = fixture_folder();
    char *home = fixture_path(folder, "home");
    char *path = fixture_path(folder, "thesis.txt");
    const char *members[] = {path};
    struct tutti_pool_options options = fixture_options(home);
    struct tutti_error err;
    struct bytes before;
    struct stat st;
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);

    (void)state;
    assert_int_equal(write(fd, "three years", 11), 11);
    close(fd);
    options.member = members;
    options.members = 1;
    before = fixture_bytes(path);
    assert_int_equal(format(&options, &err), -EEXIST);
    assert_non_null(strstr(err.message, path));
    assert_non_null(strstr(err.message, "11 bytes"));
    assert_non_null(strstr(err.message, "force"));
    assert_unchanged(path, before);
    REFUSED(&options, -ENOENT, "secret", "no pool in this folder"); /* nor does opening make one */
    assert_unchanged(path, before);
    free(before.data);

    options.force = true;
    options.bytes = 1000; /* a format that fails leaves it even so */
    assert_int_equal(format(&options, &err), -EINVAL);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 11);
    options.bytes = 5 * MIB;
    assert_int_equal(format(&options, &err), 0);
    tutti_pool_close(fixture_open(&options));

    before = fixture_bytes(path); /* now it is a pool: not even by force */
    assert_int_equal(format(&options, &err), -EEXIST);
    assert_non_null(strstr(err.message, "holds a Tutti pool"));
    assert_unchanged(path, before);
    free(before.data);
    free(path);
    free(home);
    fixture_remove(folder);
}

static void an_empty_file_and_a_link(void **state)
{
    char *folder = fixture_folder();
    char *path = sparse_file(folder, "empty", 0);
    char *name = fixture_path(folder, "link");
    const char *members[] = {name};
    struct tutti_pool_options options = fixture_options(folder);
    struct tutti_error err;
    struct stat st;

    (void)state;
    assert_int_equal(symlink("empty", name), 0);
    options.member = members;
    options.members = 1;
    assert_int_equal(format(&options, &err), 0);
    assert_int_equal(lstat(name, &st), 0);
    assert_true(S_ISLNK(st.st_mode)); /* the link stays, the file behind it is the pool */
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 5 * MIB);
    free(name);
    name = fixture_path(folder, "dangling");
    assert_int_equal(symlink("/nowhere/at/all", name), 0);
    members[0] = "/dev/null";
    assert_int_equal(format(&options, &err), -EINVAL);
    assert_non_null(strstr(err.message, "neither"));
    free(path);
    free(name);
    fixture_remove(folder);
}

static void devices(void **state)
{
    char *folder = fixture_folder();
    char *home = fixture_path(folder, "home");
    char *image = sparse_file(folder, "image", 16 * MIB);
    char *mount_point = fixture_path(folder, "mnt");
    struct loop loop = loop_attach(image, 512);
    const char *members[] = {loop.path};
    struct tutti_pool_options options = fixture_options(home);
    const off_t places[] = {0, 4086, 65536, MIB - 1, 16 * MIB - 1, 16 * MIB - 65536};
    struct tutti_pool_info info;
    struct tutti_pool *pool;
    struct tutti_error err;
    struct bytes before;
    char *command = NULL;

    (void)state;
    options.member = members;
    options.members = 1;
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        fixture_poke(loop.path, places[i], "x", 1);
        assert_int_equal(format(&options, &err), -EEXIST);
        assert_non_null(strstr(err.message, loop.path));
        assert_non_null(strstr(err.message, "not empty"));
        fixture_poke(loop.path, places[i], "", 1);
    }

    assert_true(asprintf(&command, "mkfs.ext4 -q -F %s", loop.path) > 0);
    assert_int_equal(system(command), 0);
    before = fixture_bytes(image);
    assert_int_equal(format(&options, &err), -EEXIST);
    assert_unchanged(image, before);
    free(before.data);

    mounts_begin();
    assert_int_equal(mkdir(mount_point, 0700), 0);
    if (mount(loop.path, mount_point, "ext4", 0, NULL) < 0)
        cannot("mounting a loop device");
    options.force = true; /* mounted: not even by force */
    assert_int_equal(format(&options, &err), -EBUSY);
    assert_non_null(strstr(err.message, "mounted"));
    assert_int_equal(umount(mount_point), 0);

    options.bytes = 0; /* the whole device */
    assert_int_equal(format(&options, &err), 0);
    pool = fixture_open(&options);
    REFUSED(&options, -EBUSY, loop.path, "in use");
    tutti_pool_info(pool, &info);
    assert_int_equal(info.extents, 15);
    assert_int_equal(info.logical_block, 512);
    tutti_pool_close(pool);
    assert_int_equal(format(&options, &err), -EEXIST);
    assert_non_null(strstr(err.message, "holds a Tutti pool"));

    free(command);
    close(loop.fd);
    free(mount_point);
    free(image);
    free(home);
    fixture_remove(folder);
}

/* Records of a device's former life, under the same secret, do not come back. */
static void former_life(void **state)
{
    char *folder = fixture_folder();
    char *home = fixture_path(folder, "home");
    char *image = sparse_file(folder, "image", 8 * MIB);
    struct loop loop = loop_attach(image, 512);
    const char *members[] = {loop.path};
    struct tutti_pool_options options = fixture_options(home);
    struct fixture_slot slot = {.slot = 3, .generation = generation_of(1, 1)};
    struct tutti_scan_report report;
    struct tutti_scan_entry *entries;
    unsigned char zeros[4096] = {0};
    struct tutti_error err;
    struct tutti_pool *pool;
    size_t count;

    (void)state;
    options.member = members;
    options.members = 1;
    for (int life = 0; life < 2; life++) {
        assert_int_equal(format(&options, &err), 0);
        pool = fixture_open(&options);
        fixture_begin_epoch(pool, 1, 0);
        must(tutti_pool_scan(pool, 0, &entries, &count, &report, &err), &err);
        assert_int_equal(count, 0);
        assert_int_equal(report.torn + report.alien + report.void_, 0);
        free(entries);
        fixture_write_slot(pool, &slot);
        must(tutti_pool_scan(pool, 0, &entries, &count, &report, &err), &err);
        assert_int_equal(count, 1);
        free(entries);
        tutti_pool_close(pool);
        fixture_poke(loop.path, 0, zeros, sizeof(zeros));
        fixture_poke(loop.path, TUTTI_SUPERBLOCK_COPY, zeros, sizeof(zeros));
        options.force = true;
    }
    close(loop.fd);
    free(image);
    free(home);
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_file),
                                       cmocka_unit_test(an_empty_file_and_a_link),
                                       cmocka_unit_test(devices), cmocka_unit_test(former_life)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
