/* SPDX-License-Identifier: Apache-2.0 */
/* rules.h: the tests of the stand-in's rules, in two files. */
#ifndef TUTTI_TESTS_CUDA_RULES_H
#define TUTTI_TESTS_CUDA_RULES_H

#include "driver.h"

extern struct driver d;

/** What a thread of a test's does, and whether it is through. */
struct task {
    void (*run)(struct task *);
    uint64_t to;
    const void *from;
    cu_result result;
    uint32_t done; /* release; pairs with the acquire of who looks */
};

void task_start(struct task *task);
bool task_done(struct task *task);

/** A stream, its priority the middle, that does not wait for the legacy one; unless told. */
cu_stream new_stream(unsigned flags);
/** Memory of the host that the device reaches, zeroed. */
void *new_pinned(size_t bytes);
cu_pointer new_memory(size_t bytes);
/** The word at a place, wherever it is. */
uint32_t word_at(cu_pointer pointer);

void one_queue(void **state);
void many_queues(void **state);
void stream_order(void **state);
void capture_at_call(void **state);
void unrecorded(void **state);
void wait_value(void **state);
void write_value(void **state);
void words_mapped(void **state);
void capture(void **state);
void capture_forbids(void **state);
void capture_global(void **state);
void legacy(void **state);
void pageable(void **state);
void pinned(void **state);

#endif
