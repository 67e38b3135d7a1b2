/* SPDX-License-Identifier: Apache-2.0 */
/*
 * members.c: which members are given commands, as the engine and the switches
 * in the pool's home have it.
 *
 * Knows neither errors nor devices: the engine judges those. The one idea: the
 * engine's word is what counts in this process, the file is how others see and
 * change it, and a look now and then makes the two agree.
 */
#include "internal.h"

int tutti_serve_member_state(const struct tutti_serve *serve, uint32_t member,
                             struct tutti_member_state *state)
{
    return tutti_engine_member_state(serve->engine, member, state);
}

uint32_t tutti_serve_fenced(const struct tutti_serve *serve)
{
    uint32_t fenced = 0;

    for (uint32_t m = 0; m < serve->members; m++)
        fenced |= (uint32_t)(tutti_engine_fenced(serve->engine, m) == 1) << m;
    return fenced;
}

/** As tutti_pool_member_disabled(). */
static int look_at_switch(const struct tutti_serve *serve, uint32_t m,
                          char reason[TUTTI_MEMBER_REASON])
{
    return tutti_pool_member_disabled(tutti_pool_home(serve->pool), serve->rank, m, reason,
                                      TUTTI_MEMBER_REASON);
}

/** At the start. Nothing is known yet of a switch that cannot be read: taken for thrown. */
void members_fence_switched(struct tutti_serve *serve)
{
    char reason[TUTTI_MEMBER_REASON];

    for (uint32_t m = 0; m < serve->members; m++) {
        if (look_at_switch(serve, m, reason) == 0)
            continue;
        tutti_engine_fence(serve->engine, m, reason);
        tutti_pool_set_fenced(serve->pool, m, true);
        serve->switched[m] = true;
    }
}

/** Make the switch say where the member is, which who throws it by hand does not know. */
static void throw_switch(struct tutti_serve *serve, uint32_t m, const char *reason)
{
    serve->switched[m] =
        tutti_pool_disable_member(tutti_pool_home(serve->pool), serve->rank, m, reason,
                                  tutti_pool_member_path(serve->pool, m), NULL) == 0;
}

/** A switch that cannot be read is as it was: it neither fences a member nor brings one back. */
static void watch(struct tutti_serve *serve, uint32_t m)
{
    char reason[TUTTI_MEMBER_REASON];
    int thrown = look_at_switch(serve, m, reason);
    struct tutti_member_state state;

    tutti_engine_member_state(serve->engine, m, &state);
    if (thrown == 1 && !state.fenced) {
        tutti_engine_fence(serve->engine, m, reason);
        throw_switch(serve, m, reason);
    } else if (thrown == 1) {
        serve->switched[m] = true; /* whoever threw it, and whatever the engine found before */
    } else if (state.fenced && !serve->switched[m]) {
        throw_switch(serve, m, state.reason);
    } else if (state.fenced && thrown == 0) {
        tutti_engine_unfence(serve->engine, m);
        serve->switched[m] = false;
    }
    tutti_pool_set_fenced(serve->pool, m, tutti_engine_fenced(serve->engine, m) == 1);
}

uint32_t tutti_serve_watch_members(struct tutti_serve *serve)
{
    for (uint32_t m = 0; m < serve->members; m++)
        watch(serve, m);
    return tutti_serve_fenced(serve);
}
