/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control.h: how tests steer the CUDA driver's stand-in.
 *
 * The stand-in is a test double: a libcuda.so.1 of our own that keeps those rules of
 * the driver which our code could break, and computes nothing. What passes over it is
 * not shown to work on a GPU; wherever its results stand, they say so.
 *
 * From the environment, at cuInit(): STANDIN_QUEUES (hardware queues, 8),
 * STANDIN_VERSION (of the driver, 13000), STANDIN_MEMORY (bytes on the device, 256
 * MiB), STANDIN_GREEN (most SMs of a green context; "absent"), STANDIN_BREAK (a rule
 * that is then not kept, so that its test is seen to fail).
 */
#ifndef TUTTI_TESTS_CUDA_CONTROL_H
#define TUTTI_TESTS_CUDA_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "device/cuda_api.h"

/** What it calls itself: the name of its device begins with it. */
#define STANDIN_NAME "TEST DOUBLE of a CUDA device"

/** The k-th call from now on (1: the next) returns @code and does nothing; 0: none does. */
void standin_fail_call(uint64_t k, cu_result code);
/** Calls since the start. */
uint64_t standin_calls(void);
/** The next operation that runs on a queue meets an illegal address. */
void standin_fault_next(void);
/** Copies take so long, each; 0 is what they are at the start. */
void standin_slow_copies(long ns);
/** Leave the errors of before behind, as a new process would. */
void standin_forget_errors(void);
void standin_set_attribute(int attribute, int value);
/** Where the double itself reaches device memory that faults for everybody else; NULL: nowhere. */
void *standin_view(cu_pointer pointer, size_t bytes);
/** Call memory of the host device memory from here on (it faults for nobody then). */
void standin_adopt(void *memory, size_t bytes);
/** Bytes that may still be allocated on the device. */
size_t standin_free_bytes(void);

/**
 * Give the double a kernel: what stands for it, run once a warp on a queue's thread. The words are
 * those of the launch. Modules are images that begin with STANDIN_IMAGE.
 */
void standin_kernel(const char *name, unsigned words,
                    void (*run)(const uint64_t *word, unsigned warp));
#define STANDIN_IMAGE "image of a TEST DOUBLE"

/** What was enqueued so far, and how much of the host's memory is registered. */
struct standin_counts {
    uint64_t copies_in;
    uint64_t copies_out;
    uint64_t pageable;
    uint64_t waits;
    uint64_t waits_captured;
    uint64_t writes;
    uint64_t batches;
    uint64_t streams;
    uint64_t registered_bytes;
    uint64_t stalled; /* heads of queues that wait now */
};

void standin_counts(struct standin_counts *counts);

/* Calls that only tests make; the others are in device/cuda_api.h. */
#define STANDIN_CALLS(X)                                                                           \
    X(memory_new, "cuMemAlloc", 3020, (cu_pointer * pointer, size_t bytes))                        \
    X(memory_free, "cuMemFree", 3020, (cu_pointer pointer))                                        \
    X(host_new, "cuMemHostAlloc", 2020, (void **memory, size_t bytes, unsigned flags))             \
    X(host_free, "cuMemFreeHost", 2000, (void *memory))                                            \
    X(copy_in_now, "cuMemcpyHtoD", 3020, (cu_pointer to, const void *from, size_t bytes))          \
    X(copy_out_now, "cuMemcpyDtoH", 3020, (void *to, cu_pointer from, size_t bytes))               \
    X(context_push, "cuCtxPushCurrent", 4000, (cu_context context))                                \
    X(context_pop, "cuCtxPopCurrent", 4000, (cu_context * context))                                \
    X(context_synchronize, "cuCtxSynchronize", 2000, (void))                                       \
    X(stream_priority, "cuStreamGetPriority", 5050, (cu_stream stream, int *priority))             \
    X(stream_wait_event, "cuStreamWaitEvent", 3020,                                                \
      (cu_stream stream, cu_event event, unsigned flags))                                          \
    X(event_create, "cuEventCreate", 2000, (cu_event * event, unsigned flags))                     \
    X(event_record, "cuEventRecord", 2000, (cu_event event, cu_stream stream))                     \
    X(event_query, "cuEventQuery", 2000, (cu_event event))                                         \
    X(event_synchronize, "cuEventSynchronize", 2000, (cu_event event))                             \
    X(event_destroy, "cuEventDestroy", 4000, (cu_event event))                                     \
    X(launch_host, "cuLaunchHostFunc", 10000,                                                      \
      (cu_stream stream, void (*function)(void *), void *argument))                                \
    X(capture_begin, "cuStreamBeginCapture", 10010, (cu_stream stream, int mode))                  \
    X(capture_end, "cuStreamEndCapture", 10000, (cu_stream stream, cu_graph * graph))              \
    X(graph_nodes, "cuGraphGetNodes", 10000, (cu_graph graph, void **nodes, size_t *count))        \
    X(graph_destroy, "cuGraphDestroy", 10000, (cu_graph graph))                                    \
    X(wait_value_old, "cuStreamWaitValue32", 8000,                                                 \
      (cu_stream stream, cu_pointer word, uint32_t value, unsigned flags))                         \
    X(write_value_old, "cuStreamWriteValue32", 8000,                                               \
      (cu_stream stream, cu_pointer word, uint32_t value, unsigned flags))                         \
    X(green_resource, "cuGreenCtxGetDevResource", 12040,                                           \
      (cu_green green, struct cu_resource * resource, int type))

#endif
