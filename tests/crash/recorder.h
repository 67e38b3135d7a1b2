/* SPDX-License-Identifier: Apache-2.0 */
/*
 * recorder.h: what this process does to a pool's members, recorded at the
 * system call (the linker's --wrap), and disks as a crash could leave them.
 *
 * The record holds writes, changes of size and of name, flushes, and marks of
 * the test's own. A crash at entry k keeps what was flushed before k. Of the
 * rest of the data, and of a few writes that were under way, any subset of
 * 512-byte sectors may be there, in any order; of the rest of sizes and names,
 * any first part, since file systems keep a journal of those.
 */
#ifndef TUTTI_TESTS_CRASH_RECORDER_H
#define TUTTI_TESTS_CRASH_RECORDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RECORDER_FILES = 2, RECORDER_SECTOR = 512 };

/** Record from now on what happens to "rank0.member<m>.tutti" in @folder, from nothing. */
void recorder_start(const char *folder);

/** Stop; return the number of entries. */
size_t recorder_stop(void);

/** An entry that the test knows again: this has been promised. Return: its place in the record. */
size_t recorder_mark(void);

/** Entries by now. */
size_t recorder_entries(void);

/**
 * struct recorder_crash - which of the disks that a crash could leave
 * @at: entries that had happened
 * @seed: chooses the subset of what was not flushed
 * @lands: how many of 100 unflushed sectors are there; 100 is a prefix of the record
 * @under_way: so many writes behind @at may have landed in part
 * @lying: the latest flushes did nothing: what no honest disk leaves
 */
struct recorder_crash {
    size_t at;
    uint64_t seed;
    unsigned lands;
    unsigned under_way;
    bool lying;
};

/** Make the members in @folder as after that crash. Crash points that grow cost least. */
void recorder_crash(const struct recorder_crash *crash, const char *folder);

void recorder_free(void);

#endif
