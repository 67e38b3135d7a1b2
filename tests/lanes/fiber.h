/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fiber.h: stacks, and stepping from one to another without a system call.
 *
 * swapcontext() saves the signal mask with one, which is most of its time; on
 * x86-64 a switch here is six registers, elsewhere it is swapcontext(). The
 * sanitizers are told.
 */
#ifndef TUTTI_TESTS_FIBER_H
#define TUTTI_TESTS_FIBER_H

#include <stddef.h>

/** A stack and where it was left. The private fields are fiber.c's. */
struct fiber {
    void *stack_pointer;
    void *stack;
    size_t bytes;
    void *sanitizer; /* TSan's fiber, ASan's fake stack */
    void *context;   /* ucontext_t where there is no switch of ours */
};

/** Where fiber_switch() came from: the thread's own stack. */
void fiber_here(struct fiber *here);
void fiber_gone(struct fiber *here);
/** Return: 0 or -ENOMEM. */
int fiber_new(struct fiber *f);
void fiber_free(struct fiber *f);
/** The next switch to it calls @function, which never returns. */
void fiber_start(struct fiber *f, void (*function)(void));
/** What @function does first. */
void fiber_begun(struct fiber *from);
void fiber_switch(struct fiber *from, struct fiber *to);

#endif
