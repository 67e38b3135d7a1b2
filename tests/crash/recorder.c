/* SPDX-License-Identifier: Apache-2.0 */
/* recorder.c: see recorder.h. */
#include "recorder.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { UNDER_WAY = 6 }; /* writes after the crash point that may have landed in part */

struct entry {
    int file; /* which one, or -1 - file for a flush of it */
    uint64_t offset;
    size_t bytes;
    unsigned char *data;
};

static struct {
    pthread_mutex_t lock;
    int on;
    ino_t inode[RECORDER_FILES];
    size_t size[RECORDER_FILES];
    unsigned char *durable[RECORDER_FILES]; /* as of entry `advanced` */
    struct entry *entry;
    size_t entries, room, advanced;
} rec = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void must(int ok, const char *what)
{
    if (!ok) {
        perror(what);
        abort();
    }
}

static int file_of(int fd)
{
    struct stat st;

    if (fstat(fd, &st) == 0)
        for (int f = 0; f < RECORDER_FILES; f++)
            if (st.st_ino == rec.inode[f])
                return f;
    return RECORDER_FILES;
}

static void append(int file, uint64_t offset, const struct iovec *iov, int count, ssize_t bytes)
{
    struct entry e = {.file = file, .offset = offset, .bytes = (size_t)bytes};
    size_t at = 0;

    if (bytes > 0) {
        e.data = malloc(e.bytes);
        for (int i = 0; i < count && at < e.bytes; i++) {
            size_t n = iov[i].iov_len < e.bytes - at ? iov[i].iov_len : e.bytes - at;

            memcpy(e.data + at, iov[i].iov_base, n);
            at += n;
        }
    }
    pthread_mutex_lock(&rec.lock);
    if (rec.entries == rec.room) {
        rec.room = rec.room ? 2 * rec.room : 1024;
        rec.entry = realloc(rec.entry, rec.room * sizeof(e));
        must(rec.entry != NULL, "realloc");
    }
    rec.entry[rec.entries++] = e;
    pthread_mutex_unlock(&rec.lock);
}

/** A write enters the record when it has completed, so a flush that follows covers it. */
static ssize_t wrote(int fd, uint64_t offset, const struct iovec *iov, int count, ssize_t bytes)
{
    int file;

    if (bytes > 0 && __atomic_load_n(&rec.on, __ATOMIC_ACQUIRE) &&
        (file = file_of(fd)) < RECORDER_FILES)
        append(file, offset, iov, count, bytes);
    return bytes;
}

static void flushed(int fd)
{
    int file;

    if (__atomic_load_n(&rec.on, __ATOMIC_ACQUIRE) && (file = file_of(fd)) < RECORDER_FILES)
        append(-1 - file, 0, NULL, 0, 0);
}

ssize_t __real_pwrite64(int fd, const void *data, size_t bytes, off_t offset);
ssize_t __real_pwritev64(int fd, const struct iovec *iov, int count, off_t offset);
ssize_t __real_pwritev64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags);
int __real_fsync(int fd);
int __real_fdatasync(int fd);
ssize_t __wrap_pwrite64(int fd, const void *data, size_t bytes, off_t offset);
ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int count, off_t offset);
ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags);
int __wrap_fsync(int fd);
int __wrap_fdatasync(int fd);

ssize_t __wrap_pwrite64(int fd, const void *data, size_t bytes, off_t offset)
{
    struct iovec iov = {(void *)(uintptr_t)data, bytes};

    return wrote(fd, (uint64_t)offset, &iov, 1, __real_pwrite64(fd, data, bytes, offset));
}

ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int count, off_t offset)
{
    return wrote(fd, (uint64_t)offset, iov, count, __real_pwritev64(fd, iov, count, offset));
}

ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    return wrote(fd, (uint64_t)offset, iov, count,
                 __real_pwritev64v2(fd, iov, count, offset, flags));
}

/* A flush counts from before it began: what completes beside it may be left out. */
int __wrap_fsync(int fd)
{
    flushed(fd);
    return __real_fsync(fd);
}

int __wrap_fdatasync(int fd)
{
    flushed(fd);
    return __real_fdatasync(fd);
}

void recorder_start(const char *const path[RECORDER_FILES])
{
    for (int f = 0; f < RECORDER_FILES; f++) {
        int fd = open(path[f], O_RDONLY | O_CLOEXEC);
        struct stat st;

        must(fd >= 0 && fstat(fd, &st) == 0, path[f]);
        rec.inode[f] = st.st_ino;
        rec.size[f] = (size_t)st.st_size;
        rec.durable[f] = malloc(rec.size[f]);
        must(pread(fd, rec.durable[f], rec.size[f], 0) == st.st_size, path[f]);
        close(fd);
    }
    __atomic_store_n(&rec.on, 1, __ATOMIC_RELEASE);
}

size_t recorder_stop(void)
{
    __atomic_store_n(&rec.on, 0, __ATOMIC_RELEASE);
    return rec.entries;
}

static uint64_t draw(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

static void apply(const struct entry *e, unsigned char *const image[], uint64_t *seed,
                  unsigned lands)
{
    for (size_t at = 0; at < e->bytes; at += RECORDER_SECTOR) {
        size_t n = e->bytes - at < RECORDER_SECTOR ? e->bytes - at : RECORDER_SECTOR;

        if (!seed || draw(seed) % 100 < lands)
            memcpy(image[e->file] + e->offset + at, e->data + at, n);
    }
}

/** Bring the durable content forward to the last flush of each file before @at. */
static size_t advance(size_t at, size_t from[RECORDER_FILES])
{
    size_t last[RECORDER_FILES] = {0};

    for (size_t k = 0; k < at; k++)
        if (rec.entry[k].file < 0)
            last[-1 - rec.entry[k].file] = k + 1;
    for (size_t k = rec.advanced; k < at; k++)
        if (rec.entry[k].file >= 0 && k < last[rec.entry[k].file] && rec.entry[k].data) {
            apply(&rec.entry[k], rec.durable, NULL, 100);
            free(rec.entry[k].data);
            rec.entry[k].data = NULL;
        }
    for (int f = 0; f < RECORDER_FILES; f++)
        from[f] = last[f];
    return at;
}

void recorder_crash(size_t at, uint64_t seed, unsigned lands,
                    const char *const path[RECORDER_FILES])
{
    unsigned char *image[RECORDER_FILES];
    size_t from[RECORDER_FILES], maybe[4096], count = 0, end = at + UNDER_WAY;

    advance(at, from);
    while (rec.advanced < rec.entries && !rec.entry[rec.advanced].data)
        rec.advanced++; /* flushes, and writes that are part of the durable content */
    for (int f = 0; f < RECORDER_FILES; f++) {
        image[f] = malloc(rec.size[f]);
        memcpy(image[f], rec.durable[f], rec.size[f]);
    }
    for (size_t k = at; k < end && k < rec.entries; k++)
        if (rec.entry[k].file < 0)
            end = k; /* what comes behind a flush was not begun before its end */
    for (size_t k = rec.advanced; k < end && k < rec.entries; k++)
        if (rec.entry[k].file >= 0 && rec.entry[k].data && count < 4096)
            maybe[count++] = k;
    for (size_t k = count; k > 1; k--) { /* in any order */
        size_t other = draw(&seed) % k, swap = maybe[k - 1];

        if (draw(&seed) % 2)
            continue;
        maybe[k - 1] = maybe[other];
        maybe[other] = swap;
    }
    for (size_t k = 0; k < count; k++)
        apply(&rec.entry[maybe[k]], image, &seed, maybe[k] < at ? lands : lands / 2);
    for (int f = 0; f < RECORDER_FILES; f++) {
        int fd = open(path[f], O_RDWR | O_CREAT | O_CLOEXEC, 0600);

        must(fd >= 0 && ftruncate(fd, (off_t)rec.size[f]) == 0, path[f]);
        must(__real_pwrite64(fd, image[f], rec.size[f], 0) == (ssize_t)rec.size[f], path[f]);
        close(fd);
        free(image[f]);
    }
}

void recorder_free(void)
{
    for (size_t k = 0; k < rec.entries; k++)
        free(rec.entry[k].data);
    free(rec.entry);
    for (int f = 0; f < RECORDER_FILES; f++)
        free(rec.durable[f]);
}
