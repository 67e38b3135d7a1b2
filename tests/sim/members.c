/* SPDX-License-Identifier: Apache-2.0 */
/*
 * members.c: members are fenced, by their errors or by hand, and come back.
 *
 * Stands for the operator, for the thread that looks at the switches (here: the
 * operation "watch", at any moment, whatever the worker is waiting for), and
 * for what the scheduler's half does with what the ranks report.
 */
#include <string.h>

#include "dice.h"
#include "machine.h"
#include "serve/internal.h"
#include "world.h"

uint32_t members_fenced(void)
{
    uint32_t fenced = 0;

    for (uint32_t i = 0; i < world.ranks; i++)
        fenced |= world.fenced[i];
    return fenced;
}

static void tell_directory(void)
{
    must(tutti_directory_fence_members(world.directory, members_fenced()) >= 0);
}

void members_take(uint32_t rank, uint32_t fenced)
{
    if (fenced == world.fenced[rank])
        return;
    world.fenced[rank] = fenced;
    trace("fenced members (rank, which)", rank, fenced, 0, 0);
    tell_directory();
}

void members_forget(void)
{
    for (uint32_t i = 0; i < world.ranks; i++)
        world.fenced[i] = 0;
    tell_directory();
}

static bool is_thrown(const struct rank *r, uint32_t member)
{
    char reason[TUTTI_MEMBER_REASON];

    return world.switches &&
           tutti_pool_member_disabled(world.home, r->number, member, reason, sizeof(reason)) == 1;
}

/** It has not too few errors for that, of those that it made since it came back. */
static void check_errors(const struct rank *r, uint32_t member)
{
    struct tutti_member_state state;

    must(tutti_serve_member_state(r->serve, member, &state) == 0);
    if (strncmp(state.reason, "too many I/O errors", 19) == 0 && !r->late && !world.stuck_allowed &&
        r->disk[member].errors < r->bound)
        sim_fail("rank %u, member %u: fenced for %u errors of %u: %s", r->number, member,
                 r->disk[member].errors, r->bound, state.reason);
}

/** What the thread that looks once a second does; its rank's next step tells of it. */
static void watch(struct rank *r)
{
    uint32_t before = r->watched;

    r->watched = tutti_serve_watch_members(r->serve);
    r->ever_fenced |= r->watched;
    world.switches = world.switches || r->watched;
    for (uint32_t m = 0; m < world.shape->members; m++)
        if (~before >> m & r->watched >> m & 1)
            check_errors(r, m);
    for (uint32_t m = 0; m < world.shape->members; m++)
        if (before >> m & ~r->watched >> m & 1)
            r->disk[m].behind = r->disk[m].failed = r->disk[m].errors = 0;
    trace("watched (rank, fenced)", r->number, r->watched, 0, 0);
    world.fences += (uint64_t)__builtin_popcount(r->watched & ~before);
    rank_report(r);
}

void members_watch(void)
{
    struct rank *r = &world.rank[dice_below(world.ranks)];

    watch(r);
}

void members_disable(void)
{
    uint32_t rank = dice_below(world.ranks);
    uint32_t member = dice_below(world.shape->members);

    must(tutti_pool_disable_member(world.home, rank, member, "by the simulation", NULL, NULL) == 0);
    world.switches = true;
}

/** As "tutti enable" does: after a check, which finds what cannot be read. */
void members_enable(void)
{
    struct rank *r = &world.rank[dice_below(world.ranks)];
    uint32_t member = dice_below(world.shape->members);
    const struct disk *d = &r->disk[member];
    bool seen = r->watched >> member & 1;
    struct tutti_error err = {0};

    if (!is_thrown(r, member))
        return;
    if (tutti_pool_probe_member(world.home, r->number, member, &err) < 0) {
        if (!disk_unreadable(d, 0, d->size))
            sim_fail("rank %u, member %u: nothing is wrong with it: %s", r->number, member,
                     err.message);
        return;
    }
    must(tutti_pool_enable_member(world.home, r->number, member, &err) == 0);
    if (dice_chance(5000))
        return; /* somebody looks later */
    watch(r);
    if (seen && (r->watched >> member & 1))
        sim_fail("rank %u, member %u: was enabled, and stays fenced", r->number, member);
}

void members_check_idle(void)
{
    for (uint32_t i = 0; i < world.ranks; i++) {
        struct rank *r = &world.rank[i];

        watch(r);
        for (uint32_t m = 0; m < world.shape->members; m++)
            must((r->watched >> m & 1) == is_thrown(r, m));
    }
}

void members_end(void)
{
    for (uint32_t i = 0; world.switches && i < world.ranks; i++)
        for (uint32_t m = 0; m < world.shape->members; m++)
            must(tutti_pool_enable_member(world.home, i, m, NULL) == 0);
}
