/* SPDX-License-Identifier: Apache-2.0 */
/* old.c: see old.h. Lists by hash of inode and page; a test writes a few thousand of them. */
#include "old.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = 4096, BUCKETS = 4096 };

struct page {
    struct page *next;
    dev_t device;
    ino_t inode;
    uint64_t number;
    char data[PAGE];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct page *bucket[BUCKETS]; /* under the lock */

static struct page **find(const struct stat *s, uint64_t number)
{
    struct page **at = &bucket[(s->st_ino * 31 + number) % BUCKETS];

    while (*at &&
           ((*at)->inode != s->st_ino || (*at)->device != s->st_dev || (*at)->number != number))
        at = &(*at)->next;
    return at;
}

void old_keep(int fd, uint64_t offset, size_t bytes)
{
    struct stat s;

    if (fstat(fd, &s) < 0)
        return;
    pthread_mutex_lock(&lock);
    for (uint64_t number = offset / PAGE; number * PAGE < offset + bytes; number++) {
        struct page **at = find(&s, number);

        if (!*at)
            *at = calloc(1, sizeof(**at));
        if (!*at)
            break;
        (*at)->device = s.st_dev;
        (*at)->inode = s.st_ino;
        (*at)->number = number;
        memset((*at)->data, 0, PAGE);
        if (pread(fd, (*at)->data, PAGE, (off_t)(number * PAGE)) < 0)
            break;
    }
    pthread_mutex_unlock(&lock);
}

void old_put_over(int fd, uint64_t offset, char *data, size_t bytes)
{
    struct stat s;

    if (fstat(fd, &s) < 0)
        return;
    pthread_mutex_lock(&lock);
    for (size_t at = 0; at < bytes;) {
        size_t in_page = (offset + at) % PAGE;
        size_t step = PAGE - in_page < bytes - at ? PAGE - in_page : bytes - at;
        const struct page *page = *find(&s, (offset + at) / PAGE);

        if (page)
            memcpy(data + at, page->data + in_page, step);
        at += step;
    }
    pthread_mutex_unlock(&lock);
}
