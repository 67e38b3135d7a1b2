/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mount.h: a fault mount (faultmount.c) that lasts as long as the test wants it.
 *
 * The program is named by FAULTMOUNT in the environment. Where FUSE mounts are
 * not permitted the test says so on standard error and ends with 77: meson and
 * tests/run.py list it as skipped, by name.
 */
#ifndef TUTTI_TESTS_FAULTMOUNT_MOUNT_H
#define TUTTI_TESTS_FAULTMOUNT_MOUNT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct fault_mount {
    char folder[32];
    char backing[64]; /* what the mount shows */
    char point[64];
    pid_t pid;
};

static inline void fault_mount_pause(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
}

/** Until the mount answers, or its program has ended. */
static inline void fault_mount_await(const struct fault_mount *m)
{
    char control[80];
    int status;

    snprintf(control, sizeof(control), "%s/.faults", m->point);
    while (access(control, F_OK) < 0) {
        if (waitpid(m->pid, &status, WNOHANG) == m->pid) {
            if (!WIFEXITED(status) || WEXITSTATUS(status) != 77)
                fail_msg("faultmount ended with status %x", (unsigned)status);
            fprintf(stderr, "\n*** NOT TESTED: FUSE mounts. Run as root, in a container that has "
                            "/dev/fuse. ***\n\n");
            exit(77);
        }
        fault_mount_pause();
    }
}

/** Mount a fresh folder in a fresh folder below the working directory. */
static inline void fault_mount_start(struct fault_mount *m)
{
    const char *program = getenv("FAULTMOUNT");

    if (!program)
        fail_msg("FAULTMOUNT names no program");
    strcpy(m->folder, "faultmount-XXXXXX");
    assert_non_null(mkdtemp(m->folder));
    snprintf(m->backing, sizeof(m->backing), "%s/backing", m->folder);
    snprintf(m->point, sizeof(m->point), "%s/mount", m->folder);
    assert_int_equal(mkdir(m->backing, 0700), 0);
    assert_int_equal(mkdir(m->point, 0700), 0);
    m->pid = fork();
    assert_true(m->pid >= 0);
    if (m->pid == 0) {
        execl(program, program, m->backing, m->point, NULL);
        _exit(1);
    }
    fault_mount_await(m);
}

/** Give it lines of its grammar. Return: 0 or a negative errno. */
static inline int fault_mount_try(const struct fault_mount *m, const char *lines)
{
    char control[80];
    ssize_t rc;
    int fd;

    snprintf(control, sizeof(control), "%s/.faults", m->point);
    fd = open(control, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    rc = write(fd, lines, strlen(lines));
    rc = rc < 0 ? -errno : 0;
    close(fd);
    return (int)rc;
}

static inline void fault_mount_report(const struct fault_mount *m, char *report, size_t room)
{
    char control[80];
    ssize_t rc;
    int fd;

    snprintf(control, sizeof(control), "%s/.faults", m->point);
    fd = open(control, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    rc = read(fd, report, room - 1);
    assert_true(rc >= 0);
    report[rc] = 0;
    close(fd);
}

/** The number behind a word in the report's line that begins so: ("read", "operations"). */
static inline uint64_t fault_mount_count(const struct fault_mount *m, const char *begin,
                                         const char *word)
{
    char report[16384], line[64], wanted[32];
    const char *at;

    report[0] = '\n';
    fault_mount_report(m, report + 1, sizeof(report) - 1);
    snprintf(line, sizeof(line), "\n%s ", begin);
    snprintf(wanted, sizeof(wanted), " %s ", word);
    at = strstr(report, line);
    at = at ? strstr(at, wanted) : NULL;
    if (!at)
        fail_msg("no \"%s\" of \"%s\" in the report", word, begin);
    return strtoull(at + strlen(wanted), NULL, 10);
}

/** Give it a rule. Return: its number. */
static inline uint32_t fault_mount_rule(const struct fault_mount *m, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static inline uint32_t fault_mount_rule(const struct fault_mount *m, const char *format, ...)
{
    char line[256], report[16384];
    const char *last = NULL;
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    if (fault_mount_try(m, line) < 0)
        fail_msg("the mount refuses \"%s\"", line);
    fault_mount_report(m, report, sizeof(report));
    for (const char *at = report; (at = strstr(at, "\nrule ")); at++)
        last = at;
    assert_non_null(last);
    return (uint32_t)strtoul(last + 6, NULL, 10);
}

/** What a rule has counted: "seen", "acted" or "waiting". */
static inline uint64_t fault_mount_rule_count(const struct fault_mount *m, uint32_t rule,
                                              const char *word)
{
    char begin[32];

    snprintf(begin, sizeof(begin), "rule %u", rule);
    return fault_mount_count(m, begin, word);
}

/** Until so many operations wait for a rule; the test's own time limit bounds it. */
static inline void fault_mount_await_waiting(const struct fault_mount *m, uint32_t rule,
                                             uint64_t waiting)
{
    while (fault_mount_rule_count(m, rule, "waiting") < waiting)
        fault_mount_pause();
}

static inline void fault_mount_lift(const struct fault_mount *m)
{
    assert_int_equal(fault_mount_try(m, "lift"), 0);
}

/** End it: whatever waits goes on or fails. What it leaves on disk is removed. */
static inline void fault_mount_stop(struct fault_mount *m)
{
    char command[48];
    int status;

    kill(m->pid, SIGTERM);
    assert_int_equal(waitpid(m->pid, &status, 0), m->pid);
    snprintf(command, sizeof(command), "rm -rf %s", m->folder);
    assert_int_equal(system(command), 0);
}

#endif
