/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h: what the files of the software controller share.
 *
 *     soft.c      life, registers, doorbells, the thread
 *     queues.c    fetching commands, posting completions
 *     admin.c     admin commands
 *     blocks.c    reading, writing and flushing blocks
 *     data.c      from PRP entries and SGL descriptors to memory
 *     timing.c    how long it all takes
 *     rules.c     the names of the rules
 */
#ifndef TUTTI_NVME_SOFT_INTERNAL_H
#define TUTTI_NVME_SOFT_INTERNAL_H

#include <pthread.h>

#include "nvme/access.h"
#include "nvme/soft/soft.h"
#include "nvme/spec.h"

#define SOFT_QUEUES 65u /* the admin pair and 64 */
#define SOFT_COMMANDS 16384u
#define SOFT_NOT_YET UINT32_MAX /* a command's status that has to wait */
#define SOFT_MAPPINGS 1024u
#define SOFT_FAULTS 16u
#define SOFT_MOST_EVENTS 4u /* event requests that may be out */
#define SOFT_MOST_ABORTS 4u

/** A fetched command. @done: its completion waits for a place. @ghost: it was completed before. */
struct soft_command {
    uint64_t words[NVME_SQE_WORDS];
    uint64_t due;
    uint32_t sq;
    uint32_t status;
    uint32_t value;
    bool checked; /* @status is a refusal; it is not executed */
    bool done;
    bool held; /* completes when something happens, or never */
    bool torn;
    bool twice;
    bool ghost;
    uint64_t twice_ns; /* how long after its completion it is completed again */
    bool foreign;
    struct soft_command *next;
};

struct soft_sq {
    bool there;
    uint32_t cq;
    uint32_t depth;
    uint32_t head; /* next entry to fetch */
    uint32_t tail; /* as the doorbell said */
    uint64_t address;
    uint64_t *seen;  /* entries as they were when their doorbell was seen, depth x 8 words */
    uint8_t *id_out; /* a bit an identifier */
};

/** A completion queue, and the entry that is being written to it. */
struct soft_cq {
    bool there;
    uint32_t depth;
    uint32_t head; /* as the doorbell said */
    uint32_t tail; /* next entry to write */
    uint32_t phase;
    uint64_t address;
    uint32_t users;
    bool posting;
    uint32_t written; /* parts of the entry so far */
    uint64_t word[NVME_CQE_WORDS];
};

struct soft_mapping {
    uint8_t *memory;
    uint64_t address;
    uint64_t bytes;
    bool writable;
};

/** A piece of memory that a transfer touches. */
struct soft_piece {
    uint8_t *memory;
    uint64_t bytes;
};

struct soft {
    struct soft_options options;
    uint8_t *bar;
    uint8_t *media;
    uint8_t *durable; /* with a write cache: what a power loss leaves */
    uint32_t cc;      /* as acted upon */
    uint64_t ready_at;
    bool enabled;
    bool dead;
    uint64_t now;
    uint64_t dice;
    struct soft_sq sq[SOFT_QUEUES];
    struct soft_cq cq[SOFT_QUEUES];
    struct soft_command *pool;
    struct soft_command *unused;
    struct soft_command *out; /* in order of fetching */
    uint32_t under_way;
    uint32_t events_out;
    uint8_t warning; /* of the health log */
    bool event;      /* it is to tell of it */
    uint32_t turn;   /* the queue that is looked at first */
    struct soft_medium medium;
    pthread_mutex_t map_lock;
    struct soft_mapping mapping[SOFT_MAPPINGS];
    uint32_t mappings;
    struct soft_piece *piece;
    uint32_t pieces;
    uint32_t pieces_room;
    struct soft_fault fault[SOFT_FAULTS];
    uint32_t faults;
    uint64_t broken[SOFT_RULE_COUNT]; /* relaxed: counts */
    char first_broken[256];
    struct soft_counters counters; /* relaxed: counts */
    pthread_t thread;
    bool running;
    bool stop; /* relaxed: a wish */
};

/** A rule is broken: count it, and keep the first sentence. */
__attribute__((format(printf, 3, 4))) void soft_break(struct soft *s, enum soft_rule rule,
                                                      const char *format, ...);
void soft_count(uint64_t *counter, uint64_t by);
uint64_t soft_random(struct soft *s);

/* soft.c */
void soft_reset_queues(struct soft *s);

/* queues.c */
bool soft_doorbells(struct soft *s);
bool soft_fetch(struct soft *s);
bool soft_execute(struct soft *s);
bool soft_post(struct soft *s);
int soft_make_cq(struct soft *s, uint32_t number, uint64_t address, uint32_t depth);
int soft_make_sq(struct soft *s, uint32_t number, uint64_t address, uint32_t depth, uint32_t cq);
void soft_drop_sq(struct soft *s, uint32_t number);
/** Its commands end as aborted, but where they do not end: then it is not deleted. */
uint32_t soft_end_sq(struct soft *s, uint32_t number);
void soft_drop_cq(struct soft *s, uint32_t number);

/* Return: the status, NVME_OK where all is well. */
uint32_t soft_admin_check(struct soft *s, struct soft_command *c);
uint32_t soft_admin(struct soft *s, struct soft_command *c);
uint32_t soft_blocks_check(struct soft *s, const struct soft_command *c);
uint32_t soft_blocks(struct soft *s, const struct soft_command *c);
/** When an I/O command that is fetched now ends. */
uint64_t soft_blocks_end(struct soft *s, const struct soft_command *c);

/* data.c */
/**
 * soft_data() - the memory of a command's data, in s->piece
 * @write: the controller writes to it
 */
uint32_t soft_data(struct soft *s, const struct soft_command *c, uint64_t bytes, bool write);
/** @bytes at an address, or NULL where that is not mapped in one piece. */
void *soft_reach(struct soft *s, uint64_t address, uint64_t bytes, bool write);
void soft_copy_to(struct soft *s, const uint8_t *from, uint64_t bytes);
void soft_copy_from(struct soft *s, uint8_t *to, uint64_t bytes);

#endif
