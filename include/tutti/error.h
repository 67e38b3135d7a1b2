/* SPDX-License-Identifier: Apache-2.0 */
/*
 * error.h: how every public call says what went wrong.
 *
 * A call returns 0 (or a count) or a negative errno. Calls that can fail for a
 * reason that a person must act on also take a struct tutti_error, in which
 * the place that knows the facts composes one sentence: what was wrong, with
 * which file or device, at which offset, and what to do. The library prints
 * nothing.
 */
#ifndef TUTTI_ERROR_H
#define TUTTI_ERROR_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Bytes of a message, its terminating zero included. */
#define TUTTI_ERROR_MESSAGE 768

/**
 * struct tutti_error - the message that goes with a negative errno
 * @code: the negative errno that the call returned; 0 with a message where a
 *   call that succeeded gives a reason (tutti_serve_register())
 * @message: one sentence for a person
 *
 * Owned by the caller, may be NULL wherever it is taken. A call that has nothing
 * to say leaves it as it was: zero it before calls whose reason is wanted.
 */
struct tutti_error {
    int code;
    char message[TUTTI_ERROR_MESSAGE];
};

/**
 * tutti_error_compose() - compose a message
 * @err: where to, or NULL
 * @code: a negative errno
 * @format: printf format of the sentence
 */
void tutti_error_compose(struct tutti_error *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/**
 * tutti_error_set() - compose a message; its value is @code
 *
 * So a failing path reads "return tutti_error_set(err, -EINVAL, ...)". A macro,
 * for compilers and analysers to see that what comes out is what went in.
 */
#define tutti_error_set(err, code, ...)                                                            \
    __extension__({                                                                                \
        const int tutti_code_ = (code);                                                            \
        tutti_error_compose((err), tutti_code_, __VA_ARGS__);                                      \
        tutti_code_;                                                                               \
    })

#ifdef __cplusplus
}
#endif
#endif
