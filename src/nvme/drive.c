/* SPDX-License-Identifier: Apache-2.0 */
/*
 * drive.c: a drive's life: by whom it is used, whole reads and writes, its lanes.
 *
 * warden.c looks after it meanwhile.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/atomics.h"
#include "base/clock.h"
#include "nvme/drive_internal.h"
#include "nvme/named.h"
#include "nvme/soft/port.h"
#include "nvme/vfio.h"

#define WHOLE_BYTES ((size_t)1 << 20)
#define WHOLE_DEPTH 64u
#define WHOLE_LISTS 16u /* with the engine's 240: 1 MiB a drive */
#define ADMIN_NS UINT64_C(5000000000)

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static struct nvme_drive *registry; /* of drives that are open, by name */

bool nvme_drive_is_named(const char *path)
{
    return strncmp(path, "nvme:", 5) == 0 || strncmp(path, "soft:", 5) == 0;
}

/* Memory that the drive reaches. */

/** Whole pages around a stretch: what an IOMMU maps. */
static int let_to(struct nvme_drive *d, void *memory, size_t bytes, struct nvme_window *w)
{
    uintptr_t from = (uintptr_t)memory / NVME_PAGE * NVME_PAGE;
    uintptr_t to = ((uintptr_t)memory + bytes + NVME_PAGE - 1) / NVME_PAGE * NVME_PAGE;
    uint64_t address = 0;
    int rc;

    pthread_mutex_lock(&d->map_lock);
    rc = d->gone ? -ENODEV : d->port.map(d->port.self, (void *)from, to - from, &address);
    pthread_mutex_unlock(&d->map_lock);
    *w = (struct nvme_window){.memory = from, .bytes = to - from, .address = address};
    return rc;
}

/** Return: 0, or a negative errno: then the drive may still reach it, and it has to stay. */
static int take_from(struct nvme_drive *d, const struct nvme_window *w)
{
    int rc;

    pthread_mutex_lock(&d->map_lock);
    rc = d->gone ? 0 : d->port.unmap(d->port.self, w->address, w->bytes);
    pthread_mutex_unlock(&d->map_lock);
    return rc;
}

int nvme_drive_reach(struct nvme_drive *d, struct nvme_lane *lane, void *memory, size_t bytes,
                     struct tutti_error *err)
{
    struct nvme_window w;
    int rc;

    if (nvme_windows_hold(&lane->windows, memory, bytes))
        return 0;
    rc = let_to(d, memory, bytes, &w);
    if (rc == 0) {
        rc = nvme_windows_add(&lane->windows, (void *)(uintptr_t)w.memory, w.bytes, w.address);
        if (rc < 0)
            take_from(d, &w);
    }
    if (rc < 0)
        return tutti_error_set(err, rc, "%s: the drive cannot be let to %zu bytes of memory: %s%s",
                               d->name, bytes, strerror(-rc),
                               rc == -ENOMEM ? "; raise RLIMIT_MEMLOCK (ulimit -l)" : "");
    return 0;
}

/* Lanes. */

/** Under nothing: what the lane had of the drive. Its queue is closed or lost. */
static void dismantle(struct nvme_drive *d, struct nvme_lane *lane)
{
    struct nvme_window lists = {.address = lane->lists_address,
                                .bytes = (uint64_t)lane->list_count * NVME_LIST_BYTES};

    for (uint32_t i = 0; i < lane->windows.count; i++)
        take_from(d, &lane->windows.window[i]);
    if (lane->lists_address && take_from(d, &lists) < 0)
        lane->lists = NULL; /* better lost than written to */
    nvme_lane_free(lane);
    free(lane);
}

static int build_lane(struct nvme_drive *d, struct nvme_lane *lane, uint32_t lists,
                      struct tutti_error *err)
{
    struct nvme_window w = {0};
    int rc = nvme_lane_init(lane, &d->facts, lists ? lists : 1, d->bounds.command);

    if (rc == 0)
        rc = let_to(d, lane->lists, (size_t)lane->list_count * NVME_LIST_BYTES, &w);
    if (rc < 0)
        return tutti_error_set(err, rc, "%s: no memory for a lane: %s", d->name, strerror(-rc));
    lane->lists_address = w.address;
    return 0;
}

static int open_lane(struct nvme_drive *d, uint32_t number, uint32_t depth, uint32_t lists,
                     const struct nvme_source *source, struct nvme_lane **out,
                     struct tutti_error *err)
{
    struct nvme_lane *lane = calloc(1, sizeof(*lane));
    int rc;

    if (!lane)
        return tutti_error_set(err, -ENOMEM, "%s: no memory for a lane", d->name);
    if (depth > d->facts.depth)
        depth = d->facts.depth; /* fewer than asked for is normal */
    lane->source = source;
    rc = nvme_queue_open_in(d->controller, number, depth, source, &lane->queue, err);
    if (rc < 0) {
        free(lane);
        return rc;
    }
    rc = build_lane(d, lane, lists, err);
    if (rc < 0) {
        if (nvme_queue_close(d->controller, &lane->queue, NULL) == 0)
            dismantle(d, lane);
        return rc;
    }
    *out = lane;
    return 0;
}

int nvme_drive_take_lane(struct nvme_drive *d, uint32_t depth, uint32_t lists,
                         struct nvme_lane **out, struct tutti_error *err)
{
    return nvme_drive_take_lane_in(d, depth, lists, NULL, out, err);
}

int nvme_drive_take_lane_in(struct nvme_drive *d, uint32_t depth, uint32_t lists,
                            const struct nvme_source *source, struct nvme_lane **out,
                            struct tutti_error *err)
{
    int rc;

    pthread_mutex_lock(&d->lock); /* the warden does not use the admin queue meanwhile */
    if (d->dead || d->held)
        rc = tutti_error_set(err, -ENODEV, "%s: the drive is dead", d->name);
    else if (d->facts.queues < 2)
        rc = tutti_error_set(err, -EOPNOTSUPP,
                             "%s: the drive grants one pair of queues; two are "
                             "needed",
                             d->name);
    else if (d->lane[1])
        rc = tutti_error_set(err, -EBUSY, "%s: an engine of this process drives it already",
                             d->name);
    else
        rc = open_lane(d, 2, depth, lists, source, &d->lane[1], err);
    *out = rc == 0 ? d->lane[1] : NULL;
    pthread_mutex_unlock(&d->lock);
    return rc;
}

/** Return: whether nothing of the lane can be touched by the drive any more. */
static bool close_lane(struct nvme_drive *d, struct nvme_lane *lane)
{
    if (!lane)
        return true;
    if (d->held)
        return false;
    if (d->dead && d->controller)
        nvme_queue_lost(d->controller, &lane->queue);
    else if (!d->dead && nvme_queue_close(d->controller, &lane->queue, NULL) < 0)
        return false;
    dismantle(d, lane);
    return true;
}

void nvme_drive_give_lane(struct nvme_drive *d, struct nvme_lane *lane)
{
    if (!lane)
        return;
    pthread_mutex_lock(&d->lock);
    if (!close_lane(d, lane))
        tutti_store_relaxed(&d->held, true); /* its memory stays */
    d->lane[1] = NULL;
    pthread_mutex_unlock(&d->lock);
}

/* Whole reads and writes. */

static void pause_a_little(uint32_t turns)
{
    if (turns > 64)
        nanosleep(&(struct timespec){.tv_nsec = turns < 4096 ? 20000 : 1000000}, NULL);
}

/** Under whole_lock. */
static int transfer(struct nvme_drive *d, uint8_t opcode, uint64_t offset, uint32_t bytes)
{
    struct nvme_transfer *ended, *t = &d->whole;
    struct nvme_lane *lane = d->lane[0];

    if (tutti_load_relaxed(&d->held))
        return -EIO; /* d->whole may be out for ever */
    d->whole_iov = (struct iovec){.iov_base = d->buffer, .iov_len = bytes};
    *t = (struct nvme_transfer){
        .offset = offset, .bytes = bytes, .segments = 1, .iov = &d->whole_iov, .opcode = opcode};
    nvme_lane_submit(lane, t);
    for (uint32_t turns = 0; nvme_lane_collect(lane, &ended, 1) == 0; turns++) {
        if (tutti_load_relaxed(&d->held))
            return -EIO;
        pause_a_little(turns);
    }
    return t->result;
}

/** To @to, or from @from; the other is NULL. */
static int move(struct nvme_drive *d, uint8_t *to, const uint8_t *from, uint64_t bytes,
                uint64_t offset)
{
    int rc = 0;

    pthread_mutex_lock(&d->whole_lock);
    for (uint64_t done = 0; rc == 0 && done < bytes; done += WHOLE_BYTES) {
        uint64_t step = bytes - done < WHOLE_BYTES ? bytes - done : WHOLE_BYTES;

        if (from)
            memcpy(d->buffer, from + done, step);
        rc = transfer(d, from ? NVME_WRITE : NVME_READ, offset + done, (uint32_t)step);
        if (rc == 0 && to)
            memcpy(to + done, d->buffer, step);
    }
    pthread_mutex_unlock(&d->whole_lock);
    return rc;
}

int nvme_drive_read(struct nvme_drive *d, void *data, uint64_t bytes, uint64_t offset)
{
    return move(d, data, NULL, bytes, offset);
}

int nvme_drive_write(struct nvme_drive *d, const void *data, uint64_t bytes, uint64_t offset)
{
    return move(d, NULL, data, bytes, offset);
}

int nvme_drive_flush(struct nvme_drive *d)
{
    int rc;

    if (!d->facts.write_cache)
        return 0;
    pthread_mutex_lock(&d->whole_lock);
    rc = transfer(d, NVME_FLUSH, 0, 0);
    pthread_mutex_unlock(&d->whole_lock);
    return rc;
}

/* Life. */

static void drive_free(struct nvme_drive *d)
{
    pthread_mutex_destroy(&d->lock);
    pthread_mutex_destroy(&d->word_lock);
    pthread_mutex_destroy(&d->map_lock);
    pthread_mutex_destroy(&d->whole_lock);
    pthread_cond_destroy(&d->call);
    free(d->buffer);
    free(d->name);
    free(d);
}

/** Close what is open of it. Return: whether nothing is left that the drive may touch. */
static bool shut_down(struct nvme_drive *d)
{
    bool over;

    warden_stop(d);
    over = close_lane(d, d->lane[0]) && !d->held;
    if (over && d->controller)
        over = nvme_close(d->controller, NULL) == 0;
    if (d->port.close)
        d->port.close(d->port.self);
    return over;
}

static int bring_up(struct nvme_drive *d, uint32_t nsid, struct tutti_error *err)
{
    int rc = nvme_open(&d->port, nsid, 2, ADMIN_NS, &d->controller, err);

    if (rc < 0)
        return rc;
    nvme_facts(d->controller, &d->facts);
    rc = open_lane(d, 1, WHOLE_DEPTH, WHOLE_LISTS, NULL, &d->lane[0], err);
    if (rc == 0)
        rc = nvme_drive_reach(d, d->lane[0], d->buffer, WHOLE_BYTES, err);
    if (rc == 0) {
        (void)nvme_health(d->controller, &d->health, NULL); /* a drive may be without the log */
        rc = warden_start(d, err);
    }
    return rc;
}

static struct nvme_drive *drive_new(const char *name, const struct nvme_port *port,
                                    const struct nvme_bounds *bounds)
{
    struct nvme_drive *d = calloc(1, sizeof(*d));
    pthread_condattr_t monotonic;

    if (!d)
        return NULL;
    pthread_mutex_init(&d->lock, NULL);
    pthread_mutex_init(&d->word_lock, NULL);
    pthread_mutex_init(&d->map_lock, NULL);
    pthread_mutex_init(&d->whole_lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&d->call, &monotonic);
    pthread_condattr_destroy(&monotonic);
    d->port = *port;
    d->bounds = *bounds;
    d->users = 1;
    d->opener = getpid();
    d->name = strdup(name);
    d->buffer = aligned_alloc(NVME_PAGE, WHOLE_BYTES);
    if (d->name && d->buffer) {
        d->port.name = d->name;
        return d;
    }
    drive_free(d);
    return NULL;
}

int nvme_drive_open_port(const char *name, const struct nvme_port *port, uint32_t nsid,
                         const struct nvme_bounds *bounds, struct nvme_drive **out,
                         struct tutti_error *err)
{
    struct nvme_drive *d = drive_new(name, port, bounds);
    int rc;

    if (!d) {
        if (port->close)
            port->close(port->self);
        return tutti_error_set(err, -ENOMEM, "%s: no memory", name);
    }
    rc = bring_up(d, nsid, err);
    if (rc < 0) {
        if (shut_down(d))
            drive_free(d);
        return rc;
    }
    *out = d;
    return 0;
}

/** Make the port that a name stands for, and open the drive behind it. */
static int open_named(const char *name, struct nvme_drive **out, struct tutti_error *err)
{
    const char *what = name + 5, *slash = strrchr(what, '/');
    struct nvme_vfio *vfio;
    struct nvme_port port;
    char address[32], *end;
    uint32_t nsid = 0;
    int rc;

    if (strncmp(name, "soft:", 5) == 0) {
        rc = soft_port_open(what, &port, err);
    } else {
        snprintf(address, sizeof(address), "%.*s", slash ? (int)(slash - what) : 31, what);
        nsid = slash ? (uint32_t)strtoul(slash + 1, &end, 10) : 0;
        if (slash && (nsid == 0 || *end))
            return tutti_error_set(err, -EINVAL,
                                   "%s: behind the slash stands the number of a namespace, from 1 "
                                   "on",
                                   name);
        rc = nvme_vfio_open(address, &port, &vfio, err);
    }
    return rc < 0 ? rc : nvme_drive_open_port(name, &port, nsid, &NVME_BOUNDS, out, err);
}

/** By its address, whatever it was called: so it is one drive under each of its names. */
static int open_addressed(const char *name, struct nvme_drive **out, struct tutti_error *err)
{
    struct nvme_drive *d;
    int rc = 0;

    pthread_mutex_lock(&registry_lock);
    for (d = registry; d && strcmp(d->name, name) != 0; d = d->next)
        ;
    if (d && d->opener != getpid()) {
        rc = tutti_error_set(err, -EBUSY,
                             "%s: in use: the process that this one was forked from "
                             "has opened this member",
                             name);
    } else if (d) {
        d->users++;
    } else {
        rc = open_named(name, &d, err);
        if (rc == 0) {
            d->next = registry;
            registry = d;
        }
    }
    pthread_mutex_unlock(&registry_lock);
    *out = rc == 0 ? d : NULL;
    return rc;
}

/** Where a serial was bound some other drive may be by now. */
static int check_serial(struct nvme_drive *d, const char *name, const char *serial,
                        struct tutti_error *err)
{
    if (strcmp(d->facts.serial, serial) == 0)
        return 0;
    return tutti_error_set(err, -ENXIO,
                           "%s: what is bound there (%s) says that it is %s: bind the drive again "
                           "(tutti bind %s)",
                           name, d->name, d->facts.serial, serial);
}

int nvme_drive_open(const char *name, struct nvme_drive **out, struct tutti_error *err)
{
    char serial[NVME_NAME], address[NVME_NAME];
    int rc;

    *out = NULL;
    if (!nvme_drive_is_named(name))
        return tutti_error_set(err, -EINVAL, "%s: is not the name of a drive", name);
    if (!nvme_named_serial(name, serial))
        return open_addressed(name, out, err);
    rc = nvme_named_resolve("", name, address, err);
    if (rc == 0)
        rc = open_addressed(address, out, err);
    if (rc == 0)
        rc = check_serial(*out, name, serial, err);
    if (rc < 0) {
        nvme_drive_close(*out);
        *out = NULL;
    }
    return rc;
}

void nvme_drive_close(struct nvme_drive *d)
{
    struct nvme_drive **at = &registry;
    bool last;

    if (!d || d->opener != getpid())
        return; /* a forked child's: the parent's threads are not here */
    pthread_mutex_lock(&registry_lock);
    last = --d->users == 0;
    if (last) {
        while (*at && *at != d)
            at = &(*at)->next;
        if (*at)
            *at = d->next;
        if (shut_down(d)) /* under the lock: who opens it next finds it closed */
            drive_free(d);
        else
            leave_behind(&d->left);
    }
    pthread_mutex_unlock(&registry_lock);
}

int nvme_drive_claim(struct nvme_drive *d)
{
    int rc;

    pthread_mutex_lock(&d->word_lock);
    rc = d->claimed ? -EBUSY : 0;
    d->claimed = true;
    pthread_mutex_unlock(&d->word_lock);
    return rc;
}

void nvme_drive_release(struct nvme_drive *d)
{
    pthread_mutex_lock(&d->word_lock);
    d->claimed = false;
    pthread_mutex_unlock(&d->word_lock);
}

void nvme_drive_facts(const struct nvme_drive *d, struct nvme_facts *facts)
{
    *facts = d->facts;
}
