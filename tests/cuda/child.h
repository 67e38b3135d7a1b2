/* SPDX-License-Identifier: Apache-2.0 */
/* child.h: a test's body in a process of its own, for a driver is opened once in a process. */
#ifndef TUTTI_TESTS_CUDA_CHILD_H
#define TUTTI_TESTS_CUDA_CHILD_H

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "driver.h"

/** Run a test's body in a child. Return: what it exits with. */
static inline int in_a_child(int (*body)(uint64_t), uint64_t argument)
{
    pid_t child = fork();
    int status = -1;

    if (child == 0) {
        alarm(60);
        _exit(body(argument));
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

#define CLAIM(claim)                                                                               \
    do {                                                                                           \
        if (!(claim)) {                                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #claim);                    \
            return 99;                                                                             \
        }                                                                                          \
    } while (0)

#endif
