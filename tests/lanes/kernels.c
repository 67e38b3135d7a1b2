/* SPDX-License-Identifier: Apache-2.0 */
/* kernels.c: our kernels as host lanes run them. */
#define TUTTI_LANES "lanes/side.h"

#include <string.h>

#include "device/kernels/io_kernel.h"
#include "lanes/lanes.h"

static void run_io(const uint64_t *word)
{
    io_kernel(word[0]);
}

/* For the test of sums: planes, parts, block, bytes, root, where to. */
static void run_sum(const uint64_t *word)
{
    uint64_t sum = sum_layer((const struct tutti_kv_plane *)(uintptr_t)word[0], (uint32_t)word[1],
                             (uint32_t)word[2], word[3], (uint64_t *)(uintptr_t)word[4]);

    tutti_word64_store((uint64_t *)(uintptr_t)word[5] + warp_lane(), sum);
}

const struct lanes_kernel *lanes_kernel_find(const char *name)
{
    static const struct lanes_kernel kernel[] = {
        {IO_KERNEL, IO_WORDS, run_io},
        {"sum_layer", 6, run_sum},
    };

    for (uint32_t i = 0; i < sizeof(kernel) / sizeof(kernel[0]); i++)
        if (strcmp(kernel[i].name, name) == 0)
            return &kernel[i];
    return NULL;
}
