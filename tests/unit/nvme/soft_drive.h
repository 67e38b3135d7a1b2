/* SPDX-License-Identifier: Apache-2.0 */
/* soft_drive.h: a drive over a software controller with a thread of its own, for tests. */
#ifndef TESTS_UNIT_NVME_SOFT_DRIVE_H
#define TESTS_UNIT_NVME_SOFT_DRIVE_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "nvme/drive.h"
#include "nvme/soft/port.h"
#include "nvme/soft/soft.h"
#include "scatter.h"

#define SOFT_DRIVE_BYTES (UINT64_C(32) << 20)
#define MS UINT64_C(1000000)

/** A file that is a medium; its name is also what soft_port_open() takes before options. */
static inline void soft_drive_file(char path[64])
{
    int fd;

    strcpy(path, "soft-drive-XXXXXX");
    fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, SOFT_DRIVE_BYTES), 0);
    close(fd);
}

struct soft_drive {
    char path[64];
    struct soft *soft;
    struct nvme_drive *drive;
};

static inline void soft_drive_open(struct soft_drive *s, const char *options,
                                   const struct nvme_bounds *bounds)
{
    struct tutti_error err = {0};
    struct nvme_port port;
    char what[160];

    soft_drive_file(s->path);
    snprintf(what, sizeof(what), "%s%s", s->path, options);
    if (soft_port_open(what, &port, &err) < 0)
        fail_msg("%s", err.message);
    unlink(s->path); /* open and mapped: whatever becomes of the test, no file is left */
    s->soft = soft_port_soft(&port);
    if (nvme_drive_open_port(s->path, &port, 0, bounds, &s->drive, &err) < 0)
        fail_msg("%s", err.message);
}

/** Something is to go wrong; its thread stands still for the moment. */
static inline void soft_drive_inject(struct soft_drive *s, struct soft_fault fault)
{
    soft_stop(s->soft);
    assert_int_equal(soft_inject(s->soft, &fault), 0);
    assert_int_equal(soft_start(s->soft), 0);
}

/** No rule was broken, whatever happened. */
static inline void soft_drive_close(struct soft_drive *s)
{
    soft_stop(s->soft);
    assert_string_equal(soft_first_broken(s->soft), "");
    assert_int_equal(soft_start(s->soft), 0);
    nvme_drive_close(s->drive);
}

#endif
