/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decide.c: load, compute, or not yet.
 *
 * Responsible for one request's answer from what both would take. Must not know the order of loads
 * beyond who is before a load of this size. Without a load its first token comes at W + P(k..n);
 * with one at max(W, L) + P(p..n), where W is until the engine could give it tokens. A prefill's
 * cost is concave in p and computation only goes upward, so a preload is of all or of nothing; of a
 * load in step, whose layers overlap with computing, a part can be best.
 */
#include "internal.h"

#include <math.h>
#include <string.h>

#define PARTS 16

struct costs {
    double wait;                     /* W */
    struct tutti_estimate all, rest; /* P(local..n), P(match..n) */
    double load;                     /* L, of all of the match */
    double ahead;                    /* of it, who is before */
    double crowd, queue;             /* n_c, n_d */
    struct tutti_step company;
};

static struct tutti_estimate prefill(const struct tutti_scheduler *s, const struct costs *c,
                                     double from, double to)
{
    double budget = s->config.token_budget;

    if (s->config.long_prefill && s->config.long_prefill < s->config.token_budget)
        budget = s->config.long_prefill + c->company.new_tokens;
    return tutti_step_model_prefill(&s->steps, from, to, budget, &c->company);
}

static void load_time(struct tutti_scheduler *s, const struct tutti_ask *a, struct costs *c)
{
    uint64_t most = 0;
    uint32_t class;

    for (uint32_t i = 0; i < s->config.members; i++)
        most = a->bytes[i] > most ? a->bytes[i] : most;
    class = rule(s, TUTTI_RULE_ORDER) ? sched_size_class(most) : TUTTI_SCHED_SIZES - 1;
    for (uint32_t i = 0; i < s->config.members; i++) {
        const struct tutti_sched_member *m = &s->member[i];
        double rate = sched_rate(s, i, TUTTI_WAY_READ);
        double ahead = (double)sched_out(m), ns;

        if (a->bytes[i] == 0)
            continue;
        for (uint32_t k = 0; k <= class; k++)
            ahead += m->queued[k];
        ns = (ahead + (double)a->bytes[i]) / rate + m->model.latency;
        if (ns > c->load) {
            c->load = ns;
            c->ahead = ahead / rate;
            c->queue = m->queued_loads;
        }
    }
}

static void weigh(struct tutti_scheduler *s, const struct tutti_ask *a, struct costs *c)
{
    memset(c, 0, sizeof(*c));
    /* Beside it run the decodes of the step under way; its prefills end before, and are in W. */
    c->company = s->step;
    if (s->step.attention > 0)
        c->company = (struct tutti_step){.mode = s->step.mode};
    c->wait = tutti_step_model_work(&s->steps, a->ahead_tokens, a->ahead_attention,
                                    s->config.token_budget, &c->company)
                  .ns;
    c->all = prefill(s, c, a->local, a->tokens);
    c->rest = prefill(s, c, a->match, a->tokens);
    load_time(s, a, c);
    if (rule(s, TUTTI_RULE_CROWD))
        c->crowd = a->behind;
    else
        c->queue = 0;
}

/** Layer-wise up to a share of the match: until its first token, and what it stalls the step. */
static double layerwise(const struct tutti_scheduler *s, const struct tutti_ask *a,
                        const struct costs *c, uint32_t part, double *stall, double *rest)
{
    double share = (double)part / PARTS, layers = s->config.layers;
    double load = c->ahead + (c->load - c->ahead) * share;
    double compute = prefill(s, c, a->local + (a->match - a->local) * share, a->tokens).ns;
    double end = fmax(c->ahead + (load - c->ahead) / layers + compute, load + compute / layers);

    *stall = end - compute;
    *rest = compute;
    return c->wait + end;
}

static uint32_t whole_blocks(const struct tutti_scheduler *s, double tokens)
{
    return (uint32_t)tokens / s->config.block_tokens * s->config.block_tokens;
}

static void choose(struct tutti_scheduler *s, const struct tutti_ask *a, const struct costs *c,
                   struct tutti_answer *out)
{
    double compute = c->wait + c->all.ns;
    double preload = fmax(c->wait, c->load + (s->running ? s->step_ns / 2 : 0)) + c->rest.ns;
    double own = c->load - c->ahead;
    double best = compute + c->crowd * c->all.ns;

    out->compute_ns = compute;
    out->load_ns = preload;
    out->error = c->all.error;
    out->verdict = TUTTI_COMPUTE;
    out->reason = TUTTI_WHY_COMPUTE_FASTER;
    out->tokens = a->local;
    if (preload + c->crowd * c->rest.ns + c->queue * own < best) {
        best = preload + c->crowd * c->rest.ns + c->queue * own;
        out->verdict = TUTTI_PRELOAD;
        out->reason = TUTTI_WHY_LOAD_FASTER;
        out->tokens = a->match;
    }
    for (uint32_t part = rule(s, TUTTI_RULE_PART) ? 1 : PARTS; a->in_step && part <= PARTS;
         part++) {
        double stall, rest, ns = layerwise(s, a, c, part, &stall, &rest);
        double cost = ns + c->crowd * rest + c->queue * own * part / PARTS;
        uint32_t to = whole_blocks(s, a->local + (a->match - a->local) * (double)part / PARTS);

        if (to <= a->local || cost >= best ||
            stall * (1 + out->error) > (double)s->config.max_stall_ns)
            continue;
        best = cost;
        out->verdict = TUTTI_LAYERWISE;
        out->reason = part == PARTS ? TUTTI_WHY_LOAD_FASTER : TUTTI_WHY_PART_FASTER;
        out->tokens = part == PARTS ? a->match : to;
        out->load_ns = ns;
    }
}

void sched_release_hold(struct tutti_scheduler *s, struct tutti_sched_request *r)
{
    if (r->held_since == 0)
        return;
    s->counters.held_ns += r->held_last - r->held_since;
    r->held_since = 0;
    r->hold_over = true;
    s->held--;
}

/**
 * Whether a prefill that would start now is held back for a load that ends sooner than it would:
 * once begun it takes each step's budget, and what was loaded waits for all of it.
 */
static bool hold(struct tutti_scheduler *s, struct tutti_sched_request *r, const struct costs *c,
                 double prefill_ns, struct tutti_answer *out)
{
    uint64_t most = s->config.max_hold_ns;
    double left;

    if (!rule(s, TUTTI_RULE_HOLD) || s->config.policy == TUTTI_POLICY_RECOMPUTE || r->hold_over ||
        r->load != TUTTI_LOAD_NONE)
        return false;
    if (s->config.long_prefill && 2 * s->config.long_prefill <= s->config.token_budget)
        return false; /* what is loaded finds room in the next step */
    left = s->soonest > s->now ? (double)(s->soonest - s->now) : 0;
    if (s->soonest == 0 || 2 * left > prefill_ns)
        return false;
    if (!s->running &&
        left > s->config.hold_idle_steps * prefill(s, c, 0, s->config.token_budget).ns)
        return false;
    if (r->held_since == 0) {
        if (s->held >= s->config.max_held || left > (double)most)
            return false;
        r->held_since = r->held_last = s->now;
        s->held++;
        s->counters.held++;
    }
    if (s->now >= r->held_since + most)
        return false;
    r->held_last = s->now;
    out->until = r->held_since + most;
    return true;
}

static void decide(struct tutti_scheduler *s, uint32_t request, const struct tutti_ask *a,
                   struct tutti_answer *out)
{
    struct tutti_ask ask = *a;
    struct costs c;

    out->tokens = a->local;
    if (request >= TUTTI_SCHED_REQUESTS || !s->request[request].known) {
        out->reason = TUTTI_WHY_FULL;
        return;
    }
    if (ask.match > s->request[request].cap)
        ask.match = s->request[request].cap;
    weigh(s, &ask, &c);
    out->compute_ns = c.wait + c.all.ns;
    out->error = c.all.error;
    if (a->match <= a->local)
        out->reason = TUTTI_WHY_NO_MATCH;
    else if (ask.match <= ask.local)
        out->reason = TUTTI_WHY_ABANDONED;
    else if (s->config.policy == TUTTI_POLICY_RECOMPUTE)
        out->reason = TUTTI_WHY_POLICY;
    else if (s->config.policy == TUTTI_POLICY_LOAD) {
        out->verdict = ask.in_step ? TUTTI_LAYERWISE : TUTTI_PRELOAD;
        out->reason = TUTTI_WHY_POLICY;
        out->tokens = ask.match;
    } else if (rule(s, TUTTI_RULE_OVERLOAD) && c.ahead > (double)s->config.max_load_wait_ns)
        out->reason = TUTTI_WHY_OVERLOAD;
    else
        choose(s, &ask, &c, out);
    s->request[request].predicted = c.load;
    if (out->verdict != TUTTI_PRELOAD && hold(s, &s->request[request], &c, c.all.ns, out)) {
        out->verdict = TUTTI_NOT_YET;
        out->reason = TUTTI_WHY_HELD;
        return;
    }
    sched_release_hold(s, &s->request[request]);
}

void tutti_scheduler_ask(struct tutti_scheduler *s, uint64_t now, uint32_t request,
                         const struct tutti_ask *ask, struct tutti_answer *answer)
{
    advance(s, now);
    memset(answer, 0, sizeof(*answer));
    decide(s, request, ask, answer);
    s->counters.asked++;
    s->counters.why[answer->reason]++;
}
