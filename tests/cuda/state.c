/* SPDX-License-Identifier: Apache-2.0 */
/* state.c: calls, contexts and attributes of the CUDA driver's stand-in; see control.h. */
#include "double.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STACK 16

pthread_mutex_t standin_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t standin_changed = PTHREAD_COND_INITIALIZER;
struct cu_context_s standin_context;
struct standin_counts standin_count;

static bool initialised;
static int attribute[CU_ATTRIBUTES] = {
    [CU_ATTRIBUTE_SMS] = 132,
    [CU_ATTRIBUTE_UNIFIED_ADDRESSING] = 1,
    [CU_ATTRIBUTE_MAJOR] = 9,
    [CU_ATTRIBUTE_HOST_POINTER_FOR_REGISTERED] = 1,
    [CU_ATTRIBUTE_FLUSH_REMOTE_WRITES] = 1,
    [CU_ATTRIBUTE_RDMA_WRITES_ORDERING] = 100,
    [CU_ATTRIBUTE_STREAM_OPS_64] = 1,
};
static uint64_t calls, fails_at;
static cu_result fails_with;
static bool fault;

static _Thread_local struct {
    cu_context context[STACK];
    int depth;
    int mode; /* of capture: CU_CAPTURE_GLOBAL is 0 */
} thread;

bool kept(enum rule rule)
{
    static const char *const name[] = {
#define NAME(name) [RULE_##name] = #name,
        RULES(NAME)
#undef NAME
    };
    const char *broken = getenv("STANDIN_BREAK");

    return !broken || strcmp(broken, name[rule]) != 0;
}

/** Entry points are asked for before cuInit(). */
int standin_version(void)
{
    const char *told = getenv("STANDIN_VERSION");

    return told ? atoi(told) : 13000;
}

int *thread_capture_mode(void)
{
    return &thread.mode;
}

static cu_result may_go_on(unsigned wants)
{
    if (!initialised)
        return CU_NOT_INITIALIZED;
    calls++;
    if (calls == fails_at && kept(RULE_kth_call))
        return fails_with;
    if ((wants & IN_CONTEXT) && thread.depth == 0 && kept(RULE_contexts))
        return CU_INVALID_CONTEXT;
    if ((wants & IN_CONTEXT) && kept(RULE_sticky) && standin_context.sticky)
        return standin_context.sticky;
    return wants & UNSAFE ? capture_unsafe() : CU_OK;
}

cu_result call_begin(unsigned wants)
{
    pthread_mutex_lock(&standin_lock);
    return may_go_on(wants);
}

cu_result call_end(cu_result result)
{
    pthread_mutex_unlock(&standin_lock);
    return result;
}

bool fault_is_due(void)
{
    bool due = fault;

    fault = false;
    return due;
}

int standin_attribute(int which)
{
    return which >= 0 && which < CU_ATTRIBUTES ? attribute[which] : 0;
}

/* Steering. */

void standin_fail_call(uint64_t k, cu_result code)
{
    pthread_mutex_lock(&standin_lock);
    fails_at = k ? calls + k : 0;
    fails_with = code;
    pthread_mutex_unlock(&standin_lock);
}

uint64_t standin_calls(void)
{
    uint64_t now;

    pthread_mutex_lock(&standin_lock);
    now = calls;
    pthread_mutex_unlock(&standin_lock);
    return now;
}

void standin_fault_next(void)
{
    pthread_mutex_lock(&standin_lock);
    fault = true;
    pthread_mutex_unlock(&standin_lock);
}

void standin_forget_errors(void)
{
    pthread_mutex_lock(&standin_lock);
    standin_context.sticky = CU_OK;
    fault = false;
    fails_at = 0;
    pthread_mutex_unlock(&standin_lock);
}

void standin_set_attribute(int which, int value)
{
    pthread_mutex_lock(&standin_lock);
    if (kept(RULE_attributes) && which >= 0 && which < CU_ATTRIBUTES)
        attribute[which] = value;
    pthread_mutex_unlock(&standin_lock);
}

void standin_counts(struct standin_counts *counts)
{
    pthread_mutex_lock(&standin_lock);
    *counts = standin_count;
    pthread_mutex_unlock(&standin_lock);
}

/* Calls. */

cu_result cuInit(unsigned flags)
{
    if (flags != 0)
        return CU_INVALID_VALUE;
    pthread_mutex_lock(&standin_lock);
    if (!initialised) {
        fprintf(stderr, "*** %s, driver %d: nothing here ran on a GPU ***\n", STANDIN_NAME,
                standin_version());
        memory_open();
        queues_open();
        initialised = true;
    }
    return call_end(may_go_on(ANYWHERE));
}

cu_result cuDriverGetVersion(int *to)
{
    *to = standin_version(); /* may be asked before cuInit() */
    return CU_OK;
}

cu_result cuDeviceGetCount(int *count)
{
    cu_result rc = call_begin(ANYWHERE);

    *count = 1;
    return call_end(rc);
}

cu_result cuDeviceGet(cu_device *device, int ordinal)
{
    cu_result rc = call_begin(ANYWHERE);

    *device = 0;
    return call_end(rc ? rc : ordinal == 0 ? CU_OK : CU_INVALID_DEVICE);
}

cu_result cuDeviceGetName(char *name, int bytes, cu_device device)
{
    cu_result rc = call_begin(ANYWHERE);

    snprintf(name, (size_t)bytes, "%s", STANDIN_NAME);
    return call_end(rc ? rc : device == 0 ? CU_OK : CU_INVALID_DEVICE);
}

cu_result cuDeviceGetAttribute(int *value, int which, cu_device device)
{
    cu_result rc = call_begin(ANYWHERE);

    *value = standin_attribute(which);
    return call_end(rc ? rc : device == 0 ? CU_OK : CU_INVALID_DEVICE);
}

cu_result cuDevicePrimaryCtxRetain(cu_context *context, cu_device device)
{
    cu_result rc = call_begin(ANYWHERE);

    if (rc == CU_OK && device != 0)
        rc = CU_INVALID_DEVICE;
    if (rc == CU_OK) {
        standin_context.retained++;
        *context = &standin_context;
    }
    return call_end(rc);
}

cu_result cuDevicePrimaryCtxRelease_v2(cu_device device)
{
    cu_result rc = call_begin(ANYWHERE);

    if (rc == CU_OK && (device != 0 || standin_context.retained == 0))
        rc = CU_INVALID_DEVICE;
    if (rc == CU_OK && --standin_context.retained == 0)
        standin_context.sticky = CU_OK;
    return call_end(rc);
}

cu_result cuCtxPushCurrent_v2(cu_context context)
{
    cu_result rc = call_begin(ANYWHERE);

    if (rc == CU_OK && (context != &standin_context || thread.depth == STACK))
        rc = CU_INVALID_CONTEXT;
    if (rc == CU_OK)
        thread.context[thread.depth++] = context;
    return call_end(rc);
}

cu_result cuCtxPopCurrent_v2(cu_context *context)
{
    cu_result rc = call_begin(ANYWHERE);

    if (rc == CU_OK && thread.depth == 0)
        rc = CU_INVALID_CONTEXT;
    if (rc == CU_OK)
        thread.depth--;
    if (rc == CU_OK && context)
        *context = thread.context[thread.depth];
    return call_end(rc);
}

cu_result cuCtxGetCurrent(cu_context *context)
{
    cu_result rc = call_begin(ANYWHERE);

    *context = thread.depth ? thread.context[thread.depth - 1] : NULL;
    return call_end(rc);
}

/** In place of what is current; NULL takes that away. */
cu_result cuCtxSetCurrent(cu_context context)
{
    cu_result rc = call_begin(ANYWHERE);

    if (rc == CU_OK && context && context != &standin_context)
        rc = CU_INVALID_CONTEXT;
    if (rc == CU_OK && thread.depth > 0)
        thread.depth--;
    if (rc == CU_OK && context)
        thread.context[thread.depth++] = context;
    return call_end(rc);
}

cu_result cuGetErrorName(cu_result result, const char **name)
{
    *name = result == CU_ILLEGAL_ADDRESS       ? "CUDA_ERROR_ILLEGAL_ADDRESS"
            : result == CU_OUT_OF_MEMORY       ? "CUDA_ERROR_OUT_OF_MEMORY"
            : result == CU_INVALID_VALUE       ? "CUDA_ERROR_INVALID_VALUE"
            : result == CU_INVALID_CONTEXT     ? "CUDA_ERROR_INVALID_CONTEXT"
            : result == CU_NOT_SUPPORTED       ? "CUDA_ERROR_NOT_SUPPORTED"
            : result == CU_CAPTURE_UNSUPPORTED ? "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"
                                               : "CUDA_ERROR_UNKNOWN";
    return CU_OK;
}
