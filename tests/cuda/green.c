/* SPDX-License-Identifier: Apache-2.0 */
/*
 * green.c: green contexts of the CUDA driver's stand-in: shares of the SMs.
 *
 * A GPU of generation 9 gives SMs in eights, or in twos where co-scheduling is waived,
 * and may give fewer than were asked for; a driver may have no green contexts at all.
 */
#include "double.h"

#include <stdlib.h>
#include <string.h>

struct cu_desc_s {
    struct cu_resource resource;
};

struct cu_green_s {
    struct cu_resource resource;
};

static bool absent(void)
{
    const char *told = getenv("STANDIN_GREEN");

    return kept(RULE_green_absent) && told && strcmp(told, "absent") == 0;
}

/** Most SMs that a share gets. */
static unsigned most(void)
{
    const char *told = getenv("STANDIN_GREEN");
    int number = told ? atoi(told) : 0;

    return number > 0 && kept(RULE_green_less) ? (unsigned)number : UINT32_MAX;
}

static cu_result begin(void)
{
    cu_result rc = call_begin(ANYWHERE);

    return rc == CU_OK && absent() ? CU_NOT_SUPPORTED : rc;
}

static void fill(struct cu_resource *r, unsigned sms)
{
    memset(r, 0, sizeof(*r));
    r->type = CU_RESOURCE_SM;
    r->sm.count = sms;
    r->sm.least = 8;
    r->sm.step = 8;
}

cu_result cuDeviceGetDevResource(cu_device device, struct cu_resource *resource, int type)
{
    cu_result rc = begin();

    if (rc == CU_OK && (device != 0 || type != CU_RESOURCE_SM))
        rc = CU_RESOURCE_TYPE;
    if (rc == CU_OK)
        fill(resource, (unsigned)standin_attribute(CU_ATTRIBUTE_SMS));
    return call_end(rc);
}

cu_result cuDevSmResourceSplitByCount(struct cu_resource *result, unsigned *groups,
                                      const struct cu_resource *from, struct cu_resource *rest,
                                      unsigned flags, unsigned least)
{
    cu_result rc = begin();
    unsigned step = flags & CU_SPLIT_IGNORE_COSCHEDULING ? 2 : 8;
    unsigned size = (least + step - 1) / step * step;
    unsigned n;

    if (rc == CU_OK && (from->type != CU_RESOURCE_SM || least == 0))
        rc = CU_RESOURCE_CONFIGURATION;
    if (rc)
        return call_end(rc);
    size = size > most() ? most() / step * step : size;
    n = size ? from->sm.count / size : 0;
    if (n == 0)
        return call_end(CU_RESOURCE_CONFIGURATION);
    *groups = result && *groups < n ? *groups : n;
    for (unsigned i = 0; result && i < *groups; i++)
        fill(&result[i], size);
    if (rest)
        fill(rest, from->sm.count - *groups * size);
    return call_end(CU_OK);
}

cu_result cuDevResourceGenerateDesc(cu_desc *desc, struct cu_resource *resources, unsigned count)
{
    cu_result rc = begin();

    if (rc == CU_OK && (count != 1 || resources[0].type != CU_RESOURCE_SM))
        rc = CU_RESOURCE_CONFIGURATION;
    *desc = rc ? NULL : malloc(sizeof(**desc));
    if (*desc)
        (*desc)->resource = resources[0];
    return call_end(rc ? rc : *desc ? CU_OK : CU_OUT_OF_MEMORY);
}

/* The description is used up. */
cu_result cuGreenCtxCreate(cu_green *green, cu_desc desc, cu_device device, unsigned flags)
{
    cu_result rc = begin();

    if (rc == CU_OK && (device != 0 || !desc || !(flags & CU_GREEN_DEFAULT_STREAM)))
        rc = CU_INVALID_VALUE;
    *green = rc ? NULL : malloc(sizeof(**green));
    if (*green) {
        (*green)->resource = desc->resource;
        free(desc);
    }
    return call_end(rc ? rc : *green ? CU_OK : CU_OUT_OF_MEMORY);
}

cu_result cuGreenCtxGetDevResource(cu_green green, struct cu_resource *resource, int type)
{
    cu_result rc = begin();

    if (rc == CU_OK && (!green || type != CU_RESOURCE_SM))
        rc = CU_RESOURCE_TYPE;
    if (rc == CU_OK)
        *resource = green->resource;
    return call_end(rc);
}

cu_result cuGreenCtxStreamCreate(cu_stream *stream, cu_green green, unsigned flags, int priority)
{
    cu_result rc = begin();

    if (rc == CU_OK && (!green || !(flags & CU_STREAM_FLAG_NON_BLOCKING)))
        rc = CU_INVALID_VALUE;
    return call_end(rc ? rc : stream_new(stream, flags, priority));
}

cu_result cuGreenCtxDestroy(cu_green green)
{
    cu_result rc = begin();

    if (rc == CU_OK)
        free(green);
    return call_end(rc);
}
