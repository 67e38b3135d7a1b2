/* SPDX-License-Identifier: Apache-2.0 */
/*
 * truth.h: what a step really takes in the simulated world.
 *
 * Not of the form that the product's model has: reading the weights and computing overlap (the
 * larger one counts, softened), attention has a price of its own, and each step has noise. Drawn by
 * seed: model and hardware over two orders of magnitude, a prior that is wrong by up to 2x a term.
 */
#ifndef TUTTI_TESTS_SLACK_TRUTH_H
#define TUTTI_TESTS_SLACK_TRUTH_H

#include <math.h>

#include "../sim/dice.h"
#include "tutti/step_model.h"

struct truth {
    struct tutti_platform platform; /* as it is */
    double noise;                   /* relative, of each step */
    double slower;                  /* drift: a factor on all */
};

/** Uniform in 0 .. 1, without 1. */
static inline double dice_share(void)
{
    return (double)(dice_draw() >> 11) * 0x1p-53;
}

/** Between two values, uniform in their logarithm. */
static inline double dice_log(double from, double to)
{
    return from * exp(dice_share() * log(to / from));
}

/** About normal, variance 1. */
static inline double dice_normal(void)
{
    double sum = -6;

    for (int i = 0; i < 12; i++)
        sum += dice_share();
    return sum;
}

static inline struct truth truth_draw(void)
{
    struct truth t = {.slower = 1};
    double size = dice_log(1e9, 70e9);

    t.platform.parameters = size;
    t.platform.weight_bytes = 2 * size;
    t.platform.attention_flops = 4 * 32 * dice_log(2048, 8192);
    t.platform.kv_bytes = dice_log(32e3, 256e3);
    t.platform.flops = dice_log(60e12, 600e12);
    t.platform.bandwidth = dice_log(0.6e12, 3e12);
    t.platform.step_ns = dice_log(0.3e6, 3e6);
    t.platform.request_ns = dice_log(3e3, 30e3);
    t.noise = dice_log(0.01, 0.05);
    return t;
}

/** What an operator would write down of it: each figure wrong by up to 2x. */
static inline void truth_guess(const struct truth *t, double prior[TUTTI_STEP_TERMS])
{
    tutti_step_prior(&t->platform, prior);
    for (uint32_t i = 0; i < TUTTI_STEP_TERMS; i++)
        prior[i] *= dice_log(0.5, 2);
}

static inline double truth_ns(const struct truth *t, const struct tutti_step *s)
{
    const struct tutti_platform *p = &t->platform;
    double read = (p->weight_bytes + p->kv_bytes * s->context) / p->bandwidth;
    double compute = 2 * p->parameters * s->new_tokens / p->flops;
    double attention = p->attention_flops * s->attention / p->flops;
    double overlapped = pow(pow(read, 4) + pow(compute, 4), 0.25);
    double ns = p->step_ns + p->request_ns * s->requests + 1e9 * (overlapped + attention);

    return ns * t->slower;
}

static inline double truth_sample(const struct truth *t, const struct tutti_step *s)
{
    return truth_ns(t, s) * exp(t->noise * dice_normal());
}

#endif
