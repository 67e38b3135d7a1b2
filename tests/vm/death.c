/* SPDX-License-Identifier: Apache-2.0 */
/*
 * death.c: every kind of end: killed, forked, asked for the drive, pulled out.
 *
 * A GPU's memory is released when its descriptor is; here a pipe's end stands
 * for it. When it is heard to close, the drive must have been stopped.
 *
 * Seen to fail: descriptors and stopped_first where the drive kept the descriptor that it got, and
 * descriptors where it got the highest below the limit of the moment;
 * descriptors without close-on-exec; killed where the process only closed the pipe and lived on (by
 * bus mastering, and without that check by what the drive wrote); killed_with_child and
 * fork_has_nothing where a child kept the descriptors, and where it kept the registers; asked_for
 * without the kernel's request; pulled where only ones are taken for nobody; power_off where the
 * close was waited for, and (Linux 6.12) where a drive still closing was opened again.
 */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "guest.h"

#define WITNESS 100 /* a descriptor above those that come by themselves, below the drives' */

/** Runs @life in a process; both ends of @pipe are there. It ends by being killed. */
static pid_t live(void (*life)(int pipe), int ends[2])
{
    pid_t child;

    CHECK(pipe2(ends, O_CLOEXEC) == 0);
    child = fork();
    if (child != 0) {
        close(ends[1]);
        return child;
    }
    close(ends[0]);
    CHECK(dup2(ends[1], WITNESS) == WITNESS && close(ends[1]) == 0);
    life(WITNESS);
    for (;;)
        pause();
}

/** Waits for a byte (true), or for the last writer's end (false). */
static bool heard(int pipe)
{
    struct pollfd wait = {.fd = pipe, .events = POLLIN};
    char byte;

    CHECK(poll(&wait, 1, 60000) == 1, "nothing is heard");
    return read(pipe, &byte, 1) == 1;
}

static void say(int pipe)
{
    CHECK(write(pipe, "", 1) == 1);
}

/**
 * Every descriptor of VFIO's goes with exec; the drives' are the highest of all, also of those that
 * come when the limit was raised.
 */
static void descriptors(void)
{
    struct rlimit low, now;
    int drives = 0, others = 0, lowest = INT32_MAX, highest = 0;
    struct drive d, second;
    struct dirent *entry;
    DIR *dir;

    CHECK(getrlimit(RLIMIT_NOFILE, &low) == 0);
    low.rlim_cur = 256;
    CHECK(setrlimit(RLIMIT_NOFILE, &low) == 0);
    drive_open(&d, PLAIN);
    drive_open(&second, FAULTY);
    CHECK(getrlimit(RLIMIT_NOFILE, &now) == 0 && now.rlim_cur == 256, "the limit is another");
    now.rlim_cur = now.rlim_max;
    CHECK(setrlimit(RLIMIT_NOFILE, &now) == 0);
    for (int i = 0; i < 100; i++)
        others += fcntl(0, F_DUPFD_CLOEXEC, 512) >= 0;
    dir = opendir("/proc/self/fd");
    while ((entry = readdir(dir))) {
        int fd = atoi(entry->d_name);
        char link[64] = "";

        if (entry->d_name[0] == '.' || readlinkat(dirfd(dir), entry->d_name, link, 63) < 0)
            continue;
        if (strstr(link, "vfio"))
            CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC, "%d: %s", fd, link);
        if (strstr(link, "vfio-device")) {
            lowest = fd < lowest ? fd : lowest;
            drives++;
        } else {
            highest = fd > highest ? fd : highest;
        }
    }
    closedir(dir);
    CHECK(drives == 2 && others > 0, "%d %d", drives, others);
    CHECK(lowest > highest, "a drive has %d, something else %d", lowest, highest);
    drive_close(&d);
    drive_close(&second);
}

static void two_drives(int pipe)
{
    struct drive d, second; /* which takes its time: a reset of 100 ms */

    drive_open(&d, PLAIN);
    drive_open(&second, FAULTY);
    say(pipe);
}

/** Killed: both drives were stopped before a lower descriptor was released. */
static void stopped_first(void)
{
    int ends[2];
    pid_t child = live(two_drives, ends);

    CHECK(heard(ends[0]));
    CHECK(pci_bus_master(PLAIN) && pci_bus_master(FAULTY));
    kill(child, SIGKILL);
    CHECK(!heard(ends[0]));
    CHECK(!pci_bus_master(PLAIN) && !pci_bus_master(FAULTY),
          "memory goes while a drive can still reach it");
}

static struct drive victim;

/** 64 reads into the peer's memory, of which the first has arrived. */
static void reads_into_peer(void)
{
    static struct nvme_queue q;
    struct tutti_error err = {0};
    uint8_t *memory = peer_map();
    uint64_t at;

    drive_open(&victim, SLOW);
    CHECK(nvme_vfio_map(victim.vfio, memory, PEER_BYTES, &at, &err) == 0, "%s", err.message);
    drive_queue(&victim, &q, 1, 65);
    for (uint32_t i = 0; i < 64; i++)
        drive_put(&victim, &q, NVME_READ, at + i * 4096, 0, 4096);
    nvme_queue_ring(&q);
    drive_take(&q);
}

static void reads_alone(int pipe)
{
    reads_into_peer();
    say(pipe);
}

static void reads_and_a_child(int pipe)
{
    reads_into_peer();
    if (fork() == 0) {
        close(pipe);
        for (;;)
            pause();
    }
    say(pipe);
}

/** The drive is still, and stays so; the peer's memory could have been another's by now. */
static void still(const uint8_t *memory, int pipe)
{
    CHECK(!heard(pipe));
    CHECK(!pci_bus_master(SLOW), "the drive can still reach memory");
    fill((uint8_t *)(uintptr_t)memory, 64 * 4096, 8);
    usleep(1500 * 1000); /* a dozen reads, if it went on */
    CHECK(filled(memory, 64 * 4096, 8), "the drive goes on writing");
}

static void kill_one_that(void (*life)(int pipe))
{
    const uint8_t *memory = peer_map();
    int ends[2];
    pid_t child = live(life, ends);
    struct drive d;

    CHECK(heard(ends[0]));
    kill(child, SIGKILL);
    still(memory, ends[0]);
    drive_open(&d, SLOW); /* its group is not held */
    drive_close(&d);
}

static void killed(void)
{
    kill_one_that(reads_alone);
}

/** Killed while a child of its fork lives on. */
static void killed_with_child(void)
{
    kill_one_that(reads_and_a_child);
}

/** What a child has of the drive: nothing; and it may close what it has not. */
static void fork_has_nothing(void)
{
    struct nvme_queue q;
    struct drive d;
    unsigned char resident;
    uint64_t at;
    int status;
    pid_t child;

    drive_open(&d, PLAIN);
    drive_queue(&d, &q, 1, 8);
    drive_memory(&d, 4096, &at);
    child = fork();
    if (child == 0) {
        char link[64] = "", path[32];

        for (int fd = 0; fd < 1024; fd++) {
            snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
            if (readlink(path, link, 63) > 0 && strstr(link, "vfio") && !strstr(link, "eventfd"))
                _exit(1);
        }
        if (mincore(d.port.bar, 4096, &resident) == 0)
            _exit(2);
        nvme_vfio_close(d.vfio);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0, "%d", status >> 8);
    CHECK(drive_do(&d, &q, NVME_READ, at, 0, 4096) == NVME_OK);
    drive_queue_close(&d, &q);
    drive_close(&d);
}

/** The kernel is asked for the drive: its owner hears it, closes, and the asker gets it. */
static void asked_for(void)
{
    struct pollfd wait = {.events = POLLIN};
    char path[96];
    struct drive d;
    pid_t child;
    int status;

    drive_open(&d, FAULTY);
    wait.fd = nvme_vfio_removal(d.vfio);
    CHECK(wait.fd >= 0);
    CHECK(nvme_vfio_error(d.vfio) >= 0);
    CHECK(poll(&wait, 1, 0) == 0);
    child = fork();
    if (child == 0) {
        pci_path(path, FAULTY, "driver/unbind");
        put(path, FAULTY);
        _exit(0);
    }
    CHECK(poll(&wait, 1, 30000) == 1, "nobody says so");
    CHECK(waitpid(child, &status, WNOHANG) == 0, "it was not waited for");
    drive_close(&d);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    pci_bind(FAULTY, "vfio-pci");
    drive_open(&d, FAULTY);
    drive_close(&d);
}

/** A drive goes while it is used: it is said to be gone, and its end is not waited for. */
static void goes(const char *address, const char *port, bool pulled_out)
{
    const uint64_t get[NVME_SQE_WORDS] = {NVME_ADMIN_GET_FEATURES, 0, 0, 0, 0, NVME_FEATURE_QUEUES};
    struct pollfd wait = {.events = POLLIN};
    struct tutti_error err = {0};
    struct nvme_queue q;
    struct drive d;
    uint64_t at, began;
    int rc;

    drive_open(&d, address);
    drive_queue(&d, &q, 1, 8);
    drive_memory(&d, 4096, &at);
    CHECK(drive_do(&d, &q, NVME_READ, at, 0, 4096) == NVME_OK);
    drive_put(&d, &q, NVME_READ, at, 0, 4096);
    pci_empty_slot(port, pulled_out);
    began = tutti_clock_now();
    do
        rc = nvme_admin(d.controller, get, NULL, &err);
    while (rc == 0 && tutti_clock_now() - began < PATIENCE);
    CHECK(rc == -ENODEV && strstr(err.message, "removed"), "%d: %s", rc, err.message);
    wait.fd = nvme_vfio_removal(d.vfio);
    CHECK(!pulled_out || poll(&wait, 1, 60000) == 1, "nobody asks for it");
    began = tutti_clock_now();
    CHECK(nvme_queue_close(d.controller, &q, &err) == 0, "%s", err.message);
    CHECK(nvme_close(d.controller, &err) == 0, "%s", err.message);
    nvme_vfio_close(d.vfio);
    CHECK(tutti_clock_now() - began < PATIENCE, "its end was waited for");
    began = tutti_clock_now();
    rc = nvme_vfio_open(address, &d.port, &d.vfio, &err);
    CHECK(pulled_out ? rc < 0 : rc == -EBUSY && strstr(err.message, "let go"), "%d: %s", rc,
          err.message);
    CHECK(tutti_clock_now() - began < PATIENCE, "its former end was waited for");
}

static void pulled(void)
{
    goes(PULLED, PORT, true);
}

/** Linux does not see that it is gone, and waits for it for more than a minute. */
static void power_off(void)
{
    goes(FAULTY, PORT_OF_FAULTY, false);
}

const struct test death_tests[] = {
    {"a drive's descriptor is the highest, and goes with exec", descriptors},
    {"killed: drives stop before memory goes", stopped_first},
    {"killed under 64 reads into a peer's memory", killed},
    {"killed under them, with a forked child alive", killed_with_child},
    {"a forked child has nothing of the drive", fork_has_nothing},
    {"the drive is asked for, and given back", asked_for},
    {"the drive is pulled out", pulled},
    {"the drive loses power, and its close takes more than a minute", power_off},
    {0},
};
