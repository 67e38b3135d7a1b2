/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scheduler.h: what moves when; one object, events in with their time, a plan out.
 *
 * Responsible for load or recompute, the order of loads, holding back, abandoning, and when stores
 * go. Must not know threads, files, sockets, or the clock: no allocation, no global, no I/O, all
 * arrays of fixed size. Caller provides the memory (sizeof(struct tutti_scheduler), about 1.2 MB)
 * and calls from one thread at a time. An event costs O(members x log requests); a plan, once a
 * step or at its wake_at, looks at the loads that are out and at PLAN_MOST more.
 *
 * A handle is an index given out by this object. docs/scheduling.md has the rules and their
 * sources.
 */
#ifndef TUTTI_SCHEDULER_H
#define TUTTI_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

#include "tutti/member_model.h"
#include "tutti/step_model.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TUTTI_SCHED_REQUESTS 1024
#define TUTTI_SCHED_MEMBERS 32 /* of all ranks together */
#define TUTTI_SCHED_STORES 4096
#define TUTTI_SCHED_PLAN 64 /* entries of a list in a plan; the rest is in the next */
#define TUTTI_SCHED_SIZES 48
#define TUTTI_SCHED_NONE UINT32_MAX

/** A switch for each rule; the sense of each is in docs/scheduling.md. */
enum tutti_rule {
    TUTTI_RULE_HOLD = 1 << 0,
    TUTTI_RULE_ABANDON = 1 << 1,
    TUTTI_RULE_ORDER = 1 << 2, /* shortest remaining load first */
    TUTTI_RULE_AGE = 1 << 3,   /* an age bound on it */
    TUTTI_RULE_OVERLOAD = 1 << 4,
    TUTTI_RULE_PART = 1 << 5,     /* layer-wise: load a part */
    TUTTI_RULE_LATENESS = 1 << 6, /* a late command counts before it completes */
    TUTTI_RULE_HYSTERESIS = 1 << 7,
    TUTTI_RULE_PROBE = 1 << 8,
    TUTTI_RULE_GAPS = 1 << 9,   /* stores into what loads leave; off: mixed naively */
    TUTTI_RULE_VALUE = 1 << 10, /* the least valuable store goes first; off: the newest */
    TUTTI_RULE_CROWD = 1 << 11, /* who waits behind counts: n_c and n_d */
    TUTTI_RULES = (1 << 12) - 1,
};

enum tutti_policy { TUTTI_POLICY_AUTO, TUTTI_POLICY_LOAD, TUTTI_POLICY_RECOMPUTE };

/**
 * struct tutti_sched_config
 * @members: of all ranks; a load ends when its slowest part does
 * @layers: for layer-wise; @block_tokens: answers are whole blocks
 * @token_budget: of an engine step; @long_prefill: tokens of one prefill a step, 0: the budget
 * @bad_is_recomputed: the engine recomputes failed blocks, so that a load can be abandoned
 * @max_held, @max_hold_ns: requests held at once; each of them in all
 * @hold_idle_steps: an engine that would be idle is kept waiting for so many steps at most
 * @max_load_wait_ns: of queued loads, beyond which new hits recompute
 * @load_age_ns: after which a load is overtaken no more
 * @max_stall_ns: of a step by a load in it, its error added
 * @store_max_age_ns: by which a store has gone or is dropped; from half of it on it may go
 *   beside loads, with 5% of the member
 * @store_memory: bytes that stores waiting may hold in all
 * @window_ns: time that a plan releases loads and stores for; 0: 2 ms and until the step's end
 */
struct tutti_sched_config {
    uint32_t members;
    uint32_t layers;
    uint32_t block_tokens;
    uint32_t token_budget;
    uint32_t long_prefill;
    bool bad_is_recomputed;
    uint32_t rules;
    enum tutti_policy policy;
    uint32_t max_held;
    uint64_t max_hold_ns;
    double hold_idle_steps;
    uint64_t max_load_wait_ns;
    uint64_t load_age_ns;
    uint64_t max_stall_ns;
    uint64_t store_max_age_ns;
    uint64_t store_memory;
    uint64_t window_ns;
    struct tutti_member_prior member[TUTTI_SCHED_MEMBERS];
    double step_prior[TUTTI_STEP_TERMS];
};

/** Defaults: all rules on, and bounds that need no tuning. Members, shape and priors are left 0. */
void tutti_sched_defaults(struct tutti_sched_config *config);

enum tutti_verdict { TUTTI_COMPUTE, TUTTI_PRELOAD, TUTTI_LAYERWISE, TUTTI_NOT_YET };

/** Why; an answer has exactly one, and each is counted. */
enum tutti_reason {
    TUTTI_WHY_NO_MATCH,
    TUTTI_WHY_LOAD_FASTER,
    TUTTI_WHY_PART_FASTER,
    TUTTI_WHY_COMPUTE_FASTER,
    TUTTI_WHY_POLICY,
    TUTTI_WHY_OVERLOAD,
    TUTTI_WHY_ABANDONED,
    TUTTI_WHY_HELD,
    TUTTI_WHY_FULL, /* no handle: too many requests are known */
    TUTTI_WHYS,
};

/**
 * struct tutti_ask - a request that the engine asks about
 * @local, @match, @tokens: computed already; what we could bring it to; its prompt
 * @bytes: of local..match, per member
 * @ahead_tokens, @ahead_attention: prefill work that the engine does before it
 * @behind: requests that wait behind it for compute
 * @in_step: a load in step would be safe and no decode is in the step
 */
struct tutti_ask {
    uint32_t local, match, tokens;
    const uint64_t *bytes;
    double ahead_tokens, ahead_attention;
    uint32_t behind;
    bool in_step;
};

/**
 * struct tutti_answer
 * @tokens: load up to here (whole blocks)
 * @load_ns, @compute_ns: until its first token if loaded, if not; predicted
 * @until: TUTTI_NOT_YET: asked again by then, it is held no more
 */
struct tutti_answer {
    enum tutti_verdict verdict;
    enum tutti_reason reason;
    uint32_t tokens;
    double load_ns, compute_ns, error;
    uint64_t until;
};

/**
 * struct tutti_sched_plan_out - what to do now; a whole list means: ask again at once
 * @load: handles of requests whose loads begin, in this order
 * @abandon: loads to cancel; each still ends by tutti_scheduler_loaded()
 * @store, @drop: handles of stores to write; of stores that are given up (and free again)
 * @probe: a bit for each member that should be read from a little (1 MiB)
 * @wake_at: when to ask again without a new event, 0 for never
 */
struct tutti_sched_plan_out {
    uint32_t loads, abandons, stores, drops;
    uint32_t load[TUTTI_SCHED_PLAN];
    uint32_t abandon[TUTTI_SCHED_PLAN];
    uint32_t store[TUTTI_SCHED_PLAN];
    uint32_t drop[TUTTI_SCHED_PLAN];
    uint32_t probe;
    uint64_t wake_at;
};

/** Monotone; what adds up is in docs/scheduling.md. */
struct tutti_sched_counters {
    uint64_t asked, why[TUTTI_WHYS];
    uint64_t held, held_ns;
    uint64_t loads, loaded, failed, abandoned, cancelled, promoted;
    double predicted_ns, actual_ns, missed_ns; /* of loads that ended well */
    uint64_t stores, written, refused, dropped_age, dropped_memory, taken_back, urgent;
    uint64_t probes;
};

enum tutti_sched_load_state {
    TUTTI_LOAD_NONE,
    TUTTI_LOAD_QUEUED,
    TUTTI_LOAD_OUT,
    TUTTI_LOAD_ENDING
};

/* Private from here to the end of struct tutti_scheduler. */

struct tutti_sched_request {
    bool known;
    bool hold_over;
    uint8_t load;
    uint32_t next, prev; /* among queued loads by arrival; or free ones */
    uint32_t out_at;     /* place among those that are out */
    uint32_t local, match, tokens, cap;
    int32_t priority;
    uint32_t size_class;
    uint64_t held_since, held_last;
    uint64_t queued_at, serial, ends_at;
    double predicted;
};

struct tutti_sched_store {
    uint8_t state;
    uint8_t member;
    uint32_t next, prev; /* by age, of its member; or free ones */
    uint64_t bytes, since;
};

struct tutti_sched_member {
    struct tutti_member_model model;
    uint64_t issued, done;            /* bytes of loads, in all */
    double queued[TUTTI_SCHED_SIZES]; /* bytes of queued loads by the load's size */
    uint32_t queued_loads;
    uint64_t store_out;      /* bytes released and not written */
    uint32_t oldest, newest; /* stores waiting, by age */
    double allowance;        /* bytes for stores at their age */
    uint64_t allowed_at, probed_at;
};

struct tutti_scheduler {
    struct tutti_sched_config config;
    struct tutti_step_model steps;
    struct tutti_sched_counters counters;
    uint64_t now, serial;
    /* the engine as last told */
    struct tutti_step step;
    double backlog_ns, step_ns;
    bool running;
    uint32_t held;
    uint64_t soonest; /* a load that ends next: when, 0 none */
    struct tutti_sched_member member[TUTTI_SCHED_MEMBERS];
    struct tutti_sched_request request[TUTTI_SCHED_REQUESTS];
    uint32_t free_request, free_store;
    uint32_t first_queued, last_queued;
    uint32_t outs, looked_at;
    uint32_t out[TUTTI_SCHED_REQUESTS];
    uint64_t left[TUTTI_SCHED_REQUESTS][TUTTI_SCHED_MEMBERS];
    uint64_t mark[TUTTI_SCHED_REQUESTS][TUTTI_SCHED_MEMBERS];
    double load_key[TUTTI_SCHED_REQUESTS];
    uint32_t load_count[TUTTI_SCHED_MEMBERS];
    uint16_t load_heap[TUTTI_SCHED_MEMBERS][TUTTI_SCHED_REQUESTS];
    uint16_t load_place[TUTTI_SCHED_MEMBERS][TUTTI_SCHED_REQUESTS];
    uint64_t store_bytes; /* of those waiting */
    struct tutti_sched_store store[TUTTI_SCHED_STORES];
    double store_worth[TUTTI_SCHED_STORES], store_order[TUTTI_SCHED_STORES];
    uint32_t store_count[TUTTI_SCHED_MEMBERS], worth_count;
    uint16_t store_heap[TUTTI_SCHED_MEMBERS][TUTTI_SCHED_STORES];
    uint16_t store_place[TUTTI_SCHED_STORES];
    uint16_t worth_heap[TUTTI_SCHED_STORES], worth_place[TUTTI_SCHED_STORES];
    uint32_t droppings;
    uint32_t dropping[TUTTI_SCHED_STORES];
};

/** Return: 0, or -EINVAL: members, layers, blocks or the budget are 0 or too many. */
int tutti_scheduler_init(struct tutti_scheduler *s, const struct tutti_sched_config *config,
                         uint64_t now);

/* The engine. */

/**
 * tutti_scheduler_step() - a step is about to run
 * @backlog_tokens, @backlog_attention: prefill work known and not in it, of running and waiting
 */
void tutti_scheduler_step(struct tutti_scheduler *s, uint64_t now, const struct tutti_step *step,
                          double backlog_tokens, double backlog_attention);

/** A step has run, alone, for so long. */
void tutti_scheduler_stepped(struct tutti_scheduler *s, uint64_t now, const struct tutti_step *step,
                             uint64_t ns);

/* Requests. */

/** A request arrived. Return: its handle, or TUTTI_SCHED_NONE when all are taken. */
uint32_t tutti_scheduler_arrived(struct tutti_scheduler *s, uint64_t now, int32_t priority);

/** It is over (done, aborted). Its load, if one is out, ends by loaded() or before this. */
void tutti_scheduler_gone(struct tutti_scheduler *s, uint64_t now, uint32_t request);

/** The engine asks. A handle of TUTTI_SCHED_NONE is answered by policy "recompute". */
void tutti_scheduler_ask(struct tutti_scheduler *s, uint64_t now, uint32_t request,
                         const struct tutti_ask *ask, struct tutti_answer *answer);

/** Blocks were given to a request for its load. @bytes: per member. Return: 0 or -EINVAL. */
int tutti_scheduler_load(struct tutti_scheduler *s, uint64_t now, uint32_t request,
                         const struct tutti_ask *ask);

/** Bytes of a load that is out have arrived. */
void tutti_scheduler_moved(struct tutti_scheduler *s, uint64_t now, uint32_t request,
                           uint32_t member, uint64_t bytes);

/** A load is over. @verified: tokens that are in place, from the prompt's start. */
void tutti_scheduler_loaded(struct tutti_scheduler *s, uint64_t now, uint32_t request, bool well,
                            uint32_t verified);

/* Members: what tutti_member_model.h takes, through member(). */

static inline struct tutti_member_model *tutti_scheduler_member(struct tutti_scheduler *s,
                                                                uint32_t member)
{
    return &s->member[member].model;
}

/* Stores. */

/**
 * tutti_scheduler_store() - a store waits to be written
 * @bytes, @member: where to; @value: expected reuse x recompute time saved (ns)
 * @parent: the handle of its parent's store if that still waits, or TUTTI_SCHED_NONE
 *
 * Per byte it is worth at most as much as its parent, so that leaves go before parents. Return: a
 * handle, or TUTTI_SCHED_NONE: refused, since nothing waiting is worth less.
 */
uint32_t tutti_scheduler_store(struct tutti_scheduler *s, uint64_t now, uint32_t member,
                               uint64_t bytes, double value, uint32_t parent);

/** A store that a plan released has been written, or failed; its handle is free. */
void tutti_scheduler_stored(struct tutti_scheduler *s, uint64_t now, uint32_t store);

/** Its block is about to be reused: a store that waits is taken back. Return: whether it waited. */
bool tutti_scheduler_take_back(struct tutti_scheduler *s, uint64_t now, uint32_t store);

/** What to do now. */
void tutti_scheduler_plan(struct tutti_scheduler *s, uint64_t now,
                          struct tutti_sched_plan_out *plan);

/** Whether all that must hold does (tests, and a debug build): NULL, or what does not. */
const char *tutti_scheduler_check(const struct tutti_scheduler *s);

#ifdef __cplusplus
}
#endif
#endif
