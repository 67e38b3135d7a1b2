/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blocks.pml: one of the engine's KV blocks, under loads and stores. It is not written by
 * anybody while a store may read it, and nobody uses it while a load may land in it.
 *
 *   scheduler  vLLM's scheduler: gives the block to one request after the other, and has
 *              it back at a finish, abort or preemption at any instant; discards what was
 *              computed over a block that is reported as failed; with the plans of
 *              python/tutti_kv/scheduler.py, the counts of readers of stores.py, and
 *              quarantine.py, which sets the block aside and moves requests off it
 *   worker     python/tutti_kv/worker.py: prepare() (early stores, the fence of writing.py), bind()
 *              (loads), the computation, step_ended() (late stores), poll_loads(), _hold();
 *              salvage.py, which has from it what is held
 *   device     the engine's threads (src/engine): a store reads the block twice, for the
 *              disk and for the checksum, and writes its record if it was not cancelled
 *              (src/serve/session.c, store.c); a load lands once
 *
 * REQUESTS requests, the block's bytes are the request's number. Two plans are under way at
 * a time. A request computes the block, loads it in step, or loads it ahead; what it holds
 * is stored late (with the step) or early (after its finish). A fence may time out. So may a
 * load: then it is reported as failed and held until its read is seen to end, whenever that
 * is; what it brings is junk by then. Until the failure is acknowledged the block may have
 * been given on already: nothing of that counts.
 * Left out: other blocks, loads that fail in other ways (failure.pml). Searched whole: 215,703
 * states, 1 s; with a third request 3,092,599.
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
 *   HELD_IS_GIVEN_ON       a block that is held is given to the next request
 *   HELD_IS_COMPUTED       the request whose load failed computes in the same block
 *   HELD_IS_FORGOTTEN      whoever takes over from the worker's half reports nothing held
 *   HELD_IS_STORED         the worker stores although a failure is not acknowledged
 *   FINISH_IS_STORED       a store that waits when a failure becomes known is not given up
 */
#ifndef REQUESTS
#define REQUESTS 2
#endif

hidden byte written_under_store, landed_late, recorded_wrong, attended_early;
#define CHECK(name, holding) assert((holding) || name)

#define NONE 0
#define COMPUTES 1
#define LOADS_IN_STEP 2
#define LOADS_AHEAD 3

#define JUNK 255

/* vLLM's: whose the block is, and how it is filled. */
byte owner, kind, requests;
bit filled;  /* a step that fills it was sent, or the load ahead is over */
bit aborted; /* while it was loaded ahead */
bit stored;  /* a store of it was planned */
byte readers;
byte early; /* a store that waits for the next plan: its request, 0 none */
bit aside;  /* quarantine.py: nobody gets it */
bit spoilt; /* its request was told that its load failed */
byte acknowledged;

/* how the block is filled now, by whom; attended to by whom; fenced; early, late store;
 * failures acknowledged */
chan plan = [2] of { byte, byte, byte, bit, byte, byte, byte };
/* stores that ended; whose load ahead is over; failures so far; block held; who attended to other
 * bytes */
chan report = [2] of { byte, byte, byte, bit, byte };

/* The worker's. */
byte holder;  /* only the checker knows: request that the last plan gave the block to */
byte block;   /* the bytes: request that they belong to */
byte storing; /* request, 0 none */
byte read_disk, read_sum; /* what the store's two reads saw */
bit cancelled, stuck, recording;
byte loading; /* request whose load is under way */
bit load_ahead;
bit held;     /* nobody waits for it any more */
byte failures;
byte known;   /* failures that the last plan acknowledged */
byte news_stored, news_loaded, news_wrong;

inline release()
{
    owner = 0; kind = NONE; filled = 0; aborted = 0; stored = 0; spoilt = 0
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
#define RUNNABLE (owner && filled && !aside)
#endif

/* A plan. Its early store was counted as a reader when the request finished. */
inline send(how, who, attends, late)
{
    plan ! how, who, attends, (how -> FENCED(how) : 0), early, late, acknowledged;
    early = 0;
    readers = readers + (late -> COUNTED : 0)
}

#ifdef HELD_IS_GIVEN_ON
#define FREE (!owner)
#else
#define FREE (!owner && !aside)
#endif

inline give_up()
{
    readers = readers - (early -> COUNTED : 0);
    early = 0
}

/* A load failed, whoever has the block now: nothing that was computed over it counts, and while
 * it is held, nobody stays on it. */
inline fail()
{
#ifndef FINISH_IS_STORED
    give_up();
#endif
#ifdef HELD_IS_COMPUTED
    spoilt = (owner && !aborted);
    filled = spoilt
#else
    if
    :: owner && (filled || loaded == owner) -> release()
    :: else /* nobody's, or of one whose own load ahead is under way: that ends as well */
    fi
#endif
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
    byte count, how, loaded, failed, wrong;

end:
    do
    :: atomic { /* the block is given to a request, whose first plan fills it */
           FREE && requests < REQUESTS && nfull(plan) ->
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
           RUNNABLE && !aborted && !stored && !spoilt && nfull(plan) -> stored = 1;
           send(NONE, 0, owner, owner)
       }
#ifdef HELD_IS_COMPUTED
    :: atomic { spoilt && nfull(plan) -> spoilt = 0; stored = 1; send(COMPUTES, owner, owner, 0) }
#endif
    :: atomic { nfull(plan) && early -> send(NONE, 0, 0, 0) }
    :: atomic {
           nfull(plan) && !early &&
           (news_stored || news_loaded || failures > acknowledged || (aside && !held)) ->
           send(NONE, 0, 0, 0)
       }
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
           report ? count, loaded, failed, aside, wrong ->
           readers = readers - (COUNTED -> count : 0);
           CHECK(attended_early, !wrong || wrong != owner || failed > acknowledged || spoilt);
           if
           :: failed > acknowledged -> acknowledged = failed; fail()
           :: else ->
               if
               :: loaded && loaded == owner ->
                   if
                   :: aborted -> release()
                   :: else -> filled = 1
                   fi
               :: else
               fi
           fi;
           count = 0; loaded = 0; failed = 0; wrong = 0
       }
    od
}

/* Bytes are put in the block, by the computation or by a load. */
inline write(who)
{
    CHECK(written_under_store, !storing || recording || stuck);
    block = who
}

#ifdef HELD_IS_STORED
#define MAY_STORE true
#else
#define MAY_STORE (failures <= known)
#endif

/* A store is dropped while one is stuck or a failure is not acknowledged, and answered all the
 * same. */
inline begin_store(who)
{
    if
    :: !who
    :: who && (storing || stuck || !MAY_STORE) -> news_stored++
    :: who && !storing && !stuck && MAY_STORE -> storing = who
    fi
}

#ifdef HELD_IS_FORGOTTEN
#define REPORTED 0
#else
#define REPORTED held
#endif

active proctype worker()
{
    byte how, who, attends, early_store, late_store, moved_off;
    bit fence;

end:
    do
    :: atomic {
           nempty(plan) && nfull(report) ->
           moved_off = known;
           plan ? how, who, attends, fence, early_store, late_store, known;
           moved_off = known > moved_off; /* by the plan that acknowledges it */
           report ! news_stored, news_loaded, failures, REPORTED, news_wrong;
           news_stored = 0; news_loaded = 0; news_wrong = 0;
           held = held && loading;
#ifndef FENCE_BEFORE_EARLY
           begin_store(early_store);
#endif
           holder = (how -> who : (moved_off -> 0 : holder));
           moved_off = 0;
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
           :: (how == LOADS_IN_STEP || how == LOADS_AHEAD) && !held ->
               loading = who;
               load_ahead = how == LOADS_AHEAD
           :: (how == LOADS_IN_STEP || how == LOADS_AHEAD) && held ->
               failures++; /* not begun while another read has not ended */
               news_loaded = (how == LOADS_AHEAD -> who : news_loaded)
           :: else
           fi
       }
       if /* the step: its load has ended or takes too long, or it computes */
       :: how == LOADS_IN_STEP && !held ->
           if
           :: !loading
           :: atomic { loading -> held = 1; failures++ }
           fi
       :: how == COMPUTES -> write(who)
       :: else
       fi;
       atomic {
           news_wrong = (attends && block != attends -> attends : 0);
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
           CHECK(landed_late, holder == loading || !holder || failures > known);
           if
           :: held -> write(JUNK)
           :: else -> write(loading); news_loaded = (load_ahead -> loading : news_loaded)
           fi;
           loading = 0; load_ahead = 0
       }
    :: atomic { /* poll_loads(): nobody waits for it any longer */
           loading && load_ahead && !held && !news_loaded ->
           held = 1;
           failures++;
           news_loaded = loading
       }
#ifdef TIMEOUT_ENDS_LOAD
    :: atomic { loading && load_ahead && !news_loaded -> news_loaded = loading }
#endif
    od
}
