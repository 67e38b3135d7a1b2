/* SPDX-License-Identifier: Apache-2.0 */
/*
 * left_behind.h: what a close that gave up waiting cannot free.
 *
 * A thread may still use it, so it stays for the life of the process, where
 * whoever looks for leaks finds it.
 */
#ifndef TUTTI_BASE_LEFT_BEHIND_H
#define TUTTI_BASE_LEFT_BEHIND_H

/** A member of what may be left behind. */
struct left_behind {
    struct left_behind *next;
};

/** Keep for ever. From any thread. */
void leave_behind(struct left_behind *what);

#endif
