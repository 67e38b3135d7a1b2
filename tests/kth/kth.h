/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kth.h: fail the k-th thing that the library asks for, for every k.
 *
 * The linker sends the library's calls to the system and to the allocator here
 * (meson.build), and what io_uring and the I/O threads report. A test arms one
 * failure, calls the library, and disarms; it goes on with k + 1 until a run in
 * which nothing failed. Flushes reach no disk, since no power fails here.
 *
 *     for (kth_every(KTH_MEMORY, ENOMEM); kth_more();) {
 *         kth_arm();
 *         rc = tutti_...;
 *         kth_disarm();
 *         ... what must hold, whatever rc is ...
 *     }
 */
#ifndef TUTTI_TESTS_KTH_H
#define TUTTI_TESTS_KTH_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

/** What is counted, or-ed together. */
enum {
    KTH_MEMORY = 1, /* allocations; they fail with ENOMEM */
    KTH_SYSTEM = 2, /* system calls, io_uring's set-up, threads */
    KTH_IO = 4,     /* reads and writes of members by an engine, as they end */
};

/** How: with an errno, or one of these. */
enum {
    KTH_SHORT = -1,   /* half of it was moved */
    KTH_LATE = -2,    /* its end is told after fifty looks */
    KTH_NEVER = -3,   /* and after kth_release() only */
    KTH_NOTHING = -4, /* a file's read or write moves nothing, and calls that no error */
};

/** Begin a loop: in run k, the k-th of what is counted fails. */
void kth_every(unsigned what, int how);
/** The same, with all that follow it. */
void kth_from_every(unsigned what, int how);
/** Go on to the next run. Return: false when nothing failed in the last one. */
bool kth_more(void);

void kth_arm(void);
/** Return: whether something has failed. What was held back stays so. */
bool kth_disarm(void);

/** Whether something is held back now. */
bool kth_holds(void);

/** Let what never ended end. */
void kth_release(void);

/** From now on waiting costs nothing: the clock jumps instead. */
void kth_fast_clock(bool on);

/** Runs of the loop in which something failed. */
uint64_t kth_met(void);

#endif
