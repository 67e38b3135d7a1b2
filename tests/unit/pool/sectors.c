/* SPDX-License-Identifier: Apache-2.0 */
/* Alignment is learnt from the device; a pool of 512 is refused on sectors of 4,096, by name. */
#include "mounts.h"

#include <linux/fs.h>

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

static int sector_bytes; /* what a device says, if not 0 */

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    void *argument;
    int rc;

    va_start(arguments, request);
    argument = va_arg(arguments, void *);
    va_end(arguments);
    rc = __real_ioctl(fd, request, argument);
    if (rc == 0 && request == BLKSSZGET && sector_bytes)
        *(int *)argument = sector_bytes;
    return rc;
}

static uint64_t more_blocks; /* that a file occupies */

int __real_fstat64(int fd, struct stat *st);
int __wrap_fstat64(int fd, struct stat *st);
int __wrap_fstat64(int fd, struct stat *st)
{
    int rc = __real_fstat64(fd, st);

    st->st_blocks += (blkcnt_t)more_blocks;
    return rc;
}

static void wipe_head(int fd)
{
    static unsigned char zeros[MIB] __attribute__((aligned(4096)));

    assert_int_equal(pwrite(fd, zeros, sizeof(zeros), 0), sizeof(zeros));
    assert_int_equal(fsync(fd), 0);
}

static void formats_not(const struct tutti_pool_options *options, const char *path,
                        const char *words)
{
    struct tutti_error err = {0};

    assert_int_equal(tutti_pool_format(options, &err), -EINVAL);
    assert_non_null(strstr(err.message, path));
    if (!strstr(err.message, words))
        fail_msg("'%s' is not in: %s", words, err.message);
}

/* Devices that are none for us; one that is given twice; and one that is only read. */
static void judged(void **state)
{
    char *folder = fixture_folder();
    char *home = fixture_path(folder, "home");
    char *image[2] = {sparse_file(folder, "image", 8 * MIB), sparse_file(folder, "small", MIB)};
    struct loop loop[2] = {loop_attach(image[0], 512), loop_attach(image[1], 512)};
    const char *members[] = {loop[0].path, loop[0].path};
    char *file = fixture_path(folder, "file");
    struct tutti_pool_options options = fixture_options(home);
    struct tutti_pool_info info;
    struct tutti_pool *pool;

    (void)state;
    options.member = members;
    options.members = 2;
    formats_not(&options, loop[0].path, "given twice");
    members[1] = loop[1].path;
    formats_not(&options, loop[1].path, "too small");
    members[1] = image[1]; /* a device and a file are two things */
    assert_true(tutti_pool_format(&options, NULL) < 0);
    members[0] = image[1];
    members[1] = loop[0].path;
    assert_true(tutti_pool_format(&options, NULL) < 0);
    members[0] = loop[0].path;
    members[1] = file;
    options.bytes = 12 * MIB;
    more_blocks = 7 * MIB / 512; /* what the file's system charges comes off the device, too */
    fixture_format(&options);
    pool = fixture_open(&options);
    tutti_pool_info(pool, &info);
    assert_int_equal(info.superblock.extents, 4);
    tutti_pool_close(pool);
    more_blocks = 0;
    wipe_head(loop[0].fd);
    options = fixture_options(home);
    options.member = members;
    options.members = 1;
    sector_bytes = 256;
    formats_not(&options, loop[0].path, "sectors of 256 bytes");
    sector_bytes = 8192;
    formats_not(&options, loop[0].path, "sectors of 8192 bytes");
    sector_bytes = 0;
    fixture_format(&options);
    options.read_only = true;
    tutti_pool_close(fixture_open(&options));
    for (int i = 0; i < 2; i++) {
        close(loop[i].fd);
        free(image[i]);
    }
    free(file);
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(learnt), cmocka_unit_test(judged),
                                       cmocka_unit_test(moved), cmocka_unit_test(on_a_file_system)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
