/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blocks.pml: one of the engine's KV blocks, under loads and stores. It is not written by
 * anybody while a store may read it, and not given on while a load may land in it.
 *
 *   scheduler  vLLM's scheduler: gives the block to one request after the other, and has
 *              it back at a finish, abort or preemption at any instant; with the plans of
 *              python/tutti_kv/scheduler.py and the counts of readers of stores.py
 *   worker     python/tutti_kv/worker.py: prepare() (early stores, then the fence), bind()
 *              (loads), the computation, step_ended() (late stores), poll_loads()
 *   device     the engine's threads (src/engine): a store reads the block twice, for the
 *              disk and for the checksum, and writes its record if it was not cancelled
 *              (src/serve/session.c, store.c); a load lands once
 *
 * REQUESTS requests, the block's bytes are the request's number. Two plans are under way at
 * a time. A request computes the block, loads it in step, or loads it ahead; what it holds
 * is stored late (with the step) or early (after its finish). A fence may time out.
 * Left out: other blocks, loads that fail (failure.pml). Searched whole: 246,025 states, 1 s.
 *
 * Asserted: the names in the list below; a wait without an end is found as well. A mutation
 * leaves out what its name says:
 *   NO_FENCE               the plan names no blocks that are overwritten
 *   LOADS_UNFENCED         or only those that are computed
 *   READERS_FORGOTTEN      the count of readers falls when the plan is sent, not at the report
 *   FENCE_WAITS_FOR_NOTHING     the fence cancels, and returns
 *   FENCE_BEFORE_EARLY     early stores are begun behind the fence
 *   CANCELLED_IS_RECORDED  a store that outlived its fence writes its record
 *   FREED_UNDER_LOAD       an abort gives the block on while it is loaded ahead
 *   TIMEOUT_ENDS_LOAD      a load that takes too long is reported as over
 *   RUNS_BEFORE_LOADED     a request is scheduled before its load ahead has ended
 */
#ifndef REQUESTS
#define REQUESTS 3
#endif

hidden byte written_under_store, landed_late, recorded_wrong, attended_early;
#define CHECK(name, holding) assert((holding) || name)

#define NONE 0
#define COMPUTES 1
#define LOADS_IN_STEP 2
#define LOADS_AHEAD 3

/* vLLM's: whose the block is, and how it is filled. */
byte owner, kind, requests;
bit filled;  /* a step that fills it was sent, or the load ahead is over */
bit aborted; /* while it was loaded ahead */
bit stored;  /* a store of it was planned */
byte readers;
byte early; /* a store that waits for the next plan: its request, 0 none */

/* how the block is filled now, by whom; attended to by whom; fenced; early, late store */
chan plan = [2] of { byte, byte, byte, bit, byte, byte };
chan report = [2] of { byte, bit }; /* stores that ended, load ahead over */

/* The worker's. */
byte holder;  /* only the checker knows: request that the last plan gave the block to */
byte block;   /* the bytes: request that they belong to */
byte storing; /* request, 0 none */
byte read_disk, read_sum; /* what the store's two reads saw */
bit cancelled, stuck, recording;
byte loading; /* request whose load is under way */
bit load_ahead;
byte news_stored;
bit news_loaded;

inline release()
{
    owner = 0; kind = NONE; filled = 0; aborted = 0; stored = 0
}

#ifdef READERS_FORGOTTEN
#define COUNTED 0
#else
#define COUNTED 1
#endif

#if defined(NO_FENCE)
#define FENCED(how) 0
#elif defined(LOADS_UNFENCED)
#define FENCED(how) (readers && how != LOADS_AHEAD)
#else
#define FENCED(how) (readers > 0)
#endif

#ifdef RUNS_BEFORE_LOADED
#define RUNNABLE owner
#else
#define RUNNABLE (owner && filled)
#endif

/* A plan. Its early store was counted as a reader when the request finished. */
inline send(how, who, attends, late)
{
    plan ! how, who, attends, (how -> FENCED(how) : 0), early, late;
    early = 0;
    readers = readers + (late -> COUNTED : 0)
}

inline give(how)
{
    requests++;
    owner = requests;
    kind = how;
    filled = how != LOADS_AHEAD
}

active proctype scheduler()
{
    byte count, how;
    bit loaded;

end:
    do
    :: atomic { /* the block is given to a request, whose first plan fills it */
           !owner && requests < REQUESTS && nfull(plan) ->
           if
           :: how = COMPUTES
           :: how = LOADS_IN_STEP
           :: how = LOADS_AHEAD
           fi;
           give(how);
           if
           :: how == LOADS_AHEAD -> send(how, owner, 0, 0)
           :: how != LOADS_AHEAD -> send(how, owner, owner, 0)
           :: how != LOADS_AHEAD -> stored = 1; send(how, owner, owner, owner)
           fi;
           how = 0
       }
    :: atomic { /* a later step of the request, perhaps with a store */
           RUNNABLE && !aborted && !stored && nfull(plan) -> stored = 1;
           send(NONE, 0, owner, owner)
       }
    :: atomic { nfull(plan) && early -> send(NONE, 0, 0, 0) }
    :: atomic { nfull(plan) && !early && (news_stored || news_loaded) -> send(NONE, 0, 0, 0) }
    :: atomic { /* finished, aborted or preempted */
           owner && !aborted ->
#ifndef FREED_UNDER_LOAD
           if
           :: !filled -> aborted = 1
           :: else ->
#endif
               if
               :: filled && !stored && !early -> early = owner; readers = readers + COUNTED
               :: true
               fi;
               release()
#ifndef FREED_UNDER_LOAD
           fi
#endif
       }
    :: atomic { /* the reports of a step */
           report ? count, loaded ->
           readers = readers - (COUNTED -> count : 0);
           if
           :: loaded && owner && kind == LOADS_AHEAD ->
               if
               :: aborted -> release()
               :: else -> filled = 1
               fi
           :: else
           fi;
           count = 0; loaded = 0
       }
    od
}

/* Bytes are put in the block, by the computation or by a load. */
inline write(who)
{
    CHECK(written_under_store, !storing || recording || stuck);
    block = who
}

/* A store is dropped while one is stuck, and answered all the same. */
inline begin_store(who)
{
    if
    :: !who
    :: who && (storing || stuck) -> news_stored++
    :: who && !storing && !stuck -> storing = who
    fi
}

active proctype worker()
{
    byte how, who, attends, early_store, late_store;
    bit fence;

end:
    do
    :: atomic {
           nempty(plan) && nfull(report) ->
           plan ? how, who, attends, fence, early_store, late_store;
           report ! news_stored, news_loaded;
           news_stored = 0;
           news_loaded = 0;
#ifndef FENCE_BEFORE_EARLY
           begin_store(early_store);
#endif
           holder = (how -> who : holder);
           if
           :: fence && storing -> cancelled = 1
           :: else
           fi
       }
       if
#ifndef FENCE_WAITS_FOR_NOTHING
       :: fence && storing && !stuck ->
           if
           :: !storing
           :: storing -> stuck = 1 /* timed out */
           fi
#endif
       :: else
       fi;
       atomic {
#ifdef FENCE_BEFORE_EARLY
           begin_store(early_store);
#endif
           if
           :: how == LOADS_IN_STEP || how == LOADS_AHEAD ->
               loading = who;
               load_ahead = how == LOADS_AHEAD
           :: else
           fi
       }
       if /* the step: its load has ended, or it computes */
       :: how == LOADS_IN_STEP -> !loading
       :: how == COMPUTES -> write(who)
       :: else
       fi;
       atomic {
           CHECK(attended_early, !attends || block == attends);
           begin_store(late_store);
           how = 0; who = 0; attends = 0; early_store = 0; late_store = 0; fence = 0
       }
    od
}

active proctype device()
{
end:
    do
    :: atomic { storing && !recording && !read_disk -> read_disk = block }
    :: atomic { storing && !recording && !read_sum -> read_sum = block }
    :: atomic {
           storing && !recording && read_disk && read_sum ->
           if
#ifndef CANCELLED_IS_RECORDED
           :: cancelled -> /* ends, and writes no record */
               storing = 0; cancelled = 0; stuck = 0; read_disk = 0; read_sum = 0; news_stored++
           :: else ->
#else
           :: true ->
#endif
               CHECK(recorded_wrong, read_disk == storing && read_sum == storing);
               recording = 1
           fi
       }
    :: atomic {
           recording ->
           recording = 0;
           storing = 0; cancelled = 0; stuck = 0; read_disk = 0; read_sum = 0; news_stored++
       }
    :: atomic {
           loading ->
           CHECK(landed_late, holder == loading);
           write(loading);
           news_loaded = news_loaded || load_ahead;
           loading = 0; load_ahead = 0
       }
#ifdef TIMEOUT_ENDS_LOAD
    :: atomic { loading && load_ahead && !news_loaded -> news_loaded = 1 }
#endif
    od
}
