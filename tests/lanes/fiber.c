/* SPDX-License-Identifier: Apache-2.0 */
/* fiber.c: see fiber.h. */
#include "lanes/fiber.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define TSAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define ASAN 1
#endif
#if defined(__SANITIZE_THREAD__)
#define TSAN 1
#endif

#ifdef ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef TSAN
#include <sanitizer/tsan_interface.h>
#endif

#define STACK_BYTES ((size_t)256 << 10)
#define GUARD_BYTES ((size_t)4096)

#if defined(__x86_64__)
void fiber_step(void **from, void *to);
__asm__(".text\n"
        ".globl fiber_step\n"
        ".type fiber_step, @function\n"
        "fiber_step:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".size fiber_step, . - fiber_step\n");
#endif

void fiber_here(struct fiber *here)
{
    memset(here, 0, sizeof(*here));
#ifndef __x86_64__
    here->context = calloc(1, sizeof(ucontext_t));
#endif
#ifdef TSAN
    here->sanitizer = __tsan_get_current_fiber();
#endif
}

void fiber_gone(struct fiber *here)
{
    free(here->context);
}

/* Stacks that are not in use, for the next run: a warp has 32. */
static pthread_mutex_t spare_lock = PTHREAD_MUTEX_INITIALIZER;
static void *spare[2048];
static uint32_t spares;

static void *stack_new(void)
{
    void *stack = NULL;

    pthread_mutex_lock(&spare_lock);
    if (spares > 0)
        stack = spare[--spares];
    pthread_mutex_unlock(&spare_lock);
    if (stack)
        return stack;
    stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED)
        return NULL;
    mprotect(stack, GUARD_BYTES, PROT_NONE);
    return stack;
}

static void stack_free(void *stack)
{
    pthread_mutex_lock(&spare_lock);
    if (spares < sizeof(spare) / sizeof(spare[0])) {
        spare[spares++] = stack;
        stack = NULL;
    }
    pthread_mutex_unlock(&spare_lock);
    if (stack)
        munmap(stack, STACK_BYTES);
}

int fiber_new(struct fiber *f)
{
    memset(f, 0, sizeof(*f));
    f->bytes = STACK_BYTES;
    f->stack = stack_new();
    if (!f->stack)
        return -ENOMEM;
#ifndef __x86_64__
    f->context = calloc(1, sizeof(ucontext_t));
#endif
    return 0;
}

void fiber_free(struct fiber *f)
{
#ifdef TSAN
    if (f->sanitizer)
        __tsan_destroy_fiber(f->sanitizer);
#endif
    free(f->context);
    if (f->stack)
        stack_free(f->stack);
}

void fiber_start(struct fiber *f, void (*function)(void))
{
#ifdef ASAN
    /* A lane that was left in the middle left its frames marked. */
    __asan_unpoison_memory_region((char *)f->stack + GUARD_BYTES, f->bytes - GUARD_BYTES);
#endif
#if defined(__x86_64__)
    uintptr_t *top = (uintptr_t *)(void *)((char *)f->stack + f->bytes);

    *--top = 0; /* the function is entered as by a call: its stack is 8 off 16 */
    *--top = (uintptr_t)function;
    for (int i = 0; i < 6; i++)
        *--top = 0;
    f->stack_pointer = top;
#else
    ucontext_t *c = f->context;

    getcontext(c);
    c->uc_stack.ss_sp = f->stack;
    c->uc_stack.ss_size = f->bytes;
    c->uc_link = NULL;
    makecontext(c, function, 0);
#endif
#ifdef TSAN
    if (f->sanitizer)
        __tsan_destroy_fiber(f->sanitizer);
    f->sanitizer = __tsan_create_fiber(0);
#endif
#ifdef ASAN
    f->sanitizer = NULL;
#endif
}

void fiber_begun(struct fiber *from)
{
#ifdef ASAN
    const void *stack;
    size_t bytes;

    __sanitizer_finish_switch_fiber(NULL, &stack, &bytes);
    from->stack = (void *)(uintptr_t)stack; /* the thread's own: not ours to know before */
    from->bytes = bytes;
#else
    (void)from;
#endif
}

void fiber_switch(struct fiber *from, struct fiber *to)
{
#ifdef ASAN
    __sanitizer_start_switch_fiber(&from->sanitizer, to->stack, to->bytes);
#endif
#ifdef TSAN
    __tsan_switch_to_fiber(to->sanitizer, 0);
#endif
#if defined(__x86_64__)
    fiber_step(&from->stack_pointer, to->stack_pointer);
#else
    swapcontext(from->context, to->context);
#endif
#ifdef ASAN
    __sanitizer_finish_switch_fiber(from->sanitizer, NULL, NULL);
#endif
}
