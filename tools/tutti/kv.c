/* SPDX-License-Identifier: Apache-2.0 */
/* kv.c: KV memory with content that can be told; see kv.h. Must not know disks. */
#include "kv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tutti/device.h"

#define POISON 0xee

int kv_open(struct kv *kv, const struct tutti_geometry *g, uint32_t blocks, uint64_t least,
            bool apart, struct tutti_error *err)
{
    uint64_t layer_bytes = (uint64_t)g->parts * blocks * g->object_bytes;
    void *memory;
    int rc;

    memset(kv, 0, sizeof(*kv));
    kv->geometry = *g;
    kv->blocks = blocks;
    kv->bytes = g->layers * layer_bytes;
    kv->memory_bytes = kv->bytes > least ? kv->bytes : least;
    kv->planes = calloc((size_t)g->layers * g->parts, sizeof(*kv->planes));
    if (!kv->planes)
        return tutti_error_set(err, -ENOMEM, "no memory for %u layers", g->layers);
    rc = tutti_device_host.alloc(kv->memory_bytes, &memory, &kv->huge, err);
    if (rc < 0) {
        free(kv->planes);
        kv->planes = NULL;
        return rc;
    }
    kv->memory = memory;
    for (uint32_t l = 0; l < g->layers; l++)
        for (uint32_t p = 0; p < g->parts; p++) {
            struct tutti_kv_plane *plane = &kv->planes[l * g->parts + p];

            plane->base = (uint64_t)(uintptr_t)kv->memory + l * layer_bytes +
                          p * g->object_bytes * (apart ? blocks : 1);
            plane->block_stride = g->object_bytes * (apart ? 1 : g->parts);
        }
    return 0;
}

void kv_close(struct kv *kv)
{
    if (kv->memory)
        tutti_device_host.free(kv->memory, kv->memory_bytes);
    free(kv->planes);
    memset(kv, 0, sizeof(*kv));
}

/** A well mixed word of a number (splitmix64's finalizer). */
static inline uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static uint64_t object_seed(uint64_t seed, uint32_t layer, uint32_t part, uint32_t block)
{
    return mix(seed + mix(((uint64_t)layer << 40) + ((uint64_t)part << 36) + block + 1));
}

static uint8_t *object(const struct kv *kv, uint32_t layer, uint32_t part, uint32_t block)
{
    return (uint8_t *)(uintptr_t)tutti_kv_address(kv->planes, kv->geometry.parts, layer, part,
                                                  block);
}

static void fill_object(uint8_t *to, uint64_t bytes, uint64_t seed)
{
    uint64_t word;

    for (uint64_t i = 0; i < bytes / 8; i++) {
        word = mix(seed + i);
        memcpy(to + 8 * i, &word, 8);
    }
    word = mix(seed + bytes / 8);
    memcpy(to + bytes / 8 * 8, &word, bytes % 8);
}

static uint64_t count_wrong(const uint8_t *got, uint64_t bytes, uint64_t seed)
{
    uint64_t wrong = 0;

    for (uint64_t i = 0; i < (bytes + 7) / 8; i++) {
        uint64_t word = mix(seed + i);
        uint64_t length = bytes - 8 * i < 8 ? bytes - 8 * i : 8;
        const uint8_t *expected = (const uint8_t *)&word;

        if (memcmp(got + 8 * i, expected, length) == 0)
            continue;
        for (uint64_t k = 0; k < length; k++)
            wrong += got[8 * i + k] != expected[k];
    }
    return wrong;
}

void kv_fill(const struct kv *kv, uint64_t seed, uint32_t first, uint32_t count,
             const uint32_t *block)
{
    for (uint32_t l = 0; l < kv->geometry.layers; l++)
        for (uint32_t i = 0; i < count; i++)
            for (uint32_t p = 0; p < kv->geometry.parts; p++)
                fill_object(object(kv, l, p, block[i]), kv->geometry.object_bytes,
                            object_seed(seed, l, p, first + i));
}

void kv_poison(const struct kv *kv)
{
    memset(kv->memory, POISON, kv->memory_bytes);
}

uint64_t kv_wrong(const struct kv *kv, uint64_t seed, uint32_t first, uint32_t count,
                  const uint32_t *block)
{
    uint64_t wrong = 0;

    for (uint32_t l = 0; l < kv->geometry.layers; l++)
        for (uint32_t i = 0; i < count; i++)
            for (uint32_t p = 0; p < kv->geometry.parts; p++)
                wrong += count_wrong(object(kv, l, p, block[i]), kv->geometry.object_bytes,
                                     object_seed(seed, l, p, first + i));
    return wrong;
}
