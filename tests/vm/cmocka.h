/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmocka.h: what the rig of the serving level's tests takes of cmocka, over CHECK: the guest is
 * linked statically, and each of its tests is a process of its own.
 */
#ifndef TESTS_VM_CMOCKA_H
#define TESTS_VM_CMOCKA_H

#include "guest.h"

#define assert_true(condition) CHECK(condition)
#define assert_non_null(pointer) CHECK((pointer) != NULL)
#define assert_int_equal(a, b)                                                                     \
    do {                                                                                           \
        const long long one_ = (long long)(a), other_ = (long long)(b);                            \
        CHECK(one_ == other_, "%lld, not %lld: %s", one_, other_, #a);                             \
    } while (0)
#define fail_msg(...)                                                                              \
    do {                                                                                           \
        printf("  %s:%d: ", __FILE__, __LINE__);                                                   \
        printf(__VA_ARGS__);                                                                       \
        printf("\n");                                                                              \
        test_failed();                                                                             \
    } while (0)

#endif
