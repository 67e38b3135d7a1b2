/* SPDX-License-Identifier: Apache-2.0 */
/* drive.c: a fluid model, from event to event. */
#include "drive.h"

#include <math.h>
#include <stdlib.h>

#define COMMAND 1048576.0

static struct drive_job *head(const struct drive *d, int way)
{
    const struct drive_queue *q = &d->queue[way];

    return q->count ? (struct drive_job *)&q->job[q->first % DRIVE_JOBS] : NULL;
}

void drive_add(struct drive *d, int way, uint32_t tag, double bytes)
{
    struct drive_queue *q = &d->queue[way];
    struct drive_job *j = &q->job[(q->first + q->count) % DRIVE_JOBS];

    if (q->count++ == DRIVE_JOBS)
        abort();
    *j = (struct drive_job){.tag = tag, .bytes = bytes, .left = bytes, .wait = d->latency};
    j->began = d->now;
}

void drive_cancel(struct drive *d, int way, uint32_t tag)
{
    struct drive_queue *q = &d->queue[way];
    uint32_t kept = 0;

    for (uint32_t i = 0; i < q->count; i++) {
        struct drive_job j = q->job[(q->first + i) % DRIVE_JOBS];

        if (j.tag != tag)
            q->job[(q->first + kept++) % DRIVE_JOBS] = j;
    }
    q->count = kept;
    if (kept)
        head(d, way)->began = d->now;
}

static double factor(const struct drive *d, double *change)
{
    double f = 1;

    *change = INFINITY;
    for (uint32_t i = 0; i < d->slows; i++) {
        if (d->now < d->slow[i].from)
            *change = fmin(*change, d->slow[i].from);
        else if (d->now < d->slow[i].to) {
            f *= d->slow[i].factor;
            *change = fmin(*change, d->slow[i].to);
        }
    }
    return f;
}

static double to_next(const struct drive_job *j)
{
    return fmin(j->left, COMMAND - (j->bytes - j->left - j->told));
}

static double rate_of(const struct drive *d, int way, double f)
{
    bool both = head(d, 0) && head(d, 1) && head(d, 0)->wait <= 0 && head(d, 1)->wait <= 0;

    return d->rate[way] * f * (both ? d->mix / 2 : 1);
}

double drive_next(const struct drive *d)
{
    double change, f = factor(d, &change), next = INFINITY;

    for (int way = 0; way < 2; way++) {
        const struct drive_job *j = head(d, way);

        if (j)
            next = fmin(next, j->wait > 0 ? j->wait : to_next(j) / rate_of(d, way, f));
    }
    return isinf(next) ? 0 : fmin(d->now + next, change);
}

/** Let time pass in which nothing begins or ends. */
static void pass(struct drive *d, double ns, double f)
{
    bool both = head(d, 0) && head(d, 1) && head(d, 0)->wait <= 0 && head(d, 1)->wait <= 0;
    double rate[2] = {rate_of(d, 0, f), rate_of(d, 1, f)};

    for (int way = 0; way < 2; way++) {
        struct drive_job *j = head(d, way);

        if (!j)
            continue;
        if (j->wait > 0) {
            j->wait = j->wait - ns < 1e-3 ? 0 : j->wait - ns;
            continue;
        }
        j->left = fmax(0, j->left - ns * rate[way]);
        *(both ? &d->mixed_bytes[way] : &d->alone_bytes[way]) += ns * rate[way];
        if (!both)
            d->alone_ns[way] += ns;
        d->moved[way] += ns * rate[way];
    }
    if (both)
        d->mixed_ns += ns;
    d->now += ns;
}

static bool take_event(struct drive *d, struct drive_event *e)
{
    for (int way = 0; way < 2; way++) {
        struct drive_job *j = head(d, way);
        struct drive_queue *q = &d->queue[way];

        if (!j || j->wait > 0 || to_next(j) > 0.5)
            continue;
        if (j->left < 1)
            j->left = 0;
        *e =
            (struct drive_event){j->tag, way, j->bytes - j->left - j->told, j->began, j->left <= 0};
        j->told = j->bytes - j->left;
        j->began = d->now;
        if (e->over) {
            q->first++;
            q->count--;
            if (q->count)
                head(d, way)->began = d->now;
            if (q->count) /* it was queued behind: its latency has passed */
                head(d, way)->wait = 0;
        }
        return true;
    }
    return false;
}

bool drive_run(struct drive *d, double until, struct drive_event *event)
{
    while (!take_event(d, event)) {
        double change, f = factor(d, &change), next = drive_next(d);

        if (d->now >= until)
            return false;
        if (next == 0 || next > until)
            next = until;
        pass(d, fmax(next - d->now, 1), f); /* a double of an hour of ns has no finer step */
    }
    return true;
}
