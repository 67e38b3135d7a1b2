/* SPDX-License-Identifier: Apache-2.0 */
/*
 * launch_cuda.c: kernels of ours on an NVIDIA GPU; launch.h is the contract.
 *
 * Responsible for the image, a stream with a share of the SMs (or the lowest priority), launches
 * and their end. Knows no queue, no entry, no kernel. The one idea, as in cuda.c: behind each
 * launch the stream writes its number into pinned memory, so its end is seen by a load.
 */
#include "device/launch.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/atomics.h"
#include "base/clock.h"
#include "device/cuda_driver.h"
#include "tutti/device.h"

#define MOST_FUNCTIONS 8u
#define PAGE ((size_t)4096)
#define LOOK_NS 20000 /* between looks of who waits */

/* The kernels' image, where the build had nvcc; else nothing is there. */
extern const unsigned char tutti_kernels_image[] __attribute__((weak));

struct function {
    const char *name;
    cu_function call;
};

struct cuda_launcher {
    struct launcher base;
    cu_module module;
    cu_green green;
    cu_stream stream;
    uint32_t *done; /* pinned: the stream writes it, we read */
    uint64_t issued;
    struct function function[MOST_FUNCTIONS];
    uint32_t functions;
    struct tutti_error broken; /* the sticky error, code 0 while there is none */
};

static struct cuda_launcher *of(struct launcher *l)
{
    return (struct cuda_launcher *)(void *)l;
}

/** Errors of what ran, after which nothing of the context does: CUresult, as far as it says so. */
static bool is_sticky(cu_result rc)
{
    switch (rc) {
    case 214: /* memory lost its contents (ECC) */
    case 220: /* NVLink */
    case CU_ILLEGAL_ADDRESS:
    case 702: /* launch timeout */
    case 709: /* the context is destroyed */
    case 710: /* assert */
        return true;
    default:
        return rc >= 714 && rc <= 719; /* stack, instruction, address, program counter, launch */
    }
}

/** As cuda_failed(), and kept where nothing works after it. */
static int failed(struct cuda_launcher *l, cu_result rc, const char *what, struct tutti_error *err)
{
    struct tutti_error why = {0};
    int code = cuda_failed(&why, rc, what, "see the kernel's log (dmesg) and nvidia-smi");

    if (is_sticky(rc) && l->broken.code == 0)
        l->broken = why;
    if (err)
        *err = why;
    return code;
}

static int is_broken(const struct cuda_launcher *l, struct tutti_error *err)
{
    if (l->broken.code && err)
        *err = l->broken;
    return l->broken.code;
}

/* Opening. */

/** A share of the SMs of its own. Return: how many it has, 0 where there are no shares. */
static unsigned open_share(struct cuda_launcher *l, unsigned wanted)
{
    const struct cuda_api *api = &cuda_driver.api;
    struct cu_resource all, share;
    unsigned groups = 1;
    cu_desc desc;

    if (!api->resource || !api->resource_split || !api->resource_desc || !api->green_create ||
        !api->green_stream || !api->green_destroy)
        return 0;
    if (api->resource(cuda_driver.device, &all, CU_RESOURCE_SM) != CU_OK)
        return 0;
    /* Single SMs where co-scheduling is waived: our warps need no clusters. */
    if (api->resource_split(&share, &groups, &all, NULL, CU_SPLIT_IGNORE_COSCHEDULING, wanted) !=
            CU_OK ||
        groups != 1 || api->resource_desc(&desc, &share, 1) != CU_OK)
        return 0;
    if (api->green_create(&l->green, desc, cuda_driver.device, CU_GREEN_DEFAULT_STREAM) != CU_OK) {
        l->green = NULL;
        return 0;
    }
    if (api->green_stream(&l->stream, l->green, CU_STREAM_FLAG_NON_BLOCKING, 0) != CU_OK) {
        api->green_destroy(l->green);
        l->green = NULL;
        l->stream = NULL;
        return 0;
    }
    return share.sm.count;
}

static cu_result open_stream(struct cuda_launcher *l, uint32_t sms)
{
    unsigned got = sms ? open_share(l, sms) : 0;
    int least = 0, greatest = 0;
    cu_result rc;

    if (got > 0) {
        snprintf(l->base.granted, sizeof(l->base.granted), "%.80s: %u SMs of its own (%u asked)",
                 cuda_driver.name, got, sms);
        return CU_OK;
    }
    rc = cuda_driver.api.stream_priorities(&least, &greatest);
    if (rc == CU_OK)
        rc = cuda_driver.api.stream_create(&l->stream, CU_STREAM_FLAG_NON_BLOCKING, least);
    snprintf(l->base.granted, sizeof(l->base.granted), "%.80s: all SMs, lowest priority%s",
             cuda_driver.name, sms ? " (the driver has no share of them to give)" : "");
    return rc;
}

static void cuda_close(struct launcher *base)
{
    struct cuda_launcher *l = of(base);
    struct cuda_inside inside;

    if (cuda_enter(&inside) == CU_OK) {
        if (l->stream) {
            cuda_driver.api.stream_synchronize(l->stream); /* kernels are finite */
            cuda_driver.api.stream_destroy(l->stream);
        }
        if (l->green)
            cuda_driver.api.green_destroy(l->green);
        if (l->module)
            cuda_driver.api.module_unload(l->module);
        cuda_leave(&inside);
    }
    if (l->done) {
        cuda_unpin(l->done);
        munmap(l->done, PAGE);
    }
    cuda_driver_close();
    free(l);
}

/** A page of pinned memory for the number of the last launch that ended. */
static int open_word(struct cuda_launcher *l, struct tutti_error *err)
{
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cu_pointer device = 0;
    int rc;

    if (page == MAP_FAILED)
        return tutti_error_set(err, -ENOMEM, "no memory to launch kernels");
    rc = cuda_pin(page, PAGE, 0, &device, err);
    if (rc < 0) {
        munmap(page, PAGE);
        return rc;
    }
    l->done = page;
    return device == (uint64_t)(uintptr_t)page
               ? 0
               : cuda_failed(err, CU_NOT_SUPPORTED,
                             "it names pinned memory otherwise than the host", NULL);
}

static int cuda_open(const struct launch_options *o, struct launcher **out, struct tutti_error *err)
{
    struct cuda_launcher *l;
    struct cuda_inside inside;
    cu_result rc;
    int status;

    *out = NULL;
    if (!tutti_kernels_image)
        return tutti_error_set(err, -ENOTSUP,
                               "no kernels: this build had no nvcc; build with CUDA's compiler, or "
                               "use engine \"nvme\"");
    status = cuda_driver_open(o->device, err);
    if (status < 0)
        return status;
    l = calloc(1, sizeof(*l));
    if (!l) {
        cuda_driver_close();
        return tutti_error_set(err, -ENOMEM, "no memory to launch kernels");
    }
    l->base.type = &launcher_cuda;
    status = open_word(l, err);
    if (status == 0) {
        rc = cuda_enter(&inside);
        if (rc == CU_OK) {
            rc = cuda_driver.api.module_load(&l->module, tutti_kernels_image);
            if (rc == CU_OK)
                rc = open_stream(l, o->sms);
            cuda_leave(&inside);
        }
        if (rc)
            status = failed(l, rc, "kernels can't be loaded", err);
    }
    if (status < 0) {
        cuda_close(&l->base);
        return status;
    }
    *out = &l->base;
    return 0;
}

/* Memory: the host's, pinned. A mapping of the device's own for the CPU is not here yet. */

static int cuda_alloc(struct launcher *base, size_t bytes, enum launch_place place,
                      struct launch_memory *memory, struct tutti_error *err)
{
    int rc = is_broken(of(base), err);
    bool huge;
    void *host = NULL;

    (void)place;
    if (rc == 0)
        rc = tutti_device_host.alloc(bytes, &host, &huge, err);
    if (rc < 0)
        return rc;
    *memory = (struct launch_memory){.host = host, .bytes = bytes};
    rc = cuda_pin(host, bytes, 0, &memory->device, err);
    if (rc < 0) {
        tutti_device_host.free(host, bytes);
        memset(memory, 0, sizeof(*memory));
    }
    return rc;
}

static void cuda_free(struct launcher *base, struct launch_memory *memory)
{
    (void)base;
    if (!memory->host)
        return;
    cuda_unpin(memory->host);
    tutti_device_host.free(memory->host, memory->bytes);
    memset(memory, 0, sizeof(*memory));
}

/** The driver walks the pages that are there: a drive's registers are mapped on the first touch. */
static void touch(const volatile uint32_t *registers, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    for (size_t at = 0; at < bytes; at += page)
        (void)registers[at / sizeof(*registers)];
}

static int cuda_share(struct launcher *base, void *host, size_t bytes, enum launch_sharing what,
                      struct launch_memory *memory, struct tutti_error *err)
{
    int rc = is_broken(of(base), err);

    if (rc < 0)
        return rc;
    if (what == LAUNCH_REGISTERS)
        touch(host, bytes);
    *memory = (struct launch_memory){.host = host, .bytes = bytes};
    rc = cuda_pin(host, bytes, what == LAUNCH_REGISTERS ? CU_HOST_IOMEMORY : 0, &memory->device,
                  err);
    if (rc < 0)
        memset(memory, 0, sizeof(*memory));
    return rc;
}

static void cuda_unshare(struct launcher *base, struct launch_memory *memory)
{
    (void)base;
    if (memory->host)
        cuda_unpin(memory->host);
    memset(memory, 0, sizeof(*memory));
}

/* Launches. */

/** Whether a kernel takes just so many words; where the driver does not tell, it is believed. */
static bool takes(cu_function function, uint32_t words)
{
    size_t offset, bytes;

    if (!cuda_driver.api.parameter_info)
        return true;
    for (uint32_t i = 0; i < words; i++)
        if (cuda_driver.api.parameter_info(function, i, &offset, &bytes) != CU_OK ||
            bytes != sizeof(uint64_t))
            return false;
    return cuda_driver.api.parameter_info(function, words, &offset, &bytes) == CU_INVALID_VALUE;
}

static int find(struct cuda_launcher *l, const struct launch *what, cu_function *function,
                struct tutti_error *err)
{
    cu_result rc;

    for (uint32_t i = 0; i < l->functions; i++)
        if (strcmp(l->function[i].name, what->kernel) == 0) {
            *function = l->function[i].call;
            return 0;
        }
    rc = cuda_driver.api.module_function(function, l->module, what->kernel);
    if (rc && rc != CU_NOT_FOUND)
        return failed(l, rc, "a kernel can't be found", err);
    if (rc == CU_NOT_FOUND || !takes(*function, what->count))
        return tutti_error_set(err, -ENOENT, "GPU %d: there is no kernel %s of %u words",
                               cuda_driver.ordinal, what->kernel, what->count);
    if (l->functions < MOST_FUNCTIONS)
        l->function[l->functions++] = (struct function){what->kernel, *function};
    return 0;
}

static int launch_inside(struct cuda_launcher *l, const struct launch *what, uint64_t *ticket,
                         struct tutti_error *err)
{
    uint64_t word[LAUNCH_MOST_WORDS];
    void *parameter[LAUNCH_MOST_WORDS];
    cu_function function;
    cu_result rc;
    int status = find(l, what, &function, err);

    if (status < 0)
        return status;
    for (uint32_t i = 0; i < what->count; i++) {
        word[i] = what->word[i];
        parameter[i] = &word[i];
    }
    rc = cuda_driver.api.launch(function, what->warps, 1, 1, 32, 1, 1, 0, l->stream, parameter,
                                NULL);
    if (rc)
        return failed(l, rc, "a kernel can't be launched", err);
    *ticket = ++l->issued;
    /* Behind the kernel, its writes before it. Where this fails wait() finds the stream idle. */
    cuda_driver.api.write_value(l->stream, (uint64_t)(uintptr_t)l->done, (uint32_t)l->issued, 0);
    return 0;
}

static int cuda_launch(struct launcher *base, const struct launch *what, uint64_t *ticket,
                       struct tutti_error *err)
{
    struct cuda_launcher *l = of(base);
    struct cuda_inside inside;
    int status = is_broken(l, err);
    cu_result rc;

    if (status < 0)
        return status;
    if (what->count > LAUNCH_MOST_WORDS || what->warps < 1 || what->warps > LAUNCH_MOST_WARPS)
        return tutti_error_set(err, -EINVAL, "a launch of %u words and %u warps", what->count,
                               what->warps);
    rc = cuda_enter(&inside);
    if (rc)
        return failed(l, rc, "a kernel can't be launched", err);
    status = launch_inside(l, what, ticket, err);
    cuda_leave(&inside);
    return status;
}

/** Acquire: pairs with the stream's write behind the kernel. */
static bool has_ended(const struct cuda_launcher *l, uint64_t ticket)
{
    return (int32_t)(tutti_load_acquire(l->done) - (uint32_t)ticket) >= 0;
}

/** The word does not say so. Return: 0 it ended, 1 it goes on, or a negative errno. */
static int ask(struct cuda_launcher *l, uint64_t ticket, struct tutti_error *err)
{
    struct cuda_inside inside;
    cu_result rc = cuda_enter(&inside);

    if (rc == CU_OK) {
        rc = cuda_driver.api.stream_query(l->stream);
        cuda_leave(&inside);
    }
    if (rc && !is_sticky(rc))
        return 1; /* not ready, or an error of the question alone */
    if (rc)
        return failed(l, rc, "a kernel failed", err);
    if (has_ended(l, ticket))
        return 0;
    /* All of the stream is done and the word was not written: its end is known all the same. */
    tutti_store_release(l->done,
                        (uint32_t)l->issued); /* nothing else writes it: the stream is idle */
    return 0;
}

static int cuda_wait(struct launcher *base, uint64_t ticket, uint64_t timeout_ns,
                     struct tutti_error *err)
{
    struct cuda_launcher *l = of(base);
    uint64_t deadline = tutti_clock_after(tutti_clock_now(), timeout_ns);

    if (ticket == 0 || ticket > l->issued)
        return tutti_error_set(err, -EINVAL, "no launch has ticket %llu",
                               (unsigned long long)ticket);
    for (;;) {
        int rc;

        if (has_ended(l, ticket))
            return 0;
        rc = is_broken(l, err);
        rc = rc ? rc : ask(l, ticket, err);
        if (rc <= 0)
            return rc;
        if (tutti_clock_now() >= deadline)
            return tutti_error_set(err, -ETIMEDOUT, "GPU %d: a kernel has not ended after %.3f s",
                                   cuda_driver.ordinal, (double)timeout_ns / 1e9);
        nanosleep(&(struct timespec){.tv_nsec = LOOK_NS}, NULL);
    }
}

const struct launcher_type launcher_cuda = {
    .name = "cuda",
    .open = cuda_open,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .share = cuda_share,
    .unshare = cuda_unshare,
    .launch = cuda_launch,
    .wait = cuda_wait,
    .close = cuda_close,
};
