/* SPDX-License-Identifier: Apache-2.0 */
/*
 * failure.pml: loads in step that fail or do not end, with two steps under way. What was
 * computed over a block whose load failed is never stored, and no answer is taken from it.
 *
 *   scheduler  vLLM's scheduler (of the requests that hold a failed block it truncates the
 *              first; what a truncated request had under way is discarded; a block is in
 *              its prefix cache from when it is given out) with python/tutti_kv/scheduler.py
 *              (acknowledgement, finished(), early stores) and loads.py (unproven(), spoilt())
 *              and quarantine.py (requests leave blocks that are held)
 *   worker     python/tutti_kv/worker.py: a step at a time, as prepare(), bind(), the
 *              computation and step_ended() do; failures are counted, stores compared with
 *              the plan's acknowledgement; a load that does not end has failed, and is held;
 *              salvage.py: from any instant on all loads fail and nothing is stored
 *   disk       a read that is held lands at some time, and brings what nobody verifies
 *
 * Two requests of two blocks: the first is loaded or computed, the second computed over it.
 * Request 1 has a first block of its own or shares that of request 0. A store is an instant:
 * that blocks stay as they are under it is shown in blocks.pml, and that a held block is not
 * given to others. A rank that stores beside one that failed is left out: no key is visible
 * that one rank did not write (slot.pml). Searched whole: 2,292,952 states, 15 s.
 *
 * Asserted: the names in the list below. A mutation leaves out what its name says:
 *   STORES_UNACKNOWLEDGED     the worker stores whatever failed
 *   ANY_PLAN_ACKNOWLEDGES     the worker stores from the next plan on
 *   FAILURE_IS_A_FLAG         failures have no number: one acknowledgement is for all
 *   FINISH_IGNORES_FAILURE    finished() stores a request whose load has not ended, and stores
 *       that wait when a failure becomes known are not given up: either rule alone is enough
 *   SPOILT_STAYS_CACHED       failed blocks stay in the prefix cache
 *   SHARER_DOES_NOT_WAIT      a local hit on a block whose load may fail is taken
 *   STAYS_ON_HELD             a request computes again in the block that is held
 *   HELD_IS_NO_FAILURE        a load that does not end is held, and not reported as failed
 *   SALVAGE_OWES_NOTHING      who takes over reports no loads as failed
 */
hidden byte stored_bad, wrong_answer;
#define CHECK(name, holding) assert((holding) || name)

#define EMPTY 0
#define GOOD 1
#define BAD 2

/* Blocks: 0 and 1 of request 0, 2 and 3 of request 1; 4 and 5 instead of 0 and 2, where those are
 * held. A set is a byte with a bit for each. */
#define IN(set, b) (((set) >> (b)) & 1)
#define SET(b) (1 << (b))
#define OWN(r) (moved[r] -> 4 + r : 2 * r)
#define HEAD(r) (r && shares -> OWN(0) : OWN(r))
#define TAIL(r) (2 * r + 1)

byte content[6];
byte pending; /* blocks that a held read may still write to */

/* The scheduler's. */
bit admitted[2], gone[2], loading[2], moved[2];
bit tripped;     /* nothing is stored any more */
byte have[2];    /* blocks that are computed, or will be by the steps sent */
byte stale[2];   /* outputs to discard */
byte to_store = 63; /* blocks of which no store is planned */
bit shares;      /* request 1 holds request 0's first block */
bit cached;      /* that block is in the prefix cache */
byte early;      /* stores that wait for the next plan */
byte acknowledged;
byte sent;       /* plans whose output was not taken */

/* loads, computations, early and late stores: sets of blocks; acknowledged */
chan plan = [2] of { byte, byte, byte, byte, byte };
/* failures so far, blocks that failed, those of them that are held, blocks not stored, loads ended,
 * requests that computed over what was bad, salvaged */
chan output = [2] of { byte, byte, byte, byte, byte, byte, bit };

/* The worker's. */
byte failure;
bit broken; /* salvage.py has taken over */
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
    :: admitted[r] && !gone[r] && have[r] && !tripped -> late = late | (STORABLE(r) & to_store)
    :: true
    fi
}

#ifdef FINISH_IGNORES_FAILURE
#define MAY_STORE(r) (!tripped)
#else
#define MAY_STORE(r) (!loading[r] && !tripped)
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

/* quarantine.py: preempted, and it comes back on other blocks. */
#ifdef STAYS_ON_HELD
#define LEAVES(r) false
#else
#define LEAVES(r) (IN(held, HEAD(r)) && admitted[r] && !gone[r])
#endif
inline move_off(r)
{
    if
    :: LEAVES(r) -> truncate(r); moved[r] = 1
    :: else
    fi
}

inline take_output()
{
    output ? failures, invalid, held, unstored, ended, wrong, salvaged;
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
    :: salvaged && !tripped -> tripped = 1; cached = 0; to_store = to_store | early; early = 0
    :: else
    fi;
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
    move_off(0);
    move_off(1);
    failures = 0; invalid = 0; held = 0; unstored = 0; ended = 0; wrong = 0; salvaged = 0
}

active proctype scheduler()
{
    byte loads, computes, late, failures, invalid, held, unstored, ended, wrong;
    bit tried[2], salvaged;

end:
    do
    :: atomic { !admitted[0] -> admitted[0] = 1 }
#ifndef SHARES /* a part of the behaviours, where two mutations are found sooner */
    :: atomic { !admitted[1] -> admitted[1] = 1 }
#endif
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
     (IN(set, 2) && content[2] == BAD) || (IN(set, 3) && content[3] == BAD) ||                  \
     (IN(set, 4) && content[4] == BAD) || (IN(set, 5) && content[5] == BAD))

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
    :: MAY_BEGIN && !broken -> CHECK(stored_bad, !BAD_IN(set))
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
        :: content[b] = BAD; held = held | SET(b); pending = pending | SET(b)
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

/* Something unexpected is raised; sooner in a step is as late in the one before. */
inline may_break()
{
    if
    :: broken = 1
    :: true
    fi
}

#ifdef HELD_IS_NO_FAILURE
#define HELD_FAILED 0
#else
#define HELD_FAILED held
#endif
#ifdef SALVAGE_OWES_NOTHING
#define OWED 0
#else
#define OWED (broken -> loads : 0)
#endif

active proctype worker()
{
    byte loads, computes, early_stores, late_stores, acknowledges, invalid, held, unstored, wrong;

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
           invalid = invalid | HELD_FAILED;
           may_break();
           compute(0);
           compute(1);
           invalid = (broken -> OWED : invalid);
           failure = failure + IN(invalid, 0) + IN(invalid, 2);
#ifdef FAILURE_IS_A_FLAG
           flag = flag || invalid;
#endif
           store(late_stores);
           output ! failure, invalid, held, unstored, loads, wrong, broken;
           loads = 0; computes = 0; early_stores = 0; late_stores = 0; acknowledges = 0;
           invalid = 0; held = 0; unstored = 0; wrong = 0
       }
    od
}

active proctype disk()
{
end:
    do
    :: atomic { IN(pending, 0) -> content[0] = BAD; pending = pending & ~SET(0) }
    :: atomic { IN(pending, 2) -> content[2] = BAD; pending = pending & ~SET(2) }
    od
}
