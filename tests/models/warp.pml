/* SPDX-License-Identifier: Apache-2.0 */
/*
 * warp.pml: the I/O kernel's protocol: an entry from the CPU, commands, a doorbell,
 * completions, data, sums, a turn back to the CPU.
 *
 *   cpu      src/engine/gpu.c: issue(), collect()
 *   lane0    src/device/kernels/io_kernel.h: the lane that sees the tail, rings, releases
 *   lane1    any other lane, with a command and a result of its own
 *   drive    fetches after a doorbell; data, then its completion (PCIe keeps that order)
 *   memory   memory.pml
 *
 * ROUNDS entries, each a command a lane, in the same places each time. A vote or a shuffle is
 * a rendezvous that orders no memory. warp_sync() is one that does: no load of a lane's is made
 * before it that stands behind it, and what the other lane stored is seen by a lane behind it,
 * which for words of the warp alone (page sums) is waited for. A drive sees what a fence of the
 * system, or a release, has passed on: a release passes on what its lane has seen (PTX: causality
 * order), so it waits for both lanes' stores. A doorbell is a plain store: it overtakes whatever
 * is not fenced. Loads are made in the order of the program; where a barrier orders them, the
 * mutation without it makes the load first. Not here: places of the rings that are used again
 * (handover.pml has those of the CPU's ring), time, errors. Searched whole: 540 states.
 *
 * Mutations, each a line of the kernel (or of queue.h, gpu.c) left out:
 *   TAIL_RELAXED, TURN_RELAXED, CQE_RELAXED      a release (the last one is the drive's promise)
 *   TAIL_LOOKS_AHEAD, PHASE_LOOKS_AHEAD, TURN_LOOKS_AHEAD        an acquire
 *   NO_SYNC_BEHIND_TAIL, NO_SYNC_BEHIND_COMPLETIONS, NO_SYNC_BEHIND_SUMS, NO_SYNC_BEFORE_NEXT,
 *   NO_SYNC_BEFORE_DOORBELL, NO_SYNC_BEFORE_TURN                 a warp_sync()
 *   NO_FENCE_BEFORE_DOORBELL                                     tutti_fence_system()
 */
#ifndef ROUNDS
#define ROUNDS 2
#endif

#define CPU 0
#define L0 1
#define L1 2
#define DRIVE 3
#define PROCESSES 4

#define ENTRY 0
#define TAIL 1
#define SQE 2 /* + lane */
#define SQ_BELL 4
#define DATA 5 /* + lane */
#define CQE 7  /* + lane */
#define CQ_BELL 9
#define ROOT 10
#define RESULT 11 /* + lane */
#define TURN 13
#define WORDS 14

#define STORED                                                                                 \
    SHOW(CPU, 0) SHOW(CPU, 1)                                                                   \
    SHOW(L0, 2) SHOW(L0, 4) SHOW(L0, 9) SHOW(L0, 11) SHOW(L0, 13)                               \
    SHOW(L1, 3) SHOW(L1, 10) SHOW(L1, 12)                                                       \
    SHOW(DRIVE, 5) SHOW(DRIVE, 6) SHOW(DRIVE, 7) SHOW(DRIVE, 8)

#include "memory.pml"

/* Never set: the checker prints the name of what it found broken. */
hidden byte wrong_entry, wrong_command, wrong_data, wrong_sum, wrong_result;
#define CHECK(name, holding) assert((holding) || name)

/* Lanes meet: lane 0 says, lane 1 hears. */
chan meets = [0] of { bit };

active proctype cpu()
{
    byte r = 1, early0, early1;

    do
    :: r <= ROUNDS ->
        store(CPU, ENTRY, r);
#ifdef TAIL_RELAXED
        store(CPU, TAIL, r);
#else
        store_release(CPU, TAIL, r);
#endif
#ifdef TURN_LOOKS_AHEAD
        early0 = LOAD(CPU, RESULT);
        early1 = LOAD(CPU, RESULT + 1);
        LOAD(CPU, TURN) == r;
#else
        LOAD(CPU, TURN) == r;
        early0 = LOAD(CPU, RESULT);
        early1 = LOAD(CPU, RESULT + 1);
#endif
        CHECK(wrong_result, early0 == r && early1 == r);
        r++
    :: else -> break
    od
}

active proctype lane0()
{
    byte r = 1, first, second;

    do
    :: r <= ROUNDS ->
        /* io_see() */
#ifdef TAIL_LOOKS_AHEAD
        first = LOAD(L0, ENTRY);
        LOAD(L0, TAIL) == r;
#else
        LOAD(L0, TAIL) == r;
        first = LOAD(L0, ENTRY);
#endif
        CHECK(wrong_entry, first == r);
        meets!1; /* the shuffle of the tail, and warp_sync() */
        /* io_issue() */
        store(L0, SQE, r);
#ifndef NO_FENCE_BEFORE_DOORBELL
        FENCED(L0);
#endif
#ifndef NO_SYNC_BEFORE_DOORBELL
        meets!1;
#endif
        store(L0, SQ_BELL, r);
        /* io_poll() */
#ifdef PHASE_LOOKS_AHEAD
        first = LOAD(L0, DATA);
        LOAD(L0, CQE) == r;
#else
        LOAD(L0, CQE) == r;
        first = LOAD(L0, DATA);
#endif
        CHECK(wrong_data, first == r);
#ifdef NO_SYNC_BEHIND_COMPLETIONS
        second = LOAD(L0, DATA + 1);
        meets!1; /* the vote is there all the same */
#else
        meets!1;
        second = LOAD(L0, DATA + 1);
#endif
        store(L0, CQ_BELL, r);
        CHECK(wrong_data, second == r);
        /* sum_layer(), of two positions: lane 1 wrote a page's sum */
        first = 1;
        do
        :: first <= 2 ->
#ifndef NO_SYNC_BEHIND_SUMS
            meets!1;
            !holds_store[AT(L1, ROOT)];
#endif
            CHECK(wrong_sum, LOAD(L0, ROOT) == 2 * r + first);
#ifndef NO_SYNC_BEFORE_NEXT
            meets!1;
#endif
            first++
        :: else -> break
        od;
        /* io_land() */
        first = 0;
        second = 0;
        store(L0, RESULT, r);
#ifdef NO_SYNC_BEFORE_TURN
        store_release(L0, TURN, r);
#else
        meets!1;
#ifdef TURN_RELAXED
        store(L0, TURN, r);
#else
        atomic { FENCED(L0) && FENCED(L1) -> store(L0, TURN, r) }
#endif
#endif
        r++
    :: else -> break
    od
}

active proctype lane1()
{
    byte r = 1, first, k;

    do
    :: r <= ROUNDS ->
#ifdef NO_SYNC_BEHIND_TAIL
        first = LOAD(L1, ENTRY);
        meets?1;
#else
        meets?1;
        first = LOAD(L1, ENTRY);
#endif
        CHECK(wrong_entry, first == r);
        store(L1, SQE + 1, r);
#ifndef NO_FENCE_BEFORE_DOORBELL
        FENCED(L1);
#endif
#ifndef NO_SYNC_BEFORE_DOORBELL
        meets?1;
#endif
        LOAD(L1, CQE + 1) == r;
        CHECK(wrong_data, LOAD(L1, DATA + 1) == r);
#ifdef NO_SYNC_BEHIND_COMPLETIONS
        first = LOAD(L1, DATA);
        meets?1;
#else
        meets?1;
        first = LOAD(L1, DATA);
#endif
        CHECK(wrong_data, first == r);
        k = 1;
        do
        :: k <= 2 ->
            store(L1, ROOT, 2 * r + k);
#ifndef NO_SYNC_BEHIND_SUMS
            meets?1;
#endif
#ifndef NO_SYNC_BEFORE_NEXT
            meets?1;
#endif
            k++
        :: else -> break
        od;
        k = 0;
        store(L1, RESULT + 1, r);
#ifndef NO_SYNC_BEFORE_TURN
        meets?1;
#endif
        r++
    :: else -> break
    od
}

inline complete(lane)
{
    store(DRIVE, DATA + lane, r);
#ifdef CQE_RELAXED
    store(DRIVE, CQE + lane, r)
#else
    store_release(DRIVE, CQE + lane, r)
#endif
}

active proctype drive()
{
    byte r = 1;

    do
    :: r <= ROUNDS ->
        LOAD(DRIVE, SQ_BELL) == r;
        CHECK(wrong_command, LOAD(DRIVE, SQE) == r && LOAD(DRIVE, SQE + 1) == r);
        LOAD(DRIVE, CQ_BELL) == r - 1; /* there is a place */
        if
        :: true -> complete(0); complete(1)
        :: true -> complete(1); complete(0)
        fi;
        r++
    :: else -> break
    od
}
