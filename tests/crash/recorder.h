/* SPDX-License-Identifier: Apache-2.0 */
/*
 * recorder.h: every write and flush of this process, recorded at the system
 * call (the linker's --wrap), and disks as a crash could leave them.
 *
 * A crash at entry k of the record keeps what was flushed before k; of the
 * rest, and of a few writes that were under way, any subset of 512-byte
 * sectors may be there, in any order.
 */
#ifndef TUTTI_TESTS_CRASH_RECORDER_H
#define TUTTI_TESTS_CRASH_RECORDER_H

#include <stddef.h>
#include <stdint.h>

enum { RECORDER_FILES = 2, RECORDER_SECTOR = 512 };

/** Record writes to these files from now on; their content now is the base. */
void recorder_start(const char *const path[RECORDER_FILES]);

/** Stop; return the number of entries. */
size_t recorder_stop(void);

/**
 * Write the disks as after a crash at entry @at into @path.
 * @seed: chooses the subset
 * @lands: how many of 100 unflushed sectors are there
 * Crash points of successive calls must not decrease.
 */
void recorder_crash(size_t at, uint64_t seed, unsigned lands,
                    const char *const path[RECORDER_FILES]);

void recorder_free(void);

#endif
