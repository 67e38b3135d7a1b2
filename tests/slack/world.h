/* SPDX-License-Identifier: Apache-2.0 */
/*
 * world.h: an engine's steps and drives in model time, around the product's own scheduler.
 *
 * Responsible for what vLLM does (running requests first, chunks of a token budget, a hit asked
 * about only when there is budget left, a preload seen at the next step) and for what drives do.
 * Must not decide anything: it asks the scheduler, or an arm that it is told to play instead.
 */
#ifndef TUTTI_TESTS_SLACK_WORLD_H
#define TUTTI_TESTS_SLACK_WORLD_H

#include "drive.h"
#include "truth.h"
#include "tutti/scheduler.h"

enum { WORLD_REQUESTS = 20000, WORLD_MEMBERS = 4 };

enum world_state { COMING, WAITING, LOADING, LOADED, RUNNING, DONE };

struct world_request {
    uint64_t arrives;
    uint32_t tokens, match, answer; /* prompt, of it on disk, tokens to generate */
    int32_t priority;
    /* and what became of it */
    enum world_state state;
    uint32_t handle, computed, generated, parts;
    bool loads, finished; /* finished: its load, and seen at the next step */
    double first, asked, load_began, load_ended, late_by_load;
};

/** A plan of stores: @every ns one of @bytes on each member in turn. */
struct world_stores {
    double every, bytes, next;
    uint32_t made, member;
};

struct world {
    struct truth truth;
    struct tutti_sched_config config;
    struct drive drive[WORLD_MEMBERS];
    double kv_bytes;   /* of a token */
    double threshold;  /* > 0: an arm that loads from so many tokens on, whatever is true */
    double step_floor; /* of an empty step, ns */
    struct world_request request[WORLD_REQUESTS];
    uint32_t requests, arrived, done;
    uint32_t steps, empty;
    double now, ends_at;
    struct world_stores stores;
    double store_worst; /* age when written */
    double store_since[TUTTI_SCHED_STORES];
    uint32_t store_member[TUTTI_SCHED_STORES];
    double plan_at;
    double until; /* end of the run; 0: when all are done */
    struct tutti_scheduler sched;
    struct tutti_sched_plan_out plan;
};

/** A world of a drawn platform, @members equal drives, and a scheduler that guesses at both. */
void world_init(struct world *w, uint64_t seed, uint32_t members);
/** After changes to its configuration or drives. */
void world_begin(struct world *w);
struct world_request *world_add(struct world *w, double at, uint32_t tokens, uint32_t match,
                                uint32_t answer);
void world_run(struct world *w);
/** Sorted times to first token, in ns. Return: how many. */
uint32_t world_ttft(const struct world *w, double *ttft);
double world_mean(const double *values, uint32_t count);
int world_by_size(const void *a, const void *b);

#endif
