/* SPDX-License-Identifier: Apache-2.0 */
/* gpu.h: a serving rig (tests/unit/serve/rig.h) with KV memory on the stand-in's device. */
#ifndef TUTTI_TESTS_CUDA_GPU_H
#define TUTTI_TESTS_CUDA_GPU_H

#include "driver.h"

#define RIG_GPU
#include "../unit/serve/rig.h"

static struct driver d;

static void rig_memory_new(struct rig *r)
{
    struct tutti_error err = {0};

    rig_ok(tutti_device_cuda_open(0, &r->device, &err), &err);
    assert_int_equal(d.memory_new(&r->base, r->kv_bytes), CU_OK);
    r->kv = standin_view(r->base, r->kv_bytes);
    assert_non_null(r->kv);
}

static void rig_memory_free(struct rig *r)
{
    assert_int_equal(d.memory_free(r->base), CU_OK);
    tutti_device_cuda_close(r->device);
}

static inline cu_stream gpu_stream(void)
{
    cu_stream stream;

    assert_int_equal(d.stream_create(&stream, CU_STREAM_FLAG_NON_BLOCKING, 0), CU_OK);
    return stream;
}

/** A word that streams wait for, and a stream that does. */
static inline uint32_t *gpu_stuck(cu_stream stream)
{
    void *word;

    assert_int_equal(d.host_new(&word, 4, CU_HOST_DEVICEMAP), CU_OK);
    assert_int_equal(d.wait_value(stream, (uint64_t)(uintptr_t)word, 1, CU_WAIT_GEQ), CU_OK);
    return word;
}

#endif
