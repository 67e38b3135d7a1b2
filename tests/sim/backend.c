/* SPDX-License-Identifier: Apache-2.0 */
/*
 * backend.c: the engine's backend on simulated disks, linked in the place of
 * backend "threads": everything above it (tasks, batches, checks, the member's
 * loop) is the product's.
 */
#include <stdlib.h>

#include "dice.h"
#include "disk.h"
#include "engine/member.h"
#include "machine.h"

/* Commands in a row that may fail before a member is fenced: for each error that its bound allows,
 * a batch whose positions are then tried one by one; and what is out already. */
enum { FAILED_AN_ERROR = 40, FAILED_UNDER_WAY = 80, MOST_BOUND = 4, MOST_THREADS = 16 };

extern const struct backend_type backend_threads;

struct disk_backend {
    struct backend base;
    struct disk *disk;
    const struct member *member;
    int wakeup;
    uint32_t ended_count;
    struct command *ended[DISK_COMMANDS];
};

static struct disk_backend *of(struct backend *b)
{
    return (struct disk_backend *)(void *)b;
}

static int disk_open(const struct backend_options *o, struct backend **out, struct tutti_error *err)
{
    struct disk_backend *b = calloc(1, sizeof(*b));

    (void)err;
    must(b && disk_of(o->fd));
    b->base.type = &backend_threads;
    b->disk = disk_of(o->fd);
    b->wakeup = o->wakeup;
    *out = &b->base;
    return 0;
}

static void disk_close(struct backend *b)
{
    must(of(b)->ended_count == 0);
    free(b);
}

static int disk_fix(struct backend *b, void *memory, size_t bytes, struct tutti_error *err)
{
    (void)b;
    (void)memory;
    (void)bytes;
    (void)err;
    return 0;
}

/** The member whose thread has this backend. */
static const struct member *member_of(struct disk_backend *b)
{
    void *member[MOST_THREADS];
    uint32_t count = machine_engine_threads(member, MOST_THREADS);

    for (uint32_t i = 0; i < count && !b->member; i++)
        if (((struct member *)member[i])->backend == &b->base)
            b->member = member[i];
    must(b->member);
    return b->member;
}

/** A fenced member gets no command, but for one whose look at the gate came before. */
static void check_gate(struct disk_backend *b)
{
    const struct member *m = member_of(b);
    struct disk *d = b->disk;

    if (fence_closed(m) && ++d->behind > 1)
        sim_fail("disk %u.%u: is fenced, and is given commands", d->rank, d->member);
    if (m->health.bound <= MOST_BOUND &&
        d->failed > FAILED_AN_ERROR * m->health.bound + FAILED_UNDER_WAY)
        sim_fail("disk %u.%u: %u commands in a row failed, %u errors are its bound, and it is not "
                 "fenced",
                 d->rank, d->member, d->failed, m->health.bound);
}

static void submit(struct backend *b, struct command *c)
{
    check_gate(of(b));
    disk_submit(of(b)->disk, of(b), c);
    machine_preempt();
}

void disk_ended(struct disk_backend *b, struct command *c)
{
    b->ended[b->ended_count++] = c;
}

static uint32_t disk_reap(struct backend *b, struct command **ended, uint32_t most)
{
    struct disk_backend *d = of(b);
    uint32_t count = 0;

    machine_preempt();
    while (count < most && d->ended_count > 0) {
        uint32_t i = dice_below(d->ended_count);

        ended[count++] = d->ended[i];
        d->ended[i] = d->ended[--d->ended_count];
    }
    return count;
}

static bool something_is_up(void *argument)
{
    const struct disk_backend *d = argument;

    return d->ended_count > 0 || machine_rung(d->wakeup);
}

static void disk_wait(struct backend *b, uint64_t timeout_ns)
{
    struct disk_backend *d = of(b);

    machine_wait(something_is_up, d, timeout_ns == UINT64_MAX ? NEVER : machine_now() + timeout_ns);
    machine_silence(d->wakeup);
}

const struct backend_type backend_threads = {
    .name = "disk",
    .open = disk_open,
    .fix = disk_fix,
    .submit = submit,
    .reap = disk_reap,
    .wait = disk_wait,
    .close = disk_close,
};
