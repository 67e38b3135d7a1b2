/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uring.c: the backend on Linux's io_uring.
 *
 * Responsible for one ring of submissions and completions on one file. The one
 * idea: commands and the wake-up from our own ring arrive in one completion
 * queue, so the thread has one place to sleep and makes one system call for a
 * whole batch. File and memory are registered where the system lets us: a
 * one-segment command inside registered memory is a fixed one.
 */
#include "engine/backend.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/atomics.h"

#define EXTRA_ENTRIES 8u              /* the wake-up's read, and slack */
#define PIECE_BYTES ((size_t)1 << 30) /* the kernel's limit on one registered buffer */
#define MOST_PIECES 4096u

struct uring {
    struct backend base;
    struct io_uring ring;
    int fd;
    int wakeup;
    bool file_fixed;
    bool table; /* a sparse table of buffers is registered; pieces are put in one by one */
    bool ring_open;
    bool wakeup_armed;
    uint64_t wakeup_value;
    uint32_t pieces;
    struct iovec piece[MOST_PIECES]; /* in the order of registration */
    uint16_t order[MOST_PIECES];     /* by address */
};

static struct uring *uring_of(struct backend *b)
{
    return (struct uring *)(void *)b;
}

static void count_call(struct uring *u)
{
    tutti_store_relaxed(&u->base.system_calls, u->base.system_calls + 1); /* a number; one writer */
}

/** Newer kernels spare an interrupt or a task switch per completion; older ones refuse the flags.
 */
static int setup(struct uring *u, uint32_t depth)
{
    static const unsigned flags[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        0,
    };
    int rc = -EINVAL;

    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]) && rc == -EINVAL; i++) {
        struct io_uring_params params = {.flags = flags[i] | IORING_SETUP_CLAMP};

        rc = io_uring_queue_init_params(depth + EXTRA_ENTRIES, &u->ring, &params);
    }
    return rc;
}

static int refused(const struct backend_options *o, int rc, struct tutti_error *err)
{
    const char *why = rc == -EPERM    ? "io_uring is not permitted here (a container's seccomp "
                                        "profile, or kernel.io_uring_disabled)"
                      : rc == -ENOSYS ? "this kernel has no io_uring"
                      : rc == -ENOMEM ? "no memory may be locked for io_uring (raise "
                                        "RLIMIT_MEMLOCK, ulimit -l)"
                                      : "io_uring cannot be set up";

    return tutti_error_set(err, rc, "%s: %s: %s; engine \"threads\" does without", o->path, why,
                           strerror(-rc));
}

static int uring_open(const struct backend_options *o, struct backend **out,
                      struct tutti_error *err)
{
    struct uring *u = calloc(1, sizeof(*u));
    int rc;

    if (!u)
        return tutti_error_set(err, -ENOMEM, "no memory for an io_uring");
    u->base.type = &backend_uring;
    u->fd = o->fd;
    u->wakeup = o->wakeup;
    rc = setup(u, o->depth);
    if (rc < 0) {
        free(u);
        return refused(o, rc, err);
    }
    io_uring_register_ring_fd(&u->ring); /* saves a lookup a call, where it can be had */
    u->file_fixed = io_uring_register_files(&u->ring, &u->fd, 1) == 0;
    u->table = io_uring_register_buffers_sparse(&u->ring, MOST_PIECES) == 0;
    *out = &u->base;
    return 0;
}

/** Cancel the standing read and see its end. Return: whether it ended in a second. */
static bool end_wakeup(struct uring *u)
{
    struct __kernel_timespec second = {.tv_sec = 1};
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    struct io_uring_cqe *cqe;

    if (!sqe)
        return false;
    io_uring_prep_cancel(sqe, NULL, 0); /* the read has no user data, the commands have */
    io_uring_sqe_set_data(sqe, u);
    io_uring_submit(&u->ring);
    while (u->wakeup_armed && io_uring_wait_cqe_timeout(&u->ring, &cqe, &second) == 0) {
        u->wakeup_armed = io_uring_cqe_get_data(cqe) != NULL;
        io_uring_cqe_seen(&u->ring, cqe);
    }
    return !u->wakeup_armed;
}

static void uring_close(struct backend *b)
{
    struct uring *u = uring_of(b);

    /* The standing read of the eventfd writes to our memory: it ends before we do. */
    if (u->wakeup_armed && !end_wakeup(u))
        return; /* better lost than written to */
    io_uring_queue_exit(&u->ring);
    free(u);
}

/** Put a piece in the list by address. */
static void remember(struct uring *u, void *memory, size_t bytes)
{
    uint32_t at = u->pieces;

    u->piece[u->pieces] = (struct iovec){.iov_base = memory, .iov_len = bytes};
    while (at > 0 && u->piece[u->order[at - 1]].iov_base > memory) {
        u->order[at] = u->order[at - 1];
        at--;
    }
    u->order[at] = (uint16_t)u->pieces++;
}

/** Kernels before 5.19 know no sparse table: everything is registered anew. */
static int register_all(struct uring *u)
{
    if (u->pieces > 1)
        io_uring_unregister_buffers(&u->ring);
    return io_uring_register_buffers(&u->ring, u->piece, u->pieces);
}

static int fix_piece(struct uring *u, void *memory, size_t bytes)
{
    struct iovec piece = {.iov_base = memory, .iov_len = bytes};
    int rc;

    if (u->pieces == MOST_PIECES)
        return -EMFILE;
    if (u->table) {
        rc = io_uring_register_buffers_update_tag(&u->ring, u->pieces, &piece, NULL, 1);
        if (rc < 0)
            return rc;
        remember(u, memory, bytes);
        return 0;
    }
    remember(u, memory, bytes);
    rc = register_all(u);
    if (rc < 0)
        u->pieces = 0; /* none is registered now */
    return rc;
}

static int uring_fix(struct backend *b, void *memory, size_t bytes, struct tutti_error *err)
{
    struct uring *u = uring_of(b);
    char *at = memory;
    int rc;

    while (bytes > 0) {
        size_t step = bytes < PIECE_BYTES ? bytes : PIECE_BYTES;

        rc = fix_piece(u, at, step);
        if (rc < 0)
            return tutti_error_set(err, rc,
                                   "memory is not registered with io_uring (%s%s); "
                                   "transfers work without, at more CPU time",
                                   strerror(-rc),
                                   rc == -ENOMEM ? ": raise RLIMIT_MEMLOCK, ulimit -l" : "");
        at += step;
        bytes -= step;
    }
    return 0;
}

/** Registered piece that holds a segment, or -1. */
static int fixed_piece(const struct uring *u, const struct iovec *segment)
{
    uint32_t low = 0, high = u->pieces;
    const struct iovec *piece;

    while (low < high) {
        uint32_t middle = (low + high) / 2;

        if (u->piece[u->order[middle]].iov_base <= segment->iov_base)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0)
        return -1;
    piece = &u->piece[u->order[low - 1]];
    if ((size_t)((char *)segment->iov_base - (char *)piece->iov_base) + segment->iov_len >
        piece->iov_len)
        return -1;
    return u->order[low - 1];
}

static void uring_submit(struct backend *b, struct command *c)
{
    struct uring *u = uring_of(b);
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring); /* there is room: depth bounds us */
    int fd = u->file_fixed ? 0 : u->fd;
    int piece = c->segments == 1 ? fixed_piece(u, &c->iov[0]) : -1;

    if (piece >= 0 && c->direction == TUTTI_READ)
        io_uring_prep_read_fixed(sqe, fd, c->iov[0].iov_base, c->bytes, c->offset, piece);
    else if (piece >= 0)
        io_uring_prep_write_fixed(sqe, fd, c->iov[0].iov_base, c->bytes, c->offset, piece);
    else if (c->segments == 1 && c->direction == TUTTI_READ)
        io_uring_prep_read(sqe, fd, c->iov[0].iov_base, c->bytes, c->offset);
    else if (c->segments == 1)
        io_uring_prep_write(sqe, fd, c->iov[0].iov_base, c->bytes, c->offset);
    else if (c->direction == TUTTI_READ)
        io_uring_prep_readv(sqe, fd, c->iov, c->segments, c->offset);
    else
        io_uring_prep_writev(sqe, fd, c->iov, c->segments, c->offset);
    if (u->file_fixed)
        sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data(sqe, c);
}

static void arm_wakeup(struct uring *u)
{
    struct io_uring_sqe *sqe;

    if (u->wakeup_armed)
        return;
    sqe = io_uring_get_sqe(&u->ring);
    if (!sqe)
        return;
    io_uring_prep_read(sqe, u->wakeup, &u->wakeup_value, sizeof(u->wakeup_value), 0);
    io_uring_sqe_set_data(sqe, NULL);
    u->wakeup_armed = true;
}

static uint32_t uring_reap(struct backend *b, struct command **ended, uint32_t most)
{
    struct uring *u = uring_of(b);
    struct io_uring_cqe *cqe[64];
    uint32_t found = 0;

    if (io_uring_sq_ready(&u->ring)) {
        io_uring_submit_and_get_events(&u->ring); /* what it refuses now stays queued */
        count_call(u);
    }
    while (found < most) {
        uint32_t room = most - found < 64 ? most - found : 64;
        unsigned n = io_uring_peek_batch_cqe(&u->ring, cqe, room);

        for (unsigned i = 0; i < n; i++) {
            struct command *c = io_uring_cqe_get_data(cqe[i]);

            if (c) {
                c->result = cqe[i]->res;
                ended[found++] = c;
            } else {
                u->wakeup_armed = false;
            }
        }
        io_uring_cq_advance(&u->ring, n);
        if (n < room)
            break;
    }
    return found;
}

static void uring_wait(struct backend *b, uint64_t timeout_ns)
{
    struct uring *u = uring_of(b);
    struct io_uring_cqe *cqe;
    struct __kernel_timespec t = {.tv_sec = (long long)(timeout_ns / 1000000000),
                                  .tv_nsec = (long long)(timeout_ns % 1000000000)};

    arm_wakeup(u);
    if (!io_uring_sq_ready(&u->ring) && io_uring_cq_ready(&u->ring))
        return;
    count_call(u);
    if (timeout_ns == UINT64_MAX)
        io_uring_submit_and_wait(&u->ring, 1);
    else
        io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, &t, NULL);
}

const struct backend_type backend_uring = {
    .name = "uring",
    .open = uring_open,
    .fix = uring_fix,
    .submit = uring_submit,
    .reap = uring_reap,
    .wait = uring_wait,
    .close = uring_close,
};
