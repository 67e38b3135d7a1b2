/* SPDX-License-Identifier: Apache-2.0 */
/*
 * machine.c: see machine.h. Fibers are ucontexts; the clock is a number; what
 * the product calls of the system's is here under the linker's __wrap_ names.
 */
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "dice.h"
#include "disk.h"

#if defined(__SANITIZE_ADDRESS__)
#define FIBERS_TOLD 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FIBERS_TOLD 1
#endif
#endif
#ifdef FIBERS_TOLD
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

enum { FIBERS = 24, STACK = 256 << 10, BELLS = 32, FIRST_BELL = 1 << 20 };
enum { TURNS_WITHOUT_TIME = 2000000 };

struct fiber {
    ucontext_t context;
    void *stack;
    size_t stack_bytes;
    const void *bottom;
    void *fake;
    void *(*run)(void *);
    void *argument;
    bool used;
    bool ended;
    bool engine;
    machine_ready ready;
    void *waits_for;
    uint64_t until;
};

uint64_t dice_state;

static struct fiber fibers[FIBERS]; /* the first one is main's */
static struct fiber *current = &fibers[0];
static uint64_t now;
static uint64_t turns; /* since the clock moved */
static uint32_t preemption;
static bool bell_used[BELLS], bell_rung[BELLS];

/* Fibers. */

static bool yes(void *argument)
{
    (void)argument;
    return true;
}

static bool no(void *argument)
{
    (void)argument;
    return false;
}

#ifdef FIBERS_TOLD
static void arrive(struct fiber *from)
{
    __sanitizer_finish_switch_fiber(current->fake, from ? &from->bottom : NULL,
                                    from ? &from->stack_bytes : NULL);
}

static void leave(struct fiber *from, const struct fiber *to)
{
    __sanitizer_start_switch_fiber(from->ended ? NULL : &from->fake, to->bottom, to->stack_bytes);
}
#else
static void arrive(struct fiber *from)
{
    (void)from;
}

static void leave(const struct fiber *from, const struct fiber *to)
{
    (void)from;
    (void)to;
}
#endif

void machine_at_death(void (*call)(void))
{
#ifdef FIBERS_TOLD
    __sanitizer_set_death_callback(call);
#else
    (void)call;
#endif
}

static void switch_to(struct fiber *to)
{
    struct fiber *from = current;

    if (from == to)
        return;
    current = to;
    leave(from, to);
    swapcontext(&from->context, &to->context);
    arrive(NULL);
}

/** Who goes on; the clock moves when nobody may. */
static struct fiber *next_fiber(void)
{
    struct fiber *able[FIBERS];

    for (;;) {
        uint64_t event = disk_next_event();
        uint32_t count = 0;

        for (uint32_t i = 0; i < FIBERS; i++) {
            struct fiber *f = &fibers[i];

            if (!f->used || f->ended)
                continue;
            if (f->until <= now || f->ready(f->waits_for))
                able[count++] = f;
            else if (f->until < event)
                event = f->until;
        }
        if (count > 0) {
            if (++turns > TURNS_WITHOUT_TIME)
                sim_fail("somebody goes round and round and the clock stands still");
            return able[count > 1 ? dice_below(count) : 0];
        }
        if (event == NEVER)
            sim_fail("nothing can go on: somebody waits for what never happens");
        turns = 0;
        if (event > now)
            now = event;
        disk_fire(now);
    }
}

bool machine_wait(machine_ready ready, void *argument, uint64_t until)
{
    current->ready = ready;
    current->waits_for = argument;
    current->until = until;
    switch_to(next_fiber());
    return ready(argument);
}

void machine_sleep(uint64_t ns)
{
    machine_wait(no, NULL, now + ns);
}

void machine_yield(void)
{
    machine_wait(yes, NULL, NEVER);
}

void machine_preempt(void)
{
    if (current->engine && dice_chance(preemption))
        machine_yield();
}

static void begin_fiber(void)
{
    arrive(fibers[0].bottom ? NULL : &fibers[0]);
    current->run(current->argument);
    current->ended = true;
    switch_to(next_fiber());
}

struct fiber *machine_start(void *(*run)(void *), void *argument)
{
    uint32_t i = 1;
    struct fiber *f;

    while (i < FIBERS && fibers[i].used)
        i++;
    if (i == FIBERS)
        sim_fail("more fibers than the machine has");
    f = &fibers[i];
    if (!f->stack) {
        f->stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (f->stack == MAP_FAILED)
            sim_fail("no memory for a stack");
    }
#ifdef FIBERS_TOLD
    __asan_unpoison_memory_region(f->stack, STACK);
#endif
    *f = (struct fiber){.stack = f->stack,
                        .stack_bytes = STACK,
                        .bottom = f->stack,
                        .run = run,
                        .argument = argument,
                        .used = true,
                        .ready = yes};
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = STACK;
    makecontext(&f->context, begin_fiber, 0);
    return f;
}

bool machine_ended(const struct fiber *fiber)
{
    return fiber->ended;
}

void machine_kill(struct fiber *fiber)
{
    fiber->used = false;
}

uint32_t machine_engine_threads(void **argument, uint32_t most)
{
    uint32_t count = 0;

    for (uint32_t i = 1; i < FIBERS; i++)
        if (fibers[i].used && fibers[i].engine && !fibers[i].ended && count < most)
            argument[count++] = fibers[i].argument;
    return count;
}

void machine_begin(uint32_t preempt)
{
    fibers[0].used = true;
    for (uint32_t i = 1; i < FIBERS; i++)
        fibers[i].used = false;
    memset(bell_used, 0, sizeof(bell_used));
    now = SECOND;
    turns = 0;
    preemption = preempt;
}

uint64_t machine_now(void)
{
    return now;
}

bool machine_rung(int fd)
{
    return bell_rung[fd - FIRST_BELL];
}

void machine_silence(int fd)
{
    bell_rung[fd - FIRST_BELL] = false;
}

/* What the product calls. */

int __real_clock_gettime(clockid_t clock, struct timespec *t);
ssize_t __real_write(int fd, const void *data, size_t bytes);
int __real_close(int fd);
int __real_posix_memalign(void **memory, size_t alignment, size_t bytes);
int __real_fcntl64(int fd, int operation, ...);

int __wrap_clock_gettime(clockid_t clock, struct timespec *t);
int __wrap_nanosleep(const struct timespec *t, struct timespec *left);
time_t __wrap_time(time_t *t);
long __wrap_syscall(long number, ...);
ssize_t __wrap_getrandom(void *data, size_t bytes, unsigned flags);
int __wrap_eventfd(unsigned count, int flags);
ssize_t __wrap_write(int fd, const void *data, size_t bytes);
int __wrap_close(int fd);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t bytes);
int __wrap_fcntl64(int fd, int operation, ...);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument);
int __wrap_pthread_join(pthread_t thread, void **result);
int __wrap_pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *lock);
int __wrap_pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *lock,
                                  const struct timespec *until);
int __wrap_pthread_detach(pthread_t thread);
int __wrap_pthread_setname_np(pthread_t thread, const char *name);

uint64_t machine_real_now(void)
{
    struct timespec t;

    __real_clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *t)
{
    (void)clock;
    machine_preempt();
    t->tv_sec = (time_t)(now / SECOND);
    t->tv_nsec = (long)(now % SECOND);
    return 0;
}

time_t __wrap_time(time_t *t)
{
    (void)t;
    return 1700000000;
}

int __wrap_nanosleep(const struct timespec *t, struct timespec *left)
{
    (void)left;
    machine_sleep((uint64_t)t->tv_sec * SECOND + (uint64_t)t->tv_nsec);
    return 0;
}

struct word {
    const uint32_t *at;
    uint32_t value;
};

static bool word_changed(void *argument)
{
    const struct word *word = argument;

    return *word->at != word->value;
}

/** Of all system calls by number, the library makes futex(): waits of one word. */
long __wrap_syscall(long number, ...)
{
    const struct timespec *t;
    struct word word;
    va_list list;
    int operation;

    va_start(list, number);
    word.at = va_arg(list, uint32_t *);
    operation = va_arg(list, int);
    word.value = va_arg(list, uint32_t);
    t = va_arg(list, const struct timespec *);
    va_end(list);
    if (number != SYS_futex)
        sim_fail("system call %ld", number);
    if (operation == FUTEX_WAIT_PRIVATE)
        machine_wait(word_changed, &word,
                     now + (uint64_t)t->tv_sec * SECOND + (uint64_t)t->tv_nsec);
    return 0;
}

/** Of the run's, so that the salt of a table is the same each time. */
ssize_t __wrap_getrandom(void *data, size_t bytes, unsigned flags)
{
    uint8_t *at = data;

    (void)flags;
    for (size_t i = 0; i < bytes; i++)
        at[i] = (uint8_t)dice_draw();
    return (ssize_t)bytes;
}

int __wrap_eventfd(unsigned count, int flags)
{
    (void)count;
    (void)flags;
    for (int i = 0; i < BELLS; i++)
        if (!bell_used[i]) {
            bell_used[i] = true;
            bell_rung[i] = false;
            return FIRST_BELL + i;
        }
    sim_fail("eventfds are left open");
}

ssize_t __wrap_write(int fd, const void *data, size_t bytes)
{
    if (fd < FIRST_BELL)
        return __real_write(fd, data, bytes);
    bell_rung[fd - FIRST_BELL] = true;
    return (ssize_t)bytes;
}

int __wrap_close(int fd)
{
    if (fd >= FIRST_BELL) {
        bell_used[fd - FIRST_BELL] = false;
        return 0;
    }
    disk_forget(fd);
    return __real_close(fd);
}

/** What a read that moves nothing leaves is the same each time. */
int __wrap_posix_memalign(void **memory, size_t alignment, size_t bytes)
{
    int rc = __real_posix_memalign(memory, alignment, bytes);

    if (rc == 0)
        memset(*memory, 0xa5, bytes);
    return rc;
}

/** No direct I/O on the files that stand for disks: the same on every file system. */
int __wrap_fcntl64(int fd, int operation, ...)
{
    va_list list;
    void *argument;

    va_start(list, operation);
    argument = va_arg(list, void *);
    va_end(list);
    if (operation == F_SETFL && ((long)argument & O_DIRECT)) {
        errno = EINVAL;
        return -1;
    }
    return __real_fcntl64(fd, operation, argument);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument)
{
    struct fiber *f = machine_start(run, argument);

    (void)attributes;
    f->engine = true;
    *thread = (pthread_t)(uintptr_t)f;
    return 0;
}

static bool fiber_ended(void *argument)
{
    return ((struct fiber *)argument)->ended;
}

int __wrap_pthread_join(pthread_t thread, void **result)
{
    struct fiber *f = (struct fiber *)(uintptr_t)thread;

    (void)result;
    machine_wait(fiber_ended, f, NEVER);
    f->used = false;
    return 0;
}

/** Spurious each time, which callers must bear. */
int __wrap_pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *lock)
{
    (void)condition;
    pthread_mutex_unlock(lock);
    machine_yield();
    pthread_mutex_lock(lock);
    return 0;
}

/** The same, a millisecond apart, so that time goes on. */
int __wrap_pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *lock,
                                  const struct timespec *until)
{
    uint64_t end = (uint64_t)until->tv_sec * SECOND + (uint64_t)until->tv_nsec;

    (void)condition;
    if (now >= end)
        return ETIMEDOUT;
    pthread_mutex_unlock(lock);
    machine_sleep(SECOND / 1000);
    pthread_mutex_lock(lock);
    return 0;
}

/** It goes on until its life ends. */
int __wrap_pthread_detach(pthread_t thread)
{
    (void)thread;
    return 0;
}

int __wrap_pthread_setname_np(pthread_t thread, const char *name)
{
    (void)thread;
    (void)name;
    return 0;
}

/* The trace. */

enum { TAIL = 4096, SHOWN = 80 };

static struct event {
    uint64_t at;
    const char *what;
    uint64_t number[4];
} tail[TAIL];
static uint64_t events;
static uint64_t hash;

void trace_begin(void)
{
    events = 0;
    hash = 0;
}

void trace(const char *what, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    struct event *e = &tail[events++ % TAIL];

    *e = (struct event){now, what, {a, b, c, d}};
    hash = dice_mix(hash ^ now ^ (uint64_t)(unsigned char)what[0] << 56 ^ a << 40 ^ b << 27 ^
                    c << 13 ^ d) +
           events;
}

uint64_t trace_hash(void)
{
    return hash;
}

void trace_print(void)
{
    const char *asked = getenv("SIM_TAIL");
    uint64_t shown = asked ? strtoull(asked, NULL, 10) : SHOWN;

    if (shown > TAIL)
        shown = TAIL;
    if (shown > events)
        shown = events;
    for (uint64_t i = events - shown; i < events; i++) {
        const struct event *e = &tail[i % TAIL];

        fprintf(stderr, "%12.3f us  ", (double)(e->at - SECOND) / 1e3);
        fprintf(stderr, "%s %lu %lu %lu %lu", e->what, e->number[0], e->number[1], e->number[2],
                e->number[3]);
        fputc('\n', stderr);
    }
}
