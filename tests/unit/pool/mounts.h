/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mounts.h: file systems and loop devices that last as long as the test.
 *
 * Where the environment permits neither, the test says so on standard error
 * and ends with 77: meson and tests/run.py list it as skipped, by name.
 */
#ifndef TESTS_UNIT_POOL_MOUNTS_H
#define TESTS_UNIT_POOL_MOUNTS_H

#include <linux/loop.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>

#include "fixture.h"

static inline void cannot(const char *what)
{
    fprintf(stderr, "\n*** NOT TESTED: %s: %s. Run as root, in a container that may mount. ***\n\n",
            what, strerror(errno));
    exit(77);
}

/* A mount namespace of our own: what is mounted in it goes with the process. */
static inline void mounts_begin(void)
{
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        cannot("private mounts");
}

static inline void mount_memory(const char *folder, const char *options)
{
    if (mount("tutti-test", folder, "tmpfs", 0, options) < 0)
        cannot("mounting a tmpfs");
}

/* Make a folder read-only through a bind mount of itself. */
static inline void mount_read_only(const char *folder)
{
    if (mount(folder, folder, NULL, MS_BIND, NULL) < 0 ||
        mount(NULL, folder, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL) < 0)
        cannot("a read-only bind mount");
}

struct loop {
    int fd; /* the device detaches when it is closed */
    char path[32];
};

/* A block device over a file, with sectors of a size. */
static inline struct loop loop_attach(const char *file, uint32_t sector)
{
    struct loop_config config = {.block_size = sector, .info.lo_flags = LO_FLAGS_AUTOCLEAR};
    struct loop loop = {.fd = -1};
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int backing = open(file, O_RDWR | O_CLOEXEC);

    if (control < 0)
        cannot("loop devices");
    assert_true(backing >= 0);
    config.fd = (uint32_t)backing;
    for (int attempt = 0; attempt < 100; attempt++) { /* others may take the free one first */
        int number = ioctl(control, LOOP_CTL_GET_FREE);

        if (number < 0)
            cannot("a free loop device");
        snprintf(loop.path, sizeof(loop.path), "/dev/loop%d", number);
        loop.fd = open(loop.path, O_RDWR | O_CLOEXEC);
        if (loop.fd >= 0 && ioctl(loop.fd, LOOP_CONFIGURE, &config) == 0)
            break;
        if (loop.fd < 0 || errno != EBUSY)
            cannot("a loop device");
        close(loop.fd);
        loop.fd = -1;
    }
    close(control);
    close(backing);
    if (loop.fd < 0)
        cannot("a loop device that nobody else takes");
    return loop;
}

static inline char *sparse_file(const char *folder, const char *name, uint64_t bytes)
{
    char *path = fixture_path(folder, name);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    close(fd);
    return path;
}

#endif
