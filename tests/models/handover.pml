/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handover.pml: an IOCB's life in the ring: issue, take, start, finish, cancel, reuse.
 *
 *   producer   tutti_ring_get(), issue(), done(), put() of src/ring/ring.c
 *   canceller  tutti_ring_cancel() by another thread, of one IOCB at any time
 *   consumer   tutti_ring_take(), cancelled(), ready(), start(), finish(); two of them,
 *              each with a part of every IOCB; a task is taken and finished in any order
 *   memory     memory.pml
 *
 * A ring of two IOCBs, LIVES issues, so that indices and places of the queue are used
 * again. Each IOCB may wait for the other one. Stored weakly: the IOCB (one word for
 * all that `tail` publishes), the places of the queue, `tail`, `turn`, each consumer's
 * share of the completion, its status. `state` and `remaining` are changed by compare-and-swap
 * or fetch-and-add, and get() and put() change `turn`, in memory at once: what passes on from
 * one life to the next through get() is argued in docs/memory-model.md, not searched. Sleeping
 * is left out: bell.pml. Searched whole: 1,299,469 states, 4 s.
 *
 * Asserted: the names in the list of variables that are never set. A state in which nobody
 * can go on is found as well. A mutation leaves out or weakens what its name says:
 *   TAIL_RELAXED, TURN_RELAXED, REMAINING_RELAXED    a release
 *   TAKE_LOOKS_AHEAD, DONE_LOOKS_AHEAD               an acquire: the load behind it comes first
 *   QUEUE_TOO_SHORT        one place for two IOCBs
 *   TURN_IS_A_BIT          ready() compares only whether a life has ended, not which
 *   READY_AT_ONCE          ready() does not look at what an IOCB waits for
 *   WAITS_FOR_ENDED        issue() does not look whether what it waits for has completed
 *   START_IGNORES_CANCEL   start() of what was cancelled goes on
 *   CANCEL_STORES          CANCELLED is stored, not swapped for ISSUED
 *   EVERYBODY_COMPLETES    nobody counts parts
 *   PUT_UNASKED            put() does not look whether all is over
 *   PUT_UNDER_CANCEL       the contract broken: put back while another thread may cancel
 */
#ifndef LIVES
#define LIVES 3
#endif

#define PRODUCER 0
#define C0 1
#define C1 2
#define PROCESSES 3

#define IOCB 0 /* + index */
#define QUEUE 2
#define TURN 4
#define STATUS 6
#define SHARE 8 /* + 2 x consumer + index */
#define TAIL 12
#define WORDS 13

#define STORED                                                                                 \
    SHOW(PRODUCER, 0) SHOW(PRODUCER, 1) SHOW(PRODUCER, 2) SHOW(PRODUCER, 3)                     \
    SHOW(PRODUCER, 12)                                                                          \
    SHOW(C0, 4) SHOW(C0, 5) SHOW(C0, 6) SHOW(C0, 7) SHOW(C0, 8) SHOW(C0, 9)                     \
    SHOW(C1, 4) SHOW(C1, 5) SHOW(C1, 6) SHOW(C1, 7) SHOW(C1, 10) SHOW(C1, 11)

#include "memory.pml"

#define UNUSED 0
#define TAKEN 1
#define ISSUED 2
#define STARTED 3
#define CANCELLED 4
#define GONE 5 /* FENCED */

#define NOBODY 2 /* waits for nobody */

/* Never set: the checker prints the name of what it found broken. */
hidden byte cancelled_and_moved, fenced_and_not_begun, ended_and_not_over;
hidden byte wrong_iocb, wrong_completion, share_missing, reused_while_held;
hidden byte completed_twice, never_completed, begun_too_early, moved_too_late;
#define CHECK(name, holding) assert((holding) || name)

byte state[2];
byte remaining[2];
byte after[2], after_turn[2]; /* published by tail, as the IOCB word shows for them */

/* What the checker knows and the code does not; indexed by life, from 1 on. */
byte awaited[2]; /* life that an index waits for, 0 none */
byte index_of[LIVES + 1];
bit over[LIVES + 1], moved[LIVES + 1], not_started[LIVES + 1];
bit holds[4]; /* 2 x consumer + index */
byte cancel_life; /* that the canceller is after, 0 none */

#ifdef QUEUE_TOO_SHORT
#define PLACE(n) QUEUE
#else
#define PLACE(n) (QUEUE + (n) % 2)
#endif

/* The outcome is checked against what happened. */
inline cancel(life, i)
{
    if
    :: seen[TURN + i] % 2 -> CHECK(ended_and_not_over, over[life])
    :: else ->
        atomic {
            if
#ifdef CANCEL_STORES
            :: true -> state[i] = CANCELLED; not_started[life] = 1
#else
            :: state[i] == ISSUED -> state[i] = CANCELLED; not_started[life] = 1
            :: state[i] == STARTED -> state[i] = GONE
            :: else
#endif
            fi;
            if
            :: not_started[life] ->
                CHECK(cancelled_and_moved, !moved[life])
            :: else -> CHECK(fenced_and_not_begun, moved[life])
            fi
        }
    fi
}

inline issue(life, i)
{
    if /* wait for the other one, unless it is taken and not issued */
    :: atomic { after[i] = NOBODY; awaited[i] = 0 }
    :: atomic {
           state[1 - i] != TAKEN && LOAD(PRODUCER, IOCB + 1 - i) ->
           after[i] = 1 - i;
           awaited[i] = LOAD(PRODUCER, IOCB + 1 - i);
           after_turn[i] = LOAD(PRODUCER, TURN + 1 - i);
#ifndef WAITS_FOR_ENDED
           if
           :: after_turn[i] % 2 -> after[i] = NOBODY
           :: else
           fi
#endif
       }
    fi;
    atomic { remaining[i] = 2; state[i] = ISSUED; index_of[life] = i }
    store(PRODUCER, PLACE(life - 1), i);
#ifdef TAIL_RELAXED
    store(PRODUCER, TAIL, life)
#else
    store_release(PRODUCER, TAIL, life)
#endif
}

#ifdef PUT_UNASKED
#define DONE(i) true
#else
#define DONE(i) (LOAD(PRODUCER, TURN + i) % 2)
#endif

inline collect(i)
{
    atomic {
        life = LOAD(PRODUCER, IOCB + i);
#ifndef DONE_LOOKS_AHEAD
        early[i] = LOAD(PRODUCER, STATUS + i);
#endif
        CHECK(reused_while_held, !holds[i] && !holds[2 + i]);
        CHECK(wrong_completion, early[i] == 2 * life + not_started[life]);
        CHECK(share_missing, LOAD(PRODUCER, SHARE + i) == life &&
                             LOAD(PRODUCER, SHARE + 2 + i) == life)
    }
#ifndef PUT_UNDER_CANCEL
    cancel_life != life; /* nobody may cancel it any more */
#endif
    atomic { out[i] = 0; state[i] = UNUSED; life = 0; early[i] = 0 }
}

active proctype producer()
{
    byte issued, life, i;
    byte early[2];
    bit out[2];

    d_step {
        seen[TURN] = 1;
        seen[TURN + 1] = 1
    }
    if
    :: cancel_life = 0
    :: cancel_life = 1
    :: cancel_life = 2
    :: cancel_life = 3
    fi;
    do
    :: atomic {
           issued < LIVES && !(out[0] && out[1]) -> /* get() */
           issued++;
           i = out[0];
           out[i] = 1;
           state[i] = TAKEN;
           seen[TURN + i]++
       }
       store(PRODUCER, IOCB + i, issued);
       issue(issued, i);
       i = 0
    :: out[0] && DONE(0) -> collect(0)
    :: out[1] && DONE(1) -> collect(1)
#ifdef DONE_LOOKS_AHEAD
    :: out[0] -> early[0] = LOAD(PRODUCER, STATUS)
    :: out[1] -> early[1] = LOAD(PRODUCER, STATUS + 1)
#endif
    :: issued == LIVES && !out[0] && !out[1] -> break
    od;
    cancel_life == 0;
    for (i : 1 .. LIVES) {
        CHECK(never_completed, over[i])
    }
}

active proctype canceller()
{
end:
    cancel_life && seen[TAIL] >= cancel_life;
    cancel(cancel_life, index_of[cancel_life]);
    cancel_life = 0
}

inline finish(i)
{
    store(me, SHARE + 2 * (me - C0) + i, life[i]);
    atomic {
#ifndef REMAINING_RELAXED
        FENCED(me);
#endif
        remaining[i]--;
#ifndef EVERYBODY_COMPLETES
        last = remaining[i] == 0;
#endif
        holds[2 * (me - C0) + i] = 0
    }
    if
    :: !last
    :: else ->
        atomic {
            CHECK(share_missing, LOAD(me, SHARE + i) == life[i] &&
                                 LOAD(me, SHARE + 2 + i) == life[i]);
            store(me, STATUS + i, 2 * life[i] + (state[i] == CANCELLED))
        }
        atomic {
            CHECK(completed_twice, !over[life[i]]);
            over[life[i]] = 1
        }
#ifdef TURN_RELAXED
        store(me, TURN + i, LOAD(me, TURN + i) + 1)
#else
        store_release(me, TURN + i, LOAD(me, TURN + i) + 1)
#endif
    fi;
    life[i] = 0
}

#if defined(READY_AT_ONCE)
#define READY(i) true
#elif defined(TURN_IS_A_BIT)
#define READY(i) (after[i] == NOBODY || LOAD(me, TURN + after[i]) % 2)
#else
#define READY(i) (after[i] == NOBODY || LOAD(me, TURN + after[i]) != after_turn[i])
#endif
#define ASKED(i) (state[i] == CANCELLED || state[i] == GONE)

/* A task of this consumer that is not stepped over: given up, or started, and finished. */
inline work_on(i)
{
    if
    :: ASKED(i)
    :: !ASKED(i) && READY(i) ->
        atomic { /* start(), and the first command */
            CHECK(begun_too_early, !awaited[i] || over[awaited[i]]);
            if
#ifdef START_IGNORES_CANCEL
            :: true -> state[i] = STARTED; moved[life[i]] = 1
#else
            :: state[i] == ISSUED || state[i] == STARTED ->
                state[i] = STARTED;
                moved[life[i]] = 1
            :: else
#endif
            fi;
            CHECK(moved_too_late, !over[life[i]]);
            CHECK(cancelled_and_moved, !(moved[life[i]] && not_started[life[i]]))
        }
    fi;
    finish(i)
}

proctype consumer(byte me)
{
    byte head, i;
    byte life[2];
    bit last = 1;

    do
#ifdef TAKE_LOOKS_AHEAD
    :: head < LIVES -> i = LOAD(me, PLACE(head));
       if
       :: head == LOAD(me, TAIL)
       :: atomic {
           head != LOAD(me, TAIL) ->
#else
    :: atomic {
           head < LIVES && head != LOAD(me, TAIL) -> /* take() */
           i = LOAD(me, PLACE(head));
#endif
           head++;
           life[i] = LOAD(me, IOCB + i);
           CHECK(wrong_iocb, life[i] == head);
           holds[2 * (me - C0) + i] = 1;
           i = 0
       }
#ifdef TAKE_LOOKS_AHEAD
       fi
#endif
    :: life[0] && (ASKED(0) || READY(0)) -> work_on(0)
    :: life[1] && (ASKED(1) || READY(1)) -> work_on(1)
    :: head == LIVES && !life[0] && !life[1] -> break
    od
}

init
{
    atomic { run consumer(C0); run consumer(C1) }
}
