/* SPDX-License-Identifier: Apache-2.0 */
/* world.c: see world.h. One loop: schedule, let drives and plans run until the step ends, count. */
#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EMPTY_STEP 55e3 /* ns; vLLM's, seen: 18,262 a second */

int world_by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double world_mean(const double *values, uint32_t count)
{
    double sum = 0;

    for (uint32_t i = 0; i < count; i++)
        sum += values[i];
    return count ? sum / count : 0;
}

void world_init(struct world *w, uint64_t seed, uint32_t members)
{
    double read;

    memset(w, 0, sizeof(*w));
    dice_state = seed;
    w->truth = truth_draw();
    w->kv_bytes = w->truth.platform.kv_bytes;
    w->step_floor = EMPTY_STEP;
    tutti_sched_defaults(&w->config);
    w->config.members = members;
    w->config.layers = 32;
    w->config.block_tokens = 16;
    w->config.token_budget = 2048;
    w->config.bad_is_recomputed = true;
    truth_guess(&w->truth, w->config.step_prior);
    read = dice_log(2e9, 14e9);
    for (uint32_t m = 0; m < members; m++) {
        w->drive[m].rate[0] = read / 1e9;
        w->drive[m].rate[1] = read / 2e9;
        w->drive[m].latency = 80e3;
        w->drive[m].mix = 0.6;
    }
}

void world_begin(struct world *w)
{
    for (uint32_t m = 0; m < w->config.members; m++) {
        struct tutti_member_prior *p = &w->config.member[m];

        if (p->bandwidth[0] > 0)
            continue;
        p->bandwidth[0] = w->drive[m].rate[0] * 1e9;
        p->bandwidth[1] = w->drive[m].rate[1] * 1e9;
        p->latency_ns = w->drive[m].latency;
        p->mix = w->drive[m].mix;
    }
    w->now = 1;
    if (tutti_scheduler_init(&w->sched, &w->config, 1) != 0)
        abort();
}

struct world_request *world_add(struct world *w, double at, uint32_t tokens, uint32_t match,
                                uint32_t answer)
{
    struct world_request *r = &w->request[w->requests++];

    if (w->requests > WORLD_REQUESTS)
        abort();
    *r = (struct world_request){.arrives = (uint64_t)at + 1,
                                .tokens = tokens,
                                .match = match,
                                .answer = answer,
                                .handle = TUTTI_SCHED_NONE};
    return r;
}

/* Drives. */

static void member_sample(struct world *w, uint32_t m, bool all)
{
    struct drive *d = &w->drive[m];
    struct tutti_member_model *model = tutti_scheduler_member(&w->sched, m);
    const struct drive_queue *reads = &d->queue[0];
    uint64_t now = (uint64_t)w->now;

    for (int way = 0; way < 2; way++)
        if (d->alone_ns[way] > (all ? 0 : 1e6)) {
            tutti_member_model_moved(model, now, (enum tutti_way)way, (uint64_t)d->alone_bytes[way],
                                     (uint64_t)d->alone_ns[way] + (uint64_t)model->latency);
            d->alone_bytes[way] = d->alone_ns[way] = 0;
        }
    if (d->mixed_ns > 5e6) {
        tutti_member_model_mixed(model, now, (uint64_t)d->mixed_bytes[0],
                                 (uint64_t)d->mixed_bytes[1], (uint64_t)d->mixed_ns);
        d->mixed_bytes[0] = d->mixed_bytes[1] = d->mixed_ns = 0;
    }
    if (reads->count == 0) {
        tutti_member_model_out(model, 0, 0);
    } else {
        const struct drive_job *j = &reads->job[reads->first % DRIVE_JOBS];

        tutti_member_model_out(model, (uint64_t)j->began, 1048576);
    }
}

enum { PROBE_TAG = 1u << 30 };

static struct world_request *by_handle(struct world *w, uint32_t handle)
{
    for (uint32_t i = w->done; i < w->arrived; i++)
        if (w->request[i].handle == handle)
            return &w->request[i];
    abort();
}

static void load_over(struct world *w, struct world_request *r, bool well)
{
    r->load_ended = w->now;
    r->finished = well;
    tutti_scheduler_loaded(&w->sched, (uint64_t)w->now, r->handle, well, 0);
    if (!well) {
        r->state = WAITING;
        r->loads = false;
        for (uint32_t m = 0; m < w->config.members; m++)
            drive_cancel(&w->drive[m], 0, (uint32_t)(r - w->request));
    }
}

static void drive_event(struct world *w, uint32_t m, const struct drive_event *e)
{
    if (e->way == 1) {
        if (e->over) {
            w->store_worst = fmax(w->store_worst, w->now - w->store_since[e->tag]);
            tutti_scheduler_stored(&w->sched, (uint64_t)w->now, e->tag);
        }
        return;
    }
    if (e->tag == PROBE_TAG)
        return;
    tutti_scheduler_moved(&w->sched, (uint64_t)w->now, w->request[e->tag].handle, m,
                          (uint64_t)e->bytes);
    if (e->over && --w->request[e->tag].parts == 0)
        load_over(w, &w->request[e->tag], true);
}

static void part_bytes(const struct world *w, const struct world_request *r, uint64_t *bytes)
{
    double all = w->kv_bytes * (r->match - r->computed);

    for (uint32_t m = 0; m < w->config.members; m++)
        bytes[m] = (uint64_t)(all / w->config.members);
}

static void make_stores(struct world *w)
{
    struct world_stores *s = &w->stores;

    while (s->every > 0 && s->next <= w->now) {
        uint32_t handle;

        s->next += s->every;
        if (++s->member >= w->config.members)
            s->member = 0;
        handle = tutti_scheduler_store(&w->sched, (uint64_t)w->now, s->member, (uint64_t)s->bytes,
                                       1e6 * (1 + dice_share()), TUTTI_SCHED_NONE);
        s->made++;
        if (handle == TUTTI_SCHED_NONE)
            continue;
        w->store_since[handle] = w->now;
        w->store_member[handle] = s->member;
    }
}

static void follow_plan(struct world *w)
{
    struct tutti_sched_plan_out *p = &w->plan;

    tutti_scheduler_plan(&w->sched, (uint64_t)w->now, p);
    for (uint32_t i = 0; i < p->loads; i++) {
        struct world_request *r = by_handle(w, p->load[i]);
        uint64_t bytes[WORLD_MEMBERS] = {0};

        part_bytes(w, r, bytes);
        r->load_began = w->now;
        r->parts = w->config.members;
        for (uint32_t m = 0; m < w->config.members; m++)
            drive_add(&w->drive[m], 0, (uint32_t)(r - w->request), (double)bytes[m]);
    }
    for (uint32_t i = 0; i < p->abandons; i++)
        load_over(w, by_handle(w, p->abandon[i]), false);
    for (uint32_t i = 0; i < p->stores; i++)
        drive_add(&w->drive[w->store_member[p->store[i]]], 1, p->store[i], w->stores.bytes);
    for (uint32_t m = 0; m < w->config.members; m++)
        if (p->probe >> m & 1)
            drive_add(&w->drive[m], 0, PROBE_TAG, 1048576);
    w->plan_at = p->wake_at ? fmax((double)p->wake_at, w->now + 1e3) : INFINITY;
}

/** Let the disks, the workers' plans and the stores run until then. @wake: until a load is over. */
static void let_run(struct world *w, double until, bool wake)
{
    uint32_t over = 0;

    while (w->now < until && !(wake && over)) {
        double to = fmin(until, fmax(w->plan_at, w->now + 1));
        struct drive_event e;
        uint32_t who = 0;

        for (uint32_t m = 0; m < w->config.members; m++) {
            double next = drive_next(&w->drive[m]);

            if (next > 0 && next < to) {
                to = next;
                who = m;
            }
        }
        if (w->stores.every > 0)
            to = fmin(to, fmax(w->stores.next, w->now + 1));
        for (uint32_t k = 0; k < w->config.members; k++) {
            uint32_t m = (who + k) % w->config.members;

            while (drive_run(&w->drive[m], to, &e)) {
                w->now = fmax(w->now, w->drive[m].now);
                drive_event(w, m, &e);
                over += e.way == 0 && e.over;
                if (e.over)
                    w->plan_at = w->now; /* the worker looks when something ended */
            }
        }
        w->now = fmax(w->now, to);
        for (uint32_t m = 0; m < w->config.members; m++)
            member_sample(w, m, w->drive[m].queue[0].count + w->drive[m].queue[1].count == 0);
        make_stores(w);
        if (w->plan_at <= w->now)
            follow_plan(w);
    }
}

/* The engine. */

static void arrive(struct world *w)
{
    while (w->arrived < w->requests && (double)w->request[w->arrived].arrives <= w->now) {
        struct world_request *r = &w->request[w->arrived++];

        r->state = WAITING;
        r->handle = tutti_scheduler_arrived(&w->sched, r->arrives, r->priority);
        if (r->handle == TUTTI_SCHED_NONE)
            abort();
    }
    while (w->done < w->arrived && w->request[w->done].state == DONE)
        w->done++;
}

/** Prefill work before a request in the engine's order: of who runs, and who waits before it. */
static void ahead_of(const struct world *w, const struct world_request *r, struct tutti_ask *a)
{
    for (uint32_t i = w->done; i < w->arrived; i++) {
        const struct world_request *o = &w->request[i];
        double k = o->computed;

        if (o == r || o->state == DONE || o->computed >= o->tokens)
            continue;
        if (o->state == RUNNING || (o < r && o->state != LOADING)) {
            a->ahead_tokens += o->tokens - k;
            a->ahead_attention += ((double)o->tokens * o->tokens - k * k) / 2;
        } else if (o > r) {
            a->behind++;
        }
    }
}

static enum tutti_verdict answer(struct world *w, struct world_request *r)
{
    uint64_t bytes[WORLD_MEMBERS];
    struct tutti_ask a = {
        .local = r->computed, .match = r->match, .tokens = r->tokens, .bytes = bytes};
    struct tutti_answer got;

    if (r->match <= r->computed)
        a.match = r->computed;
    part_bytes(w, r, bytes);
    ahead_of(w, r, &a);
    tutti_scheduler_ask(&w->sched, (uint64_t)w->now, r->handle, &a, &got);
    if (w->threshold > 0 && a.match > a.local && got.verdict != TUTTI_NOT_YET)
        got.verdict = a.match - a.local >= w->threshold ? TUTTI_PRELOAD : TUTTI_COMPUTE;
    if (got.verdict == TUTTI_PRELOAD &&
        tutti_scheduler_load(&w->sched, (uint64_t)w->now, r->handle, &a) != 0)
        got.verdict = TUTTI_COMPUTE;
    return got.verdict;
}

static uint32_t give(struct world_request *r, uint32_t budget, struct tutti_step *step)
{
    uint32_t q = r->tokens - r->computed;

    step->requests++;
    if (q == 0) {
        step->new_tokens++;
        step->context += r->tokens + r->generated;
        return 1;
    }
    q = q < budget ? q : budget;
    step->new_tokens += q;
    step->attention += (double)q * (r->computed + q / 2.0);
    return q;
}

/** Who gets how many tokens. Return: requests in the step. */
static uint32_t schedule(struct world *w, uint32_t *who, uint32_t *tokens, struct tutti_step *step)
{
    uint32_t budget = w->config.token_budget, n = 0;

    for (uint32_t i = w->done; i < w->arrived && budget > 0; i++)
        if (w->request[i].state == RUNNING) {
            who[n] = i;
            tokens[n] = give(&w->request[i], budget, step);
            budget -= tokens[n++];
        }
    for (uint32_t i = w->done; i < w->arrived && budget > 0; i++) {
        struct world_request *r = &w->request[i];

        if (r->state == LOADING && r->finished) {
            r->computed = r->match;
            r->state = LOADED;
        }
        if (r->state != WAITING && r->state != LOADED)
            continue;
        if (r->state == WAITING) {
            enum tutti_verdict v = answer(w, r);

            if (r->asked == 0)
                r->asked = w->now;
            if (v == TUTTI_PRELOAD) {
                r->state = LOADING;
                r->loads = true;
            }
            if (v != TUTTI_COMPUTE)
                continue;
        }
        r->state = RUNNING;
        who[n] = i;
        tokens[n] = give(r, budget, step);
        budget -= tokens[n++];
    }
    return n;
}

static void step_over(struct world *w, const uint32_t *who, const uint32_t *tokens, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        struct world_request *r = &w->request[who[i]];

        if (r->computed < r->tokens) {
            r->computed += tokens[i];
            if (r->computed < r->tokens)
                continue;
            r->first = w->now;
        } else {
            r->generated++;
        }
        if (r->generated >= r->answer) {
            r->state = DONE;
            tutti_scheduler_gone(&w->sched, (uint64_t)w->now, r->handle);
            r->handle = TUTTI_SCHED_NONE;
        }
    }
}

void world_run(struct world *w)
{
    static uint32_t who[WORLD_REQUESTS], tokens[WORLD_REQUESTS];

    w->plan_at = w->now;
    while (w->done < w->requests && (w->until == 0 || w->now < w->until)) {
        struct tutti_step step = {.mode = 0};
        struct tutti_ask backlog = {.local = 0};
        double ns, began;
        uint32_t n;

        arrive(w);
        n = schedule(w, who, tokens, &step);
        ahead_of(w, NULL, &backlog);
        tutti_scheduler_step(&w->sched, (uint64_t)w->now, &step, backlog.ahead_tokens,
                             backlog.ahead_attention);
        follow_plan(w);
        if (n == 0) {
            bool all_here = w->arrived == w->requests;
            double next = all_here ? INFINITY : (double)w->request[w->arrived].arrives;
            double most = w->now + 1e8;
            bool waiting = false;

            for (uint32_t i = w->done; i < w->arrived; i++)
                waiting = waiting || w->request[i].state == WAITING;
            w->empty++;
            let_run(w, fmax(w->now + w->step_floor, fmin(next, waiting ? 0 : most)), !waiting);
            continue;
        }
        w->steps++;
        began = w->now;
        ns = truth_sample(&w->truth, &step);
        let_run(w, w->now + ns, false);
        tutti_scheduler_stepped(&w->sched, (uint64_t)w->now, &step, (uint64_t)(w->now - began));
        step_over(w, who, tokens, n);
        arrive(w);
    }
}

uint32_t world_ttft(const struct world *w, double *ttft)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < w->requests; i++)
        if (w->request[i].first > 0)
            ttft[n++] = w->request[i].first - (double)w->request[i].arrives;
    qsort(ttft, n, sizeof(ttft[0]), world_by_size);
    return n;
}
