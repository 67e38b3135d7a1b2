/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h: what the files of this room share: an open pool and its members.
 *
 * Nobody outside src/pool includes it.
 */
#ifndef TUTTI_POOL_INTERNAL_H
#define TUTTI_POOL_INTERNAL_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "tutti/error.h"
#include "tutti/format.h"
#include "tutti/geometry.h"
#include "tutti/pool.h"

#define POOL_MIB (UINT64_C(1) << 20)
#define POOL_MAX_RANKS 64u
#define POOL_MAX_PATH 4096u

/* Bytes that pool memory handed to O_DIRECT is aligned to; suits every sector size we accept. */
#define POOL_BUFFER_ALIGNMENT 4096u

/**
 * struct backing - the file, block device or drive under a member
 * @fd: open descriptor, or -1
 * @drive: an NVMe namespace that this process drives itself, or NULL; a device like any other
 * @claimed: we are the one owner of @drive
 * @path: as a person would name it; owned
 * @bytes: size of the file or device
 * @logical: smallest unit that direct I/O accepts, bytes
 * @preferred: unit below which the system does extra work (file system block,
 *   physical sector), bytes
 * @block: a block device
 * @direct: opened with O_DIRECT
 * @reason: why not direct, where it is not
 * @device, @inode: identity, to find a member that is named twice
 */
struct backing {
    int fd;
    struct nvme_drive *drive;
    bool claimed;
    pid_t opener; /* a forked child shares the lock, and must not let it go */
    char *path;
    uint64_t bytes;
    uint32_t logical;
    uint32_t preferred;
    bool block;
    bool direct;
    char reason[160];
    dev_t device;
    ino_t inode;
};

/** One member of an open pool: what is under it, its superblock, and which copy (0, 1) that is. */
struct member {
    struct backing backing;
    struct tutti_superblock superblock;
    unsigned copy;
};

struct tutti_pool {
    char *home;
    struct member member[TUTTI_MAX_MEMBERS];
    uint32_t members;
    bool read_only;
    bool half_begun; /* an epoch that failed may be on disk: closing must not lower it */
    uint8_t secret[16];
    /* What counts for the whole rank: the superblock of the member with the largest sequence. */
    struct tutti_superblock superblock;
    /* Placement of every shape in superblock.geometry, by its index there. */
    struct tutti_placement placement[TUTTI_MAX_GROUPS];
    /* Index of a group's current shape in superblock.geometry, or -1. */
    int current[TUTTI_MAX_GROUPS];
    /* Bytes counted since the superblock's; any thread adds. */
    uint64_t written;
    /* A bit for each member that is given no commands; one thread writes, any reads. */
    uint32_t fenced;
    bool left; /* a command may still be out: descriptors and locks stay */
};

/* superblock.c */

enum superblock_state {
    SUPERBLOCK_WHOLE,
    SUPERBLOCK_BLANK,   /* all zero */
    SUPERBLOCK_GARBAGE, /* anything else that is not whole */
    SUPERBLOCK_VERSION  /* whole, but of a format that we do not know */
};

/** Judge 4,096 bytes; every field of a whole one is within limits. @why (128 bytes) says what is
 * wrong. */
enum superblock_state superblock_judge(const struct tutti_superblock *s, char why[128]);

/** Bytes of a member that its superblock speaks of. */
uint64_t superblock_member_bytes(const struct tutti_superblock *s);

/**
 * Read both copies and choose. Return: 0 with @s and @copy; -EUCLEAN,
 * -EPROTONOSUPPORT or an I/O error with a message that names path and offsets.
 */
int superblock_read(const struct backing *b, struct tutti_superblock *s, unsigned *copy,
                    struct tutti_error *err);

/** Seal @s, write it to copy @copy and flush it. Return: 0 or a negative errno with a message. */
int superblock_write(const struct backing *b, struct tutti_superblock *s, unsigned copy,
                     struct tutti_error *err);

/** Keyed hash of the pool's id, as a superblock carries it. */
uint64_t superblock_secret_check(const uint8_t secret[16], const uint8_t pool[16]);

/* backing.c */

/**
 * Open what a path names.
 * @write: for writing (block devices exclusively)
 * Return: 0, or -ENOENT, -EACCES, -EROFS, -EBUSY, -EINVAL, ... with a message.
 */
int backing_open(struct backing *b, const char *path, bool write, struct tutti_error *err);
/** Fill in the facts about @fd (taken over, whatever is returned) under @path; try direct I/O. */
int backing_adopt(struct backing *b, int fd, const char *path, struct tutti_error *err);
void backing_close(struct backing *b);
/** Take the exclusive lock. Return: 0, or -EBUSY with a message. */
int backing_lock(struct backing *b, struct tutti_error *err);
/** Whole reads and writes. Return: 0 or a negative errno; -ENODATA where the file ends early. */
int backing_read(const struct backing *b, void *data, size_t bytes, uint64_t offset);
int backing_write(const struct backing *b, const void *data, size_t bytes, uint64_t offset);
/** What was written is there after a loss of power, and the size too. Return: 0 or negative errno.
 */
int backing_flush(const struct backing *b);
/** Compose a message for a failed system call on a member. */
void backing_describe(int code, const char *doing, const char *path, uint64_t offset,
                      struct tutti_error *err);
/** The same. Return: @code, which is negative (-EIO where a system call failed without an errno).
 */
static inline int backing_error(int code, const char *doing, const char *path, uint64_t offset,
                                struct tutti_error *err)
{
    backing_describe(code, doing, path, offset, err);
    return code < 0 ? code : -EIO; /* GCOVR_EXCL_BR: for whoever proves that it is negative */
}
/** Aligned memory for direct I/O; free() it. */
void *backing_buffer(size_t bytes);

/* paths.c */

/** Full path of each member, malloc()ed. Return: number of members, or a negative errno. */
int member_paths(const struct tutti_pool_options *options, char *path[TUTTI_MAX_MEMBERS],
                 struct tutti_error *err);
/** Refuse a file or device that is named twice. */
int member_paths_distinct(char *const path[TUTTI_MAX_MEMBERS], uint32_t count,
                          struct tutti_error *err);
void member_paths_free(char *path[TUTTI_MAX_MEMBERS], uint32_t count);
/** Refuse options outside the limits, and shapes that contradict each other. */
int options_check(const struct tutti_pool_options *options, struct tutti_error *err);
/** home + "/" + name into a buffer of POOL_MAX_PATH. */
int home_path(char path[POOL_MAX_PATH], const char *home, const char *name,
              struct tutti_error *err);
/** Flush the folder that holds a path, so that a new name outlives a crash. */
int folder_sync(const char *path);

/* control.c */

/** Where a member is, by its switch; empty where that does not say. Return: whether it is thrown.
 */
int member_switch_path(const char *home, uint32_t rank, uint32_t member, char path[POOL_MAX_PATH]);

/* allocate.c */

/** How far a format is, in bytes; its caller is told. */
struct format_progress {
    const struct tutti_pool_options *options;
    uint64_t done;
    uint64_t all;
};

void format_advance(struct format_progress *progress, uint64_t bytes);

/**
 * struct new_member - a member in the making
 * @backing: what is under it: a block device, or a file under a temporary name
 * @path: where it will be; owned
 * @temporary: where the file is until it is complete; NULL for a device; owned
 * @replaces: at @path is something that may be replaced
 * @placed: the file has its final name
 * @progress: of the format that it is part of
 */
struct new_member {
    struct backing backing;
    char *path;
    char *temporary;
    bool replaces;
    bool placed;
    struct format_progress *progress;
};

/** Judge what is at @path; open the device, or make the temporary file. */
int new_member_begin(struct new_member *n, const char *path, bool force, struct tutti_error *err);
/** Give a file @bytes of its own. Learns the sector size where only a trial tells. */
int new_member_allocate(struct new_member *n, uint64_t bytes, struct tutti_error *err);
/** Shrink a file that took more than its share. */
int new_member_shrink(struct new_member *n, uint64_t bytes, struct tutti_error *err);
/** Make a stretch of a device read as zeros. */
int new_member_zero(struct new_member *n, uint64_t offset, uint64_t bytes, struct tutti_error *err);
/** Give a complete file its final name. */
int new_member_place(struct new_member *n, struct tutti_error *err);
/** Close; when @undo, remove what was made. */
void new_member_end(struct new_member *n, bool undo);

/* epoch.c */

/**
 * Write the pool's superblock to every member, flushed; @both copies in turn,
 * so that the loss of any one copy forgets nothing.
 */
int pool_commit(struct tutti_pool *pool, bool both, struct tutti_error *err);

/* scan.c */

/** A record that does not count, told while scanning (from several threads). */
typedef void (*scan_bad_fn)(void *argument, uint32_t slot, int code);

struct scan_request {
    uint32_t threads;
    scan_bad_fn bad;
    void *argument;
};

int scan_records(struct tutti_pool *pool, const struct scan_request *request,
                 struct tutti_scan_entry **entries, size_t *count, struct tutti_scan_report *report,
                 struct tutti_error *err);

/* check.c */

/** Whether check said of a slot that it could not be read, and not that it is wrong. */
bool check_is_unreadable(const char *what);

/** tutti_pool_check() at a rate, 0 for none. */
int64_t check_pool(struct tutti_pool *pool, bool data, uint64_t bytes_per_second,
                   struct tutti_scan_report *report, tutti_check_fn bad,
                   void (*progress)(void *, uint64_t, uint64_t), void *argument,
                   struct tutti_error *err);

/** Run @work(@argument) in this thread and up to @threads - 1 others; returns when all returned. */
void run_parallel(uint32_t threads, void *(*work)(void *), void *argument);

#endif
