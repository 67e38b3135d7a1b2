/* SPDX-License-Identifier: Apache-2.0 */
/*
 * modules.c: modules and launches of the CUDA driver's stand-in.
 *
 * It runs no kernel. A test gives it a function of the host for a kernel's name; a launch copies
 * its parameters at the call and runs that function when its turn comes.
 */
#include "double.h"

#include <stdlib.h>
#include <string.h>

#define MOST_KERNELS 16u
#define MOST_WORDS 16u

struct cu_module_s {
    int loaded;
};

struct cu_function_s {
    const char *name;
    unsigned words;
    void (*run)(const uint64_t *word, unsigned warp);
};

struct running {
    const struct cu_function_s *function;
    unsigned warps;
    uint64_t word[MOST_WORDS];
};

static struct cu_module_s the_module;
static struct cu_function_s kernel[MOST_KERNELS];
static unsigned kernels;

void standin_kernel(const char *name, unsigned words,
                    void (*run)(const uint64_t *word, unsigned warp))
{
    pthread_mutex_lock(&standin_lock);
    if (kernels < MOST_KERNELS && words <= MOST_WORDS)
        kernel[kernels++] = (struct cu_function_s){name, words, run};
    pthread_mutex_unlock(&standin_lock);
}

cu_result cuModuleLoadData(cu_module *module, const void *image)
{
    cu_result rc = call_begin(IN_CONTEXT | UNSAFE);

    if (rc == CU_OK && strncmp(image, STANDIN_IMAGE, strlen(STANDIN_IMAGE)) != 0)
        rc = CU_INVALID_IMAGE;
    if (rc == CU_OK) {
        the_module.loaded++;
        *module = &the_module;
    }
    return call_end(rc);
}

cu_result cuModuleUnload(cu_module module)
{
    cu_result rc = call_begin(IN_CONTEXT | UNSAFE);

    if (rc == CU_OK && (module != &the_module || the_module.loaded == 0))
        rc = CU_INVALID_HANDLE;
    if (rc == CU_OK)
        the_module.loaded--;
    return call_end(rc);
}

cu_result cuModuleGetFunction(cu_function *function, cu_module module, const char *name)
{
    cu_result rc = call_begin(IN_CONTEXT);

    if (rc == CU_OK && module != &the_module)
        rc = CU_INVALID_HANDLE;
    for (unsigned i = 0; rc == CU_OK && i < kernels; i++)
        if (strcmp(kernel[i].name, name) == 0) {
            *function = &kernel[i];
            return call_end(CU_OK);
        }
    return call_end(rc ? rc : CU_NOT_FOUND);
}

cu_result cuFuncGetParamInfo(cu_function function, size_t index, size_t *offset, size_t *bytes)
{
    cu_result rc = call_begin(ANYWHERE);

    if (rc == CU_OK && index >= function->words)
        rc = CU_INVALID_VALUE;
    if (rc == CU_OK) {
        *offset = index * sizeof(uint64_t);
        *bytes = sizeof(uint64_t);
    }
    return call_end(rc);
}

static void run(void *argument)
{
    struct running *r = argument;

    for (unsigned w = 0; w < r->warps; w++)
        r->function->run(r->word, w);
    free(r);
}

cu_result cuLaunchKernel(cu_function function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                         unsigned block_x, unsigned block_y, unsigned block_z,
                         unsigned shared_bytes, cu_stream stream, void **parameters, void **extra)
{
    cu_result rc = call_begin(IN_CONTEXT);
    struct cu_stream_s *s = stream_of(stream);
    struct running *r;

    if (rc == CU_OK && !s)
        rc = CU_INVALID_HANDLE;
    if (rc == CU_OK && (grid_x == 0 || grid_y != 1 || grid_z != 1 || block_x != 32 ||
                        block_y != 1 || block_z != 1 || shared_bytes != 0 || extra))
        rc = CU_INVALID_VALUE;
    r = rc ? NULL : malloc(sizeof(*r));
    if (!r)
        return call_end(rc ? rc : CU_OUT_OF_MEMORY);
    r->function = function;
    r->warps = grid_x;
    for (unsigned i = 0; i < function->words; i++)
        memcpy(&r->word[i], parameters[i], sizeof(r->word[i]));
    rc = enqueue(s, &(struct op){.kind = HOST_FUNCTION, .function = run, .argument = r});
    if (rc || s->capture != CU_CAPTURE_NONE)
        free(r);
    return call_end(rc);
}
