/* SPDX-License-Identifier: Apache-2.0 */
/*
 * retrieve.c: bringing the blocks of a request back, whole or layer by layer.
 *
 * A retrieve is a session whose steps are the records and the layers. In a
 * preload all may be issued at once; in step, the scheduler says how far
 * ahead of the computation.
 */
#include "internal.h"

#include <errno.h>

#include "base/atomics.h"
#include "base/clock.h"

/** Let the layers that the scheduler wants now be issued; @needed: what computation is at. */
static void allow_layers(struct session *s, uint32_t needed)
{
    struct tutti_sched_state state = {
        .now = tutti_clock_now(),
        .layers = s->group->geometry.layers,
        .load_needed = needed,
        .load_issued = s->allowed - 1,
    };
    struct tutti_sched_plan plan;

    tutti_sched_plan(&s->serve->policy, &state, &plan);
    s->allowed += plan.issue_layers;
}

int tutti_retrieve_begin(struct tutti_serve *serve, uint32_t group,
                         const struct tutti_transfer *items, uint32_t count, bool in_step,
                         uint64_t tag, struct tutti_retrieve **retrieve, struct tutti_error *err)
{
    struct session *s;
    int rc = session_new(serve, group, SESSION_RETRIEVE, sizeof(**retrieve), items, NULL, count, &s,
                         err);

    if (rc < 0)
        return rc;
    s->tag = tag;
    s->in_step = in_step;
    s->allowed = in_step ? 1 : s->steps;
    if (in_step)
        allow_layers(s, 0);
    session_advance(s);
    *retrieve = (struct tutti_retrieve *)s;
    return 0;
}

/**
 * Let the stream wait for a step, once nothing more is to be enqueued for it. Return: 0,
 * -ETIMEDOUT, -EBUSY, or -EAGAIN: it is not issued, or has ended, and so is the caller's to wait
 * for.
 */
static int wait_on_stream(struct session *s, uint32_t step, uint64_t timeout_ns)
{
    struct tutti_ring *ring = s->serve->ring;
    uint64_t deadline = tutti_clock_after(tutti_clock_now(), timeout_ns), now;
    uint32_t index;

    /* All but the last ones are issued by now, since layers are read ahead. */
    if (session_wait_issued(s, step, timeout_ns) < 0)
        return -ETIMEDOUT;
    if (s->collected > step || s->ended)
        return -EAGAIN;
    index = s->step[step].iocb;
    now = tutti_clock_now();
    if (tutti_ring_wait_launched(ring, index, deadline > now ? deadline - now : 0) < 0)
        return -ETIMEDOUT;
    if (tutti_ring_done(ring, index))
        return -EAGAIN;
    now = tutti_clock_now();
    return streams_wait(s, index, deadline > now ? deadline - now : 0);
}

int tutti_retrieve_layer(struct tutti_retrieve *retrieve, uint32_t layer, uint64_t timeout_ns)
{
    struct session *s = &retrieve->session;
    int rc;

    if (layer >= s->group->geometry.layers)
        return -EINVAL;
    if (s->in_step)
        allow_layers(s, layer);
    if (s->serve->words) {
        rc = wait_on_stream(s, layer + 1, timeout_ns);
        if (rc == -ETIMEDOUT) /* computation goes on, and nothing holds it */
            tutti_store_relaxed(&s->on.bad, ETIMEDOUT);
        if (rc != -EAGAIN)
            return rc;
    }
    rc = session_wait_step(s, layer + 1, timeout_ns);
    if (rc < 0)
        return rc;
    return s->collected > layer + 1 ? s->step[layer + 1].status : -ECANCELED;
}

int tutti_retrieve_refused(const struct tutti_retrieve *retrieve, struct tutti_error *err)
{
    const struct tutti_error *why = &retrieve->session.on.refused;

    if (why->code && err)
        *err = *why;
    return why->code;
}

int tutti_retrieve_poll(struct tutti_retrieve *retrieve)
{
    struct session *s = &retrieve->session;

    tutti_serve_progress(s->serve);
    return s->ended;
}

int tutti_retrieve_wait(struct tutti_retrieve *retrieve, uint64_t timeout_ns)
{
    retrieve->session.allowed = retrieve->session.steps;
    return session_wait(&retrieve->session, timeout_ns);
}

void tutti_retrieve_cancel(struct tutti_retrieve *retrieve)
{
    session_cancel(&retrieve->session);
}

void tutti_retrieve_result(const struct tutti_retrieve *retrieve, struct tutti_result *result)
{
    session_result(&retrieve->session, result);
}

int tutti_retrieve_end(struct tutti_retrieve *retrieve)
{
    return session_end(&retrieve->session);
}
