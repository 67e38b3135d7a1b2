/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scan_file.c: what a scan found, as a file that another process maps.
 *
 * A rank's worker writes it, the scheduler's half reads it once and unlinks it.
 * It appears under its name complete (rename), allocated before it is written,
 * so that a full file system is an error here and not a signal there. The
 * reader believes it only after size, checksums and order were checked.
 *
 *     header, 64 bytes | entries, 80 bytes each, ascending by slot
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checksum.h"
#include "pool/internal.h"

#define SCAN_FILE_MAGIC UINT64_C(0x31304e4143535454) /* "TTSCAN01" */
#define SCAN_FILE_VERSION 1u

struct scan_file {
    uint64_t magic;
    uint32_t version;
    uint32_t entry_bytes;
    uint64_t count;
    uint8_t pool[16];
    uint32_t rank;
    uint32_t reserved;
    uint64_t entries_sum; /* XXH3-64 of all entries */
    uint64_t checksum;    /* XXH3-64 of the header before this field */
};

struct mapping {
    void *address;
    size_t bytes;
};

_Static_assert(sizeof(struct scan_file) == 64, "shared between processes");
_Static_assert(sizeof(struct tutti_scan_entry) == 80, "shared between processes");

static uint64_t header_sum(const struct scan_file *h)
{
    return tutti_sum64(h, offsetof(struct scan_file, checksum));
}

static int write_all(int fd, const void *data, size_t bytes)
{
    size_t done = 0;

    while (done < bytes) {
        ssize_t n = write(fd, (const char *)data + done, bytes - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        done += (size_t)n;
    }
    return 0;
}

static int write_file(const char *path, const char *temporary, const struct scan_file *h,
                      const struct tutti_scan_entry *entries, struct tutti_error *err)
{
    size_t bytes = (size_t)h->count * sizeof(*entries);
    int rc = 0;
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        return backing_error(-errno, "creating", temporary, 0, err);
    if (fallocate(fd, 0, 0, (off_t)(sizeof(*h) + bytes)) < 0 && errno != EOPNOTSUPP &&
        errno != ENOSYS)
        rc = -errno;
    if (rc == 0)
        rc = write_all(fd, h, sizeof(*h));
    if (rc == 0)
        rc = write_all(fd, entries, bytes);
    if (rc == 0 && fchmod(fd, 0600) < 0)
        rc = -errno;
    if (close(fd) < 0 && rc == 0)
        rc = -errno;
    if (rc == 0 && rename(temporary, path) < 0)
        rc = -errno;
    if (rc < 0) {
        unlink(temporary);
        return backing_error(rc, "writing the scan to", path, 0, err);
    }
    return 0;
}

int tutti_pool_scan_to_file(struct tutti_pool *pool, uint32_t threads, const char *path,
                            struct tutti_scan_report *report, struct tutti_error *err)
{
    struct scan_file h = {.magic = SCAN_FILE_MAGIC,
                          .version = SCAN_FILE_VERSION,
                          .entry_bytes = sizeof(struct tutti_scan_entry),
                          .rank = pool->superblock.rank};
    struct tutti_scan_entry *entries;
    char *temporary = NULL;
    size_t total;
    int rc = tutti_pool_scan(pool, threads, &entries, &total, report, err);

    if (rc < 0)
        return rc;
    memcpy(h.pool, pool->superblock.pool, sizeof(h.pool));
    h.count = total;
    h.entries_sum = tutti_sum64(entries, total * sizeof(*entries));
    h.checksum = header_sum(&h);
    if (asprintf(&temporary, "%s.%ld.writing", path, (long)getpid()) < 0) {
        temporary = NULL;
        rc = tutti_error_set(err, -ENOMEM, "%s: no memory", path);
    } else {
        rc = write_file(path, temporary, &h, entries, err);
    }
    free(temporary);
    free(entries);
    return rc;
}

static bool header_fits(const struct scan_file *h, size_t bytes)
{
    return h->magic == SCAN_FILE_MAGIC && h->version == SCAN_FILE_VERSION &&
           h->entry_bytes == sizeof(struct tutti_scan_entry) && h->checksum == header_sum(h) &&
           h->count <= UINT32_MAX &&
           bytes == sizeof(*h) + (size_t)h->count * sizeof(struct tutti_scan_entry);
}

static bool entries_fit(const struct scan_file *h, const struct tutti_scan_entry *e)
{
    if (h->entries_sum != tutti_sum64(e, (size_t)h->count * sizeof(*e)))
        return false;
    for (size_t i = 1; i < h->count; i++)
        if (e[i].slot <= e[i - 1].slot)
            return false;
    return true;
}

static int map_file(int fd, const char *path, struct mapping *m, struct tutti_error *err)
{
    const struct scan_file *h;
    struct stat st;

    if (fstat(fd, &st) < 0)
        return backing_error(-errno, "looking at", path, 0, err);
    if (!S_ISREG(st.st_mode) || (size_t)st.st_size < sizeof(*h))
        return tutti_error_set(
            err, -EUCLEAN, "%s: %lld bytes are no scan file: let the worker scan its pool again",
            path, (long long)st.st_size);
    m->bytes = (size_t)st.st_size;
    m->address = mmap(NULL, m->bytes, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (m->address == MAP_FAILED) {
        m->address = NULL;
        return backing_error(-errno, "mapping", path, 0, err);
    }
    h = m->address;
    if (!header_fits(h, m->bytes) ||
        !entries_fit(h, (const struct tutti_scan_entry *)(const void *)(h + 1)))
        return tutti_error_set(err, -EUCLEAN,
                               "%s: not a whole scan file (header at offset 0, entries at %zu, %zu "
                               "bytes): let the worker scan its pool again",
                               path, sizeof(*h), m->bytes);
    return 0;
}

int tutti_scan_file_open(const char *path, const struct tutti_scan_entry **entries, size_t *total,
                         void **handle, struct tutti_error *err)
{
    struct mapping *m;
    int rc;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    *handle = NULL;
    if (fd < 0)
        return backing_error(-errno, "opening", path, 0, err);
    m = calloc(1, sizeof(*m));
    rc = m ? map_file(fd, path, m, err) : tutti_error_set(err, -ENOMEM, "%s: no memory", path);
    close(fd);
    if (rc < 0) {
        tutti_scan_file_close(m);
        return rc;
    }
    *entries = (const struct tutti_scan_entry *)(const void *)((struct scan_file *)m->address + 1);
    *total = (size_t)((struct scan_file *)m->address)->count;
    *handle = m;
    return 0;
}

void tutti_scan_file_close(void *handle)
{
    struct mapping *m = handle;

    if (!m)
        return;
    if (m->address)
        munmap(m->address, m->bytes);
    free(m);
}
