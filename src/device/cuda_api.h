/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cuda_api.h: what of the CUDA driver's binary interface is used here.
 *
 * Responsible for types, constants and prototypes, in our own words: the library
 * opens the driver at run time and is built without CUDA's headers. Must not know
 * what any of it is for. The facts are those of NVIDIA's "CUDA Driver API"
 * reference (13.0); tests/cuda/abi.c compares each with a real cuda.h where a
 * machine has one.
 *
 * The one idea: a call is one line of CUDA_CALLS(), with the version that its
 * prototype has there. cuGetProcAddress() gives what that version means, whatever
 * the driver has become since.
 */
#ifndef TUTTI_DEVICE_CUDA_API_H
#define TUTTI_DEVICE_CUDA_API_H

#include <stddef.h>
#include <stdint.h>

typedef int cu_result;
typedef int cu_device;
typedef uint64_t cu_pointer;
typedef struct cu_context_s *cu_context;
typedef struct cu_stream_s *cu_stream;
typedef struct cu_event_s *cu_event;
typedef struct cu_graph_s *cu_graph;
typedef struct cu_green_s *cu_green;
typedef struct cu_desc_s *cu_desc;
typedef struct cu_module_s *cu_module;
typedef struct cu_function_s *cu_function;

#define CU_LEGACY_STREAM ((cu_stream)(uintptr_t)1) /* as 0 */

/* Results (CUresult). */
enum {
    CU_OK = 0,
    CU_INVALID_VALUE = 1,
    CU_OUT_OF_MEMORY = 2,
    CU_NOT_INITIALIZED = 3,
    CU_NO_DEVICE = 100,
    CU_INVALID_DEVICE = 101,
    CU_INVALID_IMAGE = 200,
    CU_INVALID_CONTEXT = 201,
    CU_INVALID_HANDLE = 400,
    CU_NOT_FOUND = 500,
    CU_NOT_READY = 600,
    CU_ILLEGAL_ADDRESS = 700,
    CU_ALREADY_REGISTERED = 712,
    CU_NOT_REGISTERED = 713,
    CU_NOT_SUPPORTED = 801,
    CU_CAPTURE_UNSUPPORTED = 900,
    CU_CAPTURE_INVALIDATED = 901,
    CU_CAPTURE_UNMATCHED = 903,
    CU_CAPTURE_IMPLICIT = 906,
    CU_CAPTURE_WRONG_THREAD = 908,
    CU_RESOURCE_TYPE = 914,
    CU_RESOURCE_CONFIGURATION = 915,
};

/* Attributes of a device (CUdevice_attribute). */
enum {
    CU_ATTRIBUTE_SMS = 16,
    CU_ATTRIBUTE_UNIFIED_ADDRESSING = 41,
    CU_ATTRIBUTE_MAJOR = 75,
    CU_ATTRIBUTE_MINOR = 76,
    CU_ATTRIBUTE_HOST_POINTER_FOR_REGISTERED = 91,
    CU_ATTRIBUTE_FLUSH_REMOTE_WRITES = 98,
    CU_ATTRIBUTE_RDMA_WRITES_ORDERING = 118,
    CU_ATTRIBUTE_STREAM_OPS_64 = 122,
    CU_ATTRIBUTE_DMA_BUF = 124,
    CU_ATTRIBUTES = 160, /* not CUDA's: more than there are */
};

/* Flags. */
enum {
    CU_STREAM_FLAG_NON_BLOCKING = 1,
    CU_EVENT_FLAG_DISABLE_TIMING = 2,
    CU_HOST_PORTABLE = 1,
    CU_HOST_DEVICEMAP = 2,
    CU_HOST_IOMEMORY = 4,
    CU_WAIT_GEQ = 0,
    CU_WAIT_EQ = 1,
    CU_WAIT_AND = 2,
    CU_WAIT_NOR = 3,
    CU_WAIT_FLUSH = 1 << 30,
    CU_CAPTURE_NONE = 0,
    CU_CAPTURE_ACTIVE = 1,
    CU_CAPTURE_INVALID = 2,
    CU_CAPTURE_GLOBAL = 0,
    CU_CAPTURE_THREAD_LOCAL = 1,
    CU_CAPTURE_RELAXED = 2,
    CU_PROC_LEGACY_STREAM = 1,
    CU_PROC_FOUND = 0,
    CU_PROC_NO_SYMBOL = 1,
    CU_PROC_TOO_OLD = 2,
    CU_POINTER_CONTEXT = 1,
    CU_POINTER_MEMORY_TYPE = 2,
    CU_POINTER_ORDINAL = 9,
    CU_MEMORY_HOST = 1,
    CU_MEMORY_DEVICE = 2,
    CU_ORDER_STREAM = 1,
    CU_RESOURCE_SM = 1,
    CU_GREEN_DEFAULT_STREAM = 1,
    CU_SPLIT_IGNORE_COSCHEDULING = 1,
};

struct cu_location {
    int type;
    int id;
};

/** How the copies of a batch read their source (CUmemcpyAttributes). */
struct cu_copy_attributes {
    int source_order;
    struct cu_location source;
    struct cu_location destination;
    unsigned flags;
};

/** A share of a device (CUdevResource): for SMs, how many, and in what steps they are given. */
struct cu_resource {
    int type;
    unsigned char internal[92];
    struct {
        unsigned count;
        unsigned least;
        unsigned step;
        unsigned char rest[36];
    } sm;
};

/*
 * X(field, name, version of the prototype, parameters). The version is the one under which
 * cuGetProcAddress() gives just this prototype.
 */
#define CUDA_CALLS(X)                                                                              \
    X(init, "cuInit", 2000, (unsigned flags))                                                      \
    X(driver_version, "cuDriverGetVersion", 2020, (int *version))                                  \
    X(device_count, "cuDeviceGetCount", 2000, (int *count))                                        \
    X(device_get, "cuDeviceGet", 2000, (cu_device * device, int ordinal))                          \
    X(device_name, "cuDeviceGetName", 2000, (char *name, int bytes, cu_device device))             \
    X(device_attribute, "cuDeviceGetAttribute", 2000,                                              \
      (int *value, int attribute, cu_device device))                                               \
    X(primary_retain, "cuDevicePrimaryCtxRetain", 7000, (cu_context * context, cu_device device))  \
    X(primary_release, "cuDevicePrimaryCtxRelease", 11000, (cu_device device))                     \
    X(context_current, "cuCtxGetCurrent", 4000, (cu_context * context))                            \
    X(context_set, "cuCtxSetCurrent", 4000, (cu_context context))                                  \
    X(host_register, "cuMemHostRegister", 6050, (void *memory, size_t bytes, unsigned flags))      \
    X(host_unregister, "cuMemHostUnregister", 4000, (void *memory))                                \
    X(host_pointer, "cuMemHostGetDevicePointer", 3020,                                             \
      (cu_pointer * pointer, void *memory, unsigned flags))                                        \
    X(pointer_attribute, "cuPointerGetAttribute", 4000,                                            \
      (void *value, int attribute, cu_pointer pointer))                                            \
    X(stream_create, "cuStreamCreateWithPriority", 5050,                                           \
      (cu_stream * stream, unsigned flags, int priority))                                          \
    X(stream_destroy, "cuStreamDestroy", 4000, (cu_stream stream))                                 \
    X(stream_query, "cuStreamQuery", 2000, (cu_stream stream))                                     \
    X(stream_synchronize, "cuStreamSynchronize", 2000, (cu_stream stream))                         \
    X(stream_capturing, "cuStreamIsCapturing", 10000, (cu_stream stream, int *status))             \
    X(capture_mode, "cuThreadExchangeStreamCaptureMode", 10010, (int *mode))                       \
    X(stream_priorities, "cuCtxGetStreamPriorityRange", 5050, (int *least, int *greatest))         \
    X(copy_in, "cuMemcpyHtoDAsync", 3020,                                                          \
      (cu_pointer to, const void *from, size_t bytes, cu_stream stream))                           \
    X(copy_out, "cuMemcpyDtoHAsync", 3020,                                                         \
      (void *to, cu_pointer from, size_t bytes, cu_stream stream))                                 \
    X(wait_value, "cuStreamWaitValue32", 11070,                                                    \
      (cu_stream stream, cu_pointer word, uint32_t value, unsigned flags))                         \
    X(write_value, "cuStreamWriteValue32", 11070,                                                  \
      (cu_stream stream, cu_pointer word, uint32_t value, unsigned flags))                         \
    X(module_load, "cuModuleLoadData", 2000, (cu_module * module, const void *image))              \
    X(module_unload, "cuModuleUnload", 2000, (cu_module module))                                   \
    X(module_function, "cuModuleGetFunction", 2000,                                                \
      (cu_function * function, cu_module module, const char *name))                                \
    X(launch, "cuLaunchKernel", 4000,                                                              \
      (cu_function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,  \
       unsigned block_y, unsigned block_z, unsigned shared_bytes, cu_stream stream,                \
       void **parameters, void **extra))                                                           \
    X(error_name, "cuGetErrorName", 6000, (cu_result result, const char **name))

/* These a driver may lack. */
#define CUDA_OPTIONAL_CALLS(X)                                                                     \
    X(parameter_info, "cuFuncGetParamInfo", 12040,                                                 \
      (cu_function function, size_t index, size_t * offset, size_t * bytes))                       \
    X(resource, "cuDeviceGetDevResource", 12040,                                                   \
      (cu_device device, struct cu_resource * resource, int type))                                 \
    X(resource_split, "cuDevSmResourceSplitByCount", 12040,                                        \
      (struct cu_resource * result, unsigned *groups, const struct cu_resource *from,              \
       struct cu_resource *rest, unsigned flags, unsigned least))                                  \
    X(resource_desc, "cuDevResourceGenerateDesc", 12040,                                           \
      (cu_desc * desc, struct cu_resource * resources, unsigned count))                            \
    X(green_create, "cuGreenCtxCreate", 12040,                                                     \
      (cu_green * green, cu_desc desc, cu_device device, unsigned flags))                          \
    X(green_stream, "cuGreenCtxStreamCreate", 12050,                                               \
      (cu_stream * stream, cu_green green, unsigned flags, int priority))                          \
    X(green_destroy, "cuGreenCtxDestroy", 12040, (cu_green green))                                 \
    X(copy_batch_12, "cuMemcpyBatchAsync", 12080,                                                  \
      (cu_pointer * to, cu_pointer * from, size_t * bytes, size_t count,                           \
       struct cu_copy_attributes * attributes, size_t * index, size_t number, size_t * failed,     \
       cu_stream stream))                                                                          \
    X(copy_batch, "cuMemcpyBatchAsync", 13000,                                                     \
      (cu_pointer * to, cu_pointer * from, size_t * bytes, size_t count,                           \
       struct cu_copy_attributes * attributes, size_t * index, size_t number, cu_stream stream))

typedef cu_result cu_proc_address(const char *name, void **call, int version, uint64_t flags,
                                  int *found);

/** The driver's calls, as far as they are used. */
struct cuda_api {
/* A prototype is no expression. NOLINTNEXTLINE(bugprone-macro-parentheses) */
#define CUDA_FIELD(field, name, version, parameters) cu_result(*field) parameters;
    CUDA_CALLS(CUDA_FIELD)
    CUDA_OPTIONAL_CALLS(CUDA_FIELD)
#undef CUDA_FIELD
};

#endif
