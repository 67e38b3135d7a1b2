/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cuda_driver.c: finding the CUDA driver and keeping one GPU's context.
 *
 * Responsible for dlopen, entry points by version, and the sentences of CUDA's
 * errors; knows nothing of KV memory. The one idea: every entry point is asked for
 * with the version whose parameters we compiled, never with the driver's own, since a
 * newer driver gives newer parameters under the same name (cuMemcpyBatchAsync
 * lost one in 13.0).
 */
#include "device/cuda_driver.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct cuda_driver cuda_driver;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

int cuda_failed(struct tutti_error *err, cu_result result, const char *what, const char *remedy)
{
    const char *name = NULL;
    int code = result == CU_OUT_OF_MEMORY                                          ? -ENOMEM
               : result == CU_NOT_SUPPORTED                                        ? -ENOTSUP
               : result == CU_NO_DEVICE || result == CU_INVALID_DEVICE             ? -ENODEV
               : result == CU_CAPTURE_UNSUPPORTED || result == CU_CAPTURE_IMPLICIT ? -EBUSY
                                                                                   : -EIO;

    if (cuda_driver.api.error_name)
        cuda_driver.api.error_name(result, &name);
    return tutti_error_set(err, code, "GPU %d: %s: %s (%d)%s%s", cuda_driver.ordinal, what,
                           name ? name : "an error that the driver has no name for", result,
                           remedy ? "; " : "", remedy ? remedy : "");
}

/**
 * An entry point by name and version, or NULL. Not asked for where the driver is older: it would
 * give what it has under that name, with other parameters.
 */
static void *find(cu_proc_address *finder, const char *name, int version, int driver)
{
    void *call = NULL;
    int found;

    if (version > driver || finder(name, &call, version, CU_PROC_LEGACY_STREAM, &found) != CU_OK)
        return NULL;
    return call;
}

static int load(struct cuda_api *api, struct tutti_error *err)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    cu_proc_address *finder = NULL;
    void *symbol;
    int driver = 0;

    if (!library)
        return tutti_error_set(err, -ENODEV,
                               "no CUDA driver: %s; install NVIDIA's driver, or keep KV memory on "
                               "the host",
                               dlerror());
    symbol = dlsym(library, "cuGetProcAddress_v2");
    if (!symbol)
        symbol = dlsym(library, "cuGetProcAddress");
    if (!symbol) {
        dlclose(library);
        return tutti_error_set(err, -ENOTSUP,
                               "the CUDA driver is older than 11.3 (it has no cuGetProcAddress); "
                               "11.7 or newer is needed");
    }
    memcpy(&finder, &symbol, sizeof(finder));
    symbol = find(finder, "cuDriverGetVersion", 2020, 2020);
    if (symbol) {
        memcpy(&api->driver_version, &symbol, sizeof(api->driver_version));
        api->driver_version(&driver);
    }
#define LOAD(field, name, least, parameters)                                                       \
    symbol = find(finder, name, least, driver);                                                    \
    if (!symbol)                                                                                   \
        return tutti_error_set(                                                                    \
            err, -ENOTSUP, "the CUDA driver (%d.%d) has no %s of version %d.%d: update it",        \
            driver / 1000, driver % 1000 / 10, name, (least) / 1000, (least) % 1000 / 10);         \
    memcpy(&api->field, &symbol, sizeof(api->field));
    CUDA_CALLS(LOAD)
#undef LOAD
#define LOAD(field, name, least, parameters)                                                       \
    symbol = find(finder, name, least, driver);                                                    \
    memcpy(&api->field, &symbol, sizeof(api->field));
    CUDA_OPTIONAL_CALLS(LOAD)
#undef LOAD
    return 0;
}

static int open_device(struct cuda_driver *d, int ordinal, struct tutti_error *err)
{
    cu_result rc = d->api.init(0);
    int count = 0;

    d->ordinal = ordinal;
    if (rc == CU_OK)
        rc = d->api.driver_version(&d->version);
    if (rc == CU_OK)
        rc = d->api.device_count(&count);
    if (rc)
        return cuda_failed(err, rc, "the driver does not start", "see nvidia-smi");
    if (ordinal < 0 || ordinal >= count)
        return tutti_error_set(err, -ENODEV,
                               "no GPU %d: this process sees %d (see "
                               "CUDA_VISIBLE_DEVICES)",
                               ordinal, count);
    rc = d->api.device_get(&d->device, ordinal);
    if (rc == CU_OK)
        rc = d->api.device_name(d->name, sizeof(d->name), d->device);
    if (rc == CU_OK)
        rc = d->api.primary_retain(&d->context, d->device);
    return rc ? cuda_failed(err, rc, "its context can't be had", NULL) : 0;
}

int cuda_driver_open(int ordinal, struct tutti_error *err)
{
    struct cuda_driver *d = &cuda_driver;
    int rc = 0;

    pthread_mutex_lock(&lock);
    if (d->users > 0 && d->ordinal != ordinal)
        rc = tutti_error_set(err, -EBUSY,
                             "GPU %d is open in this process, and only one can be: GPU %d wants a "
                             "process of its own",
                             d->ordinal, ordinal);
    if (rc == 0 && !d->api.init) {
        struct cuda_api api = {0};

        rc = load(&api, err);
        if (rc == 0)
            d->api = api;
    }
    if (rc == 0 && d->users == 0)
        rc = open_device(d, ordinal, err);
    if (rc == 0)
        d->users++;
    pthread_mutex_unlock(&lock);
    return rc;
}

void cuda_driver_close(void)
{
    pthread_mutex_lock(&lock);
    if (cuda_driver.users > 0 && --cuda_driver.users == 0)
        cuda_driver.api.primary_release(cuda_driver.device);
    pthread_mutex_unlock(&lock);
}

/* Set and not pushed: a push whose pop fails would be one more on the stack each time. */

cu_result cuda_enter(struct cuda_inside *inside)
{
    cu_result rc = cuda_driver.api.context_current(&inside->before);

    if (rc == CU_OK && inside->before != cuda_driver.context)
        rc = cuda_driver.api.context_set(cuda_driver.context);
    inside->mode = CU_CAPTURE_RELAXED;
    if (rc == CU_OK)
        cuda_driver.api.capture_mode(&inside->mode); /* now what it was before */
    return rc;
}

void cuda_leave(const struct cuda_inside *inside)
{
    int mode = inside->mode;

    cuda_driver.api.capture_mode(&mode);
    if (inside->before != cuda_driver.context)
        cuda_driver.api.context_set(inside->before);
}

int cuda_pin(void *memory, size_t bytes, unsigned flags, cu_pointer *device,
             struct tutti_error *err)
{
    struct cuda_inside inside;
    cu_result rc = cuda_enter(&inside);

    if (rc == CU_OK) {
        rc = cuda_driver.api.host_register(memory, bytes,
                                           CU_HOST_PORTABLE | CU_HOST_DEVICEMAP | flags);
        if (rc == CU_OK) {
            rc = cuda_driver.api.host_pointer(device, memory, 0);
            if (rc)
                cuda_driver.api.host_unregister(memory);
        }
        cuda_leave(&inside);
    }
    return rc == CU_OK ? 0
                       : cuda_failed(err, rc, "host memory can't be pinned",
                                     "free memory, raise the limit of locked memory (ulimit -l), "
                                     "or ask for a smaller staging area");
}

void cuda_unpin(void *memory)
{
    struct cuda_inside inside;

    if (cuda_enter(&inside) != CU_OK)
        return;
    cuda_driver.api.host_unregister(memory);
    cuda_leave(&inside);
}
