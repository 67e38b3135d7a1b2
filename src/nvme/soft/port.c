/* SPDX-License-Identifier: Apache-2.0 */
/* port.c: see port.h. */
#include "nvme/soft/port.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "nvme/soft/soft.h"

/* What is used as a pointer and is an address on the bus faults. */
#define BUS_OFFSET (UINT64_C(1) << 50)

struct soft_port {
    struct soft *soft;
    void *media;
    size_t bytes;
    int fd;
};

static int map(void *self, void *memory, size_t bytes, uint64_t *address)
{
    struct soft_port *p = self;

    *address = (uint64_t)(uintptr_t)memory + BUS_OFFSET;
    return soft_map(p->soft, memory, bytes, *address, true);
}

static int unmap(void *self, uint64_t address, size_t bytes)
{
    struct soft_port *p = self;

    (void)bytes;
    return soft_unmap(p->soft, address);
}

static void idle(void *self, uint64_t waited)
{
    (void)self;
    if (waited < 100000)
        sched_yield();
    else
        nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
}

static void port_free(struct soft_port *p)
{
    soft_free(p->soft);
    if (p->media)
        munmap(p->media, p->bytes);
    if (p->fd >= 0)
        close(p->fd);
    free(p);
}

static void port_close(void *self)
{
    port_free(self);
}

struct soft *soft_port_soft(const struct nvme_port *port)
{
    const struct soft_port *p = port->self;

    return p->soft;
}

/** Fill in the options that stand behind the first comma. Return: 0, or -EINVAL. */
static int read_options(char *text, struct soft_options *o, uint32_t *warns)
{
    enum { LBA, SGLS, MDTS, DEPTH, QUEUES, ABORTS, READY, TIMING, WARNS, KINDS };
    char *const names[KINDS + 1] = {"lba",    "sgls",  "mdts",   "depth", "queues",
                                    "aborts", "ready", "timing", "warns", NULL};
    char *value, *end;

    while (text && *text) {
        int kind = getsubopt(&text, names, &value);
        unsigned long number;

        if (kind < 0 || !value)
            return -EINVAL;
        number = strtoul(value, &end, 10);
        if (*end || end == value || number > UINT16_MAX + 1ul)
            return -EINVAL;
        if (kind == ABORTS) {
            o->ways.no_aborts = number == 0;
            continue;
        }
        if (kind == TIMING) {
            o->timing = number ? SOFT_PCIE5 : (struct soft_timing){0};
            continue;
        }
        *(kind == LBA     ? &o->block_bytes
          : kind == SGLS  ? &o->sgls
          : kind == MDTS  ? &o->mdts
          : kind == DEPTH ? &o->mqes
          : kind == READY ? &o->ready_in
          : kind == WARNS ? warns
                          : &o->queues) = (uint32_t)(kind == DEPTH ? number - 1 : number);
    }
    return 0;
}

static int open_file(struct soft_port *p, const char *path, struct tutti_error *err)
{
    struct stat st;

    p->fd = open(path, O_RDWR | O_CLOEXEC);
    if (p->fd < 0 || fstat(p->fd, &st) < 0)
        return tutti_error_set(err, -errno,
                               "opening %s, the medium of a software controller: %s; make a file "
                               "of the size that it is to have (truncate -s 1G %s)",
                               path, strerror(errno), path);
    if (flock(p->fd, LOCK_EX | LOCK_NB) < 0)
        return tutti_error_set(err, errno == EWOULDBLOCK ? -EBUSY : -errno,
                               "%s: in use: another process has opened this member", path);
    p->bytes = (size_t)st.st_size;
    p->media = p->bytes == 0 ? MAP_FAILED
                             : mmap(NULL, p->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, p->fd, 0);
    if (p->media != MAP_FAILED)
        return 0;
    p->media = NULL;
    return tutti_error_set(err, p->bytes ? -errno : -EINVAL,
                           "%s: the medium of a software controller is a file of at least a block",
                           path);
}

static int begin(struct soft_port *p, char *what, struct tutti_error *err)
{
    struct soft_options o = SOFT_USUAL;
    char *options = strchr(what, ',');
    uint32_t warns = 0;
    int rc;

    o.ready_in = 59; /* half a minute, for a machine whose threads wait for each other */
    if (options)
        *options++ = 0;
    if (read_options(options, &o, &warns) < 0)
        return tutti_error_set(
            err, -EINVAL,
            "soft:%s: its options are lba=, sgls=, mdts=, depth=, queues=, aborts=, ready=, "
            "timing= and warns=, each a number",
            what);
    rc = open_file(p, what, err);
    if (rc < 0)
        return rc;
    o.blocks = p->bytes / o.block_bytes;
    o.media = p->media;
    rc = soft_new(&o, &p->soft, err);
    if (rc < 0)
        return rc;
    soft_warn(p->soft, warns);
    rc = soft_start(p->soft);
    return rc < 0 ? tutti_error_set(err, rc, "soft:%s: no thread: %s", what, strerror(-rc)) : 0;
}

int soft_port_open(const char *what, struct nvme_port *port, struct tutti_error *err)
{
    struct soft_port *p = calloc(1, sizeof(*p));
    char *copy = strdup(what);
    int rc = tutti_error_set(err, -ENOMEM, "soft:%s: no memory", what);

    if (p && copy) {
        p->fd = -1;
        rc = begin(p, copy, err);
    }
    free(copy);
    if (rc < 0) {
        if (p)
            port_free(p);
        return rc;
    }
    *port = (struct nvme_port){.name = "soft",
                               .bar = soft_bar(p->soft),
                               .bar_bytes = SOFT_BAR_BYTES,
                               .map = map,
                               .unmap = unmap,
                               .idle = idle,
                               .close = port_close,
                               .self = p};
    return 0;
}
