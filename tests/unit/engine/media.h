/* SPDX-License-Identifier: Apache-2.0 */
/*
 * media.h: what a test's members lie on: the working directory, memory, another
 * file system, block devices of either sector size. Made for one run, and gone
 * with it.
 *
 * A medium that cannot be had here ends the test with 77 and a sentence: listed
 * as skipped, never as passed.
 */
#ifndef TUTTI_TESTS_ENGINE_MEDIA_H
#define TUTTI_TESTS_ENGINE_MEDIA_H

#include "../pool/mounts.h"

enum { MEDIA_DEVICES = 4 };

static struct {
    char *folder;
    char *mount_point;
    struct loop device[MEDIA_DEVICES];
    uint32_t devices;
} media;

static inline void media_end(void)
{
    if (media.mount_point)
        umount2(media.mount_point, MNT_DETACH);
    for (uint32_t i = 0; i < media.devices; i++)
        close(media.device[i].fd); /* and so it detaches */
    free(media.mount_point);
    if (media.folder)
        fixture_remove(media.folder);
}

/** A device over a sparse file that has no name any more. */
static inline const char *media_device(uint64_t bytes, uint32_t sector)
{
    char *image = sparse_file(media.folder, "image", bytes);
    struct loop loop = loop_attach(image, sector);

    unlink(image);
    free(image);
    media.device[media.devices] = loop;
    return media.device[media.devices++].path;
}

static inline void media_devices(uint32_t sector)
{
    char name[32];

    for (uint32_t i = 0; i < MEDIA_DEVICES; i++) {
        snprintf(name, sizeof(name), "TUTTI_TEST_DEVICE_%u", i);
        setenv(name, media_device(256 * MIB, sector), 1);
    }
    setenv("TUTTI_TEST_ALIGNMENT", sector == 512 ? "512" : "4096", 1);
}

static inline void media_mount_point(void)
{
    media.mount_point = fixture_path(media.folder, "mnt");
    if (mkdir(media.mount_point, 0700) < 0)
        abort();
    setenv("TUTTI_TEST_FOLDER", media.mount_point, 1);
    mounts_begin();
}

static inline void media_xfs(void)
{
    const char *device;
    char command[128];
    int status;

    media_mount_point();
    device = media_device(512 * MIB, 512);
    snprintf(command, sizeof(command), "mkfs.xfs -q %s", device);
    status = system(command); // NOLINT(cert-env33-c)
    errno = WIFEXITED(status) && WEXITSTATUS(status) == 127 ? ENOENT : EIO;
    if (status != 0)
        cannot("mkfs.xfs");
    if (mount(device, media.mount_point, "xfs", 0, NULL) < 0)
        cannot("mounting an xfs");
}

/** "folder", "buffered" (there without direct I/O), "tmpfs", "loop512", "loop4096" or "xfs". */
static inline void media_begin(const char *medium)
{
    if (strcmp(medium, "folder") == 0)
        return;
    if (strcmp(medium, "buffered") == 0) {
        setenv("TUTTI_TEST_BUFFERED", "1", 1);
        return;
    }
    media.folder = fixture_folder();
    atexit(media_end);
    if (strcmp(medium, "loop512") == 0) {
        media_devices(512);
    } else if (strcmp(medium, "loop4096") == 0) {
        media_devices(4096);
    } else if (strcmp(medium, "tmpfs") == 0) {
        media_mount_point();
        mount_memory(media.mount_point, "size=1g");
    } else if (strcmp(medium, "xfs") == 0) {
        media_xfs();
    } else {
        fprintf(stderr, "no medium is called %s\n", medium);
        exit(2);
    }
}

#endif
