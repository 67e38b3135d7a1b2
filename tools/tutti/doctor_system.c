/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doctor_system.c: what this machine permits, whatever the path.
 *
 * Responsible for: kernel, io_uring, locked memory, huge pages, vLLM's CPU
 * count. Everything is tried, not guessed from versions. Must not know files.
 */
#include <errno.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "doctor.h"
#include "size.h"
#include "tutti/device.h"

#define PROBE_BYTES ((size_t)64 << 20)
#define CAP_IPC_LOCK_BIT 14

/** First line of a file, without its end; empty when it cannot be read. */
static void read_line(const char *path, char *line, size_t size)
{
    FILE *file = fopen(path, "re");

    line[0] = 0;
    if (!file)
        return;
    if (!fgets(line, (int)size, file))
        line[0] = 0;
    line[strcspn(line, "\n")] = 0;
    fclose(file);
}

static void examine_kernel(struct diagnosis *d)
{
    const struct machine here = {0};
    struct utsname u;
    int major = 0, minor = 0;
    struct finding *f;

    uname(&u);
    sscanf(u.release, "%d.%d", &major, &minor);
    f = find(d, "kernel", major > 5 || (major == 5 && minor >= 15) ? GOOD : WORSE,
             "Linux %s on %s, %ld CPUs%s", u.release, u.machine, sysconf(_SC_NPROCESSORS_ONLN),
             machine_in_container(&here) ? ", in a container" : "");
    if (f->grade != GOOD)
        remedy(f, "engine uring wants Linux 5.15 or later");
}

static void refused(struct diagnosis *d, int code)
{
    char setting[32];
    struct finding *f;

    read_line("/proc/sys/kernel/io_uring_disabled", setting, sizeof(setting));
    f = find(d, "io_uring", WORSE, "not permitted (%s%s%s): engine threads does the work",
             strerror(-code), setting[0] ? ", kernel.io_uring_disabled=" : "", setting);
    if (setting[0] && setting[0] != '0')
        remedy(f, "sysctl -w kernel.io_uring_disabled=0");
    else if (code == -ENOSYS)
        remedy(f, "a kernel with io_uring (5.15 or later), or a sandbox that passes it on");
    else if (code == -ENOMEM)
        remedy(f, "ulimit -l unlimited (docker run --ulimit memlock=-1)");
    else
        remedy(f, "a seccomp profile that permits io_uring_setup, io_uring_enter and "
                  "io_uring_register: docker run --security-opt seccomp=PROFILE.json");
}

/** Whether memory may be registered (fixed buffers), and what bounds that. */
static void examine_buffers(struct diagnosis *d, struct io_uring *ring, void *memory, bool locks)
{
    struct iovec piece = {.iov_base = memory, .iov_len = PROBE_BYTES};
    struct rlimit limit = {0};
    char size[SIZE_TEXT];
    int rc = io_uring_register_buffers(ring, &piece, 1);
    struct finding *f;

    getrlimit(RLIMIT_MEMLOCK, &limit);
    if (rc == 0 && (locks || limit.rlim_cur == RLIM_INFINITY)) {
        find(d, "fixed buffers", GOOD, "memory can be registered without limit%s",
             locks ? " (CAP_IPC_LOCK)" : "");
        return;
    }
    f = find(d, "fixed buffers", WORSE,
             rc == 0 ? "at most %s of memory can be registered"
                     : "memory cannot be registered (limit %s)",
             limit.rlim_cur == RLIM_INFINITY ? "none" : size_text(limit.rlim_cur, size));
    remedy(f, "ulimit -l unlimited (systemd: LimitMEMLOCK=infinity; docker run --ulimit "
              "memlock=-1): transfers work without, at more CPU time");
}

bool may_lock(void)
{
    FILE *file = fopen("/proc/self/status", "re");
    char line[256];
    unsigned long long set = 0;

    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "CapEff: %llx", &set) == 1)
            break;
    if (file)
        fclose(file);
    return set >> CAP_IPC_LOCK_BIT & 1;
}

static void examine_uring(struct diagnosis *d, void *memory)
{
    struct io_uring ring;
    int rc = io_uring_queue_init(64, &ring, 0);
    int fd = STDIN_FILENO;

    if (rc < 0) {
        refused(d, rc);
        return;
    }
    d->uring = true;
    rc = io_uring_register_files(&ring, &fd, 1);
    find(d, "io_uring", GOOD, "permitted%s", rc == 0 ? ", with registered files" : "");
    if (memory)
        examine_buffers(d, &ring, memory, may_lock());
    io_uring_queue_exit(&ring);
}

static void examine_pages(struct diagnosis *d, bool huge)
{
    char mode[128];
    struct finding *f;

    read_line("/sys/kernel/mm/transparent_hugepage/enabled", mode, sizeof(mode));
    f = find(d, "huge pages", huge && !strstr(mode, "[never]") ? GOOD : WORSE,
             "%s (transparent huge pages: %s)",
             huge && !strstr(mode, "[never]") ? "I/O memory is in 2 MiB pages"
                                              : "I/O memory is in small pages",
             mode[0] ? mode : "unknown");
    if (f->grade != GOOD)
        remedy(f, "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, or sysctl -w "
                  "vm.nr_hugepages=512");
}

void examine_system(struct diagnosis *d)
{
    struct tutti_error err = {0};
    void *memory = NULL;
    bool huge = false;
    int rc;

    examine_kernel(d);
    rc = tutti_device_host.alloc(PROBE_BYTES, &memory, &huge, &err);
    if (rc < 0) {
        find(d, "memory", BAD, "%s", err.message);
        memory = NULL;
    }
    examine_uring(d, memory);
    examine_pages(d, huge);
    if (memory)
        tutti_device_host.free(memory, PROBE_BYTES);
}
