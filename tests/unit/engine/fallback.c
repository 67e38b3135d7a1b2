/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A container's limits: io_uring forbidden or not there, no memory to be
 * locked. "auto" takes "threads" and says why; "uring" fails and names the
 * remedy; what can go on goes on, with the right bytes. Each limit holds in a
 * child of its own, whose failure is the test's.
 * Seen to fail with "auto" that has no second choice, that does not say why or
 * keeps the first one's code, and with staging that must be registered.
 */
#include "rig.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static bool untested; /* a limit could not be tried, for another one is there */

/** From here on io_uring_setup() fails so, for this thread and those that it makes. */
static void forbid_io_uring(uint32_t error)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = 4, .filter = filter};

    assert_int_equal(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    assert_int_equal(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

static void says(const char *message, const char *words)
{
    if (!strstr(message, words))
        fail_msg("\"%s\" is not in: %s", words, message);
}

static void round_trip(struct rig *rig)
{
    struct tutti_map *map = rig_map_range(rig, 0, 16, 1), *in = rig_map_range(rig, 0, 16, 1);

    rig_fill(rig, map, 1);
    assert_int_equal(rig_store(rig, map), 0);
    rig_wipe(rig);
    assert_int_equal(rig_load(rig, in), 0);
    assert_int_equal(rig_good(rig, in, 1), 16);
    rig_map_free(map);
    rig_map_free(in);
}

static void opens_as(const char *engine, const char *name, const char *why)
{
    struct rig rig;

    rig_open(&rig, &(struct rig_options){.engine = engine, .inner = "auto"});
    assert_string_equal(tutti_engine_name(rig.engine), name);
    if (why) {
        assert_int_equal(rig.said.code, 0); /* a reason, not an error */
        says(rig.said.message, rig.path[0]);
        says(rig.said.message, why);
    }
    round_trip(&rig);
    rig_close(&rig);
}

static void refuses(int error, const char *why)
{
    struct rig rig;

    rig_open(&rig, &(struct rig_options){.engine = "uring", .may_fail = true});
    assert_int_equal(rig.opened, error);
    assert_int_equal(rig.said.code, error);
    assert_null(rig.engine);
    says(rig.said.message, rig.path[0]);
    says(rig.said.message, why);
    says(rig.said.message, "engine \"threads\" does without");
    rig_close(&rig);
}

static void without_io_uring(uint32_t error, const char *why)
{
    forbid_io_uring(error);
    opens_as("auto", "threads", why);
    opens_as("fault", "fault+threads", why);
    opens_as("threads", "threads", NULL);
    refuses(-(int)error, why);
}

static void forbidden(void)
{
    without_io_uring(EPERM, "io_uring is not permitted here");
}

static void missing(void)
{
    without_io_uring(ENOSYS, "this kernel has no io_uring");
}

static void no_memory(void)
{
    without_io_uring(ENOMEM, "ulimit -l");
}

/** So much may be locked and no more, and nobody is above that. */
static void limit_locked_memory(rlim_t bytes)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    struct rlimit limit = {bytes, bytes};

    assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
    assert_int_equal(syscall(SYS_capget, &header, data), 0);
    data[0].effective &= ~(1u << CAP_IPC_LOCK);
    data[0].permitted &= ~(1u << CAP_IPC_LOCK);
    data[0].inheritable &= ~(1u << CAP_IPC_LOCK);
    assert_int_equal(syscall(SYS_capset, &header, data), 0);
}

static void limited(rlim_t bytes)
{
    struct rig here;

    rig_open(&here, &(struct rig_options){.engine = "uring"}); /* or ends with 77 */
    rig_close(&here);
    limit_locked_memory(bytes);
    for (uint32_t skew = 0; skew <= 64; skew += 64) {
        struct rig rig;

        rig_open(&rig, &(struct rig_options){.engine = "auto", .skew = skew});
        says(rig.said.message, "ulimit -l");
        assert_int_equal(rig.said.code, 0);
        round_trip(&rig);
        rig_close(&rig);
    }
}

/** Newer kernels count the ring itself: then it is "threads". */
static void nothing_locked(void)
{
    limited(0);
}

/** Enough for a ring and too little for staging or KV memory: more CPU time, the same bytes. */
static void little_locked(void)
{
    struct rig rig;

    limited(1 << 20);
    rig_open(&rig, &(struct rig_options){.engine = "uring"});
    says(rig.said.message, "staging: memory is not registered");
    says(rig.registered.message, "ulimit -l");
    assert_int_equal(rig.registered.code, 0);
    rig_close(&rig);
}

static void in_a_child(void (*work)(void))
{
    int status;
    pid_t child;

    fflush(NULL); /* what is buffered is said once */
    child = fork();

    assert_true(child >= 0);
    if (child == 0) { /* a failed assertion leaves by longjmp, and main() returns it */
        work();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        untested = true;
        skip();
    }
    assert_int_equal(status, 0);
}

/** Whether this environment forbids io_uring by itself: then that much is not news. */
static void as_here(void)
{
    struct rig rig;

    rig_open(&rig, &(struct rig_options){.engine = "auto"});
    round_trip(&rig);
    rig_close(&rig);
}

static void test_as_here(void **state)
{
    (void)state;
    in_a_child(as_here);
}

static void test_forbidden(void **state)
{
    (void)state;
    in_a_child(forbidden);
}

static void test_missing(void **state)
{
    (void)state;
    in_a_child(missing);
}

static void test_no_memory(void **state)
{
    (void)state;
    in_a_child(no_memory);
}

static void test_nothing_locked(void **state)
{
    (void)state;
    in_a_child(nothing_locked);
}

static void test_little_locked(void **state)
{
    (void)state;
    in_a_child(little_locked);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_here),        cmocka_unit_test(test_forbidden),
        cmocka_unit_test(test_missing),        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_nothing_locked), cmocka_unit_test(test_little_locked),
    };
    int failed;

    failed = cmocka_run_group_tests(tests, NULL, NULL);
    return failed ? failed : untested ? 77 : 0;
}
