/* SPDX-License-Identifier: Apache-2.0 */
/* Alignment is learnt from the device; a pool of 512 is refused on sectors of 4,096, by name. */
#include "mounts.h"

static void learnt(void **state)
{
    char *folder = fixture_folder();
    char *home = fixture_path(folder, "home");
    char *image = sparse_file(folder, "image", 8 * MIB);
    struct loop loop = loop_attach(image, 4096);
    const char *members[] = {loop.path};
    struct tutti_pool_options options = fixture_options(home);
    struct tutti_error err = {0};
    struct tutti_pool_info info;
    struct tutti_pool *pool;

    (void)state;
    options.member = members;
    options.members = 1;
    options.alignment = 512;
    assert_int_equal(tutti_pool_format(&options, &err), -EINVAL);
    assert_non_null(strstr(err.message, loop.path));
    assert_non_null(strstr(err.message, "sectors of 4096"));
    assert_non_null(strstr(err.message, "alignment 4096"));
    options.alignment = 0;
    fixture_format(&options);
    pool = fixture_open(&options);
    tutti_pool_info(pool, &info);
    assert_int_equal(info.superblock.alignment, 4096);
    assert_int_equal(info.logical_block, 4096);
    assert_true(info.direct);
    tutti_pool_close(pool);
    close(loop.fd);
    free(image);
    free(home);
    fixture_remove(folder);
}

static void moved(void **state)
{
    char *folder = fixture_folder();
    char *home = fixture_path(folder, "home");
    char *image = sparse_file(folder, "image", 8 * MIB);
    struct loop loop = loop_attach(image, 512);
    const char *members[] = {loop.path};
    struct tutti_pool_options options = fixture_options(home);
    struct tutti_pool *pool;

    (void)state;
    options.member = members;
    options.members = 1;
    options.alignment = 512;
    fixture_format(&options);
    pool = fixture_open(&options);
    tutti_pool_close(pool);
    assert_int_equal(fsync(loop.fd), 0);
    close(loop.fd);
    loop = loop_attach(image, 4096); /* the same bytes on another drive */
    REFUSED(&options, -EINVAL, loop.path, "sectors of 4096", "alignment 512", "offset");
    close(loop.fd);
    free(image);
    free(home);
    fixture_remove(folder);
}

/* The same through a file system on such a device: its files take direct I/O of 4,096 only. */
static void on_a_file_system(void **state)
{
    char *folder = fixture_folder();
    char *home = fixture_path(folder, "home");
    char *image = sparse_file(folder, "image", 64 * MIB);
    char *mount_point = fixture_path(folder, "mnt");
    struct loop loop = loop_attach(image, 4096);
    const char *members[] = {mount_point};
    struct tutti_pool_options options = fixture_options(home);
    struct tutti_error err = {0};
    struct tutti_pool_info info;
    struct tutti_pool *pool;
    char *command = NULL;

    (void)state;
    assert_true(asprintf(&command, "mkfs.ext4 -q -F %s", loop.path) > 0);
    assert_int_equal(system(command), 0);
    assert_int_equal(mkdir(mount_point, 0700), 0);
    mounts_begin();
    if (mount(loop.path, mount_point, "ext4", 0, NULL) < 0)
        cannot("mounting a loop device");
    options.member = members;
    options.members = 1;
    options.alignment = 512;
    assert_int_equal(tutti_pool_format(&options, &err), -EINVAL);
    assert_non_null(strstr(err.message, "sectors of 4096"));
    options.alignment = 4096;
    fixture_format(&options);
    pool = fixture_open(&options);
    tutti_pool_info(pool, &info);
    assert_int_equal(info.logical_block, 4096);
    assert_true(info.direct);
    tutti_pool_close(pool);
    assert_int_equal(umount(mount_point), 0);
    close(loop.fd);
    free(command);
    free(mount_point);
    free(image);
    free(home);
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(learnt), cmocka_unit_test(moved),
                                       cmocka_unit_test(on_a_file_system)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
