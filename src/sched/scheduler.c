/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scheduler.c: the object's life, what it hears of the engine, and the plan as a whole.
 *
 * Responsible for handles and for keeping the models. Must not know how anything is decided.
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <string.h>

/* ns without a read after which 1 MiB is: below 1% of any drive; and of one that does less than
 * half of its usual. */
#define PROBE_AFTER UINT64_C(2000000000)
#define PROBE_SLOW UINT64_C(250000000)

void tutti_sched_defaults(struct tutti_sched_config *c)
{
    memset(c, 0, sizeof(*c));
    c->rules = TUTTI_RULES;
    c->max_held = 16;
    c->max_hold_ns = UINT64_C(500000000);
    c->hold_idle_steps = 2.5;
    c->max_load_wait_ns = UINT64_C(2000000000);
    c->load_age_ns = UINT64_C(1000000000);
    c->max_stall_ns = UINT64_C(20000000);
    c->store_max_age_ns = UINT64_C(30000000000);
    c->store_memory = UINT64_C(4) << 30;
}

int tutti_scheduler_init(struct tutti_scheduler *s, const struct tutti_sched_config *config,
                         uint64_t now)
{
    if (config->members == 0 || config->members > TUTTI_SCHED_MEMBERS || config->layers == 0 ||
        config->block_tokens == 0 || config->token_budget == 0)
        return -EINVAL;
    memset(s, 0, sizeof(*s));
    s->config = *config;
    s->now = now;
    tutti_step_model_init(&s->steps, config->step_prior, now);
    for (uint32_t m = 0; m < config->members; m++)
        tutti_member_model_init(&s->member[m].model, &config->member[m]);
    for (uint32_t i = 0; i < TUTTI_SCHED_REQUESTS; i++)
        s->request[i].next = i + 1 < TUTTI_SCHED_REQUESTS ? i + 1 : NONE;
    s->first_queued = s->last_queued = NONE;
    sched_stores_init(s);
    return 0;
}

double sched_rate(struct tutti_scheduler *s, uint32_t member, enum tutti_way way)
{
    struct tutti_member_model *m = &s->member[member].model;
    bool lateness = rule(s, TUTTI_RULE_LATENESS);

    return rule(s, TUTTI_RULE_HYSTERESIS) ? tutti_member_model_tell(m, s->now, way, lateness)
                                          : tutti_member_model_rate(m, s->now, way, lateness);
}

uint32_t sched_size_class(uint64_t bytes)
{
    return bytes == 0 ? 0 : (uint32_t)(63 - __builtin_clzll(bytes)) % TUTTI_SCHED_SIZES;
}

/* The engine. */

void tutti_scheduler_step(struct tutti_scheduler *s, uint64_t now, const struct tutti_step *step,
                          double backlog_tokens, double backlog_attention)
{
    struct tutti_step company = *step;

    advance(s, now);
    tutti_step_model_age(&s->steps, s->now);
    s->step = *step;
    s->running = step->requests > 0;
    s->step_ns = s->running ? tutti_step_model_predict(&s->steps, step).ns : 0;
    company.new_tokens = company.attention > 0 ? 0 : company.new_tokens;
    s->backlog_ns = tutti_step_model_work(&s->steps, backlog_tokens, backlog_attention,
                                          s->config.token_budget, &company)
                        .ns;
}

void tutti_scheduler_stepped(struct tutti_scheduler *s, uint64_t now, const struct tutti_step *step,
                             uint64_t ns)
{
    advance(s, now);
    tutti_step_model_learn(&s->steps, s->now, step, ns);
}

/* Requests. */

uint32_t tutti_scheduler_arrived(struct tutti_scheduler *s, uint64_t now, int32_t priority)
{
    uint32_t handle = s->free_request;
    struct tutti_sched_request *r;

    advance(s, now);
    if (handle == NONE)
        return NONE;
    r = &s->request[handle];
    s->free_request = r->next;
    *r = (struct tutti_sched_request){.known = true, .cap = UINT32_MAX, .priority = priority};
    r->next = r->prev = NONE;
    return handle;
}

void tutti_scheduler_gone(struct tutti_scheduler *s, uint64_t now, uint32_t request)
{
    struct tutti_sched_request *r;

    advance(s, now);
    if (request >= TUTTI_SCHED_REQUESTS || !s->request[request].known)
        return;
    r = &s->request[request];
    sched_release_hold(s, r);
    if (r->load != TUTTI_LOAD_NONE) {
        s->counters.cancelled++;
        sched_load_end(s, request);
    }
    r->known = false;
    r->next = s->free_request;
    s->free_request = request;
}

/* The plan. */

static void plan_probes(struct tutti_scheduler *s, struct tutti_sched_plan_out *plan)
{
    for (uint32_t i = 0; i < s->config.members; i++) {
        struct tutti_sched_member *m = &s->member[i];
        bool slow = 2 * tutti_member_model_rate(&m->model, s->now, TUTTI_WAY_READ, true) <
                    m->model.usual[TUTTI_WAY_READ];
        uint64_t after = slow ? PROBE_SLOW : PROBE_AFTER;

        if (!tutti_member_model_stale(&m->model, s->now, after) || sched_out(m) > 0 ||
            m->model.late_since != 0 || s->now < m->probed_at + after)
            continue;
        m->probed_at = s->now;
        plan->probe |= 1u << i;
        s->counters.probes++;
    }
}

void tutti_scheduler_plan(struct tutti_scheduler *s, uint64_t now,
                          struct tutti_sched_plan_out *plan)
{
    advance(s, now);
    plan->loads = plan->abandons = plan->stores = plan->drops = 0;
    plan->probe = 0;
    plan->wake_at = 0;
    sched_plan_loads(s, plan);
    sched_plan_stores(s, plan);
    if (rule(s, TUTTI_RULE_PROBE))
        plan_probes(s, plan);
    if (plan->loads == TUTTI_SCHED_PLAN || plan->abandons == TUTTI_SCHED_PLAN ||
        plan->stores == TUTTI_SCHED_PLAN || plan->drops == TUTTI_SCHED_PLAN)
        plan->wake_at = s->now;
}
