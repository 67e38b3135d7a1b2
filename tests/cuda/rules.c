/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rules of the CUDA driver that its stand-in keeps, one test each:
 *     rules RULE
 * Seen to fail: run with STANDIN_BREAK=RULE each does, and meson.build runs it so.
 */
#include "rules.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/atomics.h"
#include "base/thread.h"

struct driver d;

/* What the tests share. */

static void *run_task(void *argument)
{
    struct task *task = argument;
    cu_context context;

    d.primary_retain(&context, 0);
    d.context_push(context);
    task->run(task);
    tutti_store_release(&task->done, 1);
    return NULL;
}

void task_start(struct task *task)
{
    pthread_t thread;

    assert_int_equal(tutti_thread_start(&thread, run_task, task), 0);
    pthread_detach(thread);
}

bool task_done(struct task *task)
{
    return tutti_load_acquire(&task->done) != 0;
}

cu_stream new_stream(unsigned flags)
{
    cu_stream stream;

    assert_int_equal(d.stream_create(&stream, flags, 0), CU_OK);
    return stream;
}

void *new_pinned(size_t bytes)
{
    void *memory;

    assert_int_equal(d.host_new(&memory, bytes, CU_HOST_DEVICEMAP), CU_OK);
    return memory;
}

cu_pointer new_memory(size_t bytes)
{
    cu_pointer pointer;

    assert_int_equal(d.memory_new(&pointer, bytes), CU_OK);
    return pointer;
}

uint32_t word_at(cu_pointer pointer)
{
    return tutti_load_acquire((const uint32_t *)standin_view(pointer, 4)); /* a copy's, a write's */
}

/* Rules that need no streams. */

static void *without_context(void *argument)
{
    cu_result *result = argument;
    cu_pointer pointer;
    cu_context context;

    result[0] = d.memory_new(&pointer, 64);
    d.primary_retain(&context, 0);
    d.context_push(context);
    result[1] = d.memory_new(&pointer, 64);
    d.context_push(context);
    d.context_pop(NULL);
    result[2] = d.memory_new(&pointer, 64); /* the one below is current again */
    d.context_pop(&context);
    result[3] = d.memory_new(&pointer, 64);
    return NULL;
}

/** A context is current in the thread that made it so, and in no other. */
static void contexts(void **state)
{
    cu_result result[4];
    pthread_t thread;
    (void)state;

    assert_int_equal(tutti_thread_start(&thread, without_context, result), 0);
    pthread_join(thread, NULL);
    assert_int_equal(result[0], CU_INVALID_CONTEXT);
    assert_int_equal(result[1], CU_OK);
    assert_int_equal(result[2], CU_OK);
    assert_int_equal(result[3], CU_INVALID_CONTEXT);
}

/** After a fault every call fails, until the context is gone. */
static void sticky(void **state)
{
    cu_stream stream = new_stream(CU_STREAM_FLAG_NON_BLOCKING);
    cu_pointer to = new_memory(64), other;
    void *from = new_pinned(64);
    cu_context context;
    (void)state;

    standin_fault_next();
    assert_int_equal(d.copy_in(to, from, 64, stream), CU_OK); /* it shows later */
    assert_int_equal(d.stream_synchronize(stream), CU_ILLEGAL_ADDRESS);
    assert_int_equal(d.stream_query(stream), CU_ILLEGAL_ADDRESS);
    assert_int_equal(d.memory_new(&other, 64), CU_ILLEGAL_ADDRESS);
    assert_int_equal(d.primary_release(0), CU_OK);
    assert_int_equal(d.primary_retain(&context, 0), CU_OK);
    assert_int_equal(d.memory_new(&other, 64), CU_OK);
}

static void priorities(void **state)
{
    int least, greatest, got;
    cu_stream stream;
    (void)state;

    assert_int_equal(d.stream_priorities(&least, &greatest), CU_OK);
    assert_true(greatest < least);
    assert_int_equal(d.stream_create(&stream, 0, greatest - 7), CU_OK);
    assert_int_equal(d.stream_priority(stream, &got), CU_OK);
    assert_int_equal(got, greatest);
    assert_int_equal(d.stream_create(&stream, 0, least + 7), CU_OK);
    assert_int_equal(d.stream_priority(stream, &got), CU_OK);
    assert_int_equal(got, least);
}

/** A name and a version mean one prototype: the newest that is no newer. */
static void versions(void **state)
{
    void *v12, *v13, *old;
    int found;
    (void)state;

    assert_int_equal(cuGetProcAddress_v2("cuMemcpyBatchAsync", &v12, 12080, 0, &found), CU_OK);
    assert_int_equal(cuGetProcAddress_v2("cuMemcpyBatchAsync", &v13, 13000, 0, &found), CU_OK);
    assert_ptr_not_equal(v12, v13);
    assert_int_equal(cuGetProcAddress_v2("cuMemcpyBatchAsync", &old, 12040, 0, &found), CU_OK);
    assert_null(old);
    assert_int_equal(found, CU_PROC_TOO_OLD);
    assert_int_equal(cuGetProcAddress_v2("cuNoSuchCall", &old, 13000, 0, &found), CU_OK);
    assert_int_equal(found, CU_PROC_NO_SYMBOL);
    assert_int_equal(d.wait_value_old(NULL, 0, 0, 0), CU_NOT_SUPPORTED);
}

static unsigned granted(unsigned wanted, unsigned flags)
{
    struct cu_resource all, part;
    unsigned groups = 1;

    assert_int_equal(d.resource(0, &all, CU_RESOURCE_SM), CU_OK);
    assert_int_equal(all.sm.count, 132);
    assert_int_equal(d.resource_split(&part, &groups, &all, NULL, flags, wanted), CU_OK);
    assert_int_equal(groups, 1);
    return part.sm.count;
}

/** Asked for SMs, it rounds up to eights, and may give fewer. */
static void green_less(void **state)
{
    struct cu_resource part = {.type = CU_RESOURCE_SM}, got;
    cu_green green;
    cu_stream stream;
    cu_desc desc;
    (void)state;

    assert_int_equal(granted(3, 0), 8);
    assert_int_equal(granted(3, CU_SPLIT_IGNORE_COSCHEDULING), 4);
    assert_int_equal(granted(24, 0), 16);
    part.sm.count = 16;
    assert_int_equal(d.resource_desc(&desc, &part, 1), CU_OK);
    assert_int_equal(d.green_create(&green, desc, 0, CU_GREEN_DEFAULT_STREAM), CU_OK);
    assert_int_equal(d.green_resource(green, &got, CU_RESOURCE_SM), CU_OK);
    assert_int_equal(got.sm.count, 16);
    assert_int_equal(d.green_stream(&stream, green, 0, 0), CU_INVALID_VALUE);
    assert_int_equal(d.green_stream(&stream, green, CU_STREAM_FLAG_NON_BLOCKING, 0), CU_OK);
    assert_int_equal(d.stream_destroy(stream), CU_OK);
    assert_int_equal(d.green_destroy(green), CU_OK);
}

static void green_absent(void **state)
{
    struct cu_resource all;
    (void)state;

    assert_int_equal(d.resource(0, &all, CU_RESOURCE_SM), CU_NOT_SUPPORTED);
}

static void attributes(void **state)
{
    void *word = new_pinned(4);
    cu_stream stream = new_stream(0);
    int value;
    (void)state;

    standin_set_attribute(CU_ATTRIBUTE_SMS, 42);
    assert_int_equal(d.device_attribute(&value, CU_ATTRIBUTE_SMS, 0), CU_OK);
    assert_int_equal(value, 42);
    standin_set_attribute(CU_ATTRIBUTE_STREAM_OPS_64, 0);
    assert_int_equal(d.write_value(stream, (uintptr_t)word, 1, 0), CU_NOT_SUPPORTED);
}

/** The registers of a device are mapped on the first touch: before it there is no page. */
static void iomemory(void **state)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *io = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const unsigned flags = CU_HOST_IOMEMORY | CU_HOST_DEVICEMAP;
    (void)state;

    madvise(io, 2 * page, MADV_NOHUGEPAGE);
    io[0] = 1;
    assert_int_equal(d.host_register(io, 2 * page, flags), CU_INVALID_VALUE);
    io[page] = 1;
    assert_int_equal(d.host_register(io, 2 * page, flags), CU_OK);
    assert_int_equal(d.host_register(io, page, 0), CU_ALREADY_REGISTERED);
    assert_int_equal(d.host_unregister(io), CU_OK);
    assert_int_equal(d.host_unregister(io), CU_NOT_REGISTERED);
}

static void kth_call(void **state)
{
    cu_pointer pointer;
    uint64_t before = standin_calls();
    (void)state;

    standin_fail_call(3, CU_OUT_OF_MEMORY);
    assert_int_equal(d.memory_new(&pointer, 64), CU_OK);
    assert_int_equal(d.memory_new(&pointer, 64), CU_OK);
    assert_int_equal(d.memory_new(&pointer, 64), CU_OUT_OF_MEMORY);
    assert_int_equal(d.memory_new(&pointer, 64), CU_OK);
    assert_int_equal(standin_calls() - before, 4);
}

static void out_of_memory(void **state)
{
    cu_pointer first = new_memory(512 << 10), second = new_memory(512 << 10), third;
    (void)state;

    assert_true(second >= first + (512 << 10) || first >= second + (512 << 10));
    assert_int_equal(standin_free_bytes(), 0);
    assert_int_equal(d.memory_new(&third, 512), CU_OUT_OF_MEMORY);
    assert_int_equal(d.memory_free(first), CU_OK);
    assert_int_equal(d.memory_new(&third, 512 << 10), CU_OK);
    assert_int_equal(third, first);
}

/** A host that reads device memory dies of it. */
static void host_faults(void **state)
{
    volatile uint32_t *mine = (volatile uint32_t *)(uintptr_t)new_memory(64);
    int status;
    pid_t child;
    (void)state;

    child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        _exit((int)*mine);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGSEGV);
    assert_int_equal(word_at((uintptr_t)mine), 0);
    assert_null(standin_view((uintptr_t)mine + 64, 4));
}

static const struct CMUnitTest all[] = {
    cmocka_unit_test(contexts),        cmocka_unit_test(sticky),
    cmocka_unit_test(one_queue),       cmocka_unit_test(many_queues),
    cmocka_unit_test(stream_order),    cmocka_unit_test(capture_at_call),
    cmocka_unit_test(unrecorded),      cmocka_unit_test(wait_value),
    cmocka_unit_test(write_value),     cmocka_unit_test(words_mapped),
    cmocka_unit_test(priorities),      cmocka_unit_test(capture),
    cmocka_unit_test(capture_forbids), cmocka_unit_test(capture_global),
    cmocka_unit_test(legacy),          cmocka_unit_test(pageable),
    cmocka_unit_test(pinned),          cmocka_unit_test(versions),
    cmocka_unit_test(green_less),      cmocka_unit_test(green_absent),
    cmocka_unit_test(attributes),      cmocka_unit_test(iomemory),
    cmocka_unit_test(kth_call),        cmocka_unit_test(out_of_memory),
    cmocka_unit_test(host_faults),
};

int main(int argc, char **argv)
{
    for (size_t i = 0; argc > 1 && i < sizeof(all) / sizeof(all[0]); i++)
        if (strcmp(all[i].name, argv[1]) == 0) {
            const struct CMUnitTest one[] = {all[i]};

            driver_open(&d);
            return cmocka_run_group_tests_name(argv[1], one, NULL, NULL);
        }
    fprintf(stderr, "usage: rules RULE\n");
    return 0; /* where it is to fail this shows */
}
