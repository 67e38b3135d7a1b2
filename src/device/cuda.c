/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cuda.c: KV memory in an NVIDIA GPU, reached by copies through pinned memory.
 *
 * Responsible for the device's table: pinned staging, a member's copies on streams of
 * their own, and words that computation waits for. Knows no disks, slots or checksums.
 *
 * The one idea: a word tells that copies are done. Behind each batch of copies the stream
 * writes their number into pinned memory, so a member's thread sees their end by a load,
 * asks the driver only while they are not done, and never waits: a thread that waited for
 * a stream could wait for computation that waits for that very thread.
 */
#include "tutti/device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/atomics.h"
#include "device/cuda_driver.h"

#define AT_ONCE 256u /* copies of one call */
#define PAGE ((size_t)4096)
#define SURE_AFTER 3u /* questions in a row that the driver answers with an error */

/** One direction of a member's copies. */
struct lane {
    cu_stream stream;
    uint32_t *done; /* pinned, a line of its own: the stream writes it, the member's thread reads */
    uint32_t issued;
    uint32_t refused; /* questions in a row that ended with an error */
};

struct tutti_copier {
    struct lane lane[2];
    void *words;
    cu_pointer to[AT_ONCE];
    cu_pointer from[AT_ONCE];
    size_t bytes[AT_ONCE];
};

static uint64_t number(const void *memory)
{
    return (uint64_t)(uintptr_t)memory;
}

/* Memory. */

/** Words are named by the host's address on both sides, so it has to be the device's too. */
static int pin(void *memory, size_t bytes, struct tutti_error *err)
{
    cu_pointer there;
    int rc = cuda_pin(memory, bytes, 0, &there, err);

    if (rc < 0 || there == number(memory))
        return rc;
    cuda_unpin(memory);
    return cuda_failed(err, CU_NOT_SUPPORTED, "it names pinned memory otherwise than the host",
                       "KV memory in this GPU can't be served");
}

static int cuda_alloc(size_t bytes, void **memory, bool *huge, struct tutti_error *err)
{
    int rc = tutti_device_host.alloc(bytes, memory, huge, err);

    if (rc < 0)
        return rc;
    rc = pin(*memory, bytes, err);
    if (rc < 0)
        tutti_device_host.free(*memory, bytes);
    return rc;
}

static void cuda_free(void *memory, size_t bytes)
{
    if (!memory)
        return;
    cuda_unpin(memory);
    tutti_device_host.free(memory, bytes);
}

/** Nothing on the host reads or writes a GPU's memory but through a copy; pinned memory it does. */
static bool cuda_direct(uint64_t address, size_t bytes)
{
    struct cuda_inside inside;
    unsigned type = CU_MEMORY_DEVICE;
    cu_result rc = cuda_enter(&inside);

    if (rc == CU_OK) {
        rc = cuda_driver.api.pointer_attribute(&type, CU_POINTER_MEMORY_TYPE, address);
        cuda_leave(&inside);
    }
    return rc == CU_OK && type == CU_MEMORY_HOST && address + bytes >= address;
}

/* Only for memory that cuda_direct() says yes to: its alignment may be what direct I/O refuses. */

static void cuda_copy_in(uint64_t kv, const void *staging, size_t bytes)
{
    memcpy((void *)(uintptr_t)kv, staging, bytes);
}

static void cuda_copy_out(void *staging, uint64_t kv, size_t bytes)
{
    memcpy(staging, (const void *)(uintptr_t)kv, bytes);
}

/* Copies. */

static void copier_close(struct tutti_copier *c)
{
    struct cuda_inside inside;

    if (!c)
        return;
    if (cuda_enter(&inside) == CU_OK) {
        for (uint32_t way = 0; way < 2; way++)
            if (c->lane[way].stream) {
                cuda_driver.api.stream_synchronize(c->lane[way].stream);
                cuda_driver.api.stream_destroy(c->lane[way].stream);
            }
        cuda_leave(&inside);
    }
    if (c->words) {
        cuda_unpin(c->words);
        munmap(c->words, PAGE);
    }
    free(c);
}

/** A stream that nothing else waits for; first among streams, where they have an order. */
static cu_result open_lane(struct lane *lane)
{
    int least = 0, greatest = 0;
    cu_result rc = cuda_driver.api.stream_priorities(&least, &greatest);

    return rc ? rc
              : cuda_driver.api.stream_create(&lane->stream, CU_STREAM_FLAG_NON_BLOCKING, greatest);
}

/** Words are what all of this rests on: whether this GPU's streams write them is tried. */
static cu_result try_words(struct lane *lane)
{
    cu_result rc = cuda_driver.api.write_value(lane->stream, number(lane->done), 0, 0);

    if (rc == CU_OK)
        rc = cuda_driver.api.wait_value(lane->stream, number(lane->done), 0, CU_WAIT_GEQ);
    return rc;
}

static int copier_open(struct tutti_copier **out, struct tutti_error *err)
{
    struct tutti_copier *c = calloc(1, sizeof(*c));
    struct cuda_inside inside;
    cu_result rc;
    int status;

    *out = NULL;
    if (!c)
        return tutti_error_set(err, -ENOMEM, "no memory for a member's copies");
    c->words = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (c->words == MAP_FAILED) {
        free(c);
        return tutti_error_set(err, -ENOMEM, "no memory for a member's copies");
    }
    status = pin(c->words, PAGE, err);
    if (status < 0) {
        munmap(c->words, PAGE);
        free(c);
        return status;
    }
    rc = cuda_enter(&inside);
    if (rc == CU_OK) {
        for (uint32_t way = 0; way < 2 && rc == CU_OK; way++) {
            c->lane[way].done = (uint32_t *)c->words + way * 16;
            rc = open_lane(&c->lane[way]);
            if (rc == CU_OK)
                rc = try_words(&c->lane[way]);
        }
        cuda_leave(&inside);
    }
    if (rc) {
        copier_close(c);
        return cuda_failed(err, rc, "no streams for copies, or none that write and await words",
                           "KV memory in this GPU needs cuStreamWriteValue32; see the driver's "
                           "release notes for this platform");
    }
    *out = c;
    return 0;
}

/** The longest call that this driver has for it. */
static cu_result enqueue(struct tutti_copier *c, cu_stream stream, enum tutti_way way, uint32_t n)
{
    struct cu_copy_attributes attributes = {.source_order = CU_ORDER_STREAM};
    size_t first = 0, failed;
    cu_result rc = CU_OK;

    if (cuda_driver.api.copy_batch)
        return cuda_driver.api.copy_batch(c->to, c->from, c->bytes, n, &attributes, &first, 1,
                                          stream);
    if (cuda_driver.api.copy_batch_12)
        return cuda_driver.api.copy_batch_12(c->to, c->from, c->bytes, n, &attributes, &first, 1,
                                             &failed, stream);
    for (uint32_t i = 0; i < n && rc == CU_OK; i++)
        rc = way == TUTTI_COPY_IN
                 ? cuda_driver.api.copy_in(c->to[i], (const void *)(uintptr_t)c->from[i],
                                           c->bytes[i], stream)
                 : cuda_driver.api.copy_out((void *)(uintptr_t)c->to[i], c->from[i], c->bytes[i],
                                            stream);
    return rc;
}

static cu_result enqueue_all(struct tutti_copier *c, enum tutti_way way,
                             const struct tutti_copy *list, uint32_t count)
{
    cu_result rc = CU_OK;

    for (uint32_t at = 0; at < count && rc == CU_OK; at += AT_ONCE) {
        uint32_t n = count - at < AT_ONCE ? count - at : AT_ONCE;

        for (uint32_t i = 0; i < n; i++) {
            const struct tutti_copy *copy = &list[at + i];

            c->to[i] = way == TUTTI_COPY_IN ? copy->kv : number(copy->staging);
            c->from[i] = way == TUTTI_COPY_IN ? number(copy->staging) : copy->kv;
            c->bytes[i] = copy->bytes;
        }
        rc = enqueue(c, c->lane[way].stream, way, n);
    }
    return rc;
}

/** Acquire: pairs with the stream's write behind what it announces (a word, or a copy's bytes). */
static bool reached(const uint32_t *word, uint32_t value)
{
    return (int32_t)(tutti_load_acquire(word) - value) >= 0;
}

static int cuda_copy(struct tutti_copier *c, enum tutti_way way, const struct tutti_copy *list,
                     uint32_t count, const uint32_t *after, uint32_t after_value, uint32_t *ticket,
                     struct tutti_error *err)
{
    struct lane *lane = &c->lane[way];
    struct cuda_inside inside;
    cu_result rc = cuda_enter(&inside), told;

    *ticket = 0;
    if (rc)
        return cuda_failed(err, rc, "copies can't be begun", NULL);
    if (after && !reached(after, after_value))
        rc = cuda_driver.api.wait_value(lane->stream, number(after), after_value, CU_WAIT_GEQ);
    if (rc == CU_OK) {
        rc = enqueue_all(c, way, list, count);
        lane->issued += lane->issued == UINT32_MAX ? 2 : 1; /* 0 is no ticket */
        *ticket = lane->issued;
        /* Without NO_MEMORY_BARRIER: the copies before it are seen by who sees the word. */
        told = cuda_driver.api.write_value(lane->stream, number(lane->done), lane->issued, 0);
        rc = rc ? rc : told;
    }
    cuda_leave(&inside);
    return rc ? cuda_failed(err, rc, "copies can't be enqueued", NULL) : 0;
}

/**
 * The word was not written: either the copies are not done, or its write was refused, or nothing of
 * this context runs any more. An error that is said once may be of the question alone; memory that
 * a copy still uses must not be given away for it.
 */
static int ask_the_driver(struct lane *lane, uint32_t ticket, struct tutti_error *err)
{
    struct cuda_inside inside;
    cu_result rc = cuda_enter(&inside);

    if (rc == CU_OK) {
        rc = cuda_driver.api.stream_query(lane->stream);
        cuda_leave(&inside);
    }
    lane->refused = rc == CU_OK || rc == CU_NOT_READY ? 0 : lane->refused + 1;
    if (rc == CU_NOT_READY || (rc && lane->refused < SURE_AFTER))
        return 0;
    if (rc)
        return cuda_failed(err, rc, "copies ended with an error",
                           "nothing of this process runs on the GPU any more: restart it");
    if (reached(lane->done, ticket))
        return 1;
    return tutti_error_set(err, -EIO, "GPU %d: the end of copies can't be told",
                           cuda_driver.ordinal);
}

static int cuda_copied(struct tutti_copier *c, enum tutti_way way, uint32_t ticket,
                       struct tutti_error *err)
{
    return reached(c->lane[way].done, ticket) ? 1 : ask_the_driver(&c->lane[way], ticket, err);
}

/* Words that a stream of somebody's waits for or writes. */

/** The stream must run what it is given now, not at every replay of a graph. */
static int refuse_capture(cu_stream stream, const char *what, struct tutti_error *err)
{
    int status = CU_CAPTURE_NONE;
    cu_result rc = cuda_driver.api.stream_capturing(stream, &status);

    if (rc)
        return cuda_failed(err, rc, "a stream can't be asked whether it is captured", NULL);
    if (status == CU_CAPTURE_NONE)
        return 0;
    return tutti_error_set(err, -EBUSY,
                           "GPU %d: %s can't be captured into a graph, whose replays would use a "
                           "word of today: load ahead (\"preload\"), or let layers wait outside of "
                           "graphs (piecewise, or enforce_eager)",
                           cuda_driver.ordinal, what);
}

static int cuda_wait(void *stream, const uint32_t *word, uint32_t value, struct tutti_error *err)
{
    struct cuda_inside inside;
    cu_result rc = cuda_enter(&inside);
    int status;

    if (rc)
        return cuda_failed(err, rc, "a wait can't be enqueued", NULL);
    status = refuse_capture(stream, "the wait for a load", err);
    if (status == 0) {
        rc = cuda_driver.api.wait_value(stream, number(word), value, CU_WAIT_GEQ);
        status = rc ? cuda_failed(err, rc, "a wait can't be enqueued", NULL) : 0;
    }
    cuda_leave(&inside);
    return status;
}

static int cuda_write(void *stream, uint32_t *word, uint32_t value, struct tutti_error *err)
{
    struct cuda_inside inside;
    cu_result rc = cuda_enter(&inside);
    int status;

    if (rc)
        return cuda_failed(err, rc, "a mark can't be enqueued", NULL);
    status = refuse_capture(stream, "a transfer's mark", err);
    if (status == 0) {
        rc = cuda_driver.api.write_value(stream, number(word), value, 0);
        status = rc ? cuda_failed(err, rc, "a mark can't be enqueued", NULL) : 0;
    }
    cuda_leave(&inside);
    return status;
}

static const struct tutti_streams streams = {
    .copier_open = copier_open,
    .copier_close = copier_close,
    .copy = cuda_copy,
    .copied = cuda_copied,
    .wait = cuda_wait,
    .write = cuda_write,
};

static const struct tutti_device device_cuda = {
    .name = "cuda",
    .alloc = cuda_alloc,
    .free = cuda_free,
    .direct = cuda_direct,
    .copy_in = cuda_copy_in,
    .copy_out = cuda_copy_out,
    .streams = &streams,
};

int tutti_device_cuda_open(int ordinal, const struct tutti_device **device, struct tutti_error *err)
{
    int rc = cuda_driver_open(ordinal, err);

    *device = rc == 0 ? &device_cuda : NULL;
    return rc;
}

void tutti_device_cuda_close(const struct tutti_device *device)
{
    if (device)
        cuda_driver_close();
}

const char *tutti_device_cuda_name(int *driver_version)
{
    *driver_version = cuda_driver.version;
    return cuda_driver.name;
}
