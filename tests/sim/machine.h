/* SPDX-License-Identifier: Apache-2.0 */
/*
 * machine.h: the simulated machine: a clock, and fibers where the product has
 * threads.
 *
 * One thread runs everything. A fiber runs until it waits; which one is next
 * among those that may go on is drawn from the dice. The clock stands still
 * while any may go on, and jumps to the next event when none may. Whoever waits
 * for what can never happen is found at once: nothing is left to jump to.
 *
 * The product's own objects are linked; its calls to clock, threads, futex and
 * eventfd are redirected by the linker (meson.build has the list) to machine.c.
 */
#ifndef TUTTI_TESTS_SIM_MACHINE_H
#define TUTTI_TESTS_SIM_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#define US UINT64_C(1000)
#define MS UINT64_C(1000000)
#define SECOND UINT64_C(1000000000)
#define NEVER UINT64_MAX

struct fiber;

/** Whether what a fiber waits for has happened. */
typedef bool (*machine_ready)(void *argument);

uint64_t machine_now(void);

/** A new run: the clock at its start, no fiber but the caller. @preempt: chances in 10,000. */
void machine_begin(uint32_t preempt);

/** Wait until @ready says yes (then true) or the clock reaches @until (then false). */
bool machine_wait(machine_ready ready, void *argument, uint64_t until);

/** Let others go on for so long, or for one turn. */
void machine_sleep(uint64_t ns);
void machine_yield(void);

struct fiber *machine_start(void *(*run)(void *), void *argument);
bool machine_ended(const struct fiber *fiber);

/** End it where it stands, in a wait. */
void machine_kill(struct fiber *fiber);

/** Inside an engine's fiber: now and then let others go on, as a thread may lose its CPU. */
void machine_preempt(void);

/** Whether an eventfd of the product's was written to since the last look. */
bool machine_rung(int fd);
void machine_silence(int fd);

/** Arguments of the engine's threads that run: the members. Return: how many. */
uint32_t machine_engine_threads(void **argument, uint32_t most);

/** Called when a sanitizer ends the process; without one never. */
void machine_at_death(void (*call)(void));

/** Nanoseconds of the real clock, for rates. */
uint64_t machine_real_now(void);

/*
 * What the run looks like from outside.
 */

/** Note an event: into the hash of the run, and into its tail. @what is a literal. */
void trace(const char *what, uint64_t a, uint64_t b, uint64_t c, uint64_t d);
uint64_t trace_hash(void);
void trace_begin(void);
void trace_print(void);

/** Something that must hold does not: prints seed, operation and the tail, and ends. */
__attribute__((noreturn, format(printf, 1, 2))) void sim_fail(const char *format, ...);

#define must(condition)                                                                            \
    do {                                                                                           \
        if (!(condition))                                                                          \
            sim_fail("%s:%d: %s", __func__, __LINE__, #condition);                                 \
    } while (0)

#endif
