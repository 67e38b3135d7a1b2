/* SPDX-License-Identifier: Apache-2.0 */
/* driver.h: the stand-in's calls by name, and waiting with a bound; for its tests. */
#ifndef TUTTI_TESTS_CUDA_DRIVER_H
#define TUTTI_TESTS_CUDA_DRIVER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <time.h>

#include "base/clock.h"
#include "control.h"

struct driver {
#define FIELD(field, name, version, parameters) cu_result(*field) parameters;
    CUDA_CALLS(FIELD)
    CUDA_OPTIONAL_CALLS(FIELD)
    STANDIN_CALLS(FIELD)
#undef FIELD
};

cu_result cuGetProcAddress_v2(const char *name, void **call, int version, uint64_t flags,
                              int *found);

/** All calls of the version that the tables name; NULL where the driver is older. */
static inline void driver_load(struct driver *d)
{
#define LOAD(field, name, version, parameters)                                                     \
    assert_int_equal(cuGetProcAddress_v2(name, (void **)&d->field, version, 0, &(int){0}), CU_OK);
    CUDA_CALLS(LOAD)
    CUDA_OPTIONAL_CALLS(LOAD)
    STANDIN_CALLS(LOAD)
#undef LOAD
}

/** A driver with the primary context current in this thread. */
static inline void driver_open(struct driver *d)
{
    cu_context context;

    driver_load(d);
    assert_int_equal(d->init(0), CU_OK);
    assert_int_equal(d->primary_retain(&context, 0), CU_OK);
    assert_int_equal(d->context_push(context), CU_OK);
}

/** Whether something becomes true within @ms. */
#define WITHIN(ms, condition)                                                                      \
    ({                                                                                             \
        uint64_t within_until = tutti_clock_now() + (uint64_t)(ms)*UINT64_C(1000000);              \
        bool within_is;                                                                            \
        while (!(within_is = (condition)) && tutti_clock_now() < within_until)                     \
            nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);                                \
        within_is;                                                                                 \
    })
#define SOON(condition) WITHIN(10000, condition)
/** That something does not happen can only be waited for; a broken rule shows at once. */
#define NEVER(condition) (!WITHIN(150, condition))

#endif
