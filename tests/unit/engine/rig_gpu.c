/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_gpu.c: KV memory of a rig on the CUDA driver's stand-in (a test double). It is found
 * as the library finds a driver, by its name; where a real one answers, nothing is tested.
 */
#include "rig.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "device/cuda_driver.h"

/** A function of the driver, or of the double. */
static void find(const char *name, void *call, size_t bytes)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    void *symbol = library ? dlsym(library, name) : NULL;

    if (!symbol)
        fail_msg("%s is not in libcuda.so.1: is it the stand-in of tests/cuda?", name);
    memcpy(call, &symbol, bytes);
}

void rig_gpu_open(struct rig *rig)
{
    cu_result (*alloc)(cu_pointer *, size_t);
    void *(*view)(cu_pointer, size_t);
    struct tutti_error err = {0};
    struct cuda_inside inside;

    if (tutti_device_cuda_open(0, &rig->gpu, &err) < 0)
        fail_msg("%s", err.message);
    find("cuMemAlloc_v2", &alloc, sizeof(alloc));
    find("standin_view", &view, sizeof(view));
    assert_int_equal(cuda_enter(&inside), CU_OK);
    assert_int_equal(alloc(&rig->base, rig->memory_bytes), CU_OK);
    cuda_leave(&inside);
    rig->memory = view(rig->base, rig->memory_bytes);
    assert_non_null(rig->memory);
}

void rig_gpu_close(struct rig *rig)
{
    cu_result (*release)(cu_pointer);
    struct cuda_inside inside;

    find("cuMemFree_v2", &release, sizeof(release));
    assert_int_equal(cuda_enter(&inside), CU_OK);
    assert_int_equal(release(rig->base), CU_OK);
    cuda_leave(&inside);
    tutti_device_cuda_close(rig->gpu);
}
