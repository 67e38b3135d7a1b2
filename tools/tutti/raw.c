/* SPDX-License-Identifier: Apache-2.0 */
/*
 * raw.c: the raw pass; see raw.h. Must not know pools, slots or checksums:
 * whatever the library costs must be missing here.
 */
#include "raw.h"

#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/atomics.h"
#include "base/clock.h"

#define MOST_REGIONS 1024u
#define MOST_THREADS 64u

struct raw {
    int fd;
    uint8_t *buffer;
    size_t bytes;
    uint32_t depth;
    bool uring;
    bool fixed; /* buffers are registered */
    struct io_uring ring;
};

/** What one pass shares among its threads. */
struct pass {
    struct raw *raw;
    bool write;
    const struct raw_piece *pieces;
    size_t count;
    size_t next;  /* threads: atomic */
    size_t first; /* pieces of layer 0 that are not over; threads: atomic */
    int failed;   /* threads: atomic */
    uint64_t began;
    uint64_t first_layer;
};

static bool register_buffers(struct raw *raw)
{
    struct iovec region[MOST_REGIONS];
    unsigned count = 0;

    for (uint64_t at = 0; at < raw->bytes; at += RAW_REGION) {
        if (count == MOST_REGIONS)
            return false;
        region[count++] = (struct iovec){
            .iov_base = raw->buffer + at,
            .iov_len = raw->bytes - at < RAW_REGION ? raw->bytes - at : RAW_REGION,
        };
    }
    return io_uring_register_buffers(&raw->ring, region, count) == 0;
}

static int open_uring(struct raw *raw)
{
    struct io_uring_params fast = {.flags =
                                       IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
    int rc = io_uring_queue_init_params(raw->depth, &raw->ring, &fast);

    if (rc == -EINVAL)
        rc = io_uring_queue_init(raw->depth, &raw->ring, 0);
    if (rc < 0)
        return rc;
    rc = io_uring_register_files(&raw->ring, &raw->fd, 1);
    if (rc < 0) {
        io_uring_queue_exit(&raw->ring);
        return rc;
    }
    raw->fixed = register_buffers(raw);
    return 0;
}

int raw_open(struct raw **out, int fd, void *buffer, size_t bytes, uint32_t depth, bool uring,
             struct tutti_error *err)
{
    struct raw *raw = calloc(1, sizeof(*raw));

    if (!raw)
        return tutti_error_set(err, -ENOMEM, "no memory for a raw pass");
    raw->fd = fd;
    raw->buffer = buffer;
    raw->bytes = bytes;
    raw->depth = depth;
    raw->uring = uring && open_uring(raw) == 0;
    *out = raw;
    return 0;
}

void raw_close(struct raw *raw)
{
    if (!raw)
        return;
    if (raw->uring)
        io_uring_queue_exit(&raw->ring);
    free(raw);
}

const char *raw_name(const struct raw *raw)
{
    return !raw->uring ? "threads" : raw->fixed ? "uring, fixed buffers" : "uring";
}

static void queue(struct pass *pass, const struct raw_piece *piece)
{
    struct raw *raw = pass->raw;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&raw->ring);
    uint8_t *memory = raw->buffer + piece->memory;
    int region = (int)(piece->memory / RAW_REGION);

    if (raw->fixed && pass->write)
        io_uring_prep_write_fixed(sqe, 0, memory, piece->bytes, piece->offset, region);
    else if (raw->fixed)
        io_uring_prep_read_fixed(sqe, 0, memory, piece->bytes, piece->offset, region);
    else if (pass->write)
        io_uring_prep_write(sqe, 0, memory, piece->bytes, piece->offset);
    else
        io_uring_prep_read(sqe, 0, memory, piece->bytes, piece->offset);
    sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data(sqe, (void *)(uintptr_t)piece);
}

/** Take what has ended. Return: how many. */
static uint32_t collect(struct pass *pass)
{
    struct io_uring_cqe *cqe[64];
    unsigned n = io_uring_peek_batch_cqe(&pass->raw->ring, cqe, 64);

    for (unsigned i = 0; i < n; i++) {
        const struct raw_piece *piece = io_uring_cqe_get_data(cqe[i]);

        if (cqe[i]->res != (int)piece->bytes && !pass->failed)
            pass->failed = cqe[i]->res < 0 ? cqe[i]->res : -EIO;
        if (piece->layer == 0 && --pass->first == 0)
            pass->first_layer = tutti_clock_now() - pass->began;
    }
    io_uring_cq_advance(&pass->raw->ring, n);
    return n;
}

static void run_uring(struct pass *pass)
{
    uint32_t out = 0;

    while (out || (pass->next < pass->count && !pass->failed)) {
        int rc;

        while (!pass->failed && pass->next < pass->count && out < pass->raw->depth) {
            queue(pass, &pass->pieces[pass->next++]);
            out++;
        }
        rc = io_uring_submit_and_wait(&pass->raw->ring, 1);
        if (rc < 0 && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY)
            pass->failed = rc;
        out -= collect(pass);
    }
}

static int move(const struct raw *raw, bool write, const struct raw_piece *piece)
{
    uint32_t done = 0;

    while (done < piece->bytes) {
        uint8_t *memory = raw->buffer + piece->memory + done;
        off_t offset = (off_t)(piece->offset + done);
        ssize_t n = write ? pwrite(raw->fd, memory, piece->bytes - done, offset)
                          : pread(raw->fd, memory, piece->bytes - done, offset);

        if (n <= 0 && !(n < 0 && errno == EINTR))
            return n < 0 ? -errno : -EIO;
        done += n > 0 ? (uint32_t)n : 0;
    }
    return 0;
}

static void *run_thread(void *argument)
{
    struct pass *pass = argument;
    size_t i;

    while ((i = tutti_add_relaxed(&pass->next, 1)) < pass->count) {
        int rc = move(pass->raw, pass->write, &pass->pieces[i]);

        if (rc < 0)
            tutti_store_relaxed(&pass->failed, rc); /* read after join */
        /* One thread sees zero; join publishes first_layer. */
        if (pass->pieces[i].layer == 0 && tutti_sub_acq_rel(&pass->first, 1) == 0)
            pass->first_layer = tutti_clock_now() - pass->began; /* one thread gets here */
    }
    return NULL;
}

static void run_threads(struct pass *pass)
{
    pthread_t thread[MOST_THREADS];
    uint32_t started = 0;

    while (started < MOST_THREADS && started + 1 < pass->raw->depth &&
           pthread_create(&thread[started], NULL, run_thread, pass) == 0)
        started++;
    run_thread(pass);
    for (uint32_t i = 0; i < started; i++)
        pthread_join(thread[i], NULL);
}

int raw_run(struct raw *raw, bool write, const struct raw_piece *pieces, size_t count,
            struct raw_time *time, struct tutti_error *err)
{
    struct pass pass = {.raw = raw, .write = write, .pieces = pieces, .count = count};

    for (size_t i = 0; i < count; i++)
        pass.first += pieces[i].layer == 0;
    pass.began = tutti_clock_now();
    if (raw->uring)
        run_uring(&pass);
    else
        run_threads(&pass);
    time->all = tutti_clock_now() - pass.began;
    time->first_layer = pass.first_layer;
    if (pass.failed)
        return tutti_error_set(err, pass.failed, "the raw pass failed: %s", strerror(-pass.failed));
    return 0;
}
