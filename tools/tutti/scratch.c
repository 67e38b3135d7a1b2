/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scratch.c: a temporary folder that is gone afterwards; see scratch.h.
 *
 * Must not know what is put there. A lock on the folder (flock) tells one in
 * use from one that a killed process left.
 */
#include "scratch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PREFIX "tutti-scratch-"
#define STALE_SECONDS 60 /* a folder younger than this may not be locked yet */

static struct {
    char path[SCRATCH_PATH];
    int lock;
    pthread_t watcher;
    bool open;
} scratch = {.lock = -1};

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)st;
    (void)type;
    (void)walk;
    remove(path);
    return 0;
}

void remove_tree(const char *path)
{
    /* Twice: another thread may be making a file meanwhile. */
    for (int i = 0; i < 2; i++)
        nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGHUP);
    sigaddset(set, SIGUSR1); /* ours: the watcher shall end */
}

static void *watch(void *argument)
{
    sigset_t set;
    int number;

    (void)argument;
    signals(&set);
    if (sigwait(&set, &number) != 0 || number == SIGUSR1)
        return NULL;
    remove_tree(scratch.path);
    fprintf(stderr, "\ntutti: stopped by signal %d; temporary files are removed\n", number);
    _exit(128 + number);
}

static void clear_stale(const char *parent)
{
    DIR *folder = opendir(parent);
    struct dirent *entry;
    char path[SCRATCH_PATH + 512];
    struct stat st;

    while (folder && (entry = readdir(folder))) {
        int fd;

        if (strncmp(entry->d_name, PREFIX, sizeof(PREFIX) - 1) != 0)
            continue;
        snprintf(path, sizeof(path), "%s/%s", parent, entry->d_name);
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
            continue;
        if (fstat(fd, &st) == 0 && st.st_mtime + STALE_SECONDS < time(NULL) &&
            flock(fd, LOCK_EX | LOCK_NB) == 0)
            remove_tree(path);
        close(fd);
    }
    if (folder)
        closedir(folder);
}

/** The folder of this executable where one may write there, else /var/tmp. */
static void default_parent(char *parent)
{
    ssize_t length = readlink("/proc/self/exe", parent, SCRATCH_PATH / 2);
    char *slash;

    if (length > 0) {
        parent[length] = 0;
        slash = strrchr(parent, '/');
        if (slash && slash != parent) {
            *slash = 0;
            if (access(parent, W_OK) == 0)
                return;
        }
    }
    strcpy(parent, "/var/tmp");
}

int scratch_open(const char *parent, char *path, struct tutti_error *err)
{
    char chosen[SCRATCH_PATH / 2 + 1];
    sigset_t set;
    int rc;

    if (!parent) {
        default_parent(chosen);
        parent = chosen;
    }
    clear_stale(parent);
    snprintf(scratch.path, sizeof(scratch.path), "%.*s/" PREFIX "XXXXXX", SCRATCH_PATH - 64,
             parent);
    signals(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (!mkdtemp(scratch.path))
        return tutti_error_set(err, -errno, "no temporary folder can be made in %s: %s", parent,
                               strerror(errno));
    scratch.lock = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (scratch.lock >= 0)
        flock(scratch.lock, LOCK_EX | LOCK_NB);
    rc = pthread_create(&scratch.watcher, NULL, watch, NULL);
    if (rc) {
        remove_tree(scratch.path);
        return tutti_error_set(err, -rc, "no thread to watch for signals: %s", strerror(rc));
    }
    scratch.open = true;
    strcpy(path, scratch.path);
    return 0;
}

void scratch_close(void)
{
    if (!scratch.open)
        return;
    pthread_kill(scratch.watcher, SIGUSR1);
    pthread_join(scratch.watcher, NULL);
    remove_tree(scratch.path);
    if (scratch.lock >= 0)
        close(scratch.lock);
    scratch.open = false;
}
