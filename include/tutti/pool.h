/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool.h: the storage of one serving instance, formatted, opened, scanned.
 *
 * A pool is a home folder with a secret (file "secret", mode 0600: the pool's
 * id and 16 secret bytes) and, for each rank, one or more members: files or
 * block devices, allocated in full when formatted and never grown. The pool
 * knows what lies where; it moves no KV data (engines do).
 *
 * A pool is opened by one process per rank; a second opener is refused.
 * Calls on one pool from several threads must not overlap, unless said.
 */
#ifndef TUTTI_POOL_H
#define TUTTI_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tutti/error.h"
#include "tutti/format.h"
#include "tutti/geometry.h"

#ifdef __cplusplus
extern "C" {
#endif

struct nvme_drive;
struct tutti_pool;

/**
 * struct tutti_pool_options - which pool, and when formatting, of what shape
 * @home: folder of the secret and the side files; made (0700) when formatting
 * @member: paths of this rank's members, or NULL for one file in @home. A
 *   folder gets a file "rank<r>.member<m>.tutti" in it; anything else is the
 *   member itself (a file, or a block device)
 * @members: number of paths, 0 where @member is NULL
 * @rank: this rank, < @ranks
 * @ranks: tensor-parallel size that the pool serves
 * @bytes: capacity of this rank over all its members, headers included; a hard
 *   bound on what the files occupy (format)
 * @alignment: 512 or 4096; 0 takes what the members need (format)
 * @extent_bytes: 0 takes tutti_extent_bytes_default() (format)
 * @geometry: shapes of the KV cache groups. Opening adds one that the pool
 *   does not know yet, if its record fits the pool's record stride
 * @groups: number of shapes; 0 opens for reading about, not serving
 * @read_only: take no lock, write nothing (info, check of a running pool)
 * @force: format over what is not empty and not a Tutti pool
 * @progress: told bytes done and bytes in all while members are allocated and
 *   cleared, from the calling thread; may be NULL (format)
 * @argument: passed to @progress
 */
struct tutti_pool_options {
    const char *home;
    const char *const *member;
    uint32_t members;
    uint32_t rank;
    uint32_t ranks;
    uint64_t bytes;
    uint32_t alignment;
    uint64_t extent_bytes;
    const struct tutti_geometry *geometry;
    uint32_t groups;
    bool read_only;
    bool force;
    void (*progress)(void *argument, uint64_t done, uint64_t all);
    void *argument;
};

/**
 * struct tutti_pool_info - what an open pool is
 * @superblock: the copy that counts, of member 0
 * @extents: extents of this rank, over all members
 * @direct: members were opened with O_DIRECT; otherwise @direct_reason says
 *   why not (tmpfs has no direct I/O, ...)
 * @logical_block: largest sector size that a member's device asks for
 */
struct tutti_pool_info {
    struct tutti_superblock superblock;
    uint32_t extents;
    bool direct;
    char direct_reason[160];
    uint32_t logical_block;
};

/** One valid record as a scan reports it. Sorted by slot in files and arrays. */
struct tutti_scan_entry {
    uint32_t slot;
    uint32_t incarnation;
    uint64_t generation;
    uint64_t geometry;
    struct tutti_key key;
    struct tutti_key parent;
    uint8_t identity[TUTTI_IDENTITY_BYTES];
    uint32_t group;
    uint32_t reserved; /* 0 */
};

/** What a scan or a check met. Counts are slots; bytes are record bytes read. */
struct tutti_scan_report {
    uint64_t valid;
    uint64_t empty; /* all zero, or emptied by us */
    uint64_t torn;  /* neither: a checksum of its own that fails */
    uint64_t void_; /* older than the oldest epoch, or of an extent's former incarnation */
    uint64_t alien; /* whole, but of another pool, member, rank or slot */
    uint64_t bytes;
    uint64_t nanoseconds;
};

/**
 * tutti_pool_format() - make this rank's members
 *
 * Files are preallocated in full. Never formats what holds other data (a file
 * that is not empty, a device with a recognisable or non-zero head) unless
 * @force; never touches a pool in use. Makes home and secret when missing
 * (safely with several ranks at once); keeps an existing secret, so that all
 * ranks share one pool id. Superblocks are flushed before this returns.
 *
 * Return: 0, -EEXIST (a pool or other data is there), -EBUSY (in use), -ENOSPC,
 *   -EACCES, -EINVAL, or another negative errno; always with a message.
 */
int tutti_pool_format(const struct tutti_pool_options *options, struct tutti_error *err);

/**
 * tutti_pool_open() - open this rank's members, exclusively
 *
 * Return: 0, or a negative errno with a message: -ENOENT (no pool), -EBUSY
 *   (another process has it), -EPROTONOSUPPORT (format version), -EUCLEAN
 *   (neither superblock copy is whole), -EXDEV (member of another pool, rank,
 *   place or number of ranks), -EFBIG (member shorter than it was formatted),
 *   -EROFS, -EACCES, -EINVAL (shape does not fit). Nothing is written but a new
 *   shape into the superblocks.
 */
int tutti_pool_open(const struct tutti_pool_options *options, struct tutti_pool **pool,
                    struct tutti_error *err);

/** Close and unlock. NULL is allowed. Writes the lifetime counters, if open for writing. */
void tutti_pool_close(struct tutti_pool *pool);

void tutti_pool_info(const struct tutti_pool *pool, struct tutti_pool_info *info);

/** Placement of a group's current shape. Return: 0 or -ENOENT. */
int tutti_pool_placement(const struct tutti_pool *pool, uint32_t group,
                         struct tutti_placement *placement);

/** Shape of a group as opened. Return: 0 or -ENOENT. */
int tutti_pool_geometry(const struct tutti_pool *pool, uint32_t group,
                        struct tutti_geometry *geometry);

/** The pool's 16 secret bytes, owned by the pool. */
const uint8_t *tutti_pool_secret(const struct tutti_pool *pool);

/** The home folder, as it was named; owned by the pool. */
const char *tutti_pool_home(const struct tutti_pool *pool);

/** What a member is: a file descriptor or, where that is -1, a drive. And its path. The pool's. */
int tutti_pool_member_fd(const struct tutti_pool *pool, uint32_t member);
struct nvme_drive *tutti_pool_member_drive(const struct tutti_pool *pool, uint32_t member);
const char *tutti_pool_member_path(const struct tutti_pool *pool, uint32_t member);

/**
 * struct tutti_member_health - what a drive of ours says of itself (NVMe's health log)
 * @used: may exceed 100
 * @celsius: INT32_MIN where it does not measure it
 * @media_errors: over its life
 */
struct tutti_member_health {
    bool low_on_spare;
    bool hot; /* or too cold */
    bool unreliable;
    bool read_only;
    bool unprotected;    /* from a loss of power */
    uint32_t spare_left; /* percent of its spare blocks */
    uint32_t used;       /* percent of its rated endurance */
    int32_t celsius;
    uint64_t media_errors;
};

/**
 * tutti_pool_member_health() - as it was said last: at the opening, once a minute, and when the
 * drive tells of a change. Waits for no device.
 *
 * Return: 0; -ENODATA where it keeps no such log, -EOPNOTSUPP where the member is a file or block
 * device, whose health is the kernel's (nvme smart-log, smartctl), -EINVAL. Any thread.
 */
int tutti_pool_member_health(const struct tutti_pool *pool, uint32_t member,
                             struct tutti_member_health *health);

/** Holds the longest that there is. */
#define TUTTI_HEALTH_TEXT 200

/** For a person: "3 % worn, 100 % spare, 37 C, 2 media errors; WARNS: read-only". */
void tutti_member_health_text(const struct tutti_member_health *health,
                              char text[TUTTI_HEALTH_TEXT]);

/**
 * tutti_pool_begin_epoch() - make an epoch durable on every member
 * @epoch: larger than any before (the scheduler's half chose it)
 * @oldest_epoch: records of older epochs are void from now on; 0 keeps it
 * @identity: identity that the epoch runs under
 *
 * Must return 0 before the first slot of the epoch is written. Written to the
 * older superblock copy of each member and flushed.
 */
int tutti_pool_begin_epoch(struct tutti_pool *pool, uint64_t epoch, uint64_t oldest_epoch,
                           const uint8_t identity[TUTTI_IDENTITY_BYTES], struct tutti_error *err);

/** Count bytes that engines wrote; becomes durable with the next superblock. Any thread. */
void tutti_pool_count_written(struct tutti_pool *pool, uint64_t bytes);

/** Flush the members' device caches (bounds what a power loss forgets). Any thread. */
int tutti_pool_flush(struct tutti_pool *pool, struct tutti_error *err);

/**
 * tutti_pool_set_fenced() - this member is given no commands, or is again
 *
 * Epochs and flushes leave a fenced member out: the others remember the epoch. Any thread, one at a
 * time.
 */
void tutti_pool_set_fenced(struct tutti_pool *pool, uint32_t member, bool fenced);

/**
 * tutti_pool_leave_open() - a command on a member may still be out
 *
 * tutti_pool_close() then writes nothing and leaves descriptors and locks to
 * the end of the process, so that a write which comes late finds its own file,
 * and nobody else in it.
 */
void tutti_pool_leave_open(struct tutti_pool *pool);

/**
 * tutti_pool_scan() - read every record of this rank
 * @threads: how many threads read; 0 chooses (one per member, at least 2)
 * @entries: an array allocated by this call, sorted by slot; free() it
 * @count: its length
 * @report: counts, may be NULL
 *
 * Only whole records count whose pool, rank, member, slot and shape fit, of
 * epochs that are not void, of an extent's latest incarnation.
 */
int tutti_pool_scan(struct tutti_pool *pool, uint32_t threads, struct tutti_scan_entry **entries,
                    size_t *count, struct tutti_scan_report *report, struct tutti_error *err);

/** Scan into a side file (header + entries), preallocated, for the scheduler's half. */
int tutti_pool_scan_to_file(struct tutti_pool *pool, uint32_t threads, const char *path,
                            struct tutti_scan_report *report, struct tutti_error *err);

/** Map such a file; *entries stays valid until tutti_scan_file_close(). */
int tutti_scan_file_open(const char *path, const struct tutti_scan_entry **entries, size_t *count,
                         void **handle, struct tutti_error *err);
void tutti_scan_file_close(void *handle);

/** Called during a check; return non-zero to stop. */
typedef int (*tutti_check_fn)(void *argument, const struct tutti_scan_entry *entry,
                              uint32_t bad_layer, const char *what);

/**
 * tutti_pool_check() - read and verify records and, if asked, every layer
 * @data: verify every layer of every valid slot too
 * @bad: told of each slot that fails (layer UINT32_MAX: the record), may be NULL
 * @progress: told bytes done and bytes in all, may be NULL
 *
 * Return: number of slots whose data does not match (0 is good), or a negative
 *   errno. Writes nothing.
 */
int64_t tutti_pool_check(struct tutti_pool *pool, bool data, struct tutti_scan_report *report,
                         tutti_check_fn bad, void (*progress)(void *, uint64_t, uint64_t),
                         void *argument, struct tutti_error *err);

/** What a scrub of a pool met and did. Counts are slots. */
struct tutti_pool_scrub {
    struct tutti_scan_report records;
    uint64_t bad;     /* layers do not verify, or cannot be read */
    uint64_t dropped; /* records emptied: of bad slots, torn ones, and other places' */
    uint64_t bytes;   /* of layers, read and verified */
    uint64_t nanoseconds;
};

/**
 * tutti_pool_scrub() - read and verify everything, and drop for good what does not verify
 * @bytes_per_second: at most so much is read; 0: as fast as it goes
 * @bad, @progress, @argument: as for tutti_pool_check()
 *
 * The pool is open for writing, and nothing is served from it meanwhile
 * (tutti_scrub_open() is for one that is). Records are emptied at the end, and
 * flushed. When many slots in a row cannot be read the device is what is bad:
 * then nothing is dropped. Return: 0, -EROFS (open for reading), -EIO, or
 * another negative errno with a message.
 */
int tutti_pool_scrub(struct tutti_pool *pool, uint64_t bytes_per_second,
                     struct tutti_pool_scrub *report, tutti_check_fn bad,
                     void (*progress)(void *, uint64_t, uint64_t), void *argument,
                     struct tutti_error *err);

/**
 * The kill switch: a side file that running halves look at once a second.
 * disable makes it (with a reason inside), enable removes it; disabled tells
 * (1 or 0) and copies the reason. A switch that cannot be read is thrown.
 */
int tutti_pool_disable(const char *home, const char *reason, struct tutti_error *err);
int tutti_pool_enable(const char *home, struct tutti_error *err);
int tutti_pool_disabled(const char *home, char *reason, size_t reason_bytes);

/**
 * The same for one member, file "disabled.rank<r>.member<m>": nothing is asked of it, the others
 * serve on. A running half makes the file when the member errs too much.
 * @path: where the member is, for tutti_pool_probe_member(); NULL where not known
 *
 * member_disabled returns 1 or 0, or a negative errno where the switch cannot be
 * read (why, in @reason): what was known of it before still holds.
 */
int tutti_pool_disable_member(const char *home, uint32_t rank, uint32_t member, const char *reason,
                              const char *path, struct tutti_error *err);
int tutti_pool_enable_member(const char *home, uint32_t rank, uint32_t member,
                             struct tutti_error *err);
int tutti_pool_member_disabled(const char *home, uint32_t rank, uint32_t member, char *reason,
                               size_t reason_bytes);

/**
 * tutti_pool_probe_member() - whether a member that is off can come back
 *
 * Reads its superblock and pieces all over it; writes nothing, takes no lock.
 * Where it is, the switch says; else it is looked for in the home. Return: 0,
 * or a negative errno with a message (-EIO, -EROFS, -EXDEV: another member, -EFBIG: cut short).
 */
int tutti_pool_probe_member(const char *home, uint32_t rank, uint32_t member,
                            struct tutti_error *err);

/**
 * tutti_pool_recognise() - whether a file or a block device is a member of some pool
 * @s: its superblock, where it is one
 *
 * Needs neither home nor secret; writes nothing, takes no lock. Return: 0; -EUCLEAN (not a member),
 * -EPROTONOSUPPORT (a member, of another format version), or another negative errno; with a
 * message.
 */
int tutti_pool_recognise(const char *path, struct tutti_superblock *s, struct tutti_error *err);

/** The secret and pool id of a home folder, without opening members (the scheduler's half). */
int tutti_pool_secret_load(const char *home, bool create, uint8_t pool_id[16], uint8_t secret[16],
                           struct tutti_error *err);

#ifdef __cplusplus
}
#endif
#endif
