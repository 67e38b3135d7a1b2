/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plan.c: the simple policy. Reads first, a fixed look-ahead, and an age at
 * which a store goes beside loads, so that a busy server still stores.
 * Pure: everything it knows is in its arguments.
 */
#include "tutti/sched.h"

void tutti_sched_plan(const struct tutti_sched_options *options,
                      const struct tutti_sched_state *state, struct tutti_sched_plan *plan)
{
    uint64_t wanted = (uint64_t)state->load_needed + 1 + options->look_ahead;
    bool aged =
        state->oldest_store != 0 && state->now >= state->oldest_store + options->store_age_ns;

    if (wanted > state->layers)
        wanted = state->layers;
    plan->issue_layers = wanted > state->load_issued ? (uint32_t)wanted - state->load_issued : 0;
    plan->issue_stores = state->loads_pending == 0 || aged;
    plan->wake_at = state->oldest_store != 0 && !plan->issue_stores
                        ? state->oldest_store + options->store_age_ns
                        : 0;
}
