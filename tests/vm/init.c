/* SPDX-License-Identifier: Apache-2.0 */
/*
 * init.c: the guest's first process, and the runner of its tests.
 *
 * Mounts what Linux shows of itself, loads the modules that run.py chose, and
 * runs each test in a process of its own with a time limit. A test's verdict is
 * a byte in a pipe, not its exit: a process may end only long after its test
 * (the kernel's wait for a drive that was pulled out).
 */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "guest.h"

#define TEST_MS (90 * 1000)

static int verdict = -1;

static void end(char how)
{
    fflush(stdout);
    if (write(verdict, &how, 1) != 1)
        _exit(2);
}

void test_failed(void)
{
    end('f');
    _exit(1);
}

void test_passed(void)
{
    end('p');
    _exit(0);
}

/** In the order of their names. */
static void load_modules(void)
{
    struct dirent **names;
    int count = scandir("/modules", &names, NULL, alphasort);

    for (int i = 0; i < count; i++) {
        char path[300];
        int fd;

        snprintf(path, sizeof(path), "/modules/%s", names[i]->d_name);
        fd = names[i]->d_name[0] == '.' ? -1 : open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0 && syscall(SYS_finit_module, fd, "", 0) < 0)
            printf("vm: %s: %s\n", path, strerror(errno));
        if (fd >= 0)
            close(fd);
    }
}

static bool run(const struct test *test)
{
    struct pollfd wait;
    int ends[2];
    char how = 'f';
    pid_t child;

    if (pipe(ends) < 0)
        return false;
    fflush(stdout);
    child = fork();
    if (child == 0) {
        close(ends[0]);
        verdict = ends[1];
        setpgid(0, 0);
        test->run();
        test_passed();
    }
    close(ends[1]);
    wait = (struct pollfd){.fd = ends[0], .events = POLLIN};
    if (poll(&wait, 1, TEST_MS) != 1)
        printf("  no verdict within %d s\n", TEST_MS / 1000);
    else if (read(ends[0], &how, 1) != 1)
        how = 'f', printf("  it ended without a verdict\n");
    close(ends[0]);
    kill(-child, SIGKILL);
    /* Killed or exiting: gone in a moment, so that the next test finds its drives free. */
    for (int i = 0; i < 2000 && waitpid(child, NULL, WNOHANG) == 0; i++)
        usleep(1000);
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
    return how == 'p';
}

static bool wanted(const char *name)
{
    const char *only = getenv("only"); /* Linux hands what it does not know to init */

    return !only || strstr(name, only);
}

int main(void)
{
    const struct test *const lists[] = {use_tests,     rule_tests, lane_tests,         memory_tests,
                                        trouble_tests, pool_tests, pool_trouble_tests, death_tests};
    uint32_t count = 0;

    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    mkdir("/dev", 0755);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    freopen("/dev/console", "w", stdout);
    setvbuf(stdout, NULL, _IOLBF, 0);
    load_modules();
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
        for (const struct test *t = lists[i]; t->name; t++)
            count += wanted(t->name);
    printf("tests %u\n", count);
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
        for (const struct test *t = lists[i]; t->name; t++)
            if (wanted(t->name))
                printf("%s %s\n", run(t) ? "ok" : "not ok", t->name);
    printf("end\n");
    for (;;)
        pause(); /* run.py switches the machine off */
}
