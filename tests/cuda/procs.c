/* SPDX-License-Identifier: Apache-2.0 */
/*
 * procs.c: which function a name and a version mean, in the CUDA driver's stand-in.
 *
 * The one idea is CUDA's: a name has a list of functions, each with the version that
 * brought it; asked for a version, the driver gives the newest that is no newer, and that
 * it has itself. Asking with the driver's own version gives a function whose parameters
 * the caller may not know.
 */
#include "double.h"

#include <string.h>

/* The symbol behind each row: CUDA's names carry the version of their parameters. */
#define SYMBOLS(X)                                                                                 \
    X("cuInit", 2000, cuInit)                                                                      \
    X("cuDriverGetVersion", 2020, cuDriverGetVersion)                                              \
    X("cuDeviceGetCount", 2000, cuDeviceGetCount)                                                  \
    X("cuDeviceGet", 2000, cuDeviceGet)                                                            \
    X("cuDeviceGetName", 2000, cuDeviceGetName)                                                    \
    X("cuDeviceGetAttribute", 2000, cuDeviceGetAttribute)                                          \
    X("cuDevicePrimaryCtxRetain", 7000, cuDevicePrimaryCtxRetain)                                  \
    X("cuDevicePrimaryCtxRelease", 11000, cuDevicePrimaryCtxRelease_v2)                            \
    X("cuCtxPushCurrent", 4000, cuCtxPushCurrent_v2)                                               \
    X("cuCtxPopCurrent", 4000, cuCtxPopCurrent_v2)                                                 \
    X("cuCtxSetCurrent", 4000, cuCtxSetCurrent)                                                    \
    X("cuCtxGetCurrent", 4000, cuCtxGetCurrent)                                                    \
    X("cuCtxSynchronize", 2000, cuCtxSynchronize)                                                  \
    X("cuCtxGetStreamPriorityRange", 5050, cuCtxGetStreamPriorityRange)                            \
    X("cuGetErrorName", 6000, cuGetErrorName)                                                      \
    X("cuMemAlloc", 3020, cuMemAlloc_v2)                                                           \
    X("cuMemFree", 3020, cuMemFree_v2)                                                             \
    X("cuMemHostAlloc", 2020, cuMemHostAlloc)                                                      \
    X("cuMemFreeHost", 2000, cuMemFreeHost)                                                        \
    X("cuMemHostRegister", 6050, cuMemHostRegister_v2)                                             \
    X("cuMemHostUnregister", 4000, cuMemHostUnregister)                                            \
    X("cuMemHostGetDevicePointer", 3020, cuMemHostGetDevicePointer_v2)                             \
    X("cuPointerGetAttribute", 4000, cuPointerGetAttribute)                                        \
    X("cuStreamCreateWithPriority", 5050, cuStreamCreateWithPriority)                              \
    X("cuStreamDestroy", 4000, cuStreamDestroy_v2)                                                 \
    X("cuStreamQuery", 2000, cuStreamQuery)                                                        \
    X("cuStreamSynchronize", 2000, cuStreamSynchronize)                                            \
    X("cuStreamGetPriority", 5050, cuStreamGetPriority)                                            \
    X("cuStreamWaitEvent", 3020, cuStreamWaitEvent)                                                \
    X("cuStreamIsCapturing", 10000, cuStreamIsCapturing)                                           \
    X("cuStreamBeginCapture", 10010, cuStreamBeginCapture_v2)                                      \
    X("cuStreamEndCapture", 10000, cuStreamEndCapture)                                             \
    X("cuThreadExchangeStreamCaptureMode", 10010, cuThreadExchangeStreamCaptureMode)               \
    X("cuGraphGetNodes", 10000, cuGraphGetNodes)                                                   \
    X("cuGraphDestroy", 10000, cuGraphDestroy)                                                     \
    X("cuLaunchHostFunc", 10000, cuLaunchHostFunc)                                                 \
    X("cuModuleLoadData", 2000, cuModuleLoadData)                                                  \
    X("cuModuleUnload", 2000, cuModuleUnload)                                                      \
    X("cuModuleGetFunction", 2000, cuModuleGetFunction)                                            \
    X("cuFuncGetParamInfo", 12040, cuFuncGetParamInfo)                                             \
    X("cuLaunchKernel", 4000, cuLaunchKernel)                                                      \
    X("cuEventCreate", 2000, cuEventCreate)                                                        \
    X("cuEventDestroy", 4000, cuEventDestroy_v2)                                                   \
    X("cuEventRecord", 2000, cuEventRecord)                                                        \
    X("cuEventQuery", 2000, cuEventQuery)                                                          \
    X("cuEventSynchronize", 2000, cuEventSynchronize)                                              \
    X("cuMemcpyHtoD", 3020, cuMemcpyHtoD_v2)                                                       \
    X("cuMemcpyDtoH", 3020, cuMemcpyDtoH_v2)                                                       \
    X("cuMemcpyHtoDAsync", 3020, cuMemcpyHtoDAsync_v2)                                             \
    X("cuMemcpyDtoHAsync", 3020, cuMemcpyDtoHAsync_v2)                                             \
    X("cuMemcpyBatchAsync", 12080, cuMemcpyBatchAsync)                                             \
    X("cuMemcpyBatchAsync", 13000, cuMemcpyBatchAsync_v2)                                          \
    X("cuStreamWaitValue32", 8000, cuStreamWaitValue32)                                            \
    X("cuStreamWaitValue32", 11070, cuStreamWaitValue32_v2)                                        \
    X("cuStreamWriteValue32", 8000, cuStreamWriteValue32)                                          \
    X("cuStreamWriteValue32", 11070, cuStreamWriteValue32_v2)                                      \
    X("cuDeviceGetDevResource", 12040, cuDeviceGetDevResource)                                     \
    X("cuDevSmResourceSplitByCount", 12040, cuDevSmResourceSplitByCount)                           \
    X("cuDevResourceGenerateDesc", 12040, cuDevResourceGenerateDesc)                               \
    X("cuGreenCtxCreate", 12040, cuGreenCtxCreate)                                                 \
    X("cuGreenCtxGetDevResource", 12040, cuGreenCtxGetDevResource)                                 \
    X("cuGreenCtxStreamCreate", 12050, cuGreenCtxStreamCreate)                                     \
    X("cuGreenCtxDestroy", 12040, cuGreenCtxDestroy)

#define DECLARE(name, version, symbol) void symbol##_address(void) __asm__(#symbol);
SYMBOLS(DECLARE)
#undef DECLARE

static const struct row {
    const char *name;
    int version;
    void (*call)(void);
} table[] = {
#define ROW(name, version, symbol) {name, version, symbol##_address},
    SYMBOLS(ROW)
#undef ROW
};

cu_result cuGetProcAddress_v2(const char *name, void **call, int version, uint64_t flags,
                              int *found)
{
    const struct row *best = NULL;
    bool known = false;
    int most = version < standin_version() ? version : standin_version();

    (void)flags; /* per-thread default streams are not told apart */
    if (!kept(RULE_versions))
        most = standin_version();
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        const struct row *row = &table[i];

        if (strcmp(row->name, name) != 0)
            continue;
        known = true;
        if (row->version <= most && (!best || row->version > best->version))
            best = row;
    }
    *call = NULL;
    if (best)
        memcpy(call, &best->call, sizeof(*call));
    if (found)
        *found = best ? CU_PROC_FOUND : known ? CU_PROC_TOO_OLD : CU_PROC_NO_SYMBOL;
    return best || found ? CU_OK : CU_NOT_FOUND;
}

cu_result cuGetProcAddress(const char *name, void **call, int version, uint64_t flags)
{
    return cuGetProcAddress_v2(name, call, version, flags, NULL);
}
