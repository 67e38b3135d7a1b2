/* SPDX-License-Identifier: Apache-2.0 */
/* kth.c: see kth.h. */
#include "kth.h"

#include <fcntl.h>
#include <liburing.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "engine/backend.h"

enum { LOOKS = 50, RINGS = 64, SECTOR = 512 };

/* The failure that is armed. Its words are read by any thread; what is held, under the lock. */
static struct {
    int armed;
    unsigned what;
    int how;
    bool on; /* all from the k-th on */
    uint64_t k;
    uint64_t left;
    uint64_t met;
    const char *call; /* that failed last, for a person: KTH_TRACE=1 tells each */
    uint64_t runs;
    int fast;
    uint64_t clock; /* ns that the clock is ahead */
    pthread_mutex_t lock;
    pthread_cond_t released;
    int held; /* what is late or never: looks to go, or -1; 0 for none */
    struct io_uring *ring;
    struct io_uring_cqe completion; /* the one that is held, of @ring */
} state = {.lock = PTHREAD_MUTEX_INITIALIZER, .released = PTHREAD_COND_INITIALIZER};

/* A thread that sees a failure armed sees which one. */
#define GET(word) __atomic_load_n(&state.word, __ATOMIC_ACQUIRE)
#define PUT(word, value) __atomic_store_n(&state.word, (value), __ATOMIC_RELEASE)

static void first(unsigned what, int how, bool on)
{
    PUT(what, what);
    PUT(how, how);
    PUT(on, on);
    PUT(k, 0);
    PUT(met, 1); /* so that there is a first run */
    PUT(runs, 0);
}

void kth_every(unsigned what, int how)
{
    first(what, how, false);
}

void kth_from_every(unsigned what, int how)
{
    first(what, how, true);
}

bool kth_more(void)
{
    if (GET(met) == 0)
        return false;
    PUT(k, GET(k) + 1);
    PUT(met, 0);
    return true;
}

void kth_arm(void)
{
    PUT(left, GET(k));
    PUT(armed, 1); /* pairs with fails() */
}

bool kth_disarm(void)
{
    PUT(armed, 0);
    if (getenv("KTH_TRACE"))
        fprintf(stderr, "%llu: %s\n", (unsigned long long)GET(k), GET(call) ? GET(call) : "-");
    PUT(runs, GET(runs) + (GET(met) > 0));
    return GET(met) > 0;
}

uint64_t kth_met(void)
{
    return GET(runs);
}

void kth_fast_clock(bool on)
{
    PUT(fast, on);
}

bool kth_holds(void)
{
    bool holds;

    pthread_mutex_lock(&state.lock);
    holds = state.held != 0;
    pthread_mutex_unlock(&state.lock);
    return holds;
}

void kth_release(void)
{
    pthread_mutex_lock(&state.lock);
    if (state.held < 0)
        state.held = 1;
    pthread_cond_broadcast(&state.released);
    pthread_mutex_unlock(&state.lock);
}

/** Count one; whether it is the one. */
static bool is_it(unsigned what)
{
    uint64_t left;

    if (!GET(armed) || !(GET(what) & what))
        return false;
    left = __atomic_fetch_sub(&state.left, 1, __ATOMIC_RELAXED);
    if (left != 1 && !(GET(on) && (int64_t)left < 1))
        return false;
    PUT(met, 1);
    return true;
}

static bool fails(unsigned what, const char *call)
{
    if (!is_it(what))
        return false;
    PUT(call, call);
    errno = what == KTH_MEMORY ? ENOMEM : GET(how) > 0 ? GET(how) : EIO;
    return true;
}

#define WRAP(what, result, failed, name, parameters, arguments)                                    \
    result __real_##name parameters;                                                               \
    result __wrap_##name parameters;                                                               \
    result __wrap_##name parameters                                                                \
    {                                                                                              \
        return fails(what, #name) ? (failed) : __real_##name arguments;                            \
    }

WRAP(KTH_MEMORY, void *, NULL, malloc, (size_t bytes), (bytes))
WRAP(KTH_MEMORY, void *, NULL, calloc, (size_t n, size_t bytes), (n, bytes))
WRAP(KTH_MEMORY, void *, NULL, realloc, (void *memory, size_t bytes), (memory, bytes))
WRAP(KTH_MEMORY, void *, NULL, aligned_alloc, (size_t at, size_t bytes), (at, bytes))
WRAP(KTH_MEMORY, int, ENOMEM, posix_memalign, (void **out, size_t at, size_t bytes),
     (out, at, bytes))
WRAP(KTH_MEMORY, char *, NULL, strdup, (const char *text), (text))
WRAP(KTH_MEMORY, char *, NULL, strndup, (const char *text, size_t bytes), (text, bytes))
WRAP(KTH_MEMORY, char *, NULL, realpath, (const char *path, char *out), (path, out))
WRAP(KTH_MEMORY, void *, MAP_FAILED, mmap64,
     (void *at, size_t bytes, int prot, int flags, int fd, off_t offset),
     (at, bytes, prot, flags, fd, offset))

int __wrap_asprintf(char **out, const char *format, ...) __attribute__((format(printf, 2, 3)));
int __wrap_asprintf(char **out, const char *format, ...)
{
    va_list arguments;
    int n;

    if (fails(KTH_MEMORY, "asprintf"))
        return -1;
    va_start(arguments, format);
    n = vasprintf(out, format, arguments);
    va_end(arguments);
    return n;
}

WRAP(KTH_SYSTEM, int, -1, access, (const char *path, int mode), (path, mode))
WRAP(KTH_SYSTEM, int, -1, eventfd, (unsigned value, int flags), (value, flags))
WRAP(KTH_SYSTEM, int, -1, fchmod, (int fd, mode_t mode), (fd, mode))
WRAP(KTH_SYSTEM, int, -1, flock, (int fd, int operation), (fd, operation))
WRAP(KTH_SYSTEM, int, -1, fstat64, (int fd, struct stat *st), (fd, st))
WRAP(KTH_SYSTEM, int, -1, fstatfs64, (int fd, struct statfs *st), (fd, st))
WRAP(KTH_SYSTEM, int, -1, ftruncate64, (int fd, off_t bytes), (fd, bytes))
WRAP(KTH_SYSTEM, ssize_t, -1, getrandom, (void *out, size_t bytes, unsigned flags),
     (out, bytes, flags))
WRAP(KTH_SYSTEM, int, -1, link, (const char *from, const char *to), (from, to))
WRAP(KTH_SYSTEM, int, -1, lstat64, (const char *path, struct stat *st), (path, st))
WRAP(KTH_SYSTEM, int, -1, mkdir, (const char *path, mode_t mode), (path, mode))
WRAP(KTH_SYSTEM, int, -1, mkostemp64, (char *name, int flags), (name, flags))
WRAP(KTH_SYSTEM, int, EAGAIN, pthread_create,
     (pthread_t * thread, const pthread_attr_t *a, void *(*run)(void *), void *argument),
     (thread, a, run, argument))
WRAP(KTH_SYSTEM, int, -1, rename, (const char *from, const char *to), (from, to))
WRAP(KTH_SYSTEM, int, -1, renameat2,
     (int a, const char *from, int b, const char *to, unsigned flags), (a, from, b, to, flags))
WRAP(KTH_SYSTEM, int, -1, stat64, (const char *path, struct stat *st), (path, st))
WRAP(KTH_SYSTEM, int, -1, statx,
     (int fd, const char *path, int flags, unsigned mask, struct statx *st),
     (fd, path, flags, mask, st))
WRAP(KTH_SYSTEM, int, -1, unlink, (const char *path), (path))

/* Flushes: counted, and no more than that. */
#define FLUSH(name)                                                                                \
    int __wrap_##name(int fd);                                                                     \
    int __wrap_##name(int fd)                                                                      \
    {                                                                                              \
        (void)fd;                                                                                  \
        return fails(KTH_SYSTEM, #name) ? -1 : 0;                                                  \
    }

/* A descriptor is gone whatever close() says. */
int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd)
{
    int rc = __real_close(fd);

    return fails(KTH_SYSTEM, "close") ? -1 : rc;
}

FLUSH(fsync)
FLUSH(fdatasync)

/* Room is promised, and none is taken: a pool of some MiB is made a thousand times. */
int __real_fallocate64(int fd, int mode, off_t at, off_t bytes);
int __wrap_fallocate64(int fd, int mode, off_t at, off_t bytes);
int __wrap_fallocate64(int fd, int mode, off_t at, off_t bytes)
{
    struct stat st;

    if (fails(KTH_SYSTEM, "fallocate64"))
        return -1;
    if (mode != 0 || __real_fstat64(fd, &st) < 0 || at + bytes <= st.st_size)
        return __real_fallocate64(fd, mode, at, bytes);
    return __real_ftruncate64(fd, at + bytes);
}

/* Calls with an argument more or less. */
#define VARIADIC(name, first, type)                                                                \
    int __real_##name(first a, type b, ...);                                                       \
    int __wrap_##name(first a, type b, ...);                                                       \
    int __wrap_##name(first a, type b, ...)                                                        \
    {                                                                                              \
        va_list arguments;                                                                         \
        unsigned long c;                                                                           \
                                                                                                   \
        va_start(arguments, b);                                                                    \
        c = va_arg(arguments, unsigned long);                                                      \
        va_end(arguments);                                                                         \
        return fails(KTH_SYSTEM, #name) ? -1 : __real_##name(a, b, c);                             \
    }

VARIADIC(open64, const char *, int)
VARIADIC(fcntl64, int, int)
VARIADIC(ioctl, int, unsigned long)

/* Reads and writes of the pool's own: an error, or half. */
#define MOVE(name, parameters, arguments, half)                                                    \
    ssize_t __real_##name parameters;                                                              \
    ssize_t __wrap_##name parameters;                                                              \
    ssize_t __wrap_##name parameters                                                               \
    {                                                                                              \
        if (fails(KTH_SYSTEM, #name)) {                                                            \
            if (GET(how) == KTH_NOTHING)                                                           \
                return 0;                                                                          \
            if (GET(how) != KTH_SHORT)                                                             \
                return -1;                                                                         \
            bytes = bytes > 512 ? bytes / 2 / 512 * 512 : bytes / 2;                               \
            return bytes ? __real_##name half : 0;                                                 \
        }                                                                                          \
        return __real_##name arguments;                                                            \
    }

MOVE(pread64, (int fd, void *data, size_t bytes, off_t at), (fd, data, bytes, at),
     (fd, data, bytes, at))
MOVE(pwrite64, (int fd, const void *data, size_t bytes, off_t at), (fd, data, bytes, at),
     (fd, data, bytes, at))

/* The same for files; what goes to an eventfd does not fail. */
static bool is_file(int fd)
{
    struct stat st;

    return __real_fstat64(fd, &st) == 0 && S_ISREG(st.st_mode);
}

ssize_t __real_read(int fd, void *data, size_t bytes);
ssize_t __wrap_read(int fd, void *data, size_t bytes);
ssize_t __wrap_read(int fd, void *data, size_t bytes)
{
    if (is_file(fd) && fails(KTH_SYSTEM, "read"))
        return GET(how) == KTH_SHORT ? __real_read(fd, data, bytes / 2) : -1;
    return __real_read(fd, data, bytes);
}

ssize_t __real_write(int fd, const void *data, size_t bytes);
ssize_t __wrap_write(int fd, const void *data, size_t bytes);
ssize_t __wrap_write(int fd, const void *data, size_t bytes)
{
    if (is_file(fd) && fails(KTH_SYSTEM, "write"))
        return GET(how) == KTH_NOTHING ? 0
               : GET(how) == KTH_SHORT ? __real_write(fd, data, bytes / 2)
                                       : -1;
    return __real_write(fd, data, bytes);
}

/* io_uring: what is set up, and what is handed over. */
#define URING(name, parameters, arguments)                                                         \
    int __real_##name parameters;                                                                  \
    int __wrap_##name parameters;                                                                  \
    int __wrap_##name parameters                                                                   \
    {                                                                                              \
        return fails(KTH_SYSTEM, #name) ? -errno : __real_##name arguments;                        \
    }

URING(io_uring_queue_init_params,
      (unsigned depth, struct io_uring *ring, struct io_uring_params *params),
      (depth, ring, params))
URING(io_uring_register_buffers,
      (struct io_uring * ring, const struct iovec *memory, unsigned count), (ring, memory, count))
URING(io_uring_register_buffers_sparse, (struct io_uring * ring, unsigned count), (ring, count))
URING(io_uring_register_buffers_update_tag,
      (struct io_uring * ring, unsigned at, const struct iovec *memory, const __u64 *tags,
       unsigned count),
      (ring, at, memory, tags, count))
/* Which file is behind a ring, for what a failed write leaves there. */
static struct {
    struct io_uring *ring;
    int fd;
} behind[RINGS];

int __real_io_uring_register_files(struct io_uring *ring, const int *files, unsigned count);
int __wrap_io_uring_register_files(struct io_uring *ring, const int *files, unsigned count);
int __wrap_io_uring_register_files(struct io_uring *ring, const int *files, unsigned count)
{
    int i = 0;

    pthread_mutex_lock(&state.lock);
    while (i < RINGS - 1 && behind[i].ring && behind[i].ring != ring)
        i++;
    behind[i].ring = ring;
    behind[i].fd = files[0];
    pthread_mutex_unlock(&state.lock);
    return fails(KTH_SYSTEM, "io_uring_register_files")
               ? -errno
               : __real_io_uring_register_files(ring, files, count);
}

ssize_t __real_pwrite64(int fd, const void *data, size_t bytes, off_t at);

/** What was not moved is not there: another content in memory, or on disk. Under the lock. */
static void undo(struct io_uring *ring, const struct command *c, uint32_t moved)
{
    static unsigned char sector[SECTOR] __attribute__((aligned(4096)));
    size_t at = 0;
    int i = 0;

    for (uint32_t k = 0; c->direction == TUTTI_READ && k < c->segments; k++) {
        size_t skip = at < moved ? moved - at : 0;

        if (skip < c->iov[k].iov_len)
            memset((char *)c->iov[k].iov_base + skip, 0x5a, c->iov[k].iov_len - skip);
        at += c->iov[k].iov_len;
    }
    while (i < RINGS - 1 && behind[i].ring != ring)
        i++;
    memset(sector, 0x5a, sizeof(sector));
    if (c->direction == TUTTI_WRITE && behind[i].ring == ring &&
        __real_pwrite64(behind[i].fd, sector, SECTOR, (off_t)(c->offset + moved)) != SECTOR)
        abort();
}
URING(io_uring_register_ring_fd, (struct io_uring * ring), (ring))
URING(io_uring_submit_and_get_events, (struct io_uring * ring), (ring))

/** Whether something is held back that a sleeping thread would not learn of. */
static bool holding(struct io_uring *ring)
{
    bool is;

    pthread_mutex_lock(&state.lock);
    is = state.held != 0 && state.ring == ring;
    pthread_mutex_unlock(&state.lock);
    return is;
}

int __real_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe,
                                            unsigned count, struct __kernel_timespec *timeout,
                                            sigset_t *signals);
int __wrap_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe,
                                            unsigned count, struct __kernel_timespec *timeout,
                                            sigset_t *signals);

/** Hand over, and sleep no longer than a moment. */
static int look(struct io_uring *ring)
{
    struct __kernel_timespec moment = {.tv_nsec = 100000};
    struct io_uring_cqe *cqe;

    return __real_io_uring_submit_and_wait_timeout(ring, &cqe, 1, &moment, NULL);
}

int __wrap_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe,
                                            unsigned count, struct __kernel_timespec *timeout,
                                            sigset_t *signals)
{
    if (fails(KTH_SYSTEM, "io_uring_submit_and_wait_timeout"))
        return -errno;
    return holding(ring)
               ? look(ring)
               : __real_io_uring_submit_and_wait_timeout(ring, cqe, count, timeout, signals);
}

int __real_io_uring_submit_and_wait(struct io_uring *ring, unsigned count);
int __wrap_io_uring_submit_and_wait(struct io_uring *ring, unsigned count);
int __wrap_io_uring_submit_and_wait(struct io_uring *ring, unsigned count)
{
    if (fails(KTH_SYSTEM, "io_uring_submit_and_wait"))
        return -errno;
    return holding(ring) ? look(ring) : __real_io_uring_submit_and_wait(ring, count);
}

/** Take one completion out of those that were found, and keep it. */
static unsigned hold_back(struct io_uring *ring, struct io_uring_cqe **cqe, unsigned i, unsigned n)
{
    state.held = GET(how) == KTH_NEVER ? -1 : LOOKS;
    state.completion = *cqe[i];
    state.ring = ring;
    memmove(&cqe[i], &cqe[i + 1], (n - i - 1) * sizeof(cqe[0]));
    io_uring_cq_advance(ring, 1);
    return n - 1;
}

/** Give back what was held, when its time has come: the caller will advance by one too many. */
static unsigned give_back(struct io_uring *ring, struct io_uring_cqe **cqe, unsigned room)
{
    if (state.ring != ring || state.held <= 0 || room == 0 || --state.held > 0)
        return 0;
    cqe[0] = &state.completion;
    io_uring_cq_advance(ring, UINT32_MAX);
    return 1;
}

unsigned __real_io_uring_peek_batch_cqe(struct io_uring *ring, struct io_uring_cqe **cqe,
                                        unsigned room);
unsigned __wrap_io_uring_peek_batch_cqe(struct io_uring *ring, struct io_uring_cqe **cqe,
                                        unsigned room);
unsigned __wrap_io_uring_peek_batch_cqe(struct io_uring *ring, struct io_uring_cqe **cqe,
                                        unsigned room)
{
    unsigned back, n;

    pthread_mutex_lock(&state.lock);
    back = give_back(ring, cqe, room);
    n = back ? back : __real_io_uring_peek_batch_cqe(ring, cqe, room);
    for (unsigned i = 0; i < n && !back; i++) {
        if (!io_uring_cqe_get_data(cqe[i]) || !is_it(KTH_IO)) /* no data: a wake-up */
            continue;
        if (GET(how) > 0 || GET(how) == KTH_SHORT) {
            int32_t half = cqe[i]->res > SECTOR ? cqe[i]->res / 2 / SECTOR * SECTOR : 0;

            cqe[i]->res = GET(how) > 0 ? -GET(how) : half;
            undo(ring, io_uring_cqe_get_data(cqe[i]), GET(how) > 0 ? 0 : (uint32_t)half);
        } else if (state.held == 0)
            n = hold_back(ring, cqe, i--, n);
    }
    pthread_mutex_unlock(&state.lock);
    return n;
}

/** The same for a thread that moves bytes. Return: false when the call is to be made as it is. */
static bool spoilt(ssize_t *result)
{
    if (!is_it(KTH_IO))
        return false;
    if (GET(how) > 0) {
        errno = GET(how);
        *result = -1;
        return true;
    }
    pthread_mutex_lock(&state.lock);
    if (GET(how) == KTH_NEVER && state.held == 0) {
        state.held = -1;
        while (state.held < 0)
            pthread_cond_wait(&state.released, &state.lock);
        state.held = 0;
    }
    pthread_mutex_unlock(&state.lock);
    if (GET(how) == KTH_LATE)
        for (int i = 0; i < LOOKS; i++)
            sched_yield();
    return false;
}

static size_t first_half(const struct iovec *iov, int count, struct iovec half[1])
{
    (void)count;
    half[0] = iov[0];
    half[0].iov_len = iov[0].iov_len > 512 ? iov[0].iov_len / 2 / 512 * 512 : iov[0].iov_len;
    return 1;
}

#define VECTOR(name)                                                                               \
    ssize_t __real_##name(int fd, const struct iovec *iov, int count, off_t at);                   \
    ssize_t __wrap_##name(int fd, const struct iovec *iov, int count, off_t at);                   \
    ssize_t __wrap_##name(int fd, const struct iovec *iov, int count, off_t at)                    \
    {                                                                                              \
        struct iovec half[1];                                                                      \
        ssize_t result;                                                                            \
                                                                                                   \
        if (GET(armed) && GET(how) == KTH_SHORT)                                                   \
            return is_it(KTH_IO) ? __real_##name(fd, half, (int)first_half(iov, count, half), at)  \
                                 : __real_##name(fd, iov, count, at);                              \
        return spoilt(&result) ? result : __real_##name(fd, iov, count, at);                       \
    }

VECTOR(preadv64)
VECTOR(pwritev64)

/* The clock. */
int __real_clock_gettime(clockid_t clock, struct timespec *t);
int __wrap_clock_gettime(clockid_t clock, struct timespec *t);
int __wrap_clock_gettime(clockid_t clock, struct timespec *t)
{
    uint64_t ahead = __atomic_load_n(&state.clock, __ATOMIC_RELAXED);
    int rc = __real_clock_gettime(clock, t);

    t->tv_sec += (time_t)(ahead / 1000000000);
    t->tv_nsec += (long)(ahead % 1000000000);
    if (t->tv_nsec >= 1000000000) {
        t->tv_nsec -= 1000000000;
        t->tv_sec++;
    }
    return rc;
}

static void jump(const struct timespec *t)
{
    __atomic_fetch_add(&state.clock, (uint64_t)t->tv_sec * 1000000000 + (uint64_t)t->tv_nsec,
                       __ATOMIC_RELAXED);
}

int __real_nanosleep(const struct timespec *t, struct timespec *left);
int __wrap_nanosleep(const struct timespec *t, struct timespec *left);
int __wrap_nanosleep(const struct timespec *t, struct timespec *left)
{
    if (!GET(fast))
        return __real_nanosleep(t, left);
    jump(t);
    sched_yield();
    return 0;
}

long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);
long __wrap_syscall(long number, ...)
{
    unsigned long a[6];
    va_list arguments;

    va_start(arguments, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(arguments, unsigned long);
    va_end(arguments);
    if (number == SYS_futex && (a[1] == FUTEX_WAIT_PRIVATE) && a[3] != 0 && GET(fast)) {
        jump((const struct timespec *)a[3]);
        errno = ETIMEDOUT;
        return -1;
    }
    return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
