/* SPDX-License-Identifier: Apache-2.0 */
/*
 * member_model.c: rates as sums of bytes over sums of time, recent ones only.
 *
 * Responsible for what member_model.h promises. A rate is bytes over the time that they took, so
 * long samples count for more; a sample that is off by more than 2x is odd, and two odd ones in a
 * row (or 20 ms of one) are a change: what was before then counts no more.
 */
#include "tutti/member_model.h"

#include <math.h>
#include <string.h>

#define MEMORY 250e6            /* ns of busy time that a rate is taken over */
#define HALF_LIFE 3e9           /* ns after which an estimate is half way back to the usual */
#define NEW UINT64_C(500000000) /* ns in which a sample does not age */
#define MIX_HALF_LIFE 60e9
#define USUAL 600e9    /* ns of busy time that the usual is taken over */
#define LATE 2.0       /* times what was expected */
#define LATE_LEAST 5e6 /* ns; what a report of progress may take to come */
#define MIX_ON 0.93
#define MIX_OFF 0.87

void tutti_member_model_init(struct tutti_member_model *m, const struct tutti_member_prior *prior)
{
    memset(m, 0, sizeof(*m));
    for (uint32_t way = 0; way < TUTTI_WAYS; way++) {
        m->usual[way] = prior->bandwidth[way] > 0 ? prior->bandwidth[way] / 1e9 : 1;
        m->told[way] = m->usual[way];
        m->spread[way] = 0.5;
    }
    m->latency = prior->latency_ns > 0 ? prior->latency_ns : 0;
    m->usual_mix = prior->mix > 0 ? prior->mix : 0.6;
    m->mixes = m->usual_mix >= MIX_ON;
}

/** Weight of samples that are so old, against the usual. */
static double fresh(uint64_t sampled, uint64_t now, double half_life)
{
    if (sampled == 0)
        return 0;
    return now > sampled + NEW ? exp2(-(double)(now - sampled - NEW) / half_life) : 1;
}

void tutti_member_model_moved(struct tutti_member_model *m, uint64_t now, enum tutti_way way,
                              uint64_t bytes, uint64_t ns)
{
    double took = (double)ns - m->latency, rate, off;

    if (bytes == 0 || ns == 0)
        return;
    took = fmax(took, (double)ns / 2);
    rate = (double)bytes / took;
    off = m->ns[way] > 0 ? rate * m->ns[way] / m->bytes[way] : 1;
    if (off > 2 || off < 0.5) {
        if (++m->odd[way] >= 2 || took >= 20e6) {
            m->bytes[way] = m->ns[way] = 0;
        }
    } else {
        m->odd[way] = 0;
        m->spread[way] += 0.1 * (fabs(off - 1) - m->spread[way]);
    }
    m->bytes[way] += (double)bytes;
    m->ns[way] += took;
    if (m->ns[way] > MEMORY) {
        m->bytes[way] *= MEMORY / m->ns[way];
        m->ns[way] = MEMORY;
    }
    if (m->seen[way] > 1e9 && 2 * rate < m->usual[way])
        took /= 10; /* a slow spell is not what is usual, unless it stays */
    m->seen[way] = fmin(m->seen[way] + took, USUAL);
    m->usual[way] *= pow(rate / m->usual[way], fmin(1, took / m->seen[way]));
    m->sampled[way] = now;
}

void tutti_member_model_mixed(struct tutti_member_model *m, uint64_t now, uint64_t read,
                              uint64_t written, uint64_t ns)
{
    double alone = (double)read / tutti_member_model_rate(m, now, TUTTI_WAY_READ, false) +
                   (double)written / tutti_member_model_rate(m, now, TUTTI_WAY_WRITE, false);
    double old = fresh(m->mix_sampled, now, MIX_HALF_LIFE);

    if (ns == 0 || read == 0 || written == 0)
        return;
    m->alone = m->alone * old + alone;
    m->mixed = m->mixed * old + (double)ns;
    if (m->mixed > MEMORY) {
        m->alone *= MEMORY / m->mixed;
        m->mixed = MEMORY;
    }
    m->mix_sampled = now;
}

void tutti_member_model_out(struct tutti_member_model *m, uint64_t since, uint64_t bytes)
{
    m->late_since = since;
    m->late_bytes = bytes;
}

/** The rate by samples and their age. */
static double sampled_rate(const struct tutti_member_model *m, uint64_t now, enum tutti_way way)
{
    double share = fresh(m->sampled[way], now, HALF_LIFE);

    if (m->ns[way] <= 0)
        return m->usual[way];
    return m->usual[way] * pow(m->bytes[way] / m->ns[way] / m->usual[way], share);
}

double tutti_member_model_rate(const struct tutti_member_model *m, uint64_t now, enum tutti_way way,
                               bool lateness)
{
    double rate = sampled_rate(m, now, way), out;

    if (!lateness || m->late_since == 0 || now <= m->late_since)
        return rate;
    out = (double)(now - m->late_since);
    if (out < LATE * ((double)m->late_bytes / rate + m->latency) + LATE_LEAST)
        return rate;
    /* What has taken so long is expected to take as long again. */
    return fmin(rate, (double)m->late_bytes / (2 * out));
}

double tutti_member_model_error(const struct tutti_member_model *m, uint64_t now,
                                enum tutti_way way)
{
    double share = fresh(m->sampled[way], now, HALF_LIFE);

    return m->spread[way] * share + 0.5 * (1 - share);
}

double tutti_member_model_tell(struct tutti_member_model *m, uint64_t now, enum tutti_way way,
                               bool lateness)
{
    double rate = tutti_member_model_rate(m, now, way, lateness);
    double band = 1 + fmin(fmax(tutti_member_model_error(m, now, way) / 2, 0.03), 0.2);

    if (rate > m->told[way] * band || rate * band < m->told[way]) {
        m->told[way] = rate;
        m->changes++;
    }
    return m->told[way];
}

double tutti_member_model_mix(const struct tutti_member_model *m, uint64_t now)
{
    double share = fresh(m->mix_sampled, now, MIX_HALF_LIFE);

    if (m->mixed <= 0)
        return m->usual_mix;
    return m->usual_mix + (m->alone / m->mixed - m->usual_mix) * share;
}

bool tutti_member_model_mixes(struct tutti_member_model *m, uint64_t now)
{
    double mix = tutti_member_model_mix(m, now);

    if (mix >= MIX_ON)
        m->mixes = true;
    else if (mix < MIX_OFF)
        m->mixes = false;
    return m->mixes;
}

bool tutti_member_model_stale(const struct tutti_member_model *m, uint64_t now, uint64_t after)
{
    return now > m->sampled[TUTTI_WAY_READ] + after;
}
