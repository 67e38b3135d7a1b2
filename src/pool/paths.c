/* SPDX-License-Identifier: Apache-2.0 */
/*
 * paths.c: from a caller's options to names of files.
 *
 * Touches no file but to ask whether a path is a folder.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "nvme/drive.h"
#include "pool/internal.h"

int home_path(char path[POOL_MAX_PATH], const char *home, const char *name, struct tutti_error *err)
{
    int n;

    if (!home || home[0] == '\0')
        return tutti_error_set(err, -EINVAL, "no folder is named for the pool");
    n = snprintf(path, POOL_MAX_PATH, "%s/%s", home, name);
    if ((size_t)n >= POOL_MAX_PATH) /* one below 0 is large then, too */
        return tutti_error_set(err, -ENAMETOOLONG, "%s: the path is too long", home);
    return 0;
}

int folder_sync(const char *path)
{
    char folder[POOL_MAX_PATH];
    const char *slash = strrchr(path, '/');
    int fd;
    int rc;

    if (!slash)
        snprintf(folder, sizeof(folder), ".");
    else
        snprintf(folder, sizeof(folder), "%.*s", (int)(slash - path) + 1, path);
    fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    rc = fsync(fd) < 0 ? -errno : 0;
    close(fd);
    return rc;
}

int options_check(const struct tutti_pool_options *o, struct tutti_error *err)
{
    uint32_t ranks = o->ranks ? o->ranks : POOL_MAX_RANKS;

    if (!o->home || o->home[0] == '\0')
        return tutti_error_set(err, -EINVAL, "no folder is named for the pool");
    if (ranks > POOL_MAX_RANKS || o->rank >= ranks)
        return tutti_error_set(err, -EINVAL, "%s: rank %u of %u; ranks 1 to %u are possible",
                               o->home, o->rank, o->ranks, POOL_MAX_RANKS);
    if (o->members > TUTTI_MAX_MEMBERS || (o->member == NULL) != (o->members == 0))
        return tutti_error_set(err, -EINVAL, "%s: %u members; 1 to %u are possible", o->home,
                               o->members, TUTTI_MAX_MEMBERS);
    if (o->groups > TUTTI_MAX_GROUPS || (o->groups > 0 && !o->geometry))
        return tutti_error_set(err, -EINVAL, "%s: %u KV cache groups; up to %u are possible",
                               o->home, o->groups, TUTTI_MAX_GROUPS);
    for (uint32_t i = 0; i < o->groups; i++) {
        int rc = tutti_geometry_check(&o->geometry[i], err);

        if (rc < 0)
            return rc;
        for (uint32_t j = 0; j < i; j++)
            if (o->geometry[i].group == o->geometry[j].group)
                return tutti_error_set(err, -EINVAL, "%s: two shapes are given for group %u",
                                       o->home, o->geometry[i].group);
    }
    return 0;
}

static char *member_file(const char *folder, uint32_t rank, uint32_t member)
{
    char *path = NULL;
    const char *slash = folder[strlen(folder) - 1] == '/' ? "" : "/"; /* it is not empty */

    if (asprintf(&path, "%s%srank%u.member%u.tutti", folder, slash, rank, member) < 0)
        return NULL;
    return path;
}

int member_paths(const struct tutti_pool_options *o, char *path[TUTTI_MAX_MEMBERS],
                 struct tutti_error *err)
{
    uint32_t count = o->member ? o->members : 1;

    for (uint32_t i = 0; i < count; i++) {
        const char *named = o->member ? o->member[i] : o->home;
        struct stat st;

        if (!named || named[0] == '\0') {
            member_paths_free(path, i);
            return tutti_error_set(err, -EINVAL, "%s: the path of member %u is empty", o->home, i);
        }
        if (!o->member ||
            (!nvme_drive_is_named(named) && stat(named, &st) == 0 && S_ISDIR(st.st_mode)))
            path[i] = member_file(named, o->rank, i);
        else
            path[i] = strdup(named);
        if (!path[i] || strlen(path[i]) >= POOL_MAX_PATH - 32) {
            int rc = path[i] ? -ENAMETOOLONG : -ENOMEM;

            member_paths_free(path, i + 1);
            return tutti_error_set(err, rc, "%s: %s", named, strerror(-rc));
        }
    }
    return (int)count;
}

/* The path that a new file will have, its folder resolved; for comparing. malloc()ed, or NULL. */
static char *canonical(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *whole = realpath(path, NULL);
    char *folder;
    char *resolved;

    if (whole)
        return whole;
    folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    resolved = folder ? realpath(folder, NULL) : NULL;
    if (asprintf(&whole, "%s/%s", resolved ? resolved : "?", slash ? slash + 1 : path) < 0)
        whole = NULL;
    free(resolved);
    free(folder);
    return whole;
}

/* Whether two paths lead to one file or device, whether it exists already or not. */
static bool same_member(const char *a, const char *b)
{
    struct stat sa;
    struct stat sb;
    char *ca;
    char *cb;
    bool same;

    if (nvme_drive_is_named(a) || nvme_drive_is_named(b))
        return strcmp(a, b) == 0;
    if (stat(a, &sa) == 0 && stat(b, &sb) == 0) {
        if (S_ISBLK(sa.st_mode) && S_ISBLK(sb.st_mode))
            return sa.st_rdev == sb.st_rdev;
        return sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
    }
    ca = canonical(a);
    cb = canonical(b);
    same = ca && cb && strcmp(ca, cb) == 0;
    free(ca);
    free(cb);
    return same;
}

int member_paths_distinct(char *const path[TUTTI_MAX_MEMBERS], uint32_t count,
                          struct tutti_error *err)
{
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t j = 0; j < i; j++)
            if (same_member(path[i], path[j]))
                return tutti_error_set(err, -EINVAL,
                                       "%s: given twice, as member %u and (%s) as member %u: each "
                                       "member is a file or device of its own",
                                       path[i], i, path[j], j);
    return 0;
}

void member_paths_free(char *path[TUTTI_MAX_MEMBERS], uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        free(path[i]);
        path[i] = NULL;
    }
}
