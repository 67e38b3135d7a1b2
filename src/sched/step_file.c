/* SPDX-License-Identifier: Apache-2.0 */
/*
 * step_file.c: a step model in bytes.
 *
 * Responsible for the form in which one is kept. Must not know files. The one idea: whatever is
 * not ours to the last bit (another key, version, length, sum, a number that is none) is nothing.
 * Little-endian: magic, version, key, prior, sums, residuals, FNV-1a of all before.
 */
#include "tutti/step_model.h"

#include <math.h>
#include <string.h>

#define MAGIC UINT64_C(0x31504554535454) /* "TTSTEP1" */
#define VALUES (3 + 2 * (TUTTI_STEP_TERMS * (TUTTI_STEP_TERMS + 1) / 2 + TUTTI_STEP_TERMS + 1))

_Static_assert(8 + 32 + 8 * (TUTTI_STEP_TERMS + VALUES - 1 + 3 * TUTTI_STEP_CLASSES) + 8 ==
                   TUTTI_STEP_FILE_BYTES,
               "the size that the header promises");

static void put(uint8_t **at, uint64_t value)
{
    for (uint32_t i = 0; i < 8; i++)
        *(*at)++ = (uint8_t)(value >> 8 * i);
}

static uint64_t get(const uint8_t **at)
{
    uint64_t value = 0;

    for (uint32_t i = 0; i < 8; i++)
        value |= (uint64_t) * (*at)++ << 8 * i;
    return value;
}

static uint64_t sum_of(const uint8_t *bytes, size_t count)
{
    uint64_t sum = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < count; i++)
        sum = (sum ^ bytes[i]) * UINT64_C(0x100000001b3);
    return sum;
}

/** Every number that is kept, in order, to or from the model. */
static bool walk(struct tutti_step_model *m, uint8_t **to, const uint8_t **from)
{
    double *value[VALUES - 1 + 3 * TUTTI_STEP_CLASSES];
    uint32_t n = 0;

    for (uint32_t s = 0; s < 2; s++) {
        for (uint32_t i = 0; i < TUTTI_STEP_TERMS; i++) {
            for (uint32_t k = 0; k <= i; k++)
                value[n++] = &m->sums[s].gram[i][k];
            value[n++] = &m->sums[s].moment[i];
        }
        value[n++] = &m->sums[s].weight;
    }
    value[n++] = &m->spread;
    value[n++] = &m->spread_weight;
    for (uint32_t i = 0; i < TUTTI_STEP_CLASSES; i++) {
        value[n++] = &m->class_weight[i];
        value[n++] = &m->class_bias[i];
        value[n++] = &m->class_spread[i];
    }
    for (uint32_t i = 0; i < n; i++) {
        uint64_t bits;

        if (to) {
            memcpy(&bits, value[i], 8);
            put(to, bits);
            continue;
        }
        bits = get(from);
        memcpy(value[i], &bits, 8);
        if (!isfinite(*value[i]))
            return false;
    }
    return true;
}

void tutti_step_model_save(const struct tutti_step_model *model, const uint8_t key[32],
                           uint8_t *bytes)
{
    struct tutti_step_model m = *model;
    uint8_t *at = bytes;
    uint64_t bits;

    put(&at, MAGIC);
    memcpy(at, key, 32);
    at += 32;
    for (uint32_t i = 0; i < TUTTI_STEP_TERMS; i++) {
        memcpy(&bits, &m.prior[i], 8);
        put(&at, bits);
    }
    walk(&m, &at, NULL);
    put(&at, sum_of(bytes, (size_t)(at - bytes)));
}

bool tutti_step_model_load(struct tutti_step_model *model, const uint8_t key[32],
                           const uint8_t *bytes, size_t count)
{
    struct tutti_step_model m = *model;
    const uint8_t *at = bytes, *tail;
    uint64_t bits;

    if (count != TUTTI_STEP_FILE_BYTES)
        return false;
    tail = bytes + TUTTI_STEP_FILE_BYTES - 8;
    if (get(&at) != MAGIC || memcmp(at, key, 32) != 0 ||
        get(&tail) != sum_of(bytes, TUTTI_STEP_FILE_BYTES - 8))
        return false;
    at += 32;
    for (uint32_t i = 0; i < TUTTI_STEP_TERMS; i++) {
        bits = get(&at);
        memcpy(&m.prior[i], &bits, 8);
        if (!isfinite(m.prior[i]) || !(m.prior[i] > 0))
            return false;
    }
    if (!walk(&m, NULL, &at))
        return false;
    m.knot = m.prior[0] / (m.prior[TUTTI_STEP_MODES] + m.prior[TUTTI_STEP_MODES + 1]);
    /* half a half-life: aged against the model's own clock, which goes on from here */
    m.aged = model->aged;
    tutti_step_model_age(&m, m.aged + UINT64_C(300000000000));
    m.aged = model->aged;
    *model = m;
    return true;
}
