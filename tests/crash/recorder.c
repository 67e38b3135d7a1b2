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

enum { LIE = 64 }; /* entries before a crash whose flushes a lying disk forgets */
enum kind { WRITE, SIZE, NAME, FLUSH, FLUSH_FOLDER, MARK };

struct entry {
    enum kind kind;
    int file;
    uint64_t offset; /* or the size */
    size_t bytes;
    unsigned char *data;
};

static struct {
    pthread_mutex_t lock;
    int on;
    char folder[300];
    ino_t inode[RECORDER_FILES];
    size_t room[RECORDER_FILES]; /* the largest that it was */
    struct entry *entry;
    size_t entries, capacity;
    unsigned char *durable[RECORDER_FILES]; /* with the writes of entries below `applied` */
    unsigned char *image[RECORDER_FILES];   /* of the crash that is being made */
    size_t applied[RECORDER_FILES];
} rec = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void must(int ok, const char *what)
{
    if (!ok) {
        perror(what);
        abort();
    }
}

static int recording(void)
{
    return __atomic_load_n(&rec.on, __ATOMIC_ACQUIRE); /* pairs with recorder_start() */
}

/** Which member an open file is; -1 for none. Called under the lock. */
static int file_of(int fd)
{
    char link[64], path[400];
    struct stat st;
    ssize_t n;
    int file;

    must(fstat(fd, &st) == 0, "fstat");
    for (file = 0; file < RECORDER_FILES; file++)
        if (rec.inode[file] == st.st_ino)
            return file;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof(path) - 1);
    path[n > 0 ? n : 0] = '\0';
    if (!S_ISREG(st.st_mode) || !strstr(path, rec.folder) || !strstr(path, ".member"))
        return -1;
    file = atoi(strstr(path, ".member") + 7);
    must(file < RECORDER_FILES, path);
    rec.inode[file] = st.st_ino;
    return file;
}

static void append(struct entry e)
{
    if (rec.entries == rec.capacity) {
        rec.capacity = rec.capacity ? 2 * rec.capacity : 1024;
        rec.entry = realloc(rec.entry, rec.capacity * sizeof(e));
        must(rec.entry != NULL, "realloc");
    }
    rec.entry[rec.entries++] = e;
}

/** A write enters the record when it has completed, so a flush that follows covers it. */
static ssize_t wrote(int fd, off_t offset, const struct iovec *iov, int count, ssize_t bytes)
{
    struct entry e = {.kind = WRITE, .offset = (uint64_t)offset, .bytes = (size_t)bytes};
    size_t at = 0;

    if (bytes <= 0 || !recording())
        return bytes;
    pthread_mutex_lock(&rec.lock);
    e.file = file_of(fd);
    if (e.file >= 0) {
        e.data = malloc(e.bytes);
        must(e.data != NULL, "malloc");
        for (int i = 0; i < count && at < e.bytes; i++) {
            size_t n = iov[i].iov_len < e.bytes - at ? iov[i].iov_len : e.bytes - at;

            memcpy(e.data + at, iov[i].iov_base, n);
            at += n;
        }
        append(e);
    }
    pthread_mutex_unlock(&rec.lock);
    return bytes;
}

static void sized(int fd, uint64_t size)
{
    struct entry e = {.kind = SIZE, .offset = size};

    if (!recording())
        return;
    pthread_mutex_lock(&rec.lock);
    e.file = file_of(fd);
    if (e.file >= 0) {
        append(e);
        rec.room[e.file] = size > rec.room[e.file] ? size : rec.room[e.file];
    }
    pthread_mutex_unlock(&rec.lock);
}

static void flushed(int fd)
{
    struct entry e = {.kind = FLUSH};

    if (!recording())
        return;
    pthread_mutex_lock(&rec.lock);
    e.file = file_of(fd);
    e.kind = e.file < 0 ? FLUSH_FOLDER : FLUSH;
    append(e);
    pthread_mutex_unlock(&rec.lock);
}

ssize_t __real_pwrite64(int fd, const void *data, size_t bytes, off_t offset);
ssize_t __real_pwritev64(int fd, const struct iovec *iov, int count, off_t offset);
int __real_fsync(int fd);
int __real_fdatasync(int fd);
int __real_ftruncate64(int fd, off_t size);
int __real_fallocate64(int fd, int mode, off_t offset, off_t bytes);
int __real_renameat2(int a, const char *from, int b, const char *to, unsigned flags);
ssize_t __wrap_pwrite64(int fd, const void *data, size_t bytes, off_t offset);
ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int count, off_t offset);
int __wrap_fsync(int fd);
int __wrap_fdatasync(int fd);
int __wrap_ftruncate64(int fd, off_t size);
int __wrap_fallocate64(int fd, int mode, off_t offset, off_t bytes);
int __wrap_renameat2(int a, const char *from, int b, const char *to, unsigned flags);

ssize_t __wrap_pwrite64(int fd, const void *data, size_t bytes, off_t offset)
{
    struct iovec iov = {(void *)(uintptr_t)data, bytes};

    return wrote(fd, offset, &iov, 1, __real_pwrite64(fd, data, bytes, offset));
}

ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int count, off_t offset)
{
    return wrote(fd, offset, iov, count, __real_pwritev64(fd, iov, count, offset));
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

int __wrap_ftruncate64(int fd, off_t size)
{
    int rc = __real_ftruncate64(fd, size);

    if (rc == 0)
        sized(fd, (uint64_t)size);
    return rc;
}

int __wrap_fallocate64(int fd, int mode, off_t offset, off_t bytes)
{
    int rc = __real_fallocate64(fd, mode, offset, bytes);

    if (rc == 0)
        sized(fd, (uint64_t)(offset + bytes));
    return rc;
}

int __wrap_renameat2(int a, const char *from, int b, const char *to, unsigned flags)
{
    int rc = __real_renameat2(a, from, b, to, flags);
    const char *member = strstr(to, ".member");

    if (rc == 0 && member && recording()) {
        pthread_mutex_lock(&rec.lock);
        append((struct entry){.kind = NAME, .file = atoi(member + 7)});
        pthread_mutex_unlock(&rec.lock);
    }
    return rc;
}

void recorder_start(const char *folder)
{
    snprintf(rec.folder, sizeof(rec.folder), "%s", folder);
    __atomic_store_n(&rec.on, 1, __ATOMIC_RELEASE); /* pairs with recording() */
}

size_t recorder_stop(void)
{
    __atomic_store_n(&rec.on, 0, __ATOMIC_RELEASE);
    for (int f = 0; f < RECORDER_FILES; f++) {
        rec.durable[f] = calloc(1, rec.room[f]);
        rec.image[f] = malloc(rec.room[f]);
        must(rec.durable[f] != NULL && rec.image[f] != NULL, "calloc");
    }
    return rec.entries;
}

size_t recorder_entries(void)
{
    size_t entries;

    pthread_mutex_lock(&rec.lock);
    entries = rec.entries;
    pthread_mutex_unlock(&rec.lock);
    return entries;
}

size_t recorder_mark(void)
{
    size_t place;

    pthread_mutex_lock(&rec.lock);
    append((struct entry){.kind = MARK});
    place = rec.entries;
    pthread_mutex_unlock(&rec.lock);
    return place;
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

        if (lands >= 100 || draw(seed) % 100 < lands)
            memcpy(image[e->file] + e->offset + at, e->data + at, n);
    }
}

/** What is surely there after a crash: data below from[f], sizes and names below *meta. */
static void find_durable(size_t at, size_t from[RECORDER_FILES], size_t *meta)
{
    size_t size[RECORDER_FILES] = {0}, name = 0;

    *meta = 0;
    memset(from, 0, RECORDER_FILES * sizeof(from[0]));
    for (size_t k = 0; k < at; k++) {
        const struct entry *e = &rec.entry[k];

        if (e->kind == SIZE)
            size[e->file] = k + 1;
        if (e->kind == NAME)
            name = k + 1;
        if (e->kind == FLUSH)
            from[e->file] = k + 1;
        if (e->kind == FLUSH && size[e->file] > *meta)
            *meta = size[e->file];
        if (e->kind == FLUSH_FOLDER && name > *meta)
            *meta = name;
    }
}

/** Bring the durable content forward, or begin anew where it is ahead. */
static void advance(const size_t from[RECORDER_FILES])
{
    for (int f = 0; f < RECORDER_FILES; f++) {
        if (rec.applied[f] > from[f]) {
            memset(rec.durable[f], 0, rec.room[f]);
            rec.applied[f] = 0;
        }
        for (size_t k = rec.applied[f]; k < from[f]; k++)
            if (rec.entry[k].kind == WRITE && rec.entry[k].file == f)
                apply(&rec.entry[k], rec.durable, NULL, 100);
        rec.applied[f] = from[f];
    }
}

/** The writes that may have landed, in the order in which they did. Return: how many. */
static size_t shuffled(const struct recorder_crash *crash, const size_t from[RECORDER_FILES],
                       uint64_t *seed, size_t *maybe)
{
    size_t count = 0, end = crash->at + crash->under_way;

    for (size_t k = crash->at; k < end && k < rec.entries; k++)
        if (rec.entry[k].kind != WRITE)
            end = k; /* what comes behind a flush was not begun before its end */
    for (size_t k = 0; k < end && k < rec.entries; k++)
        if (rec.entry[k].kind == WRITE && k >= from[rec.entry[k].file])
            maybe[count++] = k;
    for (size_t k = count; crash->lands < 100 && k > 1; k--) {
        size_t other = draw(seed) % k, swap = maybe[k - 1];

        if (draw(seed) % 2)
            continue;
        maybe[k - 1] = maybe[other];
        maybe[other] = swap;
    }
    return count;
}

/** Give a file its bytes, under the name and with the size that entries below @meta left it. */
static void put_file(const char *folder, int file, size_t meta, const unsigned char *image)
{
    char name[2][400];
    bool named = false, there = false;
    uint64_t size = 0;
    int fd;

    for (size_t k = 0; k < meta; k++)
        if (rec.entry[k].file == file) {
            named = named || rec.entry[k].kind == NAME;
            there = there || rec.entry[k].kind == SIZE;
            size = rec.entry[k].kind == SIZE ? rec.entry[k].offset : size;
        }
    snprintf(name[0], sizeof(name[0]), "%s/rank0.member%d.tutti.formatting", folder, file);
    snprintf(name[1], sizeof(name[1]), "%s/rank0.member%d.tutti", folder, file);
    unlink(name[!named]);
    if (!there) {
        unlink(name[named]);
        return;
    }
    fd = open(name[named], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    must(fd >= 0 && __real_ftruncate64(fd, (off_t)size) == 0, name[named]);
    must(__real_pwrite64(fd, image, size, 0) == (ssize_t)size, name[named]);
    close(fd);
}

void recorder_crash(const struct recorder_crash *crash, const char *folder)
{
    size_t from[RECORDER_FILES], meta, count;
    size_t *maybe = malloc((crash->at + crash->under_way + 1) * sizeof(*maybe));
    uint64_t seed = crash->seed;

    must(maybe != NULL, "malloc");
    find_durable(crash->lying && crash->at > LIE ? crash->at - LIE : crash->at, from, &meta);
    meta = crash->lands >= 100 ? crash->at : meta + draw(&seed) % (crash->at - meta + 1);
    advance(from);
    for (int f = 0; f < RECORDER_FILES; f++)
        memcpy(rec.image[f], rec.durable[f], rec.room[f]);
    count = shuffled(crash, from, &seed, maybe);
    for (size_t k = 0; k < count; k++)
        apply(&rec.entry[maybe[k]], rec.image, &seed,
              maybe[k] < crash->at ? crash->lands : crash->lands / 2);
    for (int f = 0; f < RECORDER_FILES; f++)
        put_file(folder, f, meta, rec.image[f]);
    free(maybe);
}

void recorder_free(void)
{
    for (size_t k = 0; k < rec.entries; k++)
        free(rec.entry[k].data);
    free(rec.entry);
    for (int f = 0; f < RECORDER_FILES; f++) {
        free(rec.durable[f]);
        free(rec.image[f]);
    }
}
