/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Device "cuda" over the CUDA driver's stand-in (a test double; nothing here ran on a GPU):
 * copies, words, drivers of several versions, the k-th call that fails, memory that is out.
 * Each test is a process of its own, for a driver is opened once in a process.
 * Seen to fail with the driver's version asked for instead of ours, an end of copies that one error
 * of a question tells, memory that stays pinned after an error, no relaxed mode, no look at
 * capture.
 */
#include "child.h"
#include "driver.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/launch.h"
#include "tutti/device.h"

enum { OBJECTS = 300, BYTES = 4096 }; /* more than go into one call */

struct rig {
    struct driver d;
    const struct tutti_device *device;
    struct tutti_copier *copier;
    uint8_t *staging;
    cu_pointer kv;
    struct tutti_copy list[OBJECTS];
    struct tutti_error err;
};

static int open_rig(struct rig *r)
{
    bool huge;
    int rc = tutti_device_cuda_open(0, &r->device, &r->err);

    if (rc == 0)
        rc = r->device->alloc((size_t)OBJECTS * BYTES, (void **)&r->staging, &huge, &r->err);
    if (rc == 0)
        rc = r->device->streams->copier_open(&r->copier, &r->err);
    return rc;
}

static void close_rig(struct rig *r)
{
    if (!r->device)
        return;
    if (r->copier)
        r->device->streams->copier_close(r->copier);
    r->device->free(r->staging, (size_t)OBJECTS * BYTES);
    tutti_device_cuda_close(r->device);
}

/** Copy all and wait for the end, as an engine does. Return: 0 or a negative errno. */
static int move(struct rig *r, enum tutti_way way, cu_pointer kv)
{
    uint32_t ticket;
    int rc, over;

    for (uint32_t i = 0; i < OBJECTS; i++)
        r->list[i] =
            (struct tutti_copy){kv + (size_t)i * BYTES, r->staging + (size_t)i * BYTES, BYTES};
    rc = r->device->streams->copy(r->copier, way, r->list, OBJECTS, NULL, 0, &ticket, &r->err);
    if (ticket == 0)
        return rc ? rc : -EPROTO;
    if (!SOON((over = r->device->streams->copied(r->copier, way, ticket, &r->err)) != 0))
        return -EPROTO;
    return rc ? rc : over == 1 ? 0 : over;
}

/** There and back: bytes that are right. Return: 0, a negative errno, or -EPROTO. */
static int there_and_back(struct rig *r, cu_pointer kv)
{
    size_t bytes = (size_t)OBJECTS * BYTES;
    int rc;

    for (size_t i = 0; i < bytes; i++)
        r->staging[i] = (uint8_t)(i * 7 + i / BYTES);
    rc = move(r, TUTTI_COPY_IN, kv);
    if (rc)
        return rc;
    if (memcmp(standin_view(kv, bytes), r->staging, bytes) != 0)
        return -EPROTO;
    memset(r->staging, 0, bytes);
    rc = move(r, TUTTI_COPY_OUT, kv);
    for (size_t i = 0; rc == 0 && i < bytes; i++)
        if (r->staging[i] != (uint8_t)(i * 7 + i / BYTES))
            rc = -EPROTO;
    return rc;
}

/** The whole of it, with the k-th call failing. Exit: 0 nothing failed, 1 something did. */
static int with_a_failure(uint64_t argument)
{
    static struct rig r;
    struct standin_counts counts;
    uint64_t k = argument >> 16;
    cu_pointer kv;
    int rc;

    driver_open(&r.d);
    CLAIM(r.d.memory_new(&kv, (size_t)OBJECTS * BYTES) == CU_OK);
    standin_fail_call(k, (cu_result)(argument & 0xffff));
    rc = open_rig(&r);
    if (rc == 0)
        rc = there_and_back(&r, kv);
    CLAIM(rc != -EPROTO);
    CLAIM(rc == 0 || r.err.message[0]);
    close_rig(&r);
    standin_fail_call(0, CU_OK);
    standin_counts(&counts);
    if (rc) { /* what failed was not the giving back itself */
        CLAIM(counts.registered_bytes == 0);
        CLAIM(counts.streams == 0);
    }
    return rc != 0;
}

static void any_call_fails(void **state)
{
    static const cu_result codes[] = {CU_INVALID_VALUE, CU_OUT_OF_MEMORY};
    (void)state;

    for (uint32_t c = 0; c < 2; c++) {
        uint32_t failed = 0;

        for (uint64_t k = 1; k <= 60; k++) {
            int rc = in_a_child(with_a_failure, k << 16 | (uint64_t)codes[c]);

            if (rc > 1)
                fail_msg("call %u fails with %d: %d", (unsigned)k, codes[c], rc);
            failed += rc == 1;
        }
        assert_true(failed > 15); /* calls are reached, */
        assert_int_equal(in_a_child(with_a_failure, UINT64_C(1000) << 16), 0); /* and end */
    }
}

/** What @err has to say of a device that can't be had. */
static int refused(uint64_t version)
{
    static struct rig r;
    char told[16];

    snprintf(told, sizeof(told), "%u", (unsigned)version);
    setenv("STANDIN_VERSION", told, 1);
    CLAIM(open_rig(&r) == -ENOTSUP);
    CLAIM(strstr(r.err.message, "cuStreamWaitValue32 of version 11.7"));
    return 0;
}

/** One driver: the copies go by the call that it has, with that call's own parameters. */
static int one_version(uint64_t version)
{
    static struct rig r;
    struct standin_counts counts;
    cu_pointer kv;
    char told[16];

    snprintf(told, sizeof(told), "%u", (unsigned)version);
    setenv("STANDIN_VERSION", told, 1);
    driver_open(&r.d);
    CLAIM(r.d.memory_new(&kv, (size_t)OBJECTS * BYTES) == CU_OK);
    CLAIM(open_rig(&r) == 0);
    CLAIM(there_and_back(&r, kv) == 0);
    standin_counts(&counts);
    CLAIM(counts.copies_in == OBJECTS && counts.copies_out == OBJECTS);
    CLAIM(counts.pageable == 0);
    CLAIM(counts.batches == (version >= 12080 ? 4 : 0));
    close_rig(&r);
    standin_counts(&counts);
    CLAIM(counts.registered_bytes == 0 && counts.streams == 0);
    return 0;
}

static void drivers(void **state)
{
    (void)state;
    assert_int_equal(in_a_child(refused, 11040), 0);
    assert_int_equal(in_a_child(one_version, 12040), 0);
    assert_int_equal(in_a_child(one_version, 12080), 0);
    assert_int_equal(in_a_child(one_version, 13000), 0);
    assert_int_equal(in_a_child(one_version, 14000), 0);
}

static int without_words(uint64_t unused)
{
    static struct rig r;
    struct standin_counts counts;
    (void)unused;

    driver_open(&r.d);
    standin_set_attribute(CU_ATTRIBUTE_STREAM_OPS_64, 0);
    CLAIM(open_rig(&r) == -ENOTSUP);
    CLAIM(strstr(r.err.message, "cuStreamWriteValue32"));
    close_rig(&r);
    standin_counts(&counts);
    CLAIM(counts.registered_bytes == 0 && counts.streams == 0);
    return 0;
}

static int another_gpu(uint64_t unused)
{
    const struct tutti_device *first, *second;
    struct tutti_error err = {0};
    (void)unused;

    CLAIM(tutti_device_cuda_open(7, &second, &err) == -ENODEV);
    CLAIM(strstr(err.message, "CUDA_VISIBLE_DEVICES"));
    CLAIM(tutti_device_cuda_open(0, &first, &err) == 0);
    CLAIM(tutti_device_cuda_open(1, &second, &err) == -EBUSY && second == NULL);
    CLAIM(tutti_device_cuda_open(0, &second, &err) == 0 && second == first);
    tutti_device_cuda_close(second);
    tutti_device_cuda_close(first);
    CLAIM(tutti_device_cuda_open(1, &second, &err) == -ENODEV); /* the first is free again */
    return 0;
}

/** This program has no image of kernels in it, as a build without nvcc. */
static int no_kernels(uint64_t unused)
{
    struct launch_options options = {0};
    struct launcher *launcher;
    struct tutti_error err = {0};
    (void)unused;

    CLAIM(launcher_cuda.open(&options, &launcher, &err) == -ENOTSUP && launcher == NULL);
    CLAIM(strstr(err.message, "nvcc"));
    return 0;
}

static void refusals(void **state)
{
    (void)state;
    assert_int_equal(in_a_child(no_kernels, 0), 0);
    assert_int_equal(in_a_child(without_words, 0), 0);
    assert_int_equal(in_a_child(another_gpu, 0), 0);
}

/** A fault of the GPU is told, once it is sure, and nothing waits for ever. */
static int fault(uint64_t unused)
{
    static struct rig r;
    cu_pointer kv;
    (void)unused;

    driver_open(&r.d);
    CLAIM(r.d.memory_new(&kv, (size_t)OBJECTS * BYTES) == CU_OK);
    CLAIM(open_rig(&r) == 0);
    standin_fault_next();
    CLAIM(move(&r, TUTTI_COPY_IN, kv) == -EIO);
    CLAIM(strstr(r.err.message, "ILLEGAL_ADDRESS") && strstr(r.err.message, "restart it"));
    CLAIM(move(&r, TUTTI_COPY_OUT, kv) == -EIO);
    close_rig(&r);
    return 0;
}

/** While somebody captures a graph, our copies and questions do not spoil it. */
static int beside_a_capture(uint64_t unused)
{
    static struct rig r;
    cu_stream stream;
    cu_graph graph;
    cu_pointer kv;
    uint32_t *word;
    (void)unused;

    driver_open(&r.d);
    CLAIM(r.d.memory_new(&kv, (size_t)OBJECTS * BYTES) == CU_OK);
    CLAIM(r.d.stream_create(&stream, CU_STREAM_FLAG_NON_BLOCKING, 0) == CU_OK);
    CLAIM(r.d.capture_begin(stream, CU_CAPTURE_GLOBAL) == CU_OK);
    CLAIM(open_rig(&r) == 0);
    word = (uint32_t *)(void *)r.staging;
    CLAIM(there_and_back(&r, kv) == 0);
    CLAIM(r.device->streams->wait(stream, word, 1, &r.err) == -EBUSY);
    CLAIM(strstr(r.err.message, "can't be captured") && strstr(r.err.message, "enforce_eager"));
    CLAIM(r.device->streams->write(stream, word, 1, &r.err) == -EBUSY);
    close_rig(&r);
    CLAIM(r.d.capture_end(stream, &graph) == CU_OK);
    return 0;
}

/** An error that only the question had ends nothing: the copies are still on their way. */
static int a_question_fails(uint64_t unused)
{
    static struct rig r;
    struct tutti_copy copy;
    uint32_t *word, ticket;
    cu_pointer kv;
    (void)unused;

    driver_open(&r.d);
    CLAIM(r.d.memory_new(&kv, BYTES) == CU_OK);
    CLAIM(open_rig(&r) == 0);
    word = (uint32_t *)(void *)r.staging; /* pinned, and this test's */
    copy = (struct tutti_copy){kv, r.staging + BYTES, BYTES};
    memset(r.staging + BYTES, 9, BYTES);
    CLAIM(r.device->streams->copy(r.copier, TUTTI_COPY_IN, &copy, 1, word, 1, &ticket, &r.err) ==
          0);
    for (uint32_t k = 1; k < 4; k++) {
        standin_fail_call(k, CU_INVALID_VALUE); /* entering, the question, leaving */
        CLAIM(r.device->streams->copied(r.copier, TUTTI_COPY_IN, ticket, &r.err) == 0);
        standin_fail_call(0, CU_OK);
        CLAIM(r.device->streams->copied(r.copier, TUTTI_COPY_IN, ticket, &r.err) == 0);
    }
    __atomic_store_n(word, 1, __ATOMIC_RELEASE);
    CLAIM(SOON(r.device->streams->copied(r.copier, TUTTI_COPY_IN, ticket, &r.err) == 1));
    CLAIM(*(uint8_t *)standin_view(kv, 1) == 9);
    close_rig(&r);
    return 0;
}

static void misfortune(void **state)
{
    (void)state;
    assert_int_equal(in_a_child(fault, 0), 0);
    assert_int_equal(in_a_child(beside_a_capture, 0), 0);
    assert_int_equal(in_a_child(a_question_fails, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(drivers),
        cmocka_unit_test(refusals),
        cmocka_unit_test(misfortune),
        cmocka_unit_test(any_call_fails),
    };

    return cmocka_run_group_tests_name("device cuda", tests, NULL, NULL);
}
