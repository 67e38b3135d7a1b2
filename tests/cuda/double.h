/* SPDX-License-Identifier: Apache-2.0 */
/*
 * double.h: what the files of the CUDA driver's stand-in share (see control.h).
 *
 *     state.c    calls counted and refused, contexts, attributes, rules that are broken
 *     memory.c   device memory and registered host memory
 *     queue.c    streams and hardware queues
 *     events.c   events
 *     copy.c     copies and words
 *     capture.c  stream capture
 *     green.c    shares of the SMs
 *     modules.c  kernels that are none, launches
 *     procs.c    cuGetProcAddress() and its versions
 *
 * All of it is under one lock; whatever changes, one condition tells.
 */
#ifndef TUTTI_TESTS_CUDA_DOUBLE_H
#define TUTTI_TESTS_CUDA_DOUBLE_H

#include <pthread.h>

#include "control.h"

/** Rules of the driver that have a test each; STANDIN_BREAK names one. */
#define RULES(X)                                                                                   \
    X(contexts)                                                                                    \
    X(sticky)                                                                                      \
    X(one_queue)                                                                                   \
    X(many_queues)                                                                                 \
    X(stream_order)                                                                                \
    X(capture_at_call)                                                                             \
    X(unrecorded)                                                                                  \
    X(wait_value)                                                                                  \
    X(write_value)                                                                                 \
    X(words_mapped)                                                                                \
    X(priorities)                                                                                  \
    X(capture)                                                                                     \
    X(capture_forbids)                                                                             \
    X(capture_global)                                                                              \
    X(legacy)                                                                                      \
    X(pageable)                                                                                    \
    X(pinned)                                                                                      \
    X(versions)                                                                                    \
    X(green_less)                                                                                  \
    X(green_absent)                                                                                \
    X(attributes)                                                                                  \
    X(iomemory)                                                                                    \
    X(kth_call)                                                                                    \
    X(out_of_memory)                                                                               \
    X(host_faults)

enum rule {
#define RULE(name) RULE_##name,
    RULES(RULE)
#undef RULE
};

/* What a call wants checked. */
enum {
    ANYWHERE = 0,
    IN_CONTEXT = 1, /* a current context without a sticky error */
    UNSAFE = 2,     /* forbidden while somebody captures globally */
};

enum kind { COPY, WAIT_WORD, WRITE_WORD, RECORD, WAIT_STAMP, HOST_FUNCTION };

/** One recording of an event. */
struct stamp {
    bool done;
    unsigned users;
};

struct op {
    struct op *next;     /* in its hardware queue */
    struct op *all_next; /* among all that are not done, in order of enqueuing */
    struct cu_stream_s *stream;
    enum kind kind;
    uint64_t number;
    bool done;
    uint64_t to, from;
    size_t bytes;
    uint32_t value;
    unsigned flags;
    struct stamp *stamp;
    void (*function)(void *);
    void *argument;
};

struct cu_stream_s {
    uint64_t magic;
    struct cu_stream_s *next; /* of all that there are */
    unsigned queue;
    unsigned flags;
    int priority;
    uint64_t last; /* number of its latest operation */
    unsigned open; /* operations that are not done */
    int capture;   /* CU_CAPTURE_* status */
    int mode;
    pthread_t by; /* who captures */
    size_t nodes;
    bool is_null;
};

struct cu_event_s {
    uint64_t magic;
    struct stamp *stamp;               /* latest recording, or NULL */
    struct cu_stream_s *captured_into; /* recorded while that captured */
};

struct cu_context_s {
    int retained;
    cu_result sticky;
};

#pragma GCC visibility push(hidden) /* a test has functions of these names too */

extern pthread_mutex_t standin_lock;
extern pthread_cond_t standin_changed;
extern struct cu_context_s standin_context;
extern struct standin_counts standin_count;

/* state.c */
bool kept(enum rule rule);
/** Take the lock and see whether the call may go on. */
cu_result call_begin(unsigned wants);
/** Let the lock go. */
cu_result call_end(cu_result result);
bool fault_is_due(void);
int standin_version(void);
int standin_attribute(int attribute);
int *thread_capture_mode(void);

/* memory.c */
enum place { NOWHERE, ON_DEVICE, PINNED };
/** What kind of memory a stretch is; @reach: where the double reaches it. */
enum place place_of(uint64_t address, size_t bytes, void **reach);
void memory_open(void);

/* queue.c */
void queues_open(void);
/** The stream of a handle; NULL for one that is none. */
struct cu_stream_s *stream_of(cu_stream handle);
/** Append a copy of @what. Return: CU_OK, or why not; captured: nothing runs. */
cu_result enqueue(struct cu_stream_s *stream, const struct op *what);
/** Until all that the stream has been given is done. */
cu_result drain(struct cu_stream_s *stream);
void stamp_drop(struct stamp *stamp);
cu_result stream_new(cu_stream *stream, unsigned flags, int priority);

/* capture.c */
/** Whether this call on the stream spoils a capture; spoils it then. */
cu_result capture_forbids(struct cu_stream_s *stream);
/** The same for calls that are unsafe for everybody's capture. */
cu_result capture_unsafe(void);

#pragma GCC visibility pop

#endif
