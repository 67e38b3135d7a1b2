/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random events, in any order and with any numbers, against the scheduler: nothing crashes (run
 * with sanitizers too), its state stays whole, no request is held beyond its bound, no store waits
 * beyond its age, counters add up, and every plan names only what may be named. Then two
 * monotonies, all else equal: more time until the engine gives tokens never means less loaded, a
 * slower drive never means less recomputed. And what a plan costs at 100 requests.
 *
 * Seen to fail with: the hold's time bound left out, `done` not caught up when a load ends early,
 * drops by age after twice the age, an allowance that is not taken from, a heap that does not sift
 * up.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "truth.h"
#include "tutti/scheduler.h"

uint64_t dice_state;

static struct tutti_scheduler sched;
static struct tutti_sched_plan_out plan;

enum { MOST = TUTTI_SCHED_REQUESTS + 8 };

struct seen {
    uint32_t handle;
    int load; /* 0 none, 1 asked for, 2 out */
    uint64_t held_since;
};

static struct seen request[MOST];
static uint32_t requests;
static uint64_t store_since[TUTTI_SCHED_STORES];
static int store_state[TUTTI_SCHED_STORES]; /* 0 free, 1 waits, 2 out */
static uint64_t now, bytes[TUTTI_SCHED_MEMBERS];

static void fail(const char *what)
{
    printf("failed: %s\n", what);
    exit(1);
}

static struct tutti_sched_config draw_config(void)
{
    struct tutti_sched_config c;
    struct truth t = truth_draw();

    tutti_sched_defaults(&c);
    c.members = dice_between(1, dice_chance(9000) ? 4 : TUTTI_SCHED_MEMBERS);
    c.layers = dice_between(1, 64);
    c.policy = dice_chance(7000) ? TUTTI_POLICY_AUTO : dice_below(3);
    c.block_tokens = 16;
    c.token_budget = dice_between(64, 8192);
    c.bad_is_recomputed = dice_chance(7000);
    c.max_held = dice_between(1, 8);
    c.max_hold_ns = dice_between(1, 1000) * UINT64_C(1000000);
    c.store_memory = dice_chance(5000) ? 0 : UINT64_C(1) << dice_between(20, 34);
    c.store_max_age_ns = dice_between(1, 100) * UINT64_C(100000000);
    if (dice_chance(5000)) {
        uint32_t off = (uint32_t)dice_draw();

        c.rules &= off;
    }
    for (uint32_t m = 0; m < c.members; m++) {
        double read = dice_log(0.05e9, 14e9);
        double mix = 0.3 + dice_share();

        c.member[m] = (struct tutti_member_prior){
            .bandwidth = {read, read / 2}, .latency_ns = 1e5, .mix = mix};
    }
    truth_guess(&t, c.step_prior);
    return c;
}

static struct tutti_ask draw_ask(void)
{
    struct tutti_ask a = {.bytes = bytes};

    a.tokens = dice_between(1, 100000);
    a.match = dice_below(a.tokens);
    a.local = dice_chance(5000) ? 0 : dice_below(a.match + 1);
    a.match = dice_chance(9000) ? a.match : a.local;
    for (uint32_t m = 0; m < sched.config.members; m++)
        bytes[m] = dice_chance(2000) ? 0 : (uint64_t)dice_log(1, 8e9);
    a.ahead_tokens = dice_below(50000);
    a.ahead_attention = a.ahead_tokens * dice_below(10000);
    a.behind = dice_below(50);
    a.in_step = dice_chance(2000);
    return a;
}

static void ask(struct seen *r)
{
    struct tutti_ask a = draw_ask();
    struct tutti_answer got;

    if (r->load)
        return;
    tutti_scheduler_ask(&sched, now, r->handle, &a, &got);
    if (got.verdict == TUTTI_NOT_YET) {
        r->held_since = r->held_since ? r->held_since : now;
        if (now - r->held_since > sched.config.max_hold_ns)
            fail("held beyond the bound");
        return;
    }
    if (r->held_since)
        r->held_since = UINT64_MAX / 2; /* once and no more */
    if (got.tokens > a.match && got.tokens > a.local)
        fail("more is loaded than there is");
    if (got.verdict != TUTTI_COMPUTE && got.tokens <= a.local)
        fail("a load of nothing");
    if (got.verdict != TUTTI_COMPUTE && dice_chance(9000))
        r->load = tutti_scheduler_load(&sched, now, r->handle, &a) == 0;
}

static struct seen *of(uint32_t handle)
{
    for (uint32_t i = 0; i < requests; i++)
        if (request[i].handle == handle)
            return &request[i];
    fail("a handle that nobody has");
    return NULL;
}

static void follow(void)
{
    tutti_scheduler_plan(&sched, now, &plan);
    for (uint32_t i = 0; i < plan.loads; i++) {
        if (of(plan.load[i])->load != 1)
            fail("a load is let out that does not wait");
        of(plan.load[i])->load = 2;
    }
    for (uint32_t i = 0; i < plan.abandons; i++)
        if (of(plan.abandon[i])->load != 2)
            fail("a load is abandoned that is not out");
    for (uint32_t i = 0; i < plan.stores; i++) {
        if (store_state[plan.store[i]] != 1)
            fail("a store is let out that does not wait");
        store_state[plan.store[i]] = 2;
    }
    for (uint32_t i = 0; i < plan.drops; i++) {
        if (store_state[plan.drop[i]] != 1)
            fail("a store is dropped that does not wait");
        store_state[plan.drop[i]] = 0;
    }
    for (uint32_t i = 0; i < TUTTI_SCHED_STORES && plan.drops < TUTTI_SCHED_PLAN; i++)
        if (store_state[i] == 1 && now >= store_since[i] + sched.config.store_max_age_ns)
            fail("a store waits beyond its age");
}

static void event(void)
{
    struct seen *r = requests ? &request[dice_below(requests)] : NULL;
    uint32_t member = dice_below(sched.config.members), some;
    struct tutti_step step = {.mode = dice_below(TUTTI_STEP_MODES)};

    switch (dice_below(14)) {
    case 0:
        if (requests < MOST) {
            request[requests] = (struct seen){tutti_scheduler_arrived(&sched, now, 0), 0, 0};
            if (request[requests].handle != TUTTI_SCHED_NONE)
                requests++;
            else if (requests < TUTTI_SCHED_REQUESTS)
                fail("no handle, and not all are taken");
        }
        break;
    case 1:
        if (r && dice_chance(4000)) {
            tutti_scheduler_gone(&sched, now, r->handle);
            *r = request[--requests];
        }
        break;
    case 2:
    case 3:
    case 4:
        if (r)
            ask(r);
        else
            ask(&(struct seen){TUTTI_SCHED_NONE, 0, 0});
        break;
    case 5:
    case 6:
        if (r && r->load == 2)
            tutti_scheduler_moved(&sched, now, r->handle, member,
                                  dice_draw() >> dice_between(30, 60));
        break;
    case 7:
        if (r && r->load) {
            bool well = dice_chance(8000);

            tutti_scheduler_loaded(&sched, now, r->handle, well, dice_below(100000));
            r->load = 0;
        }
        break;
    case 8:
        some = tutti_scheduler_store(&sched, now, member, 1 + (dice_draw() >> dice_between(38, 60)),
                                     dice_log(1e3, 1e9), dice_below(2 * TUTTI_SCHED_STORES));
        if (some != TUTTI_SCHED_NONE) {
            if (store_state[some] != 0)
                fail("a handle twice");
            store_state[some] = 1;
            store_since[some] = now;
        }
        break;
    case 9:
        some = dice_below(TUTTI_SCHED_STORES);
        if (store_state[some] == 2 || dice_chance(100)) {
            tutti_scheduler_stored(&sched, now, some);
            store_state[some] = store_state[some] == 2 ? 0 : store_state[some];
        } else if (tutti_scheduler_take_back(&sched, now, some)) {
            store_state[some] = 0;
        }
        break;
    case 10:
        step.requests = dice_below(100);
        step.new_tokens = dice_below(9000);
        step.attention = dice_chance(5000) ? 0 : dice_log(1, 1e9);
        step.context = dice_chance(5000) ? 0 : dice_log(1, 1e7);
        tutti_scheduler_step(&sched, now, &step, dice_below(100000), dice_below(1000000));
        tutti_scheduler_stepped(&sched, now, &step, dice_draw() >> dice_between(30, 63));
        break;
    case 11:
        tutti_member_model_moved(tutti_scheduler_member(&sched, member), now, dice_below(2),
                                 dice_draw() >> dice_between(20, 63),
                                 dice_draw() >> dice_between(30, 63));
        tutti_member_model_mixed(tutti_scheduler_member(&sched, member), now, dice_below(1u << 30),
                                 dice_below(1u << 30), dice_below(1u << 30));
        break;
    case 12:
        tutti_member_model_out(tutti_scheduler_member(&sched, member), dice_chance(5000) ? now : 0,
                               dice_below(1u << 30));
        break;
    default:
        now += dice_draw() >> dice_between(32, 63);
        follow();
    }
}

static struct tutti_sched_counters total;

/** That the rules were met at all. */
static void add(const struct tutti_sched_counters *c)
{
    for (uint32_t i = 0; i < TUTTI_WHYS; i++)
        total.why[i] += c->why[i];
    total.asked += c->asked;
    total.loaded += c->loaded;
    total.abandoned += c->abandoned;
    total.promoted += c->promoted;
    total.written += c->written;
    total.urgent += c->urgent;
    total.dropped_age += c->dropped_age;
    total.dropped_memory += c->dropped_memory;
    total.refused += c->refused;
    total.probes += c->probes;
}

static void run(uint64_t seed)
{
    struct tutti_sched_config c;
    const char *broken;

    dice_state = seed;
    c = draw_config();
    requests = 0;
    memset(store_state, 0, sizeof(store_state));
    now = 1 + (dice_draw() >> 20);
    if (tutti_scheduler_init(&sched, &c, now) != 0)
        fail("a configuration is refused");
    for (uint32_t i = 0; i < 3000; i++) {
        event();
        broken = i % 16 == 0 ? tutti_scheduler_check(&sched) : NULL;
        if (broken) {
            printf("seed %llu, event %u: ", (unsigned long long)seed, i);
            fail(broken);
        }
    }
    add(&sched.counters);
}

/** All else equal. */
static void monotone(uint64_t seed)
{
    struct tutti_sched_config c;
    uint32_t before = 0;
    struct tutti_ask a;

    dice_state = seed;
    c = draw_config();
    c.policy = TUTTI_POLICY_AUTO;
    c.rules &= ~(uint32_t)TUTTI_RULE_HOLD;
    tutti_scheduler_init(&sched, &c, 1);
    a = draw_ask();
    a.in_step = false;
    for (uint32_t i = 0; i < 40; i++) {
        uint32_t handle = tutti_scheduler_arrived(&sched, 1, 0);
        struct tutti_answer got;

        a.ahead_tokens = 500.0 * i;
        a.ahead_attention = 0;
        tutti_scheduler_ask(&sched, 1, handle, &a, &got);
        if (got.verdict != TUTTI_COMPUTE && got.tokens < before)
            fail("more slack, and less is loaded");
        if (got.verdict == TUTTI_COMPUTE && before > 0)
            fail("more slack, and nothing is loaded");
        before = got.verdict == TUTTI_COMPUTE ? 0 : got.tokens;
    }
    before = UINT32_MAX;
    for (uint32_t i = 0; i < 40; i++) {
        struct tutti_answer got;

        for (uint32_t m = 0; m < c.members; m++)
            c.member[m].bandwidth[TUTTI_WAY_READ] *= 0.8;
        tutti_scheduler_init(&sched, &c, 1);
        tutti_scheduler_ask(&sched, 1, tutti_scheduler_arrived(&sched, 1, 0), &a, &got);
        if (got.verdict == TUTTI_PRELOAD && before == TUTTI_COMPUTE)
            fail("a slower drive, and less is recomputed");
        before = got.verdict;
    }
}

static uint64_t clock_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/** 100 loads on four members, 1,000 who are told "not yet": what a plan and an answer take. */
static void cost(uint64_t window_ns)
{
    static uint64_t took[2001], asked[2001];
    struct tutti_sched_config c;
    struct tutti_answer got;
    struct tutti_ask a;

    dice_state = 5;
    c = draw_config();
    c.members = 4;
    c.rules = TUTTI_RULES;
    c.store_memory = 0;
    c.window_ns = window_ns;
    for (uint32_t m = 0; m < 4; m++)
        c.member[m] = (struct tutti_member_prior){{5e9, 2e9}, 1e5, 0.5};
    tutti_scheduler_init(&sched, &c, 1);
    for (uint32_t i = 0; i < 100; i++) {
        a = draw_ask();
        for (uint32_t m = 0; m < 4; m++)
            bytes[m] = 100000000 + 1000 * i;
        tutti_scheduler_load(&sched, 1, tutti_scheduler_arrived(&sched, 1, 0), &a);
        tutti_scheduler_store(&sched, 1, i % 4, 1 << 20, 1e6 + i, TUTTI_SCHED_NONE);
    }
    for (uint32_t i = 0; i < 2001; i++) {
        uint64_t from = clock_ns(), handle = i % 100;

        tutti_scheduler_plan(&sched, 1 + 50000 * i, &plan);
        took[i] = clock_ns() - from;
        tutti_scheduler_moved(&sched, 1 + 50000 * i, (uint32_t)handle, i % 4, 200000);
        from = clock_ns();
        a.in_step = false;
        tutti_scheduler_ask(&sched, 1 + 50000 * i, 50, &a, &got);
        asked[i] = clock_ns() - from;
    }
    qsort(took, 2001, sizeof(took[0]), by_size);
    qsort(asked, 2001, sizeof(asked[0]), by_size);
    printf(
        "a plan at 100 loads on 4 members: %.1f us in the median, %.1f at p99 (bar 10); an answer "
        "%.2f us; state %zu bytes\n",
        (double)took[1000] / 1e3, (double)took[1980] / 1e3, (double)asked[1000] / 1e3,
        sizeof(sched));
}

int main(int count, char **words)
{
    uint64_t seeds = count > 1 ? strtoull(words[1], NULL, 0) : 500;

    for (uint64_t seed = 1; seed <= seeds; seed++) {
        run(seed);
        monotone(seed);
    }
    printf("%llu seeds of 3000 events: whole\n", (unsigned long long)seeds);
    for (uint32_t i = 0; i < TUTTI_WHYS; i++) {
        printf("  answer %u: %llu", i, (unsigned long long)total.why[i]);
        if (total.why[i] == 0)
            fail("a reason was never met");
    }
    printf(
        "\n  of %llu; loads ended %llu, abandoned %llu, promoted %llu; stores written %llu (urgent "
        "%llu), dropped by age %llu, by memory %llu, refused %llu; probes %llu\n",
        (unsigned long long)total.asked, (unsigned long long)total.loaded,
        (unsigned long long)total.abandoned, (unsigned long long)total.promoted,
        (unsigned long long)total.written, (unsigned long long)total.urgent,
        (unsigned long long)total.dropped_age, (unsigned long long)total.dropped_memory,
        (unsigned long long)total.refused, (unsigned long long)total.probes);
    if (!total.loaded || !total.abandoned || !total.promoted || !total.urgent ||
        !total.dropped_age || !total.dropped_memory || !total.probes)
        fail("something never happened");
    cost(0);
    cost(UINT64_C(1000000000000));
    return 0;
}
