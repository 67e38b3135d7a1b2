/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The launcher for CUDA over the driver's stand-in (a test double: what stands for a kernel is a
 * function of the host; nothing here ran on a GPU). launch.h has the contract; numbers are its.
 * Seen to fail with a launch that waits, an end told too early, a kernel's words not counted,
 * registers not touched, a sticky error told once only, memory left pinned.
 */
#include "child.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/atomics.h"
#include "device/launch.h"

const unsigned char tutti_kernels_image[] = STANDIN_IMAGE;
extern const unsigned char tutti_kernels_image[];

#define SECOND UINT64_C(1000000000)

/** Kernel "count": warp w adds word 1 to the w-th number at word 0. */
static void count(const uint64_t *word, unsigned warp)
{
    ((uint32_t *)(uintptr_t)word[0])[warp] += (uint32_t)word[1];
}

/** Kernel "hold": ends when the word is not zero. */
static void hold(const uint64_t *word, unsigned warp)
{
    (void)warp;
    while (tutti_load_acquire((const uint32_t *)(uintptr_t)word[0]) == 0)
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
}

static struct launcher *l;
static struct tutti_error err;

static int open_with(uint32_t sms)
{
    struct launch_options options = {.sms = sms};
    int rc;

    standin_kernel("count", 2, count);
    standin_kernel("hold", 1, hold);
    rc = launcher_cuda.open(&options, &l, &err);
    return rc;
}

static int launch(const char *kernel, uint32_t words, uint64_t first, uint64_t second,
                  uint64_t *ticket)
{
    struct launch what = {.kernel = kernel, .count = words, .warps = 4, .word = {first, second}};

    return launcher_cuda.launch(l, &what, ticket, &err);
}

/** 1, 2, 3, 7: warps, words, order, memory. */
static int round_trip(uint64_t unused)
{
    struct launch_memory memory;
    uint64_t ticket[3];
    uint32_t *number;
    (void)unused;

    CLAIM(open_with(0) == 0);
    CLAIM(strstr(l->granted, STANDIN_NAME) && strstr(l->granted, "lowest priority"));
    CLAIM(launcher_cuda.alloc(l, 5000, LAUNCH_BESIDE_DATA, &memory, &err) == 0);
    CLAIM((uintptr_t)memory.host % 65536 == 0 && !memory.beside);
    number = memory.host;
    for (uint32_t i = 0; i < 5; i++)
        CLAIM(number[i] == 0);
    for (uint32_t i = 0; i < 3; i++) {
        CLAIM(launch("count", 2, memory.device, 1u << 8 * i, &ticket[i]) == 0);
        CLAIM(ticket[i] == i + 1);
    }
    CLAIM(launcher_cuda.wait(l, ticket[2], 10 * SECOND, &err) == 0);
    CLAIM(launcher_cuda.wait(l, ticket[0], 0, &err) == 0); /* the first had ended before */
    for (uint32_t i = 0; i < 5; i++)
        CLAIM(number[i] == (i < 4 ? 0x10101u : 0));
    CLAIM(launcher_cuda.wait(l, 4, 0, &err) == -EINVAL);
    launcher_cuda.free(l, &memory);
    launcher_cuda.free(l, &memory);
    launcher_cuda.close(l);
    return 0;
}

/** 2: names and numbers of words. */
static int unknown(uint64_t unused)
{
    uint64_t ticket;
    (void)unused;

    CLAIM(open_with(0) == 0);
    CLAIM(launch("nothing", 2, 0, 0, &ticket) == -ENOENT && strstr(err.message, "nothing"));
    CLAIM(launch("count", 1, 0, 0, &ticket) == -ENOENT && strstr(err.message, "count"));
    CLAIM(launch("count", 3, 0, 0, &ticket) == -ENOENT);
    CLAIM(launch("count", 9, 0, 0, &ticket) == -EINVAL);
    launcher_cuda.close(l);
    return 0;
}

/** 4, 5: no launch waits, and each wait has its bound. */
static int bounds(uint64_t unused)
{
    struct launch_memory memory;
    uint64_t first, second;
    uint32_t *word;
    (void)unused;

    CLAIM(open_with(0) == 0);
    CLAIM(launcher_cuda.alloc(l, 4096, LAUNCH_HOST, &memory, &err) == 0);
    word = memory.host;
    CLAIM(launch("hold", 1, memory.device, 0, &first) == 0);
    CLAIM(launch("count", 2, memory.device + 64, 5, &second) == 0);
    CLAIM(launcher_cuda.wait(l, first, 0, &err) == -ETIMEDOUT);
    CLAIM(launcher_cuda.wait(l, second, SECOND / 20, &err) == -ETIMEDOUT);
    CLAIM(word[16] == 0);
    tutti_store_release(word, 1);
    CLAIM(launcher_cuda.wait(l, second, 10 * SECOND, &err) == 0);
    CLAIM(word[16] == 5);
    launcher_cuda.free(l, &memory);
    launcher_cuda.close(l);
    return 0;
}

/** 6: a GPU's fault is told by all calls from then on. */
static int fault(uint64_t unused)
{
    struct launch_memory memory, more;
    uint64_t ticket;
    (void)unused;

    CLAIM(open_with(0) == 0);
    CLAIM(launcher_cuda.alloc(l, 4096, LAUNCH_HOST, &memory, &err) == 0);
    standin_fault_next();
    CLAIM(launch("count", 2, memory.device, 5, &ticket) == 0);
    CLAIM(launcher_cuda.wait(l, ticket, 10 * SECOND, &err) == -EIO);
    CLAIM(strstr(err.message, "ILLEGAL_ADDRESS"));
    standin_forget_errors(); /* even if the driver did */
    CLAIM(launch("count", 2, memory.device, 5, &ticket) == -EIO);
    CLAIM(launcher_cuda.wait(l, ticket, 0, &err) == -EIO);
    CLAIM(launcher_cuda.alloc(l, 4096, LAUNCH_HOST, &more, &err) == -EIO);
    CLAIM(launcher_cuda.share(l, &more, 4096, LAUNCH_MEMORY, &more, &err) == -EIO);
    launcher_cuda.free(l, &memory);
    launcher_cuda.close(l);
    return 0;
}

/** 7, 8: a drive's registers are touched before the driver looks for their pages. */
static int shared(uint64_t unused)
{
    char *io = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct launch_memory memory;
    struct standin_counts counts;
    (void)unused;

    CLAIM(open_with(0) == 0);
    CLAIM(launcher_cuda.share(l, io, 8192, LAUNCH_REGISTERS, &memory, &err) == 0);
    CLAIM(memory.host == io && memory.device != 0);
    launcher_cuda.unshare(l, &memory);
    launcher_cuda.unshare(l, &memory);
    CLAIM(launcher_cuda.share(l, io, 8192, LAUNCH_MEMORY, &memory, &err) == 0);
    launcher_cuda.unshare(l, &memory);
    launcher_cuda.close(l);
    standin_counts(&counts);
    CLAIM(counts.registered_bytes == 0 && counts.streams == 0);
    return 0;
}

/** SMs of its own: as many as the driver gives, and it says how many. 0: there are none. */
static int shares(uint64_t least)
{
    char told[16];

    snprintf(told, sizeof(told), "%u", (unsigned)least);
    setenv("STANDIN_GREEN", least ? told : "absent", 1);
    CLAIM(open_with(10) == 0);
    if (least == 0)
        CLAIM(strstr(l->granted, "no share of them"));
    else
        CLAIM(strstr(l->granted,
                     least < 10 ? "4 SMs of its own (10 asked)" : "10 SMs of its own (10 asked)"));
    launcher_cuda.close(l);
    return 0;
}

static void contract(void **state)
{
    (void)state;
    assert_int_equal(in_a_child(round_trip, 0), 0);
    assert_int_equal(in_a_child(unknown, 0), 0);
    assert_int_equal(in_a_child(bounds, 0), 0);
    assert_int_equal(in_a_child(fault, 0), 0);
    assert_int_equal(in_a_child(shared, 0), 0);
    assert_int_equal(in_a_child(shares, 0), 0);
    assert_int_equal(in_a_child(shares, 5), 0);
    assert_int_equal(in_a_child(shares, 64), 0);
}

/** All of it, with the k-th call failing. Exit: 0 nothing failed, 1 something did. */
static int with_a_failure(uint64_t argument)
{
    struct launch_memory memory = {0};
    struct standin_counts counts;
    uint64_t ticket;
    int rc, made;

    standin_fail_call(argument >> 16, (cu_result)(argument & 0xffff));
    made = rc = open_with(16);
    if (rc == 0)
        rc = launcher_cuda.alloc(l, 4096, LAUNCH_HOST, &memory, &err);
    if (rc == 0)
        rc = launch("count", 2, memory.device, 5, &ticket);
    if (rc == 0) {
        rc = launcher_cuda.wait(l, ticket, 10 * SECOND, &err);
        CLAIM(rc == 0 && ((uint32_t *)memory.host)[3] == 5);
    }
    CLAIM(rc == 0 || (rc < 0 && err.message[0]));
    if (made == 0) {
        launcher_cuda.free(l, &memory);
        launcher_cuda.close(l);
    }
    standin_fail_call(0, CU_OK);
    standin_counts(&counts);
    if (rc) /* what failed was not the giving back itself */
        CLAIM(counts.registered_bytes == 0 && counts.streams == 0);
    return rc != 0;
}

static void any_call_fails(void **state)
{
    uint32_t failed = 0;
    (void)state;

    for (uint64_t k = 1; k <= 50; k++) {
        int rc = in_a_child(with_a_failure, k << 16 | CU_INVALID_VALUE);

        if (rc > 1)
            fail_msg("call %u fails: %d", (unsigned)k, rc);
        failed += rc == 1;
    }
    assert_true(failed > 8);
    assert_int_equal(in_a_child(with_a_failure, UINT64_C(1000) << 16), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contract),
        cmocka_unit_test(any_call_fails),
    };

    return cmocka_run_group_tests_name("launcher cuda", tests, NULL, NULL);
}
