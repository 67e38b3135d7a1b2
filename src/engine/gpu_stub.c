/* SPDX-License-Identifier: Apache-2.0 */
/* gpu_stub.c: stands where engine "gpu" will: compiles, and says that it is not there. */
#include <errno.h>

#include "engine/backend.h"

static int gpu_open(const struct backend_options *o, struct backend **b, struct tutti_error *err)
{
    *b = NULL;
    return tutti_error_set(err, -ENODEV, "%s: engine \"gpu\" is not in this build; use \"auto\"",
                           o->path);
}

const struct backend_type backend_gpu = {
    .name = "gpu",
    .open = gpu_open,
};
