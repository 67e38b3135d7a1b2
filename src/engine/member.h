/* SPDX-License-Identifier: Apache-2.0 */
/*
 * member.h: what the files that make up a member's thread share.
 *
 * One thread per member reads the ring and works on three sizes of work:
 *
 *     task     an IOCB, this member's part of it
 *     batch    neighbouring slots of one layer: what is read, hashed and
 *              reported together; whole slots, at least one
 *     command  one read or write of at most command_bytes; nearly always the
 *              whole batch, several where one slot's layer is larger
 *
 *     member.c   the thread: its loop, its sleep, its letters from outside
 *     task.c     taking IOCBs, their order, when they are over
 *     batch.c    a range of the map becomes batches and commands
 *     check.c    what came back: records, sums, the second try
 *     place.c    between staging and KV memory
 *     fence.c    whether this member is given commands at all
 *
 * Nothing here is locked: all of it is the thread's own. Everything comes from
 * fixed pools; whoever finds one empty waits for something in flight, and
 * nothing in flight waits for anything but the device and this thread.
 */
#ifndef TUTTI_ENGINE_MEMBER_H
#define TUTTI_ENGINE_MEMBER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/atomics.h"
#include "base/clock.h"
#include "engine/backend.h"
#include "engine/health.h"
#include "engine/staging.h"
#include "tutti/engine.h"

enum {
    MEMBER_COMMANDS = 256,
    MEMBER_BATCHES = 1024,
    MEMBER_SEGMENTS = 1024, /* the kernel's limit on an iovec */
    MEMBER_SLOTS = 1024,    /* slots of a batch */
    MEMBER_SCRATCH = 4096,  /* a sink for padding, or one record read again */
};

enum task_kind { READ_LAYER, WRITE_LAYER, READ_RECORDS, WRITE_RECORDS, WRITE_EMPTY };

#define NO_POSITION UINT32_MAX

struct task_list {
    struct task *first;
    struct task **last;
};

struct batch_list {
    struct batch *first;
    struct batch **last;
};

/**
 * struct task - this member's part of an IOCB; one for each index of the ring
 * @sequence: order of taking
 * @class_: the IOCB's, or the higher one of a task that waits for it
 * @reachable, @direct: its layer's memory is the host's to touch; and takes direct transfers
 * @expanded: every position is in a batch or was given up
 * @cursor: next position
 * @filling: its batch whose commands are not all submitted
 * @waiting: batches that landed before the records of this task
 * @launching: batches that may still enqueue copies
 * @launched: the ring was told that nothing will
 */
struct task {
    struct task *next;
    uint32_t index;
    enum task_kind kind;
    struct tutti_iocb *iocb;
    const struct tutti_map *map;
    uint64_t sequence;
    uint64_t held; /* the last look that stepped over it: what it waits for was not ready */
    uint8_t class_;
    bool started;
    bool reachable;
    bool direct;
    bool expanded;
    uint32_t cursor;
    uint32_t open_batches;
    uint32_t open_commands;
    uint32_t launching;
    bool launched;
    struct batch *filling;
    struct batch_list waiting;
    struct task *next_records;
    uint64_t bytes;
    uint64_t hashed;
    uint32_t retried;
    uint32_t commands;
};

/**
 * struct batch
 * @first, @count: positions, whose slots are neighbours on disk
 * @unit: bytes of one position on disk
 * @offset: of the first, in the member
 * @staging: its memory where it is not direct, else NULL
 * @from, @to: bytes (relative to @offset) that are still to be submitted
 * @open: commands in flight
 * @hashed: a write's sums are in its records
 * @landed: everything submitted has ended
 * @noted: a command of it failed, and the member's health knows: its second try is no other fault
 * @again: position (relative to @first) under its second try, or NO_POSITION
 * @record_again: the second try wants the position's record too
 * @error, @record_error: positive errno of the data's and the record's command
 * @bad: bit per position that failed so far
 * @copying: its copies to or from KV memory are under way on the device's stream, up to @ticket;
 *   @copy_error: positive errno of those that could not be enqueued
 * @place_from, @place_to: a read's positions that were verified and are to be put in place
 * @launched: no more copies will be enqueued for it
 */
struct batch {
    struct batch *next;
    struct task *task;
    uint32_t first;
    uint32_t count;
    uint64_t unit;
    uint64_t offset;
    uint8_t *staging;
    uint64_t from;
    uint64_t to;
    uint32_t open;
    bool hashed;
    bool landed;
    bool noted;
    bool record_again;
    uint32_t again;
    int error;
    int record_error;
    uint64_t bad[MEMBER_SLOTS / 64];
    bool copying;
    bool launched;
    int copy_error;
    uint32_t ticket;
    uint32_t place_from;
    uint32_t place_to;
};

/**
 * struct io - a command with what it is for
 * @from: place in the batch, bytes; UINT64_MAX: a record read again into @scratch
 * @late_at: when it counts as late, 0 while it is not out
 * @scratch: MEMBER_SCRATCH bytes of its own
 */
struct io {
    struct command command;
    struct io *next;
    struct batch *batch;
    uint64_t from;
    uint64_t late_at;
    uint32_t tries;
    uint8_t *scratch;
};

/** Whether a member is given commands; OPENING: it was asked for and the thread has not seen it. */
enum gate { GATE_OPEN, GATE_CLOSED, GATE_OPENING };

/** A letter to the thread; one at a time, under the lock. */
struct letter {
    void *memory;
    size_t bytes;
    int result;
    struct tutti_error error;
};

struct member {
    /* Set before the thread starts. */
    struct tutti_ring *ring;
    const struct tutti_device *device;
    const struct backend_type *type;
    struct backend_options options;
    uint32_t number;
    uint32_t ring_depth;
    int cpu; /* -1: anywhere */
    size_t staging_bytes;
    uint64_t queue_bytes;
    uint64_t write_bytes;
    uint64_t late_ns;
    uint32_t command_bytes;

    /* The thread's own. */
    struct backend *backend;
    struct staging staging;
    struct staging record_staging;              /* where a backend reaches only what was fixed */
    struct task *task;                          /* by index */
    struct task_list class_list[TUTTI_CLASSES]; /* taken, not expanded; in order of taking */
    struct task *records_list;                  /* READ_RECORDS that are not over */
    uint64_t sequence;
    uint64_t look;   /* number of the last look at the lists */
    uint32_t active; /* tasks that are not over */
    uint32_t out;    /* commands */
    struct batch *batch_pool;
    struct batch *batches;
    struct io *io_pool;
    struct io *ios;
    struct iovec *segments;
    uint8_t *scratch;
    uint8_t *zeros;                         /* padding that is written */
    struct tutti_copier *copier;            /* where the device has streams */
    struct tutti_copy *copies;              /* room for a batch's */
    uint32_t copying;                       /* batches whose copies are under way */
    struct batch_list landing;              /* those of them that are read, in order of copying */
    struct batch_list again;                /* second tries to submit */
    struct batch_list check[TUTTI_CLASSES]; /* to be verified or hashed */
    uint64_t in_flight;                     /* bytes */
    uint64_t writing;                       /* those of them that are written */
    uint64_t now;                           /* of this turn of the loop */
    uint64_t next_look;                     /* for late commands */
    struct health health;
    bool closing;
    bool stepped_over; /* a task was not ready at the last look */
    bool polls;        /* and waits for a word that wakes nobody */

    /* Written by the thread, read by anybody: relaxed. */
    struct tutti_engine_counters counters;

    /* Between the thread and the engine's calls. */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t answered;
    struct letter *letter; /* under lock; set by the caller, cleared by the thread */
    bool mail;             /* stop or letter is set: saves the thread the lock */
    bool stop;             /* under lock */
    bool opened;           /* under lock: the thread is past its opening */
    bool ended;            /* under lock: the thread touches nothing any more */
    int open_result;
    uint32_t gate; /* under lock; read relaxed by anybody */
    struct tutti_error open_error;
    struct tutti_error io_error;            /* under lock: the last I/O error's sentence */
    char fence_reason[TUTTI_MEMBER_REASON]; /* under lock */
};

/* member.c */
int member_start(struct member *m, struct tutti_error *err);
void member_tell_to_stop(struct member *m);
int member_join(struct member *m, uint64_t deadline);
void member_ring_the_bell(struct member *m);
int member_fix(struct member *m, void *memory, size_t bytes, struct tutti_error *err);
void member_io_error(struct member *m, int code, const char *what, uint64_t offset);

/* fence.c: the thread's side, */
void fence_note(struct member *m, enum health_event event);
void fence_look_for_late(struct member *m);
void fence_open_again(struct member *m);
/* and that of the engine's calls. */
void member_fence(struct member *m, const char *reason);
void member_unfence(struct member *m);
void member_state(struct member *m, struct tutti_member_state *state);

static inline bool fence_closed(const struct member *m)
{
    return tutti_load_relaxed(&m->gate) == GATE_CLOSED; /* as in close_gate() */
}

/** Add to a counter: one writer, so a plain addition and a whole store. */
static inline void member_count(uint64_t *counter, uint64_t by)
{
    tutti_store_relaxed(counter, *counter + by);
}

/* task.c */
int task_open(struct member *m);
bool task_take(struct member *m);
void task_fill(struct member *m);
bool task_any_ready(struct member *m);
void task_batch_over(struct member *m, struct task *t);
void task_batch_launched(struct member *m, struct batch *b);
bool task_is_to_end(const struct member *m, const struct task *t);
int task_end_error(const struct member *m, const struct task *t);
bool task_wait_for_records(struct member *m, struct batch *b);

/* batch.c */
int batch_pools_open(struct member *m);
void batch_pools_close(struct member *m);
enum opening { OPENED, EXPANDED, BLOCKED };
enum opening batch_open(struct member *m, struct task *t);
bool batch_submit(struct member *m, struct batch *b);
void batch_drop_rest(struct batch *b, int error);
void batch_close(struct member *m, struct batch *b);
bool batch_seek(struct member *m, struct task *t);
bool batch_ours(const struct member *m, const struct task *t);
const void *batch_part(const struct batch *b, uint32_t i, uint32_t part);
void io_resubmit(struct member *m, struct io *io, uint32_t moved);
void io_free(struct member *m, struct io *io);

static inline bool batch_is_bad(const struct batch *b, uint32_t i)
{
    return b->bad[i / 64] >> (i % 64) & 1;
}

static inline void batch_set_bad(struct batch *b, uint32_t i, bool bad)
{
    uint64_t bit = UINT64_C(1) << (i % 64);

    b->bad[i / 64] = bad ? b->bad[i / 64] | bit : b->bad[i / 64] & ~bit;
}

static inline void batch_append(struct batch_list *list, struct batch *b)
{
    b->next = NULL;
    *list->last = b;
    list->last = &b->next;
}

static inline struct batch *batch_pop(struct batch_list *list)
{
    struct batch *b = list->first;

    if (b) {
        list->first = b->next;
        if (!list->first)
            list->last = &list->first;
    }
    return b;
}

/* check.c */
void check_ended(struct member *m, struct io *io);
void check_submitted(struct member *m, struct batch *b);
void check_settle(struct member *m, struct batch *b);
void check_placed(struct member *m, struct batch *b);
bool check_some(struct member *m);
bool check_writable(const struct tutti_map *map, uint32_t position);
void check_build_record(const struct member *m, const struct tutti_map *map, uint32_t position);
void check_build_empty(const struct member *m, const struct tutti_map *map, uint32_t position,
                       uint8_t *to);

/* place.c */
int place_open(struct member *m, struct tutti_error *err);
void place_close(struct member *m);
void place_out(struct member *m, struct batch *b);
bool place_out_over(struct member *m, struct batch *b);
bool place_in(struct member *m, struct batch *b);
bool place_collect(struct member *m);

static inline struct tutti_record *map_record(const struct tutti_map *map, uint32_t position)
{
    return (struct tutti_record *)(void *)(map->records +
                                           (uint64_t)position * map->placement->record_stride);
}

/* A position's status: this thread writes it, the ring's last finisher may read it meanwhile. */
static inline uint8_t map_status(const struct tutti_map *map, uint32_t position)
{
    return tutti_load_relaxed(&map->status[position]);
}

static inline void map_fail(const struct tutti_map *map, uint32_t position, int error)
{
    if (map_status(map, position) == 0)
        tutti_store_relaxed(&map->status[position], (uint8_t)error);
}

#endif
