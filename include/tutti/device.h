/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.h: where KV memory lives.
 *
 * A table of functions; "host" is built, "cuda" follows. Engines ask it for
 * memory that devices can reach (staging, records) and let it copy between
 * such memory and KV memory where the two are not one.
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

/**
 * struct tutti_device - operations of one kind of memory
 * @name: "host", "cuda"
 * @alloc: page-aligned memory for I/O, in huge pages where there are any;
 *   touched, so that no fault comes later. *huge tells whether
 * @free: gives it back
 * @direct: whether engines on this machine can move data straight to and from
 *   KV memory at address (alignment is the engine's matter)
 * @copy_in: staging -> KV memory, complete on return
 * @copy_out: KV memory -> staging, complete on return
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
};

extern const struct tutti_device tutti_device_host;

#ifdef __cplusplus
}
#endif
#endif
