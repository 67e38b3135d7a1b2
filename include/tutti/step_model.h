/* SPDX-License-Identifier: Apache-2.0 */
/*
 * step_model.h: how long an engine step takes, learnt while serving.
 *
 * Responsible for a step's time from its composition, with an error beside each prediction, and
 * for keeping what was learnt. Must not know requests, drives or any clock but the one handed in.
 *
 * t = theta . (1 of its mode, Q, Q above a knot, A, D, n). The knot is where the prior has
 * computing new tokens outlast reading the weights: below it they are nearly free. For a prefill of
 * k..n tokens A telescopes to (n^2 - k^2) / 2 whatever its chunks: a whole prefill is one dot
 * product. theta is fitted as a multiple of its prior by regularised least squares on relative
 * errors, from sums that forget; so with no samples, or old ones, the answer is the prior.
 */
#ifndef TUTTI_STEP_MODEL_H
#define TUTTI_STEP_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TUTTI_STEP_MODES 3         /* graph modes and attention back-ends told apart */
#define TUTTI_STEP_TERMS 8         /* a constant for each mode, and the five above */
#define TUTTI_STEP_CLASSES 24      /* by the logarithm of new tokens */
#define TUTTI_STEP_FILE_BYTES 1424 /* of the serialised form */

/**
 * struct tutti_step - what a step computes
 * @mode: below TUTTI_STEP_MODES
 * @requests: how many it carries
 * @new_tokens: Q, of all requests
 * @attention: A, the sum of q (k + q/2) over its prefills (q new tokens behind k)
 * @context: D, the sum of the contexts of its decodes
 */
struct tutti_step {
    uint32_t mode;
    double requests;
    double new_tokens;
    double attention;
    double context;
};

/** A time in ns, and its expected relative error (one standard deviation). */
struct tutti_estimate {
    double ns;
    double error;
};

/**
 * struct tutti_platform - what a prior is made of
 * @parameters: of the model, active ones; @weight_bytes: what a step reads of them
 * @attention_flops: per token and token of context: 4 x layers x heads x head size
 * @kv_bytes: per token of context
 * @flops, @bandwidth: per second, reached and not peak
 * @step_ns: of the engine, per step; @request_ns: per request
 */
struct tutti_platform {
    double parameters;
    double weight_bytes;
    double attention_flops;
    double kv_bytes;
    double flops;
    double bandwidth;
    double step_ns;
    double request_ns;
};

/** Sums over past steps of one kind; each kind forgets by its own samples only. */
struct tutti_step_sums {
    double gram[TUTTI_STEP_TERMS][TUTTI_STEP_TERMS];
    double moment[TUTTI_STEP_TERMS];
    double weight;
};

/**
 * struct tutti_step_model - private fields
 * @prior: ns per unit of each term; @scale: what was learnt, as a multiple of it
 * @factor: LDL' of the regularised sums, for the error
 */
struct tutti_step_model {
    double prior[TUTTI_STEP_TERMS];
    double scale[TUTTI_STEP_TERMS];
    double knot; /* tokens */
    double factor[TUTTI_STEP_TERMS][TUTTI_STEP_TERMS];
    struct tutti_step_sums sums[2]; /* steps of decodes only; with a prefill */
    double spread, spread_weight;   /* mean absolute relative residual */
    double class_weight[TUTTI_STEP_CLASSES];
    double class_bias[TUTTI_STEP_CLASSES];
    double class_spread[TUTTI_STEP_CLASSES];
    uint64_t aged;
    uint64_t samples;
};

/** A prior from FLOPs and bandwidth. @prior: ns per unit of each term. */
void tutti_step_prior(const struct tutti_platform *platform, double prior[TUTTI_STEP_TERMS]);

/** Start with a prior alone. @prior: each above 0 and finite; others count as 1 ns. */
void tutti_step_model_init(struct tutti_step_model *model, const double prior[TUTTI_STEP_TERMS],
                           uint64_t now);

/** A step took so long. Times of 0 and compositions that are not finite are left out. */
void tutti_step_model_learn(struct tutti_step_model *model, uint64_t now,
                            const struct tutti_step *step, uint64_t ns);

/** Let what was learnt grow old; half of it counts after ten minutes. Once a plan. */
void tutti_step_model_age(struct tutti_step_model *model, uint64_t now);

struct tutti_estimate tutti_step_model_predict(const struct tutti_step_model *model,
                                               const struct tutti_step *step);

/**
 * tutti_step_model_work() - prefills of so many tokens in all, in chunks
 * @attention: their A; of one prefill from k to n: (n^2 - k^2) / 2
 * @budget: tokens a step; @company: of each of its steps: the decodes beside it
 *
 * The decodes' tokens leave the budget; at least one token a step is computed.
 */
struct tutti_estimate tutti_step_model_work(const struct tutti_step_model *model, double tokens,
                                            double attention, double budget,
                                            const struct tutti_step *company);

/** One prefill of tokens @from to @to. */
static inline struct tutti_estimate tutti_step_model_prefill(const struct tutti_step_model *model,
                                                             double from, double to, double budget,
                                                             const struct tutti_step *company)
{
    return tutti_step_model_work(model, to - from, (to * to - from * from) / 2, budget, company);
}

/**
 * tutti_step_model_save() - serialise
 * @key: digest of what it belongs to: identity, hardware, engine version, back-end, parallel sizes
 * @bytes: TUTTI_STEP_FILE_BYTES of room
 */
void tutti_step_model_save(const struct tutti_step_model *model, const uint8_t key[32],
                           uint8_t *bytes);

/**
 * tutti_step_model_load() - take up what was kept
 *
 * Return: true if taken up; a foreign, short or corrupt one leaves the model as it is (the prior).
 * A clock does not go over restarts: what is taken up counts as half a half-life old.
 */
bool tutti_step_model_load(struct tutti_step_model *model, const uint8_t key[32],
                           const uint8_t *bytes, size_t count);

#ifdef __cplusplus
}
#endif
#endif
