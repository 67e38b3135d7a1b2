/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.h: where KV memory lives.
 *
 * A table of functions: "host", and "cuda" where there is a GPU. Engines ask it
 * for memory that devices can reach (staging, records) and let it copy between
 * such memory and KV memory where the two are not one.
 *
 * A device whose memory is not the host's has streams: copies are enqueued and
 * end later, and computation waits for words in memory that both sides reach. The
 * rules of such a wait are in docs/memory-model.md, "Streams".
 */
#ifndef TUTTI_DEVICE_H
#define TUTTI_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tutti/error.h"

#ifdef __cplusplus
extern "C" {
#endif

/** One object that is copied between KV memory and staging. */
struct tutti_copy {
    uint64_t kv;
    void *staging;
    size_t bytes;
};

enum tutti_way { TUTTI_COPY_IN = 0, TUTTI_COPY_OUT = 1 };

/** A member's streams of copies: one into KV memory, one out of it. Its thread's alone. */
struct tutti_copier;

/**
 * struct tutti_streams - what a device does beside the host's threads
 * @copier_open, @copier_close: close waits for what was enqueued
 * @copy: enqueue @count copies, and before those into KV memory a wait until the word @after has
 *   reached @after_value (>=, modulo 2^32; NULL: none), which somebody must have been told to
 *   write. *ticket is what to ask copied() for, 0 for nothing; after an error too: what was
 *   enqueued before it may still run
 * @copied: 1 when all up to the ticket is done, 0 while it is not, or a negative errno: it is
 *   over, and was not all done. Never waits
 * @wait: what is given to the stream from here on waits for a word. Whoever writes the word must
 *   need nothing that is enqueued after this call
 * @write: the stream writes the word when it gets there
 *
 * Words lie in memory of alloc(). @wait and @write refuse (-EBUSY) a stream that is being captured
 * into a graph: the wait would be in every replay, for a word of today. Thread-safe, but for a
 * copier. @stream is the device's own kind of handle (CUstream; NULL is the legacy default stream).
 */
struct tutti_streams {
    int (*copier_open)(struct tutti_copier **copier, struct tutti_error *err);
    void (*copier_close)(struct tutti_copier *copier);
    int (*copy)(struct tutti_copier *copier, enum tutti_way way, const struct tutti_copy *list,
                uint32_t count, const uint32_t *after, uint32_t after_value, uint32_t *ticket,
                struct tutti_error *err);
    int (*copied)(struct tutti_copier *copier, enum tutti_way way, uint32_t ticket,
                  struct tutti_error *err);
    int (*wait)(void *stream, const uint32_t *word, uint32_t value, struct tutti_error *err);
    int (*write)(void *stream, uint32_t *word, uint32_t value, struct tutti_error *err);
};

/**
 * struct tutti_device - operations of one kind of memory
 * @name: "host", "cuda"
 * @alloc: page-aligned memory for I/O, in huge pages where there are any;
 *   touched, so that no fault comes later. *huge tells whether
 * @free: gives it back
 * @direct: whether engines on this machine can move data straight to and from
 *   KV memory at address (alignment is the engine's matter). What they can't reach, @streams do
 * @copy_in: staging -> KV memory, complete on return; what @streams copy is not for these
 * @copy_out: KV memory -> staging, complete on return
 * @streams: NULL where all that there is is the host's
 *
 * All calls are thread-safe.
 */
struct tutti_device {
    const char *name;
    int (*alloc)(size_t bytes, void **memory, bool *huge, struct tutti_error *err);
    void (*free)(void *memory, size_t bytes);
    bool (*direct)(uint64_t address, size_t bytes);
    void (*copy_in)(uint64_t kv, const void *staging, size_t bytes);
    void (*copy_out)(void *staging, uint64_t kv, size_t bytes);
    const struct tutti_streams *streams;
};

extern const struct tutti_device tutti_device_host;

/**
 * tutti_device_cuda_open() - KV memory of an NVIDIA GPU
 * @ordinal: as CUDA numbers the devices that this process sees
 *
 * Opens the driver (libcuda.so.1) at run time and keeps the device's primary context, the one that
 * CUDA's runtime uses. One GPU a process; open it as often as needed, and close it as often.
 *
 * Return: 0, or a negative errno with a message: no driver, too old, no such device, another one is
 * open.
 */
int tutti_device_cuda_open(int ordinal, const struct tutti_device **device,
                           struct tutti_error *err);

/** After everything that used it. */
void tutti_device_cuda_close(const struct tutti_device *device);

/** The device's name as its driver tells it, and that driver's version (13000 is 13.0). */
const char *tutti_device_cuda_name(int *driver_version);

#ifdef __cplusplus
}
#endif
#endif
