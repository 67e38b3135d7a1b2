/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cuda_driver.h: the CUDA driver, opened at run time, and the one GPU that this process uses.
 */
#ifndef TUTTI_DEVICE_CUDA_DRIVER_H
#define TUTTI_DEVICE_CUDA_DRIVER_H

#include "device/cuda_api.h"
#include "tutti/error.h"

/** @users: opens without a close, under the lock of cuda_driver.c; the rest is constant while any.
 */
struct cuda_driver {
    struct cuda_api api;
    int version;
    int ordinal;
    cu_device device;
    cu_context context;
    uint32_t users;
    char name[128];
};

extern struct cuda_driver cuda_driver;

/** As tutti_device_cuda_open(). */
int cuda_driver_open(int ordinal, struct tutti_error *err);
void cuda_driver_close(void);

/** Compose a message: what was asked of the GPU, what CUDA calls the answer. Return: its errno. */
int cuda_failed(struct tutti_error *err, cu_result result, const char *what, const char *remedy);

/**
 * Calls of ours have the GPU's context current, and spoil nobody's capture: in the global mode a
 * thread's harmless question ends another thread's graph. What was current comes back.
 */
struct cuda_inside {
    cu_context before;
    int mode;
};

/** Pin host memory at the address that it has (@flags more than that); the device's name of it. */
int cuda_pin(void *memory, size_t bytes, unsigned flags, cu_pointer *device,
             struct tutti_error *err);
void cuda_unpin(void *memory);

cu_result cuda_enter(struct cuda_inside *inside);
void cuda_leave(const struct cuda_inside *inside);

#endif
