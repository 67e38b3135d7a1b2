/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sched.h: when to move what. A pure function with the clock handed in.
 *
 * No thread, no I/O, no global, no allocation: events go in with their time,
 * a plan comes out with the time at which to ask again. Production, tests and
 * the simulator run the same object file. Today one simple policy: a fixed
 * look-ahead for layer-wise loads, reads before writes, and an age at which a
 * write goes all the same.
 */
#ifndef TUTTI_SCHED_H
#define TUTTI_SCHED_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * struct tutti_sched_options
 * @look_ahead: layers of an in-step load that may be issued beyond the one
 *   that computation needs
 * @store_age_ns: a store that has waited so long goes beside loads
 */
struct tutti_sched_options {
    uint32_t look_ahead;
    uint64_t store_age_ns;
};

/**
 * struct tutti_sched_state - what the caller sees; all of it is input
 * @now: monotonic ns
 * @layers: layers of the group
 * @load_needed: for the in-step load in question: the layer that computation
 *   waits for or will need next
 * @load_issued: layers issued so far
 * @loads_pending: loads (of any kind) issued and not ended
 * @oldest_store: when the oldest store that waits to be issued was handed in, 0 for none
 */
struct tutti_sched_state {
    uint64_t now;
    uint32_t layers;
    uint32_t load_needed;
    uint32_t load_issued;
    uint32_t loads_pending;
    uint64_t oldest_store;
};

/**
 * struct tutti_sched_plan
 * @issue_layers: how many more layers of the in-step load to issue now
 * @issue_stores: whether stores may be issued now
 * @wake_at: monotonic ns at which to ask again without a new event, 0 for never
 */
struct tutti_sched_plan {
    uint32_t issue_layers;
    bool issue_stores;
    uint64_t wake_at;
};

void tutti_sched_plan(const struct tutti_sched_options *options,
                      const struct tutti_sched_state *state, struct tutti_sched_plan *plan);

#ifdef __cplusplus
}
#endif
#endif
