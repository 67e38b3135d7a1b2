/* SPDX-License-Identifier: Apache-2.0 */
/*
 * launch.h: how a kernel of ours gets to run, and on which memory.
 *
 * The contract between engine "gpu" and whoever runs its kernels: host lanes
 * (the kernel's source on the CPU, lane by lane) or CUDA. Knows neither queues
 * nor IOCBs. The one idea: a kernel is a name, a few 64-bit words and a number
 * of warps, so a launcher needs nothing of what the kernel does.
 *
 * What a launcher must do:
 *
 *  1. Warps. A launch is @warps blocks of 32 threads each: one warp a block,
 *     which share nothing but memory and may run one after the other, all at
 *     once, or on any SM. A kernel never waits for another warp of its launch.
 *  2. Words. The kernel's function has exactly @count parameters, each a
 *     uint64_t, in this order. A name that is not known, or takes another
 *     number of words, is -ENOENT with a message that names it.
 *  3. Order. Launches of one launcher run one after the other, in the order of
 *     the calls (a stream). Memory: what this thread wrote before launch() is
 *     seen by the kernel; what the kernel wrote is seen by whoever's wait()
 *     for it returned 0. While it runs the two sides share words by the named
 *     accesses of src/base/shared.h alone.
 *  4. No wait. launch() does not wait for the kernel, not even for an earlier
 *     one; with CUDA it is no default stream, captures nothing, and makes no call
 *     that waits for the device or for other streams. One launch may be under
 *     way while another is queued: two of them are enough.
 *  5. Bound. wait() returns when the ticket's kernel has ended, or -ETIMEDOUT
 *     after @timeout_ns; 0 asks and comes back at once. It can be called again.
 *     It may block the thread (event) or look at it (yielding), but not spin
 *     for more than some tens of microseconds.
 *  6. Errors. A launch or kernel that failed is a negative errno with a message
 *     (device, function, CUDA's name of the error, remedy). A sticky one stays:
 *     all later calls but free and close return it. It is told once by wait()
 *     of the ticket that failed, never lost.
 *  7. Memory. alloc() gives zeroed memory that both sides reach, aligned to
 *     64 KiB; "beside the data" is the device's own where the CPU has a mapping of it,
 *     else pinned host memory: @beside says which it became. share() makes
 *     memory that is there reachable (host memory pinned and mapped; registers of a
 *     drive as I/O memory: its pages are touched first, never anything around them).
 *     For both, @host is the CPU's pointer and @device the kernel's: they may
 *     differ, so only @device's go into words or into memory that the kernel reads.
 *  8. Release. free() and unshare() wait for nothing: the caller has seen the
 *     end of every kernel that knew of the memory, and so has the drive.
 *     close() ends what is under way (kernels are finite), frees nothing of alloc().
 *  9. Threads. All calls on one launcher come from one thread (engine "gpu":
 *     its member's), which need not be the one that opened it: a launcher that
 *     needs a context current makes it current itself, and leaves the caller's
 *     as it found it.
 * 10. Time. The kernel's clock runs in nanoseconds and need not agree with the
 *     CPU's: bounds are handed over as durations.
 *
 * Kernels (src/device/kernels/) are in this contract for names and words only;
 * an image of them is the launcher's own business.
 */
#ifndef TUTTI_DEVICE_LAUNCH_H
#define TUTTI_DEVICE_LAUNCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tutti/error.h"

#define LAUNCH_MOST_WORDS 8u
#define LAUNCH_MOST_WARPS 64u

/**
 * struct launch_memory - memory that both sides reach
 * @host, @device: the same byte, as the CPU and as a kernel names it
 * @beside: it is the device's own memory, not the host's
 * @token: the launcher's own
 */
struct launch_memory {
    void *host;
    uint64_t device;
    size_t bytes;
    bool beside;
    uint64_t token;
};

/** Where alloc() puts memory. A wish: see @beside. */
enum launch_place { LAUNCH_HOST, LAUNCH_BESIDE_DATA };

/** What share() is given. */
enum launch_sharing { LAUNCH_MEMORY, LAUNCH_REGISTERS };

/**
 * struct launch_options
 * @device: ordinal of the device
 * @sms: SMs that its kernels may use (green context), 0 for no partition
 * @seed: host lanes: order of lanes; others: not used
 */
struct launch_options {
    int device;
    uint32_t sms;
    uint64_t seed;
};

/** One launch. @kernel outlives it; words are copied. */
struct launch {
    const char *kernel;
    uint64_t word[LAUNCH_MOST_WORDS];
    uint32_t count;
    uint32_t warps;
};

/**
 * struct launcher - what is common to all; the first field of each one's own
 * @granted: one line on what it runs on, for the log: device, SMs or priority, memory
 */
struct launcher {
    const struct launcher_type *type;
    char granted[160];
};

/** Operations; numbers in brackets are those of the contract above. */
struct launcher_type {
    const char *name; /* "lanes", "cuda" */
    int (*open)(const struct launch_options *options, struct launcher **launcher,
                struct tutti_error *err);
    int (*alloc)(struct launcher *l, size_t bytes, enum launch_place place,
                 struct launch_memory *memory, struct tutti_error *err); /* 7 */
    void (*free)(struct launcher *l, struct launch_memory *memory);      /* 8; twice is harmless */
    int (*share)(struct launcher *l, void *host, size_t bytes, enum launch_sharing what,
                 struct launch_memory *memory, struct tutti_error *err); /* 7; whole pages */
    void (*unshare)(struct launcher *l, struct launch_memory *memory);   /* 8; twice is harmless */
    int (*launch)(struct launcher *l, const struct launch *what, uint64_t *ticket,
                  struct tutti_error *err); /* 1 to 4; tickets rise by one, from 1 */
    int (*wait)(struct launcher *l, uint64_t ticket, uint64_t timeout_ns,
                struct tutti_error *err); /* 5, 6 */
    void (*close)(struct launcher *l);
};

extern const struct launcher_type launcher_lanes; /* tests/lanes/, a test double */
extern const struct launcher_type launcher_cuda;  /* src/device/cuda.c */

#endif
