/* SPDX-License-Identifier: Apache-2.0 */
/*
 * step_model.c: least squares on a handful of sums.
 *
 * Responsible for learning and predicting. Must not know its serialised form (step_file.c).
 * A sample's row is its terms times their prior over its own time, its target 1: so all residuals
 * are relative, all unknowns near 1, and one ridge fits every platform. Decode-only steps, of which
 * there are thousands, have sums of their own, or they would wear away what prefills taught.
 */
#include "tutti/step_model.h"

#include <math.h>
#include <string.h>

#define RIDGE 0.0025    /* (noise 5% / prior wrong by 100%)^2 */
#define KEPT 0.99       /* of a kind's sums, at each of its samples */
#define HALF_LIFE 600e9 /* ns */
#define LEAST 0.02      /* of a scale: no term has a negative cost */
#define FIRST_SPREAD 0.5
#define BELOW 0.3 /* of a token's cost, what it costs below the knot */

enum { TOKENS = TUTTI_STEP_MODES, ABOVE, ATTENTION, CONTEXT, REQUESTS };
_Static_assert(REQUESTS == TUTTI_STEP_TERMS - 1, "a constant for each mode, and five");

static void terms_of(const struct tutti_step_model *m, const struct tutti_step *step,
                     double x[TUTTI_STEP_TERMS])
{
    for (uint32_t i = 0; i < TUTTI_STEP_MODES; i++)
        x[i] = i == step->mode;
    x[TOKENS] = step->new_tokens;
    x[ABOVE] = fmax(0, step->new_tokens - m->knot);
    x[ATTENTION] = step->attention;
    x[CONTEXT] = step->context;
    x[REQUESTS] = step->requests;
}

static uint32_t class_of(double tokens)
{
    int class = tokens >= 1 ? ilogb(tokens) : 0;

    return class < TUTTI_STEP_CLASSES ? (uint32_t) class : TUTTI_STEP_CLASSES - 1;
}

void tutti_step_prior(const struct tutti_platform *p, double prior[TUTTI_STEP_TERMS])
{
    for (uint32_t i = 0; i < TUTTI_STEP_MODES; i++)
        prior[i] = p->step_ns + 1e9 * p->weight_bytes / p->bandwidth;
    prior[TOKENS] = BELOW * 1e9 * 2 * p->parameters / p->flops;
    prior[ABOVE] = (1 - BELOW) * 1e9 * 2 * p->parameters / p->flops;
    prior[ATTENTION] = 1e9 * p->attention_flops / p->flops;
    prior[CONTEXT] = 1e9 * p->kv_bytes / p->bandwidth;
    prior[REQUESTS] = p->request_ns;
}

/** LDL' of the sums and the ridge, the terms in @held left out (a row of the ridge each). */
static void factorise(struct tutti_step_model *m, uint32_t held)
{
    double(*f)[TUTTI_STEP_TERMS] = m->factor;

    for (uint32_t i = 0; i < TUTTI_STEP_TERMS; i++)
        for (uint32_t k = 0; k <= i; k++) {
            bool out = held >> i & 1 || held >> k & 1;
            double sum = out ? 0 : m->sums[0].gram[i][k] + m->sums[1].gram[i][k];

            if (i == k)
                sum += RIDGE;
            for (uint32_t j = 0; j < k; j++)
                sum -= f[i][j] * f[k][j] * f[j][j];
            f[i][k] = i == k ? sum : sum / f[k][k];
        }
}

static void forward(const struct tutti_step_model *m, double v[TUTTI_STEP_TERMS])
{
    for (uint32_t i = 0; i < TUTTI_STEP_TERMS; i++)
        for (uint32_t k = 0; k < i; k++)
            v[i] -= m->factor[i][k] * v[k];
}

/** The scales that fit, those that would go below LEAST held there. */
static void solve(struct tutti_step_model *m)
{
    uint32_t held = 0, below;

    do {
        double *v = m->scale;

        factorise(m, held);
        for (uint32_t i = 0; i < TUTTI_STEP_TERMS; i++) {
            v[i] = RIDGE + m->sums[0].moment[i] + m->sums[1].moment[i];
            for (uint32_t k = 0; k < TUTTI_STEP_TERMS; k++) {
                uint32_t a = i > k ? i : k, b = i > k ? k : i;

                if (held >> k & 1)
                    v[i] -= LEAST * (m->sums[0].gram[a][b] + m->sums[1].gram[a][b]);
            }
            if (held >> i & 1)
                v[i] = LEAST * RIDGE;
        }
        forward(m, v);
        for (uint32_t i = TUTTI_STEP_TERMS; i-- > 0;) {
            v[i] /= m->factor[i][i];
            for (uint32_t k = i + 1; k < TUTTI_STEP_TERMS; k++)
                v[i] -= m->factor[k][i] * v[k];
        }
        below = held;
        for (uint32_t i = 0; i < TUTTI_STEP_TERMS; i++)
            if (v[i] < LEAST)
                below |= 1u << i;
    } while (below != held && (held = below) != 0);
    if (held)
        factorise(m, 0); /* the error is of all terms */
}

void tutti_step_model_init(struct tutti_step_model *m, const double prior[TUTTI_STEP_TERMS],
                           uint64_t now)
{
    memset(m, 0, sizeof(*m));
    for (uint32_t i = 0; i < TUTTI_STEP_TERMS; i++)
        m->prior[i] = isfinite(prior[i]) && prior[i] > 0 ? prior[i] : 1;
    m->knot = m->prior[0] / (m->prior[TOKENS] + m->prior[ABOVE]);
    m->spread = FIRST_SPREAD;
    m->spread_weight = 1;
    m->aged = now;
    solve(m);
}

static void fade(struct tutti_step_sums *s, double kept)
{
    for (uint32_t i = 0; i < TUTTI_STEP_TERMS; i++) {
        for (uint32_t k = 0; k <= i; k++)
            s->gram[i][k] *= kept;
        s->moment[i] *= kept;
    }
    s->weight *= kept;
}

void tutti_step_model_age(struct tutti_step_model *m, uint64_t now)
{
    double kept;

    if (now < m->aged + 1000000000) /* a second is nothing to what is aged here */
        return;
    kept = exp2(-(double)(now - m->aged) / HALF_LIFE);
    m->aged = now;
    fade(&m->sums[0], kept);
    fade(&m->sums[1], kept);
    for (uint32_t i = 0; i < TUTTI_STEP_CLASSES; i++)
        m->class_weight[i] *= kept;
    m->spread = FIRST_SPREAD + (m->spread - FIRST_SPREAD) * kept;
    solve(m);
}

static double linear(const struct tutti_step_model *m, const struct tutti_step *step)
{
    double x[TUTTI_STEP_TERMS], ns = 0;

    terms_of(m, step, x);
    for (uint32_t i = 0; i < TUTTI_STEP_TERMS; i++)
        ns += m->prior[i] * m->scale[i] * x[i];
    return ns;
}

/** Bias and spread of a size class, as far as it has been seen; else of all. */
static void residual(const struct tutti_step_model *m, uint32_t class, double *bias, double *spread)
{
    double w = m->class_weight[class];

    *bias = m->class_bias[class] * w / (w + 3);
    *spread = (m->class_spread[class] * w + 3 * m->spread) / (w + 3);
}

void tutti_step_model_learn(struct tutti_step_model *m, uint64_t now, const struct tutti_step *step,
                            uint64_t ns)
{
    double x[TUTTI_STEP_TERMS], size, before, off, weight;
    struct tutti_step_sums *s = &m->sums[step->attention > 0];
    uint32_t class = class_of(step->new_tokens);

    if (ns == 0 || step->mode >= TUTTI_STEP_MODES || !isfinite(step->attention) ||
        !isfinite(step->context) || !(step->new_tokens >= 0) || !(step->requests >= 0))
        return;
    before = linear(m, step);
    size = ((double)ns + before) / 2;
    off = ((double)ns - before) / size;
    /* An odd one (the engine was stopped, say) counts for less; a change comes again. */
    weight = fabs(off) > 3 * m->spread + 0.1 ? (3 * m->spread + 0.1) / fabs(off) : 1;

    terms_of(m, step, x);
    for (uint32_t i = 0; i < TUTTI_STEP_TERMS; i++)
        x[i] *= m->prior[i] / size;
    fade(s, KEPT);
    for (uint32_t i = 0; i < TUTTI_STEP_TERMS; i++) {
        for (uint32_t k = 0; k <= i; k++)
            s->gram[i][k] += weight * x[i] * x[k];
        s->moment[i] += weight * x[i] * (double)ns / size;
    }
    s->weight += weight;
    m->samples++;
    tutti_step_model_age(m, now);
    solve(m);

    m->spread_weight = m->spread_weight < 30 ? m->spread_weight + 1 : 30;
    off = (double)ns / linear(m, step) - 1;
    m->spread += (fmin(fabs(off), 2) - m->spread) / fmin(m->spread_weight, 20);
    m->class_weight[class] = fmin(m->class_weight[class] + 1, 20);
    m->class_bias[class] += (fmin(off, 1) - m->class_bias[class]) / m->class_weight[class];
    m->class_spread[class] += (fmin(fabs(off - m->class_bias[class]), 2) - m->class_spread[class]) /
                              m->class_weight[class];
}

/** The error of a sum of terms: what is left unexplained, and what is not known yet. */
static double error_of(const struct tutti_step_model *m, double x[TUTTI_STEP_TERMS], double ns,
                       double spread)
{
    double unknown = 0;

    for (uint32_t i = 0; i < TUTTI_STEP_TERMS; i++)
        x[i] *= m->prior[i] / ns;
    forward(m, x);
    for (uint32_t i = 0; i < TUTTI_STEP_TERMS; i++)
        unknown += x[i] * x[i] / m->factor[i][i];
    return sqrt(1.57 * spread * spread + RIDGE * unknown); /* (sigma / mean deviation)^2 = pi/2 */
}

struct tutti_estimate tutti_step_model_predict(const struct tutti_step_model *m,
                                               const struct tutti_step *step)
{
    struct tutti_estimate e;
    double x[TUTTI_STEP_TERMS], bias, spread;

    residual(m, class_of(step->new_tokens), &bias, &spread);
    e.ns = linear(m, step) * (1 + bias);
    terms_of(m, step, x);
    e.error = e.ns > 0 ? error_of(m, x, e.ns, spread) : 1;
    return e;
}

struct tutti_estimate tutti_step_model_work(const struct tutti_step_model *m, double tokens,
                                            double attention, double budget,
                                            const struct tutti_step *company)
{
    double each = fmax(1, budget - company->new_tokens);
    struct tutti_estimate e = {0, 0};
    double x[TUTTI_STEP_TERMS], chunks, bias, spread;
    struct tutti_step all;

    if (!(tokens > 0))
        return e;
    chunks = ceil(tokens / each);
    all = (struct tutti_step){
        .mode = company->mode < TUTTI_STEP_MODES ? company->mode : 0,
        .requests = chunks * (company->requests + 1),
        .new_tokens = tokens + chunks * company->new_tokens,
        .attention = attention,
        .context = chunks * company->context,
    };
    terms_of(m, &all, x);
    x[all.mode] = chunks;
    x[ABOVE] = chunks * fmax(0, all.new_tokens / chunks - m->knot);
    for (uint32_t i = 0; i < TUTTI_STEP_TERMS; i++)
        e.ns += m->prior[i] * m->scale[i] * x[i];
    residual(m, class_of(all.new_tokens / chunks), &bias, &spread);
    e.ns *= 1 + bias;
    e.error = error_of(m, x, e.ns, spread);
    return e;
}
