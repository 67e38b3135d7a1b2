/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fence.c: whether a member is still given commands.
 *
 * Responsible for noticing that a device is bad (errors, commands that do not
 * end) and for the gate that closes then; the gate is also closed and opened by
 * hand. Knows nothing of tasks: who gives out commands looks at the gate, one
 * word, before each batch. What is out when it closes stays out until it ends,
 * since the device may still write there.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/member.h"

static void close_gate(struct member *m, const char *reason)
{
    pthread_mutex_lock(&m->lock);
    snprintf(m->fence_reason, sizeof(m->fence_reason), "%s", reason);
    /* Relaxed: a batch that is opened meanwhile is one more, and no data depends on it. Two write
     * the word, under the lock. */
    tutti_store_relaxed(&m->gate, GATE_CLOSED);
    pthread_mutex_unlock(&m->lock);
}

/** What was asked for by member_unfence(): its errors are forgotten. */
void fence_open_again(struct member *m)
{
    pthread_mutex_lock(&m->lock);
    /* Closed once more since it was asked for: stays so. */
    if (m->gate == GATE_OPENING) {
        health_reset(&m->health);
        tutti_store_relaxed(&m->gate, GATE_OPEN); /* as in close_gate() */
    }
    pthread_mutex_unlock(&m->lock);
}

/** Apart, since its sentences take room that no good command is to pay for. */
static void close_for(struct member *m, enum health_event event, const char *why)
{
    char reason[sizeof(m->fence_reason)];
    char last[sizeof(m->io_error.message)] = "";

    if (event == HEALTH_ERROR) {
        pthread_mutex_lock(&m->lock);
        memcpy(last, m->io_error.message, sizeof(last));
        pthread_mutex_unlock(&m->lock);
    }
    snprintf(reason, sizeof(reason), "%s%s%.400s", why, last[0] ? "; the last: " : "", last);
    close_gate(m, reason);
}

void fence_note(struct member *m, enum health_event event)
{
    const char *why;

    if (event != HEALTH_GOOD) /* or what was counted before would close it again at once */
        fence_open_again(m);
    why = health_note(&m->health, event, m->now);
    if (why && !fence_closed(m))
        close_for(m, event, why);
}

void fence_look_for_late(struct member *m)
{
    uint64_t next = tutti_clock_after(m->now, m->late_ns);

    m->next_look = next;
    for (uint32_t i = 0; i < MEMBER_COMMANDS; i++) {
        struct io *io = &m->io_pool[i];

        if (io->late_at == 0)
            continue;
        if (io->late_at <= m->now) {
            io->late_at = next; /* and again, as long as it does not end */
            member_count(&m->counters.late_commands, 1);
            member_io_error(m, -ETIMEDOUT,
                            io->command.direction == TUTTI_READ ? "a read does not end"
                                                                : "a write does not end",
                            io->command.offset);
            fence_note(m, HEALTH_ERROR);
        }
        if (io->late_at < m->next_look)
            m->next_look = io->late_at;
    }
}

void member_fence(struct member *m, const char *reason)
{
    close_gate(m, reason);
    member_ring_the_bell(m);
}

void member_unfence(struct member *m)
{
    pthread_mutex_lock(&m->lock);
    if (m->gate == GATE_CLOSED)
        tutti_store_relaxed(&m->gate, GATE_OPENING); /* as in close_gate() */
    pthread_mutex_unlock(&m->lock);
    member_ring_the_bell(m);
}

void member_state(struct member *m, struct tutti_member_state *state)
{
    memset(state, 0, sizeof(*state));
    state->fenced = fence_closed(m);
    /* Relaxed: numbers that order nothing. */
    state->io_errors = tutti_load_relaxed(&m->counters.io_errors);
    state->late_commands = tutti_load_relaxed(&m->counters.late_commands);
    state->verify_failures = tutti_load_relaxed(&m->counters.verify_failures);
    state->staging_bytes = m->staging.bytes; /* as the thread opened it, before the engine was */
    state->staging_taken = tutti_load_relaxed(&m->staging.taken_bytes);
    state->staging_most = tutti_load_relaxed(&m->staging.most_bytes);
    if (!state->fenced)
        return;
    pthread_mutex_lock(&m->lock);
    memcpy(state->reason, m->fence_reason, sizeof(state->reason));
    pthread_mutex_unlock(&m->lock);
}
