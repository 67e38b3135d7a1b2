/* SPDX-License-Identifier: Apache-2.0 */
/*
 * input.h: what all fuzz targets share: an input read as numbers, and claims.
 *
 * An input is a program: a target takes numbers from it one by one and does what
 * they say. Where it ends, zeros follow, so every input means something and a
 * shorter one means less.
 */
#ifndef TUTTI_TESTS_FUZZ_INPUT_H
#define TUTTI_TESTS_FUZZ_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    const uint8_t *at;
    size_t left;
};

/** The next number of @bytes bytes, little-endian. */
static inline uint64_t take(struct input *in, size_t bytes)
{
    size_t there = bytes < in->left ? bytes : in->left;
    uint64_t value = 0;

    memcpy(&value, in->at, there);
    in->at += there;
    in->left -= there;
    return value;
}

static inline uint32_t take_below(struct input *in, uint32_t limit)
{
    return (uint32_t)take(in, 1) % limit;
}

/** Values at which arithmetic breaks, or any. */
static inline uint64_t take_value(struct input *in)
{
    uint64_t how = take(in, 1);

    switch (how >> 6) {
    case 0:
        return how & 63;
    case 1:
        return (UINT64_C(1) << (how & 63)) - 1;
    case 2:
        return UINT64_C(1) << (how & 63);
    default:
        return take(in, 1 + (how & 7));
    }
}

/** What was parsed, where an input holds many: records that are not blank, ring entries issued. */
extern uint64_t parsed;

/** Loops over bytes from whose branches the fuzzer learns nothing, and which it would pay for. */
#define UNTRACED __attribute__((no_sanitize("coverage")))

/** What must hold whatever the input; libFuzzer keeps the input where it does not. */
#define CLAIM(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s: ", __FILE__, __LINE__, #condition);                \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fputc('\n', stderr);                                                                   \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#endif
