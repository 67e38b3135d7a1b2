/* SPDX-License-Identifier: Apache-2.0 */
/*
 * disk.h: a member in memory, with a volatile cache, latencies and faults.
 *
 * Three images of sectors: what a read returns, what a power cut leaves for
 * sure, and what each sector held before its last write (for stale reads).
 * Writes that were not flushed are kept in a log: of those a power cut leaves
 * any subset, torn at a sector.
 *
 * The pool's own calls (pread, pwrite, fdatasync) on a descriptor of the file
 * that stands for the disk are redirected here and done at once; the engine's
 * commands come through backend.c and end when their time has come.
 */
#ifndef TUTTI_TESTS_SIM_DISK_H
#define TUTTI_TESTS_SIM_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "engine/backend.h"

enum { DISK_SECTOR = 512, DISK_COMMANDS = 256, DISK_LOG = 96 };

/** Chances in 10,000 commands. */
struct disk_faults {
    uint32_t error; /* EIO, for reads and writes; a write may have been done in part */
    uint32_t short_;
    uint32_t late;
    uint32_t stuck; /* never ends */
    uint32_t lost;
    uint32_t torn;
    uint32_t stale;
    uint32_t flip;
    uint32_t misdirected;
};

enum disk_fault {
    DISK_GOOD,
    DISK_ERROR,
    DISK_SHORT,
    DISK_LOST,
    DISK_TORN,
    DISK_STALE,
    DISK_FLIP,
    DISK_MISDIRECTED,
};

/** A command under way. @data: what it writes, if its memory was read already. */
struct disk_command {
    struct command *command;
    struct disk_backend *backend;
    uint64_t due;
    uint64_t sequence;
    uint8_t *data;
    enum disk_fault fault;
};

struct disk_write {
    size_t at;
    size_t bytes;
    uint8_t *data;
};

struct disk {
    uint32_t rank;
    uint32_t member;
    uint64_t bytes;     /* of the member */
    uint64_t data_from; /* records of an extent end here, from its start */
    uint64_t extent_bytes;
    size_t size; /* of the images: superblocks and extents */
    uint8_t *image;
    uint8_t *durable;
    uint8_t *older;
    uint8_t *bad; /* per sector: reads fail until it is written */
    struct disk_write log[DISK_LOG];
    uint32_t logged;
    struct disk_command pending[DISK_COMMANDS];
    uint32_t pending_count;
    struct disk_faults faults;
    uint32_t pool_error; /* chance in 10,000 that a write of the pool's own fails */
    uint32_t lose;       /* so many writes from now on are lost */
    uint32_t sick;       /* so many commands from now on fail */
    uint32_t failed;     /* commands in a row, none that succeeded between them */
    uint32_t errors;     /* commands that failed since its member was given any */
    uint32_t behind;     /* commands that came although its gate was closed */
    uint32_t dies_after; /* so many writes of the pool's own from now on; 0: not */
    uint64_t latency;    /* about, ns */
    bool gone;           /* everything fails */
    bool ghost;          /* its process is dead: nothing reaches it any more */
    uint32_t stuck;      /* commands that will never end */
    uint64_t silent;     /* faults so far that nobody was told of */
    dev_t device;        /* of the file that stands for it */
    ino_t inode;
};

/** Take a disk into the machine; its images are zero. */
void disk_new(struct disk *d, uint64_t bytes);
void disk_free(struct disk *d);
void disk_detach_all(void);

/** Time of the next event of any disk, or NEVER; let all happen that is due. */
uint64_t disk_next_event(void);
void disk_fire(uint64_t now);

/** A closed descriptor. */
void disk_forget(int fd);
struct disk *disk_of(int fd);

/** Whether a sector of a stretch of the images cannot be read. */
bool disk_unreadable(const struct disk *d, size_t at, size_t bytes);

/** Place in the images; SIZE_MAX for a stretch that no image has. */
size_t disk_place(const struct disk *d, uint64_t offset, size_t bytes);

/** The process ends: what it had submitted is done, in part, or not. */
void disk_process_ends(struct disk *d);

/** The power fails: also of what was not flushed. */
void disk_power_fails(struct disk *d);

/** backend.c: a command begins; the commands that ended come back through disk_ended(). */
void disk_submit(struct disk *d, struct disk_backend *backend, struct command *command);
void disk_ended(struct disk_backend *backend, struct command *command);

#endif
