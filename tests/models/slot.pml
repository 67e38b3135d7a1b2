/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slot.pml: the life of one slot: scheduler, two ranks, their disks, kills.
 *
 *   scheduler  the directory (src/directory: reserve, report, drop, take_erased, pin,
 *              unpin, begin_epoch, load), with the plans and the taking of reports of
 *              python/tutti_kv/scheduler.py, stores.py and loads.py
 *   worker     python/tutti_kv/worker.py and the sessions of src/serve, per rank: a store
 *              is the old record's erasure and the data, then the record; a load is the
 *              record, then the data, compared as in src/engine/check.c
 *   device     a rank's disk: a write lands some time; rank 1's may lose it and say it did not
 *   kill       all ends at any instant; what was under way lands, tears or does not; then
 *              tutti_pool_scan() and tutti_directory_load()
 *
 * Two keys, RESERVATIONS lives of the slot, one reset, KILLS kills; two steps' reports are
 * under way. The bytes of a life are its number, which is their checksum too. A plan is
 * carried out by rank 0, then by rank 1. Left out: other slots (parents, runs), the second
 * try of a load, a write that fails (it is a store that ends badly), KV blocks (blocks.pml).
 * Searched whole: 1,642,943 states, 6 s, and with QUIET and no kill 532,727, 2 s.
 *
 * Asserted: the names in the list below. A mutation leaves out what its name says:
 *   UNVERIFIED, GENERATION_IGNORED, RECORD_IGNORED  a comparison of a load; the last one is
 *       generation and key: the key alone adds nothing while no generation is given twice
 *   SHOWN_AT_FIRST_REPORT   visible when the first rank has reported
 *   EVICTS_PINNED           eviction does not look at pins
 *   DROP_FREES_AT_ONCE      a dropped slot is free before reports and pins are back
 *   STORE_ENDS_AT_ONCE      a cancelled store is reported before its writes have ended
 *   RECORD_BESIDE_ERASURE   a record is written while an erasure is under way
 *   EPOCH_NOT_DURABLE       a store does not put its epoch on disk first
 *   SCAN_IGNORES_OLDEST     records of epochs that a reset ended are taken over
 *   FIRST_RANK_DECIDES      the ranks' records are not compared
 *   RESET_IGNORED           slots of before the reset are found, and loaded: both refuse them
 * and, checked with QUIET (the scheduler stops at some time):
 *   ERASED_NEVER_TAKEN      take_erased() is not called
 *   RESET_FORGETS_STORES    a reset takes back the stores that no worker has, and reports none
 *   FAILED_STORE_IS_SILENT  a store that ended badly is not reported
 */
#ifndef RESERVATIONS
#define RESERVATIONS 3
#endif
#ifndef KILLS
#define KILLS 1
#endif
#ifdef QUIET
#define GOES_ON !draining
#else
#define GOES_ON true
#endif

/* Never set: the checker prints the name of what it found broken. */
hidden byte wrong_bytes, ranks_differ, reused_under_write, reused_under_read, void_served;
hidden byte generation_twice, shown_too_early, record_overtaken, reset_forgotten, leaked;
#define CHECK(name, holding) assert((holding) || name)

#define FREE 0
#define WRITING 1
#define VISIBLE 2
#define HIDDEN 3
#define ERASING 4

#define NOTHING 0
#define STORE 1
#define LOAD 2
#define ERASE 3

#define DATA 1 /* of a store or load: in this part of it */
#define RECORD 2

#define TORN 255

#define EPOCH(g) ((g) / 4)

/* The scheduler's half. */
byte state, generation, key, life;
byte pending; /* a bit for each rank */
bit pinned, erase, give_store, give_load;
byte load_owed; /* ranks whose load has not ended */
byte epoch = 1, oldest, counter, lives, kills;
bit was_reset, draining;

/* The plan that rank 0 has and rank 1 has not. */
byte half_what, half_epoch, half_oldest;
bit half;

chan report = [2] of { byte, byte, byte, byte, byte, byte };
        /* per rank: store, 4 x generation + 1 failed, 2 good; bad generation; load ended */

/* The workers': what their sessions name, and how far each rank is. */
byte store_generation, store_key, store_life, load_generation, load_key;
byte storing[2], loading[2], load_sum[2];
byte news_store[2], news_bad[2], news_load[2];

/* Writes under way, and the disks. record_generation 0: empty or torn. */
byte write_data[2]; /* life */
bit write_empty[2], write_record[2];
byte data[2], record_generation[2], record_key[2], record_sum[2];
byte disk_epoch[2], disk_oldest[2];

/* What only the checker knows. */
bit lost;                      /* a write of this life, on rank 1 */
bit key_of[RESERVATIONS + 1]; /* of a life */
bit pinned_void;               /* by the load under way: a slot of before the reset */
byte served[2];                /* life that this load has put in place */

#define VOID (EPOCH(generation) < oldest)
#define WRITES(r) (write_data[r] || write_record[r])

inline leave()
{
    if
    :: state == HIDDEN && !pinned && !pending -> state = (erase -> ERASING : FREE)
    :: else
    fi
}

inline hide(erasing)
{
    state = HIDDEN;
    erase = erase || erasing;
#ifdef DROP_FREES_AT_ONCE
    state = FREE;
#endif
    leave()
}

#ifdef SHOWN_AT_FIRST_REPORT
#define REPORTED true
#else
#define REPORTED !pending
#endif
#ifdef RESET_IGNORED
#define FINDABLE true
#define LOADABLE(r) true
#else
#define FINDABLE !VOID
#define LOADABLE(r) (EPOCH(load_generation) >= disk_oldest[r])
#endif

/* tutti_directory_report() */
inline take_report(r, word, good)
{
    if
    :: (word) / 4 == generation && pending & (1 << r) ->
        pending = pending & ~(1 << r);
        if
        :: state == HIDDEN -> leave()
        :: state == WRITING && (!good || (!pending && VOID)) -> hide(0)
        :: state == WRITING && good && REPORTED && !VOID ->
            state = VISIBLE;
            CHECK(shown_too_early, record_generation[0] == generation &&
                                   (record_generation[1] == generation || lost))
        :: else
        fi
    :: else
    fi
}

inline reserve(k)
{
    CHECK(reused_under_write, !WRITES(0) && !WRITES(1));
    CHECK(reused_under_read, !loading[0] && !loading[1] && !give_load);
    counter++;
    generation = epoch * 4 + counter;
    CHECK(generation_twice, record_generation[0] != generation &&
                            record_generation[1] != generation);
    lives++;
    life = lives;
    key_of[life] = k;
    key = k;
    state = WRITING;
    pending = 3;
    erase = 0;
    give_store = 1;
    lost = 0
}

inline make_durable(r, to, its_oldest)
{
    if
    :: to > disk_epoch[r] ->
        disk_epoch[r] = to;
        disk_oldest[r] = (its_oldest -> its_oldest : disk_oldest[r])
    :: else
    fi
}

#ifdef FAILED_STORE_IS_SILENT
#define FAILED 0
#else
#define FAILED 1
#endif

inline end_store(r, word)
{
    news_store[r] = (word -> 4 * store_generation + word : 0);
    storing[r] = 0
}

inline end_load(r, bad)
{
    news_bad[r] = (bad -> load_generation : 0);
    news_load[r] = 1;
    load_sum[r] = 0;
    loading[r] = 0
}

/* prepare(), bind() and step_ended() of a rank. */
inline carry_out(r, what, its_epoch, its_oldest)
{
    if
    :: its_oldest > disk_oldest[r] || what == ERASE -> make_durable(r, its_epoch, its_oldest)
    :: else
    fi;
    if
    :: what == STORE ->
#ifndef EPOCH_NOT_DURABLE
        make_durable(r, its_epoch, its_oldest);
#endif
        storing[r] = DATA;
        write_data[r] = store_life;
        write_empty[r] = 1
    :: what == LOAD && !LOADABLE(r) -> end_load(r, 1)
    :: what == LOAD && LOADABLE(r) -> loading[r] = RECORD
    :: what == ERASE -> write_empty[r] = 1
    :: else
    fi
}

inline send(what)
{
    half = 1;
    half_what = what;
    half_epoch = epoch;
    half_oldest = oldest;
    carry_out(0, what, epoch, oldest)
}

inline take_output()
{
    report ? store_0, bad_0, load_0, store_1, bad_1, load_1;
    if /* tutti_directory_drop() */
    :: (bad_0 == generation || bad_1 == generation) && !VOID &&
       (state == WRITING || state == VISIBLE) -> hide(1)
    :: else
    fi;
    if
    :: store_0 -> take_report(0, store_0, (store_0 % 4 == 2))
    :: else
    fi;
    if
    :: store_1 -> take_report(1, store_1, (store_1 % 4 == 2))
    :: else
    fi;
    load_owed = load_owed - load_0 - load_1;
    if
    :: pinned && !give_load && !load_owed ->
        pinned = 0;
        leave();
        load_generation = 0; load_key = 0; pinned_void = 0; served[0] = 0; served[1] = 0
    :: else
    fi;
    store_0 = 0; bad_0 = 0; load_0 = 0; store_1 = 0; bad_1 = 0; load_1 = 0
}

#define NEWS(r) (news_store[r] || news_load[r])
#define MAY_SEND (nfull(report) && !half)
#define MAY_RESERVE (state == FREE && lives < RESERVATIONS && counter < 3 && GOES_ON)
#ifdef EVICTS_PINNED
#define EVICTABLE (state == VISIBLE)
#else
#define EVICTABLE (state == VISIBLE && !pinned)
#endif

active proctype scheduler()
{
    byte store_0, bad_0, load_0, store_1, bad_1, load_1;

end:
    do
    :: d_step { MAY_RESERVE -> reserve(0) }
    :: d_step { MAY_RESERVE && lives -> reserve(1) }
    :: d_step { EVICTABLE && GOES_ON -> state = FREE }
    :: d_step {
           state == VISIBLE && FINDABLE && !pinned && GOES_ON ->
           pinned_void = VOID;
           pinned = 1;
           give_load = 1;
           load_generation = generation;
           load_key = key;
           load_owed = 2
       }
    /* A plan has one of these, or nothing: then its step only brings news. */
    :: d_step {
           MAY_SEND && give_store ->
           give_store = 0;
           store_generation = generation;
           store_key = key;
           store_life = life;
           send(STORE)
       }
    :: d_step { MAY_SEND && give_load -> give_load = 0; send(LOAD) }
#ifndef ERASED_NEVER_TAKEN
    :: d_step { MAY_SEND && state == ERASING -> state = FREE; erase = 0; send(ERASE) }
#endif
    :: d_step { MAY_SEND && (NEWS(0) || NEWS(1)) -> send(NOTHING) }
    :: d_step { nempty(report) -> take_output() }
    :: d_step { /* reset: give_up(), begin_epoch() */
           !was_reset && GOES_ON ->
           was_reset = 1;
           epoch++;
           oldest = epoch;
           counter = 0;
           if
           :: give_store ->
               give_store = 0;
#ifndef RESET_FORGETS_STORES
               pending = 0;
               hide(0)
#endif
           :: else
           fi
       }
#ifdef QUIET
    :: d_step { !draining -> draining = 1 }
#endif
    od
}

#if defined(RECORD_IGNORED)
#define SAME_RECORD record_generation[me]
#elif defined(GENERATION_IGNORED)
#define SAME_RECORD (record_generation[me] && record_key[me] == load_key)
#else
#define SAME_RECORD (record_generation[me] == load_generation && record_key[me] == load_key)
#endif
#ifdef UNVERIFIED
#define SAME_SUM true
#else
#define SAME_SUM (data[me] == load_sum[me])
#endif
#ifdef RECORD_BESIDE_ERASURE
#define DATA_ENDED (!WRITES(me))
#else
#define DATA_ENDED (!WRITES(me) && !write_empty[me])
#endif

/* Bytes that a load puts in place. */
inline serve()
{
    CHECK(wrong_bytes, data[me] && data[me] != TORN && key_of[data[me]] == load_key);
    CHECK(void_served, !pinned_void);
    served[me] = data[me];
    CHECK(ranks_differ, !served[1 - me] || served[0] == served[1])
}

proctype worker(byte me)
{
end:
    do
    :: d_step { /* rank 1's part of the plan; the report has what ended before the step */
           me == 1 && half ->
           report ! news_store[0], news_bad[0], news_load[0],
                    news_store[1], news_bad[1], news_load[1];
           news_store[0] = 0; news_bad[0] = 0; news_load[0] = 0;
           news_store[1] = 0; news_bad[1] = 0; news_load[1] = 0;
           carry_out(1, half_what, half_epoch, half_oldest);
           half = 0; half_what = 0; half_epoch = 0; half_oldest = 0
       }

    /* a store */
    :: d_step { storing[me] == DATA && DATA_ENDED -> end_store(me, FAILED) }
#ifdef STORE_ENDS_AT_ONCE
    :: d_step { storing[me] == DATA -> end_store(me, 1) }
#endif
    :: d_step {
           storing[me] == DATA && DATA_ENDED ->
           CHECK(record_overtaken, !write_empty[me]);
           storing[me] = RECORD;
           write_record[me] = 1
       }
    :: d_step { storing[me] == RECORD && !WRITES(me) -> end_store(me, 2) }

    /* a load */
    :: d_step {
           loading[me] == RECORD ->
           if
           :: SAME_RECORD -> load_sum[me] = record_sum[me]; loading[me] = DATA
           :: else -> end_load(me, 1)
           fi
       }
    :: d_step {
           loading[me] == DATA ->
           if
           :: SAME_SUM -> serve(); end_load(me, 0)
           :: else -> end_load(me, 1)
           fi
       }
    :: d_step { loading[me] == RECORD -> end_load(me, 1) } /* EIO */
    od
}

inline land_record(r)
{
    record_generation[r] = store_generation;
    record_key[r] = store_key;
    record_sum[r] = store_life
}

inline empty_record(r)
{
    record_generation[r] = 0; record_key[r] = 0; record_sum[r] = 0
}

proctype device(byte r)
{
end:
    do
    :: d_step { write_data[r] -> data[r] = write_data[r]; write_data[r] = 0 }
    :: d_step { write_empty[r] -> empty_record(r); write_empty[r] = 0 }
    :: d_step { write_record[r] -> land_record(r); write_record[r] = 0 }
    :: d_step { r == 1 && write_data[r] -> lost = 1; write_data[r] = 0 }
    :: d_step { r == 1 && write_empty[r] -> lost = 1; write_empty[r] = 0 }
    :: d_step { r == 1 && write_record[r] -> lost = 1; write_record[r] = 0 }
    od
}

#if KILLS
/* Of one rank, when all ends. */
inline cut(r)
{
    if
    :: write_data[r] -> data[r] = write_data[r]
    :: write_data[r] -> data[r] = TORN
    :: true
    fi;
    if
    :: write_empty[r] -> empty_record(r)
    :: write_record[r] -> land_record(r)
    :: write_record[r] -> empty_record(r) /* torn */
    :: true
    fi;
    write_data[r] = 0; write_empty[r] = 0; write_record[r] = 0;
    storing[r] = 0; loading[r] = 0; load_sum[r] = 0; served[r] = 0;
    news_store[r] = 0; news_bad[r] = 0; news_load[r] = 0
}

#ifdef SCAN_IGNORES_OLDEST
#define COUNTS(r) (record_generation[r] && EPOCH(record_generation[r]) <= disk_epoch[r])
#else
#define COUNTS(r)                                                                              \
    (record_generation[r] && EPOCH(record_generation[r]) <= disk_epoch[r] &&                    \
     EPOCH(record_generation[r]) >= disk_oldest[r])
#endif
#ifdef FIRST_RANK_DECIDES
#define AGREED COUNTS(0)
#else
#define AGREED                                                                                 \
    (COUNTS(0) && COUNTS(1) && record_generation[0] == record_generation[1] &&                  \
     record_key[0] == record_key[1])
#endif

inline restart()
{
    pending = 0; pinned = 0; erase = 0; give_store = 0; give_load = 0; load_owed = 0;
    half = 0; half_what = 0; half_epoch = 0; half_oldest = 0;
    store_generation = 0; store_key = 0; store_life = 0; load_generation = 0; load_key = 0;
    pinned_void = 0;
    epoch = 1 + (disk_epoch[0] > disk_epoch[1] -> disk_epoch[0] : disk_epoch[1]);
    oldest = 0;
    counter = 0;
    state = FREE; generation = 0; key = 0; life = 0;
    if
    :: AGREED ->
        state = VISIBLE;
        generation = record_generation[0];
        key = record_key[0];
        CHECK(shown_too_early, record_generation[1] == generation);
        CHECK(reset_forgotten, EPOCH(generation) >= disk_oldest[0] &&
                               EPOCH(generation) >= disk_oldest[1])
    :: else
    fi
}

active proctype kill()
{
end:
    do
    :: atomic {
           kills < KILLS && GOES_ON ->
           kills++;
           cut(0);
           cut(1);
           do
           :: report ? _, _, _, _, _, _
           :: empty(report) -> break
           od;
           restart()
       }
    od
}
#endif

#ifdef QUIET
/* Nothing can go on: the slot is somebody's or free, and nobody is owed anything. */
active proctype quiet()
{
    timeout;
    CHECK(leaked, (state == FREE || (state == VISIBLE && !pinned)) && !storing[0] && !storing[1] &&
                  !loading[0] && !loading[1])
}
#endif

init
{
    atomic { run worker(0); run worker(1); run device(0); run device(1) }
}
