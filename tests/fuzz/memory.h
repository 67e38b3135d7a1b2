/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.h: members that lie in memory, under the pool's own code.
 *
 * Linked with --wrap for the few calls by which src/pool reaches a file, so that
 * opening, scanning, committing and checking a pool cost no system call. What
 * was written is put back from a snapshot, page by page.
 */
#ifndef TUTTI_TESTS_FUZZ_MEMORY_H
#define TUTTI_TESTS_FUZZ_MEMORY_H

#include "tutti/pool.h"

enum { MEMORY_MEMBERS = 2, MEMORY_PAGE = 4096 };

/**
 * struct memory_member
 * @bytes: its first @held bytes; zeros follow, up to @size
 * @size: what the file is said to have
 * @fd: a real file with the same bytes, or any number where nobody uses it
 */
struct memory_member {
    uint8_t *bytes;
    uint64_t held;
    uint64_t size;
    int fd;
};

extern struct memory_member memory_member[MEMORY_MEMBERS];
extern const char *const memory_path[MEMORY_MEMBERS];
extern uint64_t memory_writes; /* backing_write() calls so far */
extern bool memory_threads;    /* whether threads can be made; false at first */
extern const uint8_t memory_pool[16];
extern const uint8_t memory_secret[16];

/** Bytes of a member were changed, by whomever. */
void memory_touched(uint32_t member, uint64_t offset, uint64_t bytes);
/** What is there now is what memory_restore() brings back. */
void memory_snapshot(void);
void memory_restore(void);

/** A superblock over @groups shapes, with room for @slots slots of each in an extent. */
void memory_superblock(struct tutti_superblock *s, const struct tutti_geometry *geometry,
                       uint32_t groups, uint32_t alignment, uint32_t members, uint32_t extents,
                       uint32_t slots);
/** Seal a superblock where it lies. */
void memory_seal(uint8_t *superblock);

/**
 * memory_check_placement() - that all which a placement can name lies inside its extent, records
 * before data, no two things in one place
 */
void memory_check_placement(const struct tutti_placement *p, uint64_t member_bytes);

#endif
