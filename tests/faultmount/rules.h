/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rules.h: which operations the mount spoils, and how.
 *
 * Knows the grammar (in faultmount.c), the operations counted, and who waits;
 * knows neither FUSE nor the backing folder. The one idea: an operation meets
 * all rules once, under a lock; then it waits, without the lock, for as long as
 * those that delay it say or until they are lifted; then the first of the other
 * rules that held acts.
 */
#ifndef TUTTI_TESTS_FAULTMOUNT_RULES_H
#define TUTTI_TESTS_FAULTMOUNT_RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum operation { OPERATION_READ, OPERATION_WRITE, OPERATION_FSYNC, OPERATION_OPEN, OPERATIONS };

enum fault {
    FAULT_NONE,
    FAULT_DELAY,
    FAULT_HOLD,
    FAULT_LIMIT,
    FAULT_ERROR,
    FAULT_SHORT,
    FAULT_TORN,
    FAULT_LOST,
    FAULT_STALE,
};

/** What an operation is about. @file: path below the mount. */
struct spot {
    enum operation operation;
    const char *file;
    uint64_t offset;
    uint64_t bytes;
};

/** What to do with it. @error: positive errno; @by, @random: for short and torn ones. */
struct verdict {
    enum fault fault;
    int error;
    uint64_t by;
    uint64_t random;
};

/** Count an operation, wait as long as its rules say, and tell what to do with it. */
void rules_meet(const struct spot *spot, struct verdict *verdict);

/** Whether a standing rule wants to know what a file's places held before. */
bool rules_want_old(const char *file);

/** Lines of the control file. Return: 0, or -EINVAL: nothing of the line that is bad was done. */
int rules_control(const char *text, size_t bytes);

/** Operations, and each rule with its counts, as text. Return: its length. */
size_t rules_report(char *to, size_t room);

/** Lift all rules for good: nobody waits any more, and no rule is taken. */
void rules_end(void);

#endif
