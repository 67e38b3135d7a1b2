/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h: what the files of serve/ share: a session, and who holds them.
 *
 * A session is a list of steps on one transfer map, each step one IOCB:
 *     retrieve:  records, layer 0, 1, ... L-1
 *     store:     empty, layer 0, ... L-1, records
 *     erase:     empty
 * A cursor walks over the steps as they may be issued; completions are
 * collected in order, which gives the IOCBs back to the ring.
 */
#ifndef TUTTI_SERVE_INTERNAL_H
#define TUTTI_SERVE_INTERNAL_H

#include <sys/types.h>

#include "base/left_behind.h"
#include "tutti/sched.h"
#include "tutti/scrub.h"
#include "tutti/serve.h"

enum session_kind { SESSION_RETRIEVE, SESSION_STORE, SESSION_ERASE };

/** A group's KV memory as registered. */
struct group {
    bool registered;
    uint32_t blocks;
    struct tutti_geometry geometry;
    struct tutti_placement placement;
    struct tutti_kv_plane *planes;
    uint16_t *readers; /* per block: stores that may still read it; SEEN while a list is checked */
};

#define SEEN 0x8000u

/** One IOCB of a session. */
struct step {
    uint32_t iocb;  /* index in the ring, while issued and not collected */
    int32_t status; /* of its completion, once collected */
};

/**
 * What a session has to do with computation's stream
 * @mark: its mark among the words, NO_MARK for none; @mark_value: what the stream writes there
 * @bad: errno once a wait was let go or refused: relaxed, but set before the word is released
 * @refused: why the stream did not take a wait
 */
struct session_stream {
    uint32_t mark;
    uint32_t mark_value;
    uint32_t bad;
    struct tutti_error refused;
};

#define NO_MARK UINT32_MAX

struct session {
    struct tutti_serve *serve;
    struct group *group;
    struct session *next; /* of its kind, in order of begin */
    enum session_kind kind;
    struct tutti_map map;
    struct tutti_record stencil; /* a copy: a later epoch's identity is not this one's */
    uint64_t tag;
    uint32_t members; /* a bit for each that holds a slot of it */
    uint32_t steps;
    uint32_t issued;    /* steps handed to the ring */
    uint32_t collected; /* steps whose completion was taken, in order */
    uint32_t allowed;   /* steps that may be issued as far as the caller is concerned */
    struct step *step;
    bool in_step;
    bool granted; /* a store that the scheduler let go; loads always are */
    bool cancelled;
    bool ended;
    bool short_; /* a step did not run: positions without an error are not done either */
    uint64_t began;
    uint64_t first_layer;
    uint64_t finished;
    uint64_t bytes;
    struct session_stream on;
};

struct tutti_retrieve {
    struct session session;
};

struct tutti_store {
    struct session session;
};

struct tutti_serve {
    pid_t opener; /* threads do not follow a fork: a child has nothing to close */
    struct tutti_pool *pool;
    uint32_t rank;
    uint32_t members;
    const struct tutti_device *device;
    struct stream_words *words; /* NULL where the device has no streams */
    struct tutti_ring *ring;
    struct tutti_engine *engine;
    struct tutti_sched_options policy;
    bool verify;
    size_t staging_bytes;
    uint64_t counted_written;
    struct group group[TUTTI_MAX_GROUPS];
    struct session *retrieves; /* lists in order of begin */
    struct session *stores;
    struct session *erases;
    struct tutti_scrub *scrub;
    bool switched[TUTTI_MAX_MEMBERS]; /* the member's switch is thrown, and we know */
    struct left_behind left; /* a command that did not end may use the ring, a map, planes */
};

/* streams.c: all of these do nothing, and return 0, where the device has no streams */
int streams_open(struct tutti_serve *serve, struct tutti_error *err);
/** The engine is closed, or never was open. */
void streams_close(struct tutti_serve *serve);
/** The session's blocks are computation's until its stream has come to this point. */
int streams_mark(struct session *s, struct tutti_error *err);
void streams_forget(struct session *s);
/** What an IOCB of the session's waits for, and tells. */
void streams_name(struct session *s, uint32_t index, struct tutti_iocb *iocb);
/** Let the stream wait for an IOCB that is launched. Return: 0, or -EBUSY: it is captured. */
int streams_wait(struct session *s, uint32_t index, uint64_t timeout_ns);
/** The IOCB has completed: nobody need be let go. */
void streams_collected(struct tutti_serve *serve, uint32_t index);

/* members.c */
void members_fence_switched(struct tutti_serve *serve);

/* scrub.c */
/** A store or an erasure of these slots begins. */
void scrub_disturb(struct tutti_scrub *scrub, const struct group *group,
                   const struct tutti_transfer *items, uint32_t count);
/** Ask that it end. */
void scrub_cancel(struct tutti_scrub *scrub);
/** The engine is closed: free it. NULL is allowed. */
void scrub_free(struct tutti_scrub *scrub);

/** Make a session over copies of the lists; @size is that of the struct around it. */
int session_new(struct tutti_serve *serve, uint32_t group, enum session_kind kind, size_t size,
                const struct tutti_transfer *items, const struct tutti_origin *origins,
                uint32_t count, struct session **session, struct tutti_error *err);

/** What all records of a group share at this moment. */
void session_fill_stencil(const struct tutti_serve *serve, const struct group *group,
                          struct tutti_record *stencil);

/** Take what has completed, then issue what may be. */
void session_advance(struct session *session);

/** Wait, with a bound, until a step was collected or the session ended. Return: 0 or -ETIMEDOUT. */
int session_wait_step(struct session *session, uint32_t step, uint64_t timeout_ns);

/** Wait, with a bound, until a step was issued or the session ended. Return: 0 or -ETIMEDOUT. */
int session_wait_issued(struct session *session, uint32_t step, uint64_t timeout_ns);

/** Wait, with a bound, for the end. Return: 0 or -ETIMEDOUT. */
int session_wait(struct session *session, uint64_t timeout_ns);

void session_cancel(struct session *session);
void session_result(const struct session *session, struct tutti_result *result);

/** Unlink and free. Return: 0 or -EBUSY. */
int session_end(struct session *session);

#endif
