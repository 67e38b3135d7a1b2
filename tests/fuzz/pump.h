/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pump.h: an engine whose threads are a function that the target calls.
 *
 * Linked with --wrap for where the engine starts and stops threads and where the
 * serving level waits for them. What runs is the engine's own code over members
 * in memory: every order of events is the input's choice, comes again with it,
 * and costs no thread, no system call and no time. The clock is a number.
 *
 * With $TUTTI_FUZZ_ENGINE set to uring or threads, the real one runs over the
 * same bytes (memory_member[].fd), in an order that is nobody's choice.
 */
#ifndef TUTTI_TESTS_FUZZ_PUMP_H
#define TUTTI_TESTS_FUZZ_PUMP_H

#include <stdbool.h>
#include <stdint.h>

/** Name of the real engine, or NULL where the pump runs. Set by pump_open(). */
extern const char *pump_engine;
extern uint64_t pump_clock; /* nanoseconds */

/**
 * struct pump_ways - how the device behaves
 * @order: which of the commands that are out ends next; 0: the oldest
 * @late: bytes move when a command ends, not when it is submitted
 * @spoils: of 16 commands, how many fail, are busy, or are cut short
 * @counts: at the end all batches and commands are counted: a walk over cold memory
 */
struct pump_ways {
    uint64_t order;
    bool late;
    uint32_t spoils;
    bool counts;
};

void pump_open(void);
/** A new execution. */
void pump_begin(struct pump_ways ways);
/** One turn of a member's thread, in which so many commands end. Return: whether it did anything.
 */
bool pump_turn(uint32_t member, uint32_t commands);
/** All members, until none has anything to do. Return: whether any had. */
bool pump_all(void);

#endif
