/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lanes.h: a kernel's source, run on the CPU: 32 lanes a warp, each a coroutine.
 *
 * A test double for a GPU, and says so wherever its results stand: it shows
 * logic, order and what a warp must do together, no timing and no GPU's memory
 * order. The one idea is to be as unkind as CUDA allows:
 *
 *   - lanes switch at every named load, store and poll (base/shared.h) and at
 *     every warp primitive (device/kernels/warp.h), in an order drawn from a seed;
 *   - a named store is seen by its own lane alone until warp_sync(), and then by
 *     its warp alone until a lane that has passed that warp_sync() makes a system fence or a
 *     release; then in any order, while the others look. A system fence publishes its own lane's.
 * Votes and shuffles publish nothing. A store to a device's registers waits for none of this;
 *   - a primitive completes when the lanes of its mask have arrived, with the
 *     same mask and the same primitive; whoever is not in its own mask, has ended, or
 *     arrives with another one, ends the run with a message;
 *   - warps interleave.
 *
 * What it cannot see is in docs/memory-model.md, section 5.
 */
#ifndef TUTTI_TESTS_LANES_H
#define TUTTI_TESTS_LANES_H

#include <stdbool.h>
#include <stdint.h>

#include "tutti/error.h"

#define LANES 32u

/**
 * struct lanes_options
 * @seed: of the order
 * @warps: 1 to 64
 * @world: what else happens (a controller's step); called now and then, or NULL
 * @clock: nanoseconds for warp_clock(), or NULL for the machine's
 * @self: handed to both
 * @most_steps: after so many switches the run has failed; 0: no limit
 */
struct lanes_options {
    uint64_t seed;
    uint32_t warps;
    void (*world)(void *self);
    uint64_t (*clock)(void *self);
    void *self;
    uint64_t most_steps;
};

struct lanes_counters {
    uint64_t switches;
    uint64_t syncs;  /* warp_sync(), a warp each */
    uint64_t votes;  /* and ballots and shuffles */
    uint64_t stores; /* that waited in a buffer */
};

/** Run a kernel to its end. Return: 0, or -EPROTO with what was done that a warp may not do. */
int lanes_run(const struct lanes_options *options, void (*kernel)(const uint64_t *word),
              const uint64_t *word, struct lanes_counters *counters, struct tutti_error *err);

/** The same on lanes that are there already, @options->warps of them: nothing is allocated. */
struct machine *lanes_machine_new(uint32_t warps);
void lanes_machine_free(struct machine *machine);
int lanes_run_on(struct machine *machine, const struct lanes_options *options,
                 void (*kernel)(const uint64_t *word), const uint64_t *word,
                 struct lanes_counters *counters, struct tutti_error *err);

/** A kernel that launcher_lanes knows: tests/lanes/kernels.c has the table. */
struct lanes_kernel {
    const char *name;
    uint32_t words;
    void (*function)(const uint64_t *word);
};

const struct lanes_kernel *lanes_kernel_find(const char *name);

#endif
