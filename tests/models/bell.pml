/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bell.pml: sleeping and waking. No wake-up may be lost.
 *
 *   producer   tutti_ring_issue() twice, tutti_ring_wait(), then member_stop()
 *   canceller  tutti_ring_cancel() of IOCB Y, by another thread at any time
 *   consumer   work() and sleep_until_needed() of src/engine/member.c, with take(),
 *              ready(), finish(), sleep() and awake() of src/ring/ring.c
 *   other      the thread of another member: tutti_ring_finish() of IOCB X
 *   memory     memory.pml
 *
 * X is work for the other member alone. Y is work for the consumer and waits for X, so
 * the consumer steps over it and sleeps until X completes or Y is cancelled. An eventfd
 * is its count; the engine's standing read of it may take the count away while the
 * thread is awake. `state` is changed by compare-and-swap and `mail` under a lock, before the
 * write to the eventfd: both are memory at once. Left out: what an IOCB moves, the counting
 * of parts (handover.pml), time (every wait is for ever), `ready` words, which wake nobody,
 * and what barriers the kernel's futex has: ours must be enough. Searched whole: 534,785
 * states, 1 s.
 *
 * Found wrong by the checker as a state in which nobody can go on ("invalid end
 * state"). A mutation leaves out or weakens what its name says:
 *   NO_FENCE_IN_SLEEP, NO_FENCE_IN_ISSUE, NO_FENCE_IN_FINISH, NO_FENCE_IN_CANCEL,
 *   NO_FENCE_IN_WAIT     one of Dekker's fences. A fetch-and-add without its fence is a store
 *       that waits in the buffer; a compare-and-swap without one has the load behind it made
 *       before
 *   NO_LOOK_AT_TAIL, NO_LOOK_AT_HELD, NO_LOOK_AT_MAIL    the look after the flag
 *   FINISH_WAKES_NOBODY, CANCEL_WAKES_NOBODY             wake_holders()
 *   SLEEPS_AS_IDLE       ASLEEP where ASLEEP_HOLDING is right
 *   AWAKE_WITHOUT_BELL   the flag is taken back, the eventfd not written
 */
#define PRODUCER 0
#define CANCELLER 1
#define CONSUMER 2
#define OTHER 3
#define PROCESSES 4

#define TAIL 0
#define WAITERS 1
#define TURN_X 2
#define TURN_Y 3
#define ASLEEP 4
#define WORDS 5

#define STORED                                                                                 \
    SHOW(PRODUCER, TAIL) SHOW(PRODUCER, WAITERS)                                                \
    SHOW(CONSUMER, TURN_Y) SHOW(CONSUMER, ASLEEP) SHOW(OTHER, TURN_X)

#include "memory.pml"

#define AWAKE 0
#define IDLE 1    /* ASLEEP */
#define HOLDING 2 /* ASLEEP_HOLDING */

mtype = { ISSUED, STARTED, CANCELLED, GONE /* FENCED */ }

mtype state_y = ISSUED;
bit eventfd;
bit mail; /* under the lock with it: stop */
bit in_futex; /* the producer sleeps in the kernel, for turn Y */
bit joined;
bit will_cancel;

/* The compare-and-swap fails where the word changed, and is tried with what it found. */
inline wake(me, least)
{
    asleep = LOAD(me, ASLEEP);
    do
    :: atomic { asleep < least -> asleep = 0; break }
    :: atomic { asleep >= least && seen[ASLEEP] != asleep -> asleep = seen[ASLEEP] }
    :: atomic { asleep >= least && seen[ASLEEP] == asleep -> seen[ASLEEP] = AWAKE; asleep = 0 }
#ifndef AWAKE_WITHOUT_BELL
       eventfd = 1;
#endif
       break
    od
}

inline issue(tail)
{
    store_release(PRODUCER, TAIL, tail);
#ifndef NO_FENCE_IN_ISSUE
    FENCED(PRODUCER);
#endif
    wake(PRODUCER, IDLE)
}

active proctype producer()
{
    byte asleep;

    issue(1);
    issue(2);

    /* tutti_ring_wait(Y) */
    if
    :: LOAD(PRODUCER, TURN_Y)
    :: else ->
        store(PRODUCER, WAITERS, 1);
#ifndef NO_FENCE_IN_WAIT
        FENCED(PRODUCER);
#endif
        do
        :: LOAD(PRODUCER, TURN_Y) -> break
        :: else ->
           atomic { /* the kernel compares and enters */
               if
               :: !seen[TURN_Y] -> in_futex = 1
               :: else
               fi
           }
           !in_futex
        od
    fi;
    mail = 1; /* member_stop() */
    eventfd = 1;
    joined
}

active proctype canceller()
{
    byte asleep;

    seen[TAIL] == 2; /* it is told of Y by other means, once Y is issued */
    if
    :: goto out /* nobody cancels */
    :: will_cancel = 1
    fi;
    if
    :: LOAD(CANCELLER, TURN_Y) -> goto out
    :: else
    fi;
#ifdef NO_FENCE_IN_CANCEL
    asleep = LOAD(CANCELLER, ASLEEP);
#endif
    atomic {
        if
        :: state_y == ISSUED -> state_y = CANCELLED
        :: state_y == STARTED -> state_y = GONE
        fi
    }
#ifdef NO_FENCE_IN_CANCEL
    if
    :: asleep < HOLDING -> goto out
    :: else
    fi;
#endif
#ifndef CANCEL_WAKES_NOBODY
    wake(CANCELLER, HOLDING);
#endif
out:
    skip
}

active proctype other()
{
    byte asleep;

    seen[TAIL] > 0;
    if
    :: skip
    :: will_cancel -> seen[TURN_Y] /* X is slow: only the cancel can end Y */
    fi;
    store_release(OTHER, TURN_X, 1);
#ifndef NO_FENCE_IN_FINISH
    FENCED(OTHER);
#endif
#ifndef FINISH_WAKES_NOBODY
    wake(OTHER, HOLDING)
#endif
}

#define READY LOAD(CONSUMER, TURN_X)
#define ASKED (state_y == CANCELLED || state_y == GONE) /* tutti_ring_cancelled() */

active proctype consumer()
{
    byte head;
    bit busy, closing, held;

    do
    :: atomic { /* read_mail(): the look without the lock, then under it */
           busy = 0;
           if
           :: mail -> mail = 0; closing = 1
           :: else
           fi
       }
       do /* task_take(): X is over at once, nothing of it is ours */
       :: atomic { head < LOAD(CONSUMER, TAIL) -> head++; busy = 1; held = head == 2 }
       :: atomic { head == LOAD(CONSUMER, TAIL) -> break }
       od;
       if
       :: closing && !held && !busy -> break
       :: else
       fi;
       if /* collect() */
       :: eventfd = 0
       :: true
       fi;
       if /* task_fill(): give up, step over, or start and finish */
       :: held ->
           if
           :: closing || ASKED -> skip
           :: else ->
               if
               :: !READY -> goto stepped_over
               :: else ->
                   atomic {
                       if
                       :: state_y == ISSUED -> state_y = STARTED
                       :: else
                       fi
                   }
               fi
           fi;
           busy = 1;
           held = 0;
           store_release(CONSUMER, TURN_Y, 1); /* finish() */
#ifndef NO_FENCE_IN_FINISH
           FENCED(CONSUMER);
#endif
           if
           :: LOAD(CONSUMER, WAITERS) -> in_futex = 0
           :: else
           fi
stepped_over:
           skip
       :: else
       fi;
       if
       :: busy || (closing && !held)
       :: else -> /* sleep_until_needed() */
#ifdef SLEEPS_AS_IDLE
           store(CONSUMER, ASLEEP, IDLE);
#else
           store(CONSUMER, ASLEEP, (held -> HOLDING : IDLE));
#endif
#ifndef NO_FENCE_IN_SLEEP
           FENCED(CONSUMER);
#endif
#ifndef NO_LOOK_AT_TAIL
           if
           :: head != LOAD(CONSUMER, TAIL) -> goto awake
           :: else
           fi;
#endif
#ifndef NO_LOOK_AT_MAIL
           if
           :: mail -> goto awake
           :: else
           fi;
#endif
#ifndef NO_LOOK_AT_HELD
           if
           :: held && (ASKED || READY) -> goto awake
           :: else
           fi;
#endif
           atomic { eventfd -> eventfd = 0 }
awake:
           skip;
           store(CONSUMER, ASLEEP, AWAKE)
       fi
    od;
    joined = 1
}
