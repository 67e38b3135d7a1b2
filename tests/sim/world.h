/* SPDX-License-Identifier: Apache-2.0 */
/*
 * world.h: the simulated serving engine: a scheduler with a directory, ranks
 * with pool, serve and KV memory, and what passes between them.
 *
 *     sim.c        seeds, operations, what is printed
 *     pools.c      shapes of pools, formatted once a process
 *     life.c       start, end and crash of all halves
 *     scheduler.c  requests, plans, reports; the directory's only caller
 *     rank.c       one rank's worker: a fiber that carries plans out
 *     members.c    who fences members, and who brings them back
 *     scrub.c      slots that are verified beside all this, and what they hold in truth
 *     model.c      what must be where
 */
#ifndef TUTTI_TESTS_SIM_WORLD_H
#define TUTTI_TESTS_SIM_WORLD_H

#include "disk.h"
#include "model.h"
#include "tutti/directory.h"
#include "tutti/pool.h"
#include "tutti/scrub.h"
#include "tutti/serve.h"

enum {
    MOST_RANKS = 3,
    MOST_MEMBERS = 3,
    MOST_LAYERS = 4,
    MOST_PLANES = 8,
    MOST_SLOTS = 128,
    BLOCKS = 24,
    CHAINS = 8,
    LENGTH = 12, /* blocks of the longest prompt */
    REQUESTS = 5,
    SESSIONS = 12,
    EPOCHS = 4096,
    NO_BLOCK = -1,
};

/** A pool's shape, and the two shapes of slot that it is served with. */
struct pool_shape {
    uint32_t ranks;
    uint32_t members;
    uint32_t alignment;
    uint32_t extent_bytes;
    uint32_t extents[MOST_RANKS]; /* of a member */
    struct tutti_geometry geometry[2];
};

/** What a run's disks do wrong. */
enum profile {
    PROFILE_CLEAN,  /* nothing: late and out of order */
    PROFILE_ERRORS, /* what is told: EIO, short, unreadable sectors, never */
    PROFILE_LIES,   /* and what is not: lost, torn, stale, flipped, misdirected */
};

struct request {
    bool used;
    uint32_t chain;
    uint32_t count;
    int32_t table[LENGTH]; /* the engine's block of each, or NO_BLOCK */
    struct load *load;
};

struct load {
    struct request *request; /* NULL when it was aborted */
    uint32_t chain;
    uint32_t first;
    uint32_t count;
    uint64_t version;
    bool in_step;
    bool cancelled;
    uint32_t waiting; /* ranks that have not reported */
    struct tutti_transfer item[LENGTH];
    bool bad[LENGTH];
    struct tutti_match match;
};

struct store {
    uint32_t chain;
    uint32_t count;
    uint64_t version;
    uint32_t waiting;
    uint32_t layers_ready; /* at its begin; more as ranks go on */
    struct tutti_transfer item[LENGTH];
    struct tutti_origin origin[LENGTH];
    uint32_t index[LENGTH];
};

enum message_kind {
    MESSAGE_COMPUTE, /* blocks get new content: fence, then fill */
    MESSAGE_LOAD,
    MESSAGE_CANCEL,
    MESSAGE_STORE,
    MESSAGE_ABANDON,
    MESSAGE_ERASE,
    MESSAGE_FLUSH,
    MESSAGE_SCRUB,    /* begin to scrub, */
    MESSAGE_NO_SCRUB, /* or let it be */
    MESSAGE_CLOSE,
};

struct message {
    struct message *next;
    enum message_kind kind;
    struct load *load;
    struct store *store;
    uint32_t count;
    uint32_t block[LENGTH];
    uint32_t node[LENGTH];
    struct tutti_transfer *item; /* to be erased */
    uint64_t version;
    uint64_t epoch;
    uint64_t oldest;
    uint32_t identity;
    uint32_t number;
};

/** @fenced: members of the rank that are given no commands; @bad: what its scrub has found. */
struct report {
    struct report *next;
    uint32_t rank;
    uint32_t fenced;
    struct tutti_transfer *bad;
    uint32_t bad_count;
    struct load *load;
    struct store *store;
    uint8_t position[LENGTH];
    uint32_t flushed;   /* number of a flush, else 0 */
    uint32_t unflushed; /* members that it left out */
};

struct loading {
    struct load *load;
    struct tutti_retrieve *session;
    uint64_t deadline;
    bool cancelled;
};

struct storing {
    struct store *store;
    struct tutti_store *session;
    uint32_t ready;
};

struct rank {
    uint32_t number;
    struct disk disk[MOST_MEMBERS];
    struct tutti_pool *pool;
    struct tutti_serve *serve;
    struct tutti_placement placement;
    struct tutti_scrub *scrub;
    uint32_t watched;     /* members that the last look found fenced; the pool knows it */
    uint32_t ever_fenced; /* in this life */
    uint32_t bound;       /* errors before a member is fenced; 0: many */
    bool late;            /* late commands are among them */
    struct fiber *worker;
    struct message *first, **last;
    uint32_t queued;
    struct loading loading[SESSIONS];
    struct storing storing[SESSIONS];
    uint32_t loadings, storings;
    struct tutti_kv_plane plane[MOST_PLANES];
    uint8_t *kv;
    size_t kv_bytes;
    struct block block[BLOCKS];
    uint64_t epoch, oldest;                 /* that the open pool has */
    uint64_t durable_epoch, durable_oldest; /* that it said were durable, over all lives */
    uint64_t poll_at;
    uint64_t lag; /* before each message, ns; 0: in lockstep */
    bool stuck;   /* a store outlived its fence */
    bool closed;
};

struct world {
    uint64_t seed;
    uint64_t op;
    const struct pool_shape *shape;
    const char *home;
    uint32_t geometry; /* which of the shape's two */
    enum profile profile;
    bool stuck_allowed;
    uint32_t chains; /* that are asked for: few come back to the same slots */
    uint32_t slots;
    struct tutti_placement placement; /* the directory's */
    struct rank rank[MOST_RANKS];
    uint32_t ranks;

    struct tutti_directory *directory;
    struct given *given[MOST_SLOTS]; /* newest first */
    uint64_t epoch, oldest;
    uint32_t identity;
    uint32_t identities;
    uint32_t stamp;            /* counts resets: the weights may have changed at each */
    uint32_t stamp_of[EPOCHS]; /* by oldest epoch */
    uint64_t version;
    struct request request[REQUESTS];
    bool block_used[BLOCKS];
    struct report *reports;
    struct report *past_report;   /* one that was read long ago */
    struct tutti_match old_match; /* a lookup of long ago */
    uint32_t loads, stores;       /* not reported by all ranks */
    uint32_t pins;
    bool disabled;
    uint32_t fenced[MOST_RANKS]; /* members, as the ranks' reports say */
    bool switches;               /* some member's was thrown */
    uint32_t flush_number, flush_waiting;
    uint64_t flushed[MOST_SLOTS]; /* generation that a flush made safe */
    uint64_t flush_asked[MOST_SLOTS];
    uint64_t sure[MOST_SLOTS]; /* generation that the next life must find whole */
    uint64_t lives, loads_good, loads_bad, stored, computed, fences, scrubbed;
};

extern struct world world;

/** Which rule the test breaks on purpose, to see that it is found; NULL for none. */
extern const char *broken;
bool breaks(const char *rule);

/** Memory until the end of the run. */
void *world_memory(size_t bytes);

/* pools.c */
uint32_t pools_count(void);
const struct pool_shape *pools_shape(uint32_t number);
const char *pools_home(uint32_t number);
void pools_load(uint32_t number, struct rank *rank);
struct tutti_pool_options pools_options(uint32_t number, uint32_t rank, uint32_t geometry);
/** Make the file of a rank's first member so much larger than it was formatted. */
void pools_resize(uint32_t number, uint32_t rank, off_t by);
void pools_remove(void);

/* life.c */
void life_begin(void);
void life_restart(void);
void life_end(void);

/* rank.c */
void *rank_work(void *rank);
/** Whether anything is under way that it must look after. */
bool rank_moves(const struct rank *rank);
void rank_send(struct rank *rank, struct message *message);
struct message *rank_message(enum message_kind kind);

struct report *rank_report(const struct rank *rank);

/* members.c */
/** Members that the directory leaves out, a bit for each: one that a rank lacks is nobody's. */
uint32_t members_fenced(void);
void members_take(uint32_t rank, uint32_t fenced);
/** All come back to the directory: before its promises are compared. */
void members_forget(void);
void members_disable(void);
void members_enable(void);
void members_watch(void);
/** Nothing moves: switches and gates agree. */
void members_check_idle(void);
/** Leave no switch behind. */
void members_end(void);

/* scrub.c */
/** What a slot of a rank's holds: nothing that counts, something that verifies, or does not. */
enum truth { TRUTH_NOTHING, TRUTH_WHOLE, TRUTH_BAD };
enum truth scrub_truth(const struct rank *rank, uint32_t slot, uint64_t *generation);
void scrub_begin(struct rank *rank);
void scrub_end(struct rank *rank);
void scrub_step(struct rank *rank);
/** All of a rank that nothing moves on, by disks that do nothing wrong meanwhile. */
void scrub_round(struct rank *rank);
/** A pool that nobody has open. */
void scrub_offline(struct rank *rank, const struct tutti_pool_options *options);

/* scheduler.c */
void scheduler_request(void);
void scheduler_grow(void);
void scheduler_abort(void);
void scheduler_finish(void);
void scheduler_reset(void);
/** The engine's cache is void: a new epoch, of another identity or the same. */
void scheduler_begin_epoch(bool other);
/** Every rank writes the epoch down. */
void scheduler_make_durable(void);
void scheduler_scrub(void);
void scheduler_drop_bad(const struct rank *rank, const struct tutti_transfer *bad);
void scheduler_drop(void);
void scheduler_erase(void);
void scheduler_flush(void);
void scheduler_old_pin(void);
void scheduler_toggle(void);
void scheduler_take_report(void);
void scheduler_take_all(void);
bool scheduler_idle(void);
/** Everything ends, in bounded time. Return: false when a disk keeps it from that. */
bool scheduler_quiet(void);

#endif
