/* SPDX-License-Identifier: Apache-2.0 */
/*
 * failure.pml: loads in step that fail, with two steps under way. What was computed over a
 * block whose load failed is never stored, and no answer is taken from it.
 *
 *   scheduler  vLLM's scheduler (of the requests that hold a failed block it truncates the
 *              first; what a truncated request had under way is discarded; a block is in
 *              its prefix cache from when it is given out) with python/tutti_kv/scheduler.py
 *              (acknowledgement, finished(), early stores) and loads.py (unproven(), spoilt())
 *   worker     python/tutti_kv/worker.py: a step at a time, as prepare(), bind(), the
 *              computation and step_ended() do; failures are counted, stores compared with
 *              the plan's acknowledgement
 *
 * Two requests of two blocks: the first is loaded or computed, the second computed over it.
 * Request 1 has a first block of its own or shares that of request 0. A store is an instant:
 * that blocks stay as they are under it is shown in blocks.pml. A rank that stores beside one
 * that failed is left out: no key is visible that one rank did not write (slot.pml). Searched
 * whole: 235,052 states, 1 s.
 *
 * Asserted: the names in the list below. A mutation leaves out what its name says:
 *   STORES_UNACKNOWLEDGED     the worker stores whatever failed
 *   ANY_PLAN_ACKNOWLEDGES     the worker stores from the next plan on
 *   FAILURE_IS_A_FLAG         failures have no number: one acknowledgement is for all
 *   FINISH_IGNORES_FAILURE    finished() stores a request whose load has not ended, and stores
 *       that wait when a failure becomes known are not given up: either rule alone is enough
 *   SPOILT_STAYS_CACHED       failed blocks stay in the prefix cache
 *   SHARER_DOES_NOT_WAIT      a local hit on a block whose load may fail is taken
 */
hidden byte stored_bad, wrong_answer;
#define CHECK(name, holding) assert((holding) || name)

#define EMPTY 0
#define GOOD 1
#define BAD 2

/* Blocks: 0 and 1 of request 0, 2 and 3 of request 1. A set is a byte with a bit for each. */
#define IN(set, b) (((set) >> (b)) & 1)
#define SET(b) (1 << (b))
#define HEAD(r) (r && shares -> 0 : 2 * r)
#define TAIL(r) (2 * r + 1)

byte content[4];

/* The scheduler's. */
bit admitted[2], gone[2], loading[2];
byte have[2];    /* blocks that are computed, or will be by the steps sent */
byte stale[2];   /* outputs to discard */
byte to_store = 15; /* blocks of which no store is planned */
bit shares;      /* request 1 holds request 0's first block */
bit cached;      /* that block is in the prefix cache */
byte early;      /* stores that wait for the next plan */
byte acknowledged;
byte sent;       /* plans whose output was not taken */

/* loads, computations, early and late stores: sets of blocks; acknowledged */
chan plan = [2] of { byte, byte, byte, byte, byte };
/* failures so far, blocks that failed, blocks not stored, loads ended, requests that computed
 * over what was bad */
chan output = [2] of { byte, byte, byte, byte, byte };

/* The worker's. */
byte failure;
#if defined(ANY_PLAN_ACKNOWLEDGES) || defined(FAILURE_IS_A_FLAG)
byte known;
bit flag;
#endif

#ifdef SHARER_DOES_NOT_WAIT
#define PROVEN true
#else
#define PROVEN !loading[0]
#endif

/* Its blocks that are computed. A block that is being loaded is stored already. */
#define STORABLE(r)                                                                            \
    ((have[r] > 0 && !loading[r] && !(r && shares) -> SET(HEAD(r)) : 0) |                       \
     (have[r] > 1 -> SET(TAIL(r)) : 0))

/* A request's part of a plan: how its first block comes, whether the second goes with it. */
inline schedule(r)
{
    if
    :: admitted[r] && !gone[r] && have[r] < 2 ->
        if
        :: have[r] == 0 ->
            if
            :: !tried[r] && !(r && shares) ->
                loads = loads | SET(HEAD(r));
                loading[r] = 1;
                tried[r] = 1; /* a second try would repeat this */
                cached = cached || !r
            :: computes = computes | SET(HEAD(r))
            fi;
            have[r] = 1
        :: else
        fi;
        if
        :: computes = computes | SET(TAIL(r)); have[r] = 2
        :: true
        fi
    :: true
    fi;
    if /* what is computed by the end of the step may be stored with it */
    :: admitted[r] && !gone[r] && have[r] -> late = late | (STORABLE(r) & to_store)
    :: true
    fi
}

#ifdef FINISH_IGNORES_FAILURE
#define MAY_STORE(r) true
#else
#define MAY_STORE(r) !loading[r]
#endif

/* Finished or aborted: what is computed and not planned goes early. */
inline finish(r)
{
    gone[r] = 1;
    if
    :: MAY_STORE(r) ->
        early = early | (STORABLE(r) & to_store);
        to_store = to_store & ~early
    :: else
    fi
}

inline truncate(r)
{
    have[r] = 0;
    stale[r] = sent
}

inline take_output()
{
    output ? failures, invalid, unstored, ended, wrong;
    sent--;
    /* vLLM */
    wrong = wrong & ~((stale[0] -> 1 : 0) | (stale[1] -> 2 : 0));
    stale[0] = (stale[0] -> stale[0] - 1 : 0);
    stale[1] = (stale[1] -> stale[1] - 1 : 0);
    if
    :: IN(invalid, 0) && !gone[0] -> truncate(0)
    :: IN(invalid, 0) && gone[0] && shares && admitted[1] && !gone[1] -> truncate(1)
    :: else
    fi;
    if
    :: IN(invalid, 2) && !gone[1] -> truncate(1)
    :: else
    fi;
    CHECK(wrong_answer, !IN(wrong, 0) || gone[0] || IN(invalid, 0));
    CHECK(wrong_answer, !IN(wrong, 1) || gone[1] || IN(invalid, HEAD(1)));
    /* ours */
    to_store = to_store | unstored;
    if
    :: failures > acknowledged ->
        acknowledged = failures;
#ifndef FINISH_IGNORES_FAILURE
        to_store = to_store | early; /* give_up() */
        early = 0
#endif
    :: else
    fi;
#ifndef SPOILT_STAYS_CACHED
    cached = cached && !IN(invalid, 0);
#endif
    loading[0] = loading[0] && !IN(ended, 0);
    loading[1] = loading[1] && !IN(ended, 2);
    failures = 0; invalid = 0; unstored = 0; ended = 0; wrong = 0
}

active proctype scheduler()
{
    byte loads, computes, late, failures, invalid, unstored, ended, wrong;
    bit tried[2];

end:
    do
    :: atomic { !admitted[0] -> admitted[0] = 1 }
    :: atomic { !admitted[1] -> admitted[1] = 1 }
    :: atomic { /* a local hit on request 0's first block */
           !admitted[1] && cached && PROVEN ->
           admitted[1] = 1;
           shares = 1;
           have[1] = 1
       }
    :: atomic {
           nfull(plan) && sent < 2 && (admitted[0] || admitted[1]) ->
           schedule(0);
           schedule(1);
           if
           :: loads || computes || late || early ->
               to_store = to_store & ~late;
               plan ! loads, computes, early, late, acknowledged;
               sent++
           :: else
           fi;
           loads = 0; computes = 0; late = 0; early = 0
       }
    :: atomic { nempty(output) -> take_output() }
    :: atomic { admitted[0] && !gone[0] -> finish(0) }
    :: atomic { admitted[1] && !gone[1] -> finish(1) }
    od
}

#define BAD_IN(set)                                                                            \
    ((IN(set, 0) && content[0] == BAD) || (IN(set, 1) && content[1] == BAD) ||                  \
     (IN(set, 2) && content[2] == BAD) || (IN(set, 3) && content[3] == BAD))

#if defined(STORES_UNACKNOWLEDGED)
#define MAY_BEGIN true
#elif defined(ANY_PLAN_ACKNOWLEDGES)
#define MAY_BEGIN (failure <= known)
#elif defined(FAILURE_IS_A_FLAG)
#define MAY_BEGIN (!flag)
#else
#define MAY_BEGIN (failure <= acknowledges)
#endif

inline store(set)
{
    if
    :: MAY_BEGIN -> CHECK(stored_bad, !BAD_IN(set))
    :: else -> unstored = unstored | set
    fi
}

inline load(b)
{
    if
    :: IN(loads, b) ->
        if
        :: content[b] = GOOD
        :: content[b] = BAD; invalid = invalid | SET(b)
        fi
    :: else
    fi
}

inline compute(r)
{
    if
    :: IN(computes, HEAD(r)) && !(r && shares) -> content[HEAD(r)] = GOOD
    :: else
    fi;
    if
    :: IN(computes, TAIL(r)) ->
        content[TAIL(r)] = content[HEAD(r)];
        wrong = wrong | (content[HEAD(r)] == BAD -> SET(r) : 0)
    :: else
    fi
}

active proctype worker()
{
    byte loads, computes, early_stores, late_stores, acknowledges, invalid, unstored, wrong;

end:
    do
    :: atomic {
           nempty(plan) && nfull(output) ->
           plan ? loads, computes, early_stores, late_stores, acknowledges;
#if defined(ANY_PLAN_ACKNOWLEDGES)
           known = failure;
#elif defined(FAILURE_IS_A_FLAG)
           flag = flag && acknowledges == known;
           known = acknowledges;
#endif
           store(early_stores);
           load(0);
           load(2);
           compute(0);
           compute(1);
           failure = failure + IN(invalid, 0) + IN(invalid, 2);
#ifdef FAILURE_IS_A_FLAG
           flag = flag || invalid;
#endif
           store(late_stores);
           output ! failure, invalid, unstored, loads, wrong;
           loads = 0; computes = 0; early_stores = 0; late_stores = 0; acknowledges = 0;
           invalid = 0; unstored = 0; wrong = 0
       }
    od
}
