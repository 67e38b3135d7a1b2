/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control.c: the kill switch, a file "disabled" in a pool's home, and one like
 * it for each member.
 *
 * Knows neither members nor secret: it must work when those are what is
 * broken. A file is complete from the moment it is there (rename), and readable
 * for the server whoever made it. Its first line says why; the second one, of
 * a member's, where that member is, for who looks whether it can come back.
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

struct switch_name {
    char text[64];
};

static struct switch_name member_switch(uint32_t rank, uint32_t member)
{
    struct switch_name name;

    snprintf(name.text, sizeof(name.text), "%s.rank%u.member%u", switch_name, rank, member);
    return name;
}

/** A line of its own, whatever is in it. Return: 0 or a negative errno. */
static int write_line(int fd, const char *text)
{
    size_t length = strlen(text);
    char *line = malloc(length + 1);
    ssize_t n;

    if (!line)
        return -ENOMEM;
    for (size_t i = 0; i < length; i++)
        line[i] = text[i] == '\n' ? ' ' : text[i];
    line[length] = '\n';
    n = write(fd, line, length + 1);
    free(line);
    return n < 0 ? -errno : (size_t)n == length + 1 ? 0 : -ENOSPC;
}

static int throw_switch(const char *home, const char *name, const char *reason, const char *second,
                        struct tutti_error *err)
{
    char path[POOL_MAX_PATH];
    char temporary[POOL_MAX_PATH + 16];
    int fd;
    int rc = home_path(path, home, name, err);

    if (rc < 0)
        return rc;
    if (!reason || reason[0] == '\0')
        reason = "disabled by hand";
    snprintf(temporary, sizeof(temporary), "%s.XXXXXX", path);
    fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0)
        return backing_error(-errno, "creating", path, 0, err);
    rc = write_line(fd, reason);
    if (rc == 0 && second)
        rc = write_line(fd, second);
    if (rc == 0 && (fchmod(fd, 0644) < 0 || fsync(fd) < 0 || rename(temporary, path) < 0))
        rc = -errno;
    close(fd);
    if (rc < 0) {
        unlink(temporary);
        return backing_error(rc, "writing", path, 0, err);
    }
    rc = folder_sync(path);
    return rc < 0 ? backing_error(rc, "flushing the folder of", path, 0, err) : 0;
}

static int take_back(const char *home, const char *name, struct tutti_error *err)
{
    char path[POOL_MAX_PATH];
    int rc = home_path(path, home, name, err);

    if (rc < 0)
        return rc;
    if (unlink(path) < 0)
        return errno == ENOENT ? 0 : backing_error(-errno, "removing", path, 0, err);
    rc = folder_sync(path);
    return rc < 0 ? backing_error(rc, "flushing the folder of", path, 0, err) : 0;
}

/** Copy line @number of a text, cut to what fits. */
static void copy_line(char *to, size_t bytes, const char *text, unsigned number)
{
    size_t length;

    if (bytes == 0)
        return;
    while (number-- > 0) {
        text += strcspn(text, "\n");
        text += *text == '\n';
    }
    length = strcspn(text, "\n");
    if (length > bytes - 1)
        length = bytes - 1;
    memcpy(to, text, length);
    to[length] = '\0';
}

/** Whether a switch is thrown (1 or 0; a negative errno: can't tell), and two lines of it. */
static int look_at(const char *home, const char *name, char *reason, size_t reason_bytes,
                   char *second, size_t second_bytes)
{
    char path[POOL_MAX_PATH];
    char text[POOL_MAX_PATH + TUTTI_ERROR_MESSAGE];
    ssize_t n;
    int fd;

    copy_line(reason, reason_bytes, "", 0);
    copy_line(second, second_bytes, "", 0);
    if (home_path(path, home, name, NULL) < 0)
        return 0;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return 0;
    n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (n < 0) {
        int rc = -errno;

        if (reason_bytes > 0)
            snprintf(reason, reason_bytes, "%s: %s", path, strerror(-rc));
        if (fd >= 0)
            close(fd);
        return rc;
    }
    text[n] = '\0';
    copy_line(reason, reason_bytes, text, 0);
    copy_line(second, second_bytes, text, 1);
    close(fd);
    return 1;
}

int tutti_pool_disable(const char *home, const char *reason, struct tutti_error *err)
{
    return throw_switch(home, switch_name, reason, NULL, err);
}

int tutti_pool_enable(const char *home, struct tutti_error *err)
{
    return take_back(home, switch_name, err);
}

int tutti_pool_disabled(const char *home, char *reason, size_t reason_bytes)
{
    /* That we cannot tell is a yes here: the pool is not used, which is always right. */
    return look_at(home, switch_name, reason, reason_bytes, NULL, 0) != 0;
}

int tutti_pool_disable_member(const char *home, uint32_t rank, uint32_t member, const char *reason,
                              const char *path, struct tutti_error *err)
{
    return throw_switch(home, member_switch(rank, member).text, reason, path, err);
}

int tutti_pool_enable_member(const char *home, uint32_t rank, uint32_t member,
                             struct tutti_error *err)
{
    return take_back(home, member_switch(rank, member).text, err);
}

int tutti_pool_member_disabled(const char *home, uint32_t rank, uint32_t member, char *reason,
                               size_t reason_bytes)
{
    return look_at(home, member_switch(rank, member).text, reason, reason_bytes, NULL, 0);
}

int member_switch_path(const char *home, uint32_t rank, uint32_t member, char path[POOL_MAX_PATH])
{
    return look_at(home, member_switch(rank, member).text, NULL, 0, path, POOL_MAX_PATH);
}
