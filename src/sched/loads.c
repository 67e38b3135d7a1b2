/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loads.c: in which order loads go, and when one is given up.
 *
 * Responsible for the queue of loads. Must not know why a load was chosen. One after another per
 * member: a load is let out when a member that it lies on runs dry within the window, the shortest
 * remaining first; one key rules in all members' heaps, so that a load's parts end together. Who
 * has waited for the age bound gets a key below all others of its priority.
 */
#include "internal.h"

#include <errno.h>
#include <math.h>

#define PRIORITY 1e13 /* ns: no load is as long */
#define OVERDUE 5e12
#define WINDOW 2e6 /* ns */
#define LOOKED_AT 16
_Static_assert(LOOKED_AT <= TUTTI_SCHED_PLAN, "all of them may be abandoned");

static uint64_t window_of(const struct tutti_scheduler *s)
{
    if (s->config.window_ns)
        return s->config.window_ns;
    return (uint64_t)(WINDOW + s->step_ns);
}

static double own_ns(struct tutti_scheduler *s, uint32_t request)
{
    double most = 0;

    for (uint32_t m = 0; m < s->config.members; m++)
        if (s->left[request][m])
            most = fmax(most, (double)s->left[request][m] / sched_rate(s, m, TUTTI_WAY_READ));
    return most;
}

static void enqueue(struct tutti_scheduler *s, uint32_t request)
{
    struct tutti_sched_request *r = &s->request[request];

    r->load = TUTTI_LOAD_QUEUED;
    r->next = NONE;
    r->prev = s->last_queued;
    *(r->prev == NONE ? &s->first_queued : &s->request[r->prev].next) = request;
    s->last_queued = request;
    for (uint32_t m = 0; m < s->config.members; m++) {
        struct heap h = load_heap(s, m);

        if (s->left[request][m] == 0)
            continue;
        heap_insert(&h, request);
        s->member[m].queued[r->size_class] += (double)s->left[request][m];
        s->member[m].queued_loads++;
    }
}

static void dequeue(struct tutti_scheduler *s, uint32_t request)
{
    struct tutti_sched_request *r = &s->request[request];

    *(r->prev == NONE ? &s->first_queued : &s->request[r->prev].next) = r->next;
    *(r->next == NONE ? &s->last_queued : &s->request[r->next].prev) = r->prev;
    for (uint32_t m = 0; m < s->config.members; m++) {
        struct heap h = load_heap(s, m);

        if (s->left[request][m] == 0)
            continue;
        heap_remove(&h, request);
        s->member[m].queued_loads--;
        s->member[m].queued[r->size_class] -= (double)s->left[request][m];
        if (s->member[m].queued_loads == 0) /* no rounding is left over */
            s->member[m].queued[r->size_class] = 0;
    }
}

int tutti_scheduler_load(struct tutti_scheduler *s, uint64_t now, uint32_t request,
                         const struct tutti_ask *ask)
{
    struct tutti_sched_request *r;
    uint64_t most = 0;

    advance(s, now);
    if (request >= TUTTI_SCHED_REQUESTS || !s->request[request].known ||
        s->request[request].load != TUTTI_LOAD_NONE)
        return -EINVAL;
    r = &s->request[request];
    for (uint32_t m = 0; m < s->config.members; m++) {
        s->left[request][m] = ask->bytes[m];
        most = ask->bytes[m] > most ? ask->bytes[m] : most;
    }
    if (most == 0)
        return -EINVAL;
    sched_release_hold(s, r);
    r->local = ask->local;
    r->match = ask->match;
    r->tokens = ask->tokens;
    r->size_class = sched_size_class(most);
    r->queued_at = s->now;
    r->serial = ++s->serial;
    s->load_key[request] = (rule(s, TUTTI_RULE_ORDER) ? own_ns(s, request) : (double)r->serial) +
                           PRIORITY * r->priority;
    r->ends_at = s->now + (uint64_t)r->predicted;
    s->soonest = earlier(s->soonest, r->ends_at);
    s->counters.loads++;
    enqueue(s, request);
    return 0;
}

/** Out of the list of those that are out. */
static void forget_out(struct tutti_scheduler *s, uint32_t request)
{
    uint32_t at = s->request[request].out_at, last = s->out[--s->outs];

    s->out[at] = last;
    s->request[last].out_at = at;
    for (uint32_t m = 0; m < s->config.members; m++)
        s->member[m].done += s->left[request][m]; /* what will not come any more */
}

void sched_load_end(struct tutti_scheduler *s, uint32_t request)
{
    struct tutti_sched_request *r = &s->request[request];

    if (r->load == TUTTI_LOAD_QUEUED)
        dequeue(s, request);
    else
        forget_out(s, request);
    r->load = TUTTI_LOAD_NONE;
    s->soonest = 0;
    for (uint32_t i = 0; i < s->outs; i++)
        s->soonest = earlier(s->soonest, s->request[s->out[i]].ends_at);
}

void tutti_scheduler_moved(struct tutti_scheduler *s, uint64_t now, uint32_t request,
                           uint32_t member, uint64_t bytes)
{
    advance(s, now);
    if (request >= TUTTI_SCHED_REQUESTS || member >= s->config.members ||
        s->request[request].load < TUTTI_LOAD_OUT)
        return;
    if (bytes > s->left[request][member])
        bytes = s->left[request][member];
    s->left[request][member] -= bytes;
    s->member[member].done += bytes;
}

void tutti_scheduler_loaded(struct tutti_scheduler *s, uint64_t now, uint32_t request, bool well,
                            uint32_t verified)
{
    struct tutti_sched_request *r;
    double took;

    advance(s, now);
    if (request >= TUTTI_SCHED_REQUESTS || s->request[request].load == TUTTI_LOAD_NONE)
        return;
    r = &s->request[request];
    if (r->load == TUTTI_LOAD_ENDING) {
        s->counters.abandoned++;
        r->cap = verified;
    } else if (well) {
        took = (double)(s->now - r->queued_at);
        s->counters.loaded++;
        s->counters.predicted_ns += r->predicted;
        s->counters.actual_ns += took;
        s->counters.missed_ns += fabs(took - r->predicted);
    } else {
        s->counters.failed++;
    }
    sched_load_end(s, request);
}

/** ns until a load is over that has been let out. @rate: of each member, bytes per ns. */
static double remaining_ns(const struct tutti_scheduler *s, uint32_t request, const double *rate)
{
    double most = 0;

    for (uint32_t i = 0; i < s->config.members; i++) {
        const struct tutti_sched_member *m = &s->member[i];
        uint64_t ahead = s->left[request][i];

        if (ahead == 0)
            continue;
        /* what was let out before it, and it */
        if (s->mark[request][i] > m->done && s->mark[request][i] - m->done > ahead)
            ahead = s->mark[request][i] - m->done;
        most = fmax(most, (double)ahead / rate[i]);
    }
    return most;
}

static void let_out(struct tutti_scheduler *s, uint32_t request, const double *rate,
                    struct tutti_sched_plan_out *plan)
{
    struct tutti_sched_request *r = &s->request[request];

    dequeue(s, request);
    r->load = TUTTI_LOAD_OUT;
    r->out_at = s->outs;
    s->out[s->outs++] = request;
    for (uint32_t m = 0; m < s->config.members; m++) {
        s->member[m].issued += s->left[request][m];
        s->mark[request][m] = s->member[m].issued;
    }
    r->ends_at = s->now + (uint64_t)remaining_ns(s, request, rate);
    s->soonest = earlier(s->soonest, r->ends_at);
    plan->load[plan->loads++] = request;
}

/** Who has waited for the age bound goes before all others of its priority, by arrival. */
static void promote(struct tutti_scheduler *s)
{
    uint32_t next;

    if (!rule(s, TUTTI_RULE_AGE) || !rule(s, TUTTI_RULE_ORDER))
        return;
    for (uint32_t i = s->first_queued; i != NONE; i = next) {
        struct tutti_sched_request *r = &s->request[i];
        double key = PRIORITY * r->priority - OVERDUE + (double)r->serial;

        next = r->next;
        if (s->now < r->queued_at + s->config.load_age_ns)
            break;
        if (s->load_key[i] == key)
            continue;
        s->load_key[i] = key;
        s->counters.promoted++;
        for (uint32_t m = 0; m < s->config.members; m++) {
            struct heap h = load_heap(s, m);

            if (s->left[i][m])
                heap_settle(&h, h.place[i]);
        }
    }
}

/** A load whose rest takes longer than computing what it brings. */
static bool hopeless(struct tutti_scheduler *s, const struct tutti_sched_request *r,
                     double remaining)
{
    struct tutti_step company = s->step;
    struct tutti_estimate loaded, computed;

    if (company.attention > 0)
        company = (struct tutti_step){.mode = s->step.mode};
    computed =
        tutti_step_model_prefill(&s->steps, r->local, r->tokens, s->config.token_budget, &company);
    loaded =
        tutti_step_model_prefill(&s->steps, r->match, r->tokens, s->config.token_budget, &company);
    return fmax(remaining, s->backlog_ns) + loaded.ns >
           (s->backlog_ns + computed.ns) * (1 + fmin(0.5, computed.error));
}

/** When each load that is out ends; a few of them a plan, in turn, are looked at for worth. */
static void abandon(struct tutti_scheduler *s, const double *rate,
                    struct tutti_sched_plan_out *plan)
{
    uint32_t from = s->outs > LOOKED_AT ? s->looked_at % s->outs : 0;

    s->soonest = 0;
    s->looked_at = from + LOOKED_AT;
    for (uint32_t i = 0; i < s->outs; i++) {
        struct tutti_sched_request *r = &s->request[s->out[i]];
        double remaining = remaining_ns(s, s->out[i], rate);

        r->ends_at = s->now + (uint64_t)remaining;
        if (r->load == TUTTI_LOAD_OUT) {
            s->soonest = earlier(s->soonest, r->ends_at);
            if (rule(s, TUTTI_RULE_ABANDON) && s->config.bad_is_recomputed &&
                s->config.policy == TUTTI_POLICY_AUTO && i >= from && i < from + LOOKED_AT &&
                hopeless(s, r, remaining)) {
                r->load = TUTTI_LOAD_ENDING;
                plan->abandon[plan->abandons++] = s->out[i];
            }
        }
    }
}

void sched_plan_loads(struct tutti_scheduler *s, struct tutti_sched_plan_out *plan)
{
    double rate[TUTTI_SCHED_MEMBERS] = {0};
    uint64_t window = window_of(s);

    for (uint32_t i = 0; i < s->config.members; i++)
        rate[i] = sched_rate(s, i, TUTTI_WAY_READ);
    abandon(s, rate, plan);
    promote(s);
    for (uint32_t i = 0; i < s->config.members; i++) {
        struct tutti_sched_member *m = &s->member[i];

        while (s->load_count[i] > 0 && plan->loads < TUTTI_SCHED_PLAN &&
               (double)sched_out(m) < rate[i] * (double)window)
            let_out(s, s->load_heap[i][0], rate, plan);
    }
    if (s->outs > 0 || s->first_queued != NONE)
        plan->wake_at = s->now + window;
}
