/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine.c: the public face of the engines for hosts: members started, told of
 * memory, counted, stopped.
 *
 * Knows which backends there are and which follows which; moves no byte. The
 * one idea: an engine is a thread per member over a backend, so all engines
 * for hosts differ by one table of functions.
 */
#include "tutti/engine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/atomics.h"
#include "base/left_behind.h"
#include "engine/member.h"

#define DEFAULT_COMMAND_BYTES ((size_t)1 << 20)
#define DEFAULT_QUEUE_BYTES ((size_t)32 << 20)
#define LEAST_COMMAND_BYTES ((size_t)4096)
#define MOST_COMMAND_BYTES ((size_t)64 << 20)
#define DEFAULT_FENCE_ERRORS 16u
#define DEFAULT_LATE_NS UINT64_C(30000000000)
#define CLOSE_WAIT_NS UINT64_C(30000000000)

struct tutti_engine {
    pid_t pid; /* threads do not follow a fork */
    uint32_t members;
    uint32_t started;
    char name[32];
    struct member *member;
    char *path[TUTTI_MAX_MEMBERS];
    char *rules;
    struct left_behind left; /* a close gave up waiting: a thread of it may still run */
};

/** Backends to try in turn, for a name. Return: how many. */
static uint32_t choices(const char *name, bool drives, const struct backend_type *choice[2])
{
    bool automatic = !name || strcmp(name, "auto") == 0;

    if (automatic && !drives) {
        choice[0] = &backend_uring;
        choice[1] = &backend_threads;
        return 2;
    }
    choice[0] = automatic || strcmp(name, "nvme") == 0 ? &backend_nvme
                : strcmp(name, "uring") == 0           ? &backend_uring
                : strcmp(name, "threads") == 0         ? &backend_threads
                : strcmp(name, "gpu") == 0             ? &backend_gpu
                                                       : NULL;
    return choice[0] ? 1 : 0;
}

static int check_member(const struct tutti_member *m, struct tutti_error *err)
{
    if ((m->fd < 0 && !m->drive) || !m->path)
        return tutti_error_set(err, -EINVAL, "a member without a descriptor or a path");
    if (m->alignment == 0 || m->alignment > 4096 || (m->alignment & (m->alignment - 1)) != 0)
        return tutti_error_set(err, -EINVAL,
                               "%s: alignment %u; a power of two up to 4096 is possible", m->path,
                               m->alignment);
    return 0;
}

static int check_options(const struct tutti_engine_options *o, size_t command_bytes, bool drives,
                         struct tutti_error *err)
{
    uint32_t depth, consumers;

    tutti_ring_shape(o->ring, &depth, &consumers);
    if (o->members != consumers)
        return tutti_error_set(err, -EINVAL, "engine: %u members on a ring of %u consumers",
                               o->members, consumers);
    if (command_bytes < LEAST_COMMAND_BYTES || command_bytes > MOST_COMMAND_BYTES)
        return tutti_error_set(err, -EINVAL, "engine: commands of %zu bytes; %zu to %zu possible",
                               command_bytes, LEAST_COMMAND_BYTES, MOST_COMMAND_BYTES);
    if (o->staging_bytes < command_bytes)
        return tutti_error_set(err, -EINVAL,
                               "engine: %zu bytes of staging are less than one command of %zu: "
                               "give each member at least that",
                               o->staging_bytes, command_bytes);
    for (uint32_t i = 0; i < o->members; i++) {
        int rc = check_member(&o->member[i], err);

        if (rc < 0)
            return rc;
        if (o->member[i].fd < 0 && !drives)
            return tutti_error_set(err, -EINVAL,
                                   "%s: is a drive of this process's own: engine \"nvme\" (or "
                                   "\"auto\") drives it",
                                   o->member[i].path);
        if ((o->member[i].drive == NULL) != (o->member[0].drive == NULL))
            return tutti_error_set(err, -EINVAL,
                                   "engine: %s is a drive of this process's own and %s is not: "
                                   "members are of one kind",
                                   o->member[o->member[i].drive ? i : 0].path,
                                   o->member[o->member[i].drive ? 0 : i].path);
    }
    return 0;
}

static void fill_member(struct tutti_engine *e, uint32_t i, const struct tutti_engine_options *o,
                        size_t command_bytes, const struct backend_type *type,
                        const struct backend_type *inner)
{
    struct member *m = &e->member[i];
    uint32_t consumers;

    memset(m, 0, sizeof(*m));
    m->ring = o->ring;
    m->device = o->device;
    m->type = type;
    m->number = i;
    m->cpu = o->cpus ? o->cpu[i % o->cpus] : -1;
    m->staging_bytes = o->staging_bytes;
    m->command_bytes = (uint32_t)command_bytes;
    m->queue_bytes = o->queue_bytes ? o->queue_bytes : DEFAULT_QUEUE_BYTES;
    m->write_bytes = o->write_bytes ? o->write_bytes : m->queue_bytes / 4;
    m->health.bound = o->fence_errors ? o->fence_errors : DEFAULT_FENCE_ERRORS;
    m->late_ns = o->late_ns ? o->late_ns : DEFAULT_LATE_NS;
    tutti_ring_shape(o->ring, &m->ring_depth, &consumers);
    m->options = (struct backend_options){
        .fd = o->member[i].fd,
        .drive = o->member[i].drive,
        .path = e->path[i],
        .direct = o->member[i].direct,
        .alignment = o->member[i].alignment,
        .wakeup = tutti_ring_wakeup_fd(o->ring, i),
        .depth = MEMBER_COMMANDS,
        .member = i,
        .rules = e->rules,
        .inner = inner,
    };
}

/** Return: 0, or -ETIMEDOUT with a message that names the first member that does not stop. */
static int stop_all(struct tutti_engine *e, uint64_t timeout_ns, struct tutti_error *err)
{
    uint64_t deadline = tutti_clock_after(tutti_clock_now(), timeout_ns);
    int result = 0;

    for (uint32_t i = 0; i < e->started; i++)
        member_tell_to_stop(&e->member[i]);
    for (uint32_t i = 0; i < e->started; i++)
        if (member_join(&e->member[i], deadline) < 0 && result == 0)
            result = tutti_error_set(
                err, -ETIMEDOUT,
                "%s: a command does not end (waited %.1f s for it): its thread, its memory and its "
                "descriptor are left behind until the process ends; see the kernel's log (dmesg)",
                e->path[i], (double)timeout_ns / 1e9);
    e->started = 0;
    return result;
}

static int start_all(struct tutti_engine *e, const struct tutti_engine_options *o,
                     size_t command_bytes, bool fault, const struct backend_type *choice,
                     struct tutti_error *err)
{
    const struct backend_type *type = fault ? &backend_fault : choice;
    int rc;

    for (uint32_t i = 0; i < o->members; i++) {
        fill_member(e, i, o, command_bytes, type, choice);
        rc = member_start(&e->member[i], err);
        if (rc < 0) {
            stop_all(e, UINT64_MAX, NULL); /* nothing was issued */
            return rc;
        }
        e->started++;
    }
    snprintf(e->name, sizeof(e->name), "%s%s", fault ? "fault+" : "", choice->name);
    return 0;
}

static void engine_free(struct tutti_engine *e)
{
    for (uint32_t i = 0; i < TUTTI_MAX_MEMBERS; i++)
        free(e->path[i]);
    free(e->rules);
    free(e->member);
    free(e);
}

static struct tutti_engine *engine_new(const struct tutti_engine_options *o)
{
    struct tutti_engine *e = calloc(1, sizeof(*e));
    bool whole;

    if (!e)
        return NULL;
    e->pid = getpid();
    e->members = o->members;
    e->member = calloc(o->members, sizeof(*e->member));
    e->rules = strdup(o->fault_rules ? o->fault_rules : "");
    whole = e->member && e->rules;
    for (uint32_t i = 0; i < o->members; i++) {
        e->path[i] = strdup(o->member[i].path);
        whole = whole && e->path[i];
    }
    if (whole)
        return e;
    engine_free(e);
    return NULL;
}

int tutti_engine_open(const struct tutti_engine_options *o, struct tutti_engine **out,
                      struct tutti_error *err)
{
    size_t command_bytes = (o->command_bytes ? o->command_bytes : DEFAULT_COMMAND_BYTES) & ~4095ul;
    bool fault = o->name && strcmp(o->name, "fault") == 0;
    const struct backend_type *choice[2];
    uint32_t number;
    struct tutti_error reason = {0};
    struct tutti_engine *e;
    int rc;

    *out = NULL;
    if (!o->ring || !o->device || !o->member || o->members == 0)
        return tutti_error_set(err, -EINVAL, "engine: a ring, members and a device are needed");
    number = choices(fault ? o->fault_inner : o->name, o->member[0].drive, choice);
    if (number == 0)
        return tutti_error_set(err, -EINVAL,
                               "engine \"%s\" is not known; there are auto, uring, threads, nvme, "
                               "fault and gpu",
                               fault ? o->fault_inner : o->name);
    rc = check_options(o, command_bytes, choice[0] == &backend_nvme || choice[0] == &backend_gpu,
                       err);
    if (rc < 0)
        return rc;
    e = engine_new(o);
    if (!e)
        return tutti_error_set(err, -ENOMEM, "no memory for an engine");
    rc = start_all(e, o, command_bytes, fault, choice[0], &reason);
    if (rc < 0 && number > 1) {
        struct tutti_error second = {0};

        rc = start_all(e, o, command_bytes, fault, choice[1], &second);
        if (rc < 0)
            reason = second;
    }
    if (err && reason.message[0]) {
        *err = reason;
        err->code = rc;
    }
    if (rc < 0) {
        engine_free(e);
        return rc;
    }
    *out = e;
    return 0;
}

const char *tutti_engine_name(const struct tutti_engine *engine)
{
    return engine->name;
}

int tutti_engine_register(struct tutti_engine *e, uint64_t base, size_t bytes,
                          struct tutti_error *err)
{
    struct tutti_error unfixed = {0};
    bool direct = true;

    if (base == 0 || bytes == 0)
        return tutti_error_set(err, -EINVAL, "KV memory of %zu bytes at address 0x%llx", bytes,
                               (unsigned long long)base);
    for (uint32_t i = 0; i < e->members; i++) {
        struct member *m = &e->member[i];

        if (!m->device->direct(base, bytes)) {
            tutti_error_set(err, 0, "%s: this memory is out of its reach: transfers are staged",
                            m->options.path);
            direct = false;
        } else if (m->options.direct && base % m->options.alignment != 0) {
            tutti_error_set(err, 0,
                            "%s: KV memory at 0x%llx is not aligned to %u bytes, which direct I/O "
                            "asks for: transfers are staged",
                            m->options.path, (unsigned long long)base, m->options.alignment);
            direct = false;
        } else if (member_fix(m, (void *)(uintptr_t)base, bytes, &unfixed) < 0 && direct) {
            tutti_error_set(err, 0, "%s: %s", m->options.path, unfixed.message);
            direct = !m->backend->fixed_only;
        }
    }
    return direct;
}

void tutti_engine_counters(const struct tutti_engine *e, struct tutti_engine_counters *sum)
{
    uint64_t *to = (uint64_t *)(void *)sum;

    memset(sum, 0, sizeof(*sum));
    for (uint32_t i = 0; i < e->members; i++) {
        const struct member *m = &e->member[i];
        const uint64_t *from = (const uint64_t *)(const void *)&m->counters;

        /* Relaxed: numbers that order nothing; one writer each. */
        for (size_t k = 0; k < sizeof(*sum) / sizeof(*to); k++)
            to[k] += tutti_load_relaxed(&from[k]);
        sum->system_calls += tutti_load_relaxed(&m->backend->system_calls);
    }
}

int tutti_engine_last_error(const struct tutti_engine *e, struct tutti_error *err)
{
    int code = 0;

    for (uint32_t i = 0; i < e->members && code == 0; i++) {
        struct member *m = &e->member[i];

        pthread_mutex_lock(&m->lock);
        code = m->io_error.code;
        if (code && err)
            *err = m->io_error;
        pthread_mutex_unlock(&m->lock);
    }
    return code;
}

int tutti_engine_member_state(const struct tutti_engine *e, uint32_t member,
                              struct tutti_member_state *state)
{
    if (member >= e->members)
        return -EINVAL;
    member_state(&e->member[member], state);
    return 0;
}

int tutti_engine_fenced(const struct tutti_engine *e, uint32_t member)
{
    return member < e->members ? fence_closed(&e->member[member]) : -EINVAL;
}

int tutti_engine_fence(struct tutti_engine *e, uint32_t member, const char *reason)
{
    if (member >= e->members)
        return -EINVAL;
    member_fence(&e->member[member], reason);
    return 0;
}

int tutti_engine_unfence(struct tutti_engine *e, uint32_t member)
{
    if (member >= e->members)
        return -EINVAL;
    member_unfence(&e->member[member]);
    return 0;
}

int tutti_engine_close_within(struct tutti_engine *e, uint64_t timeout_ns, struct tutti_error *err)
{
    int rc;

    if (!e || e->pid != getpid())
        return 0;
    rc = stop_all(e, timeout_ns, err);
    if (rc == 0)
        engine_free(e);
    else
        leave_behind(&e->left);
    return rc;
}

void tutti_engine_close(struct tutti_engine *e)
{
    tutti_engine_close_within(e, CLOSE_WAIT_NS, NULL);
}
