/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control.c: the kill switch, a file "disabled" in a pool's home.
 *
 * Knows neither members nor secret: it must work when those are what is
 * broken. The file is complete from the moment it is there (rename), and
 * readable for the server whoever made it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pool/internal.h"

static const char switch_name[] = "disabled";

int tutti_pool_disable(const char *home, const char *reason, struct tutti_error *err)
{
    char path[POOL_MAX_PATH];
    char temporary[POOL_MAX_PATH + 16];
    size_t length;
    int fd;
    int rc = home_path(path, home, switch_name, err);

    if (rc < 0)
        return rc;
    if (!reason || reason[0] == '\0')
        reason = "disabled by hand";
    snprintf(temporary, sizeof(temporary), "%s.XXXXXX", path);
    fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0)
        return backing_error(-errno, "creating", path, 0, err);
    length = strlen(reason);
    if (write(fd, reason, length) != (ssize_t)length || write(fd, "\n", 1) != 1)
        rc = errno ? -errno : -ENOSPC;
    else if (fchmod(fd, 0644) < 0 || fsync(fd) < 0 || rename(temporary, path) < 0)
        rc = -errno;
    close(fd);
    if (rc < 0) {
        unlink(temporary);
        return backing_error(rc, "writing", path, 0, err);
    }
    rc = folder_sync(path);
    return rc < 0 ? backing_error(rc, "flushing the folder of", path, 0, err) : 0;
}

int tutti_pool_enable(const char *home, struct tutti_error *err)
{
    char path[POOL_MAX_PATH];
    int rc = home_path(path, home, switch_name, err);

    if (rc < 0)
        return rc;
    if (unlink(path) < 0)
        return errno == ENOENT ? 0 : backing_error(-errno, "removing", path, 0, err);
    rc = folder_sync(path);
    return rc < 0 ? backing_error(rc, "flushing the folder of", path, 0, err) : 0;
}

int tutti_pool_disabled(const char *home, char *reason, size_t reason_bytes)
{
    char path[POOL_MAX_PATH];
    ssize_t n;
    int fd;

    if (reason_bytes > 0)
        reason[0] = '\0';
    if (home_path(path, home, switch_name, NULL) < 0)
        return 0;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return 0;
    if (fd < 0) { /* it is there, or we cannot tell: the safe answer */
        if (reason_bytes > 0)
            snprintf(reason, reason_bytes, "%s: %s", path, strerror(errno));
        return 1;
    }
    if (reason_bytes > 0) {
        n = read(fd, reason, reason_bytes - 1);
        reason[n > 0 ? n : 0] = '\0';
        reason[strcspn(reason, "\n")] = '\0';
    }
    close(fd);
    return 1;
}
