/* SPDX-License-Identifier: Apache-2.0 */
/* vfio.c: see vfio.h. The kernel's side is Documentation/driver-api/vfio.rst and linux/vfio.h. */
#include "nvme/vfio.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "nvme/container.h"

#define VECTORS 65u        /* the admin queue's, and 64 */
#define DESCRIPTORS 65536u /* the table grows with the highest: half a megabyte */
#define CLOSE_SECONDS 10   /* for a reset that takes its time */
#define SPIN_NS 50000u
#define NAP_NS 50000

struct nvme_vfio {
    struct nvme_vfio *next; /* of all that are open, for fork */
    char name[16];
    struct nvme_container memory;
    int device;
    int removal;
    int error;
    off_t config; /* where its configuration space lies in @device */
    void *bar;
    size_t bar_bytes;
    bool master;      /* it may reach memory */
    bool ending;      /* closed, and the kernel has not let go of it yet */
    uint32_t vectors; /* 0 until the first is wanted */
    int vector[VECTORS];
    struct tutti_error said; /* why the port's map or unmap failed */
};

/* Fork. Locked while a descriptor comes into being, so that no child has one that is not here. */

static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t all_once = PTHREAD_ONCE_INIT;
static struct nvme_vfio *all;

static void before_fork(void)
{
    pthread_mutex_lock(&all_lock);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&all_lock);
}

static void close_one(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void in_child(void)
{
    for (struct nvme_vfio *v = all; v; v = v->next) {
        close_one(&v->device);
        close_one(&v->memory.group);
        close_one(&v->memory.container);
        v->bar = MAP_FAILED; /* it was not inherited */
        v->ending = false;
    }
    pthread_mutex_unlock(&all_lock);
}

static void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork, in_child);
}

/* The PCI function: Linux's view of it. */

/** The last part of what a link of the function points to, or "". */
static const char *linked(const struct nvme_vfio *v, const char *link, char to[PATH_MAX])
{
    char path[64];
    ssize_t got;

    snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", v->name, link);
    got = readlink(path, to, PATH_MAX - 1);
    to[got > 0 ? got : 0] = 0;
    return strrchr(to, '/') ? strrchr(to, '/') + 1 : to;
}

static uint32_t class_of(const struct nvme_vfio *v)
{
    char path[64], text[16] = "";
    ssize_t got = -1;
    int fd;

    snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/class", v->name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    got = read(fd, text, sizeof(text) - 1);
    close(fd);
    return got > 0 ? (uint32_t)strtoul(text, NULL, 16) : 0;
}

/** It exists, is an NVMe controller, and is bound to vfio-pci. @group: of the IOMMU. */
static int check_function(struct nvme_vfio *v, const char *address, int *group,
                          struct tutti_error *err)
{
    unsigned domain, bus, slot, function;
    char link[PATH_MAX];
    const char *driver;
    uint32_t class;

    if (sscanf(address, "%4x:%2x:%2x.%1x", &domain, &bus, &slot, &function) != 4 ||
        snprintf(v->name, sizeof(v->name), "%04x:%02x:%02x.%x", domain, bus, slot, function) !=
            (int)strlen(address))
        return tutti_error_set(err, -EINVAL,
                               "%s: not the address of a drive; it looks like 0000:01:00.0 (lspci "
                               "-D)",
                               address);
    class = class_of(v);
    if (class != 0x010802)
        return tutti_error_set(err, -ENODEV, "%s: %s (lspci -D lists what is there)", v->name,
                               class == 0 ? "there is no such device" : "not an NVMe drive");
    driver = linked(v, "driver", link);
    if (strcmp(driver, "vfio-pci") != 0)
        return tutti_error_set(
            err, -ENXIO,
            "%s: it has %s%s, not vfio-pci; with nothing of it mounted: modprobe "
            "vfio-pci; echo vfio-pci > /sys/bus/pci/devices/%s/driver_override; echo %s > "
            "/sys/bus/pci/devices/%s/driver/unbind; echo %s > /sys/bus/pci/drivers_probe",
            v->name, *driver ? "driver " : "no driver", driver, v->name, v->name, v->name, v->name);
    if (sscanf(linked(v, "iommu_group", link), "%d", group) != 1)
        return tutti_error_set(err, -ENXIO,
                               "%s: no IOMMU stands before it; switch it on in the firmware, and "
                               "in the kernel (intel_iommu=on)",
                               v->name);
    return 0;
}

/* The device. */

/**
 * Move to the highest number that is free: what has the highest is closed first. The soft limit is
 * out of the way meanwhile: what is opened after it was raised would lie above. Who sets it at this
 * very moment finds it as it was; who has more than DESCRIPTORS open is not covered.
 */
static int highest(int fd)
{
    struct rlimit limit, most;
    int at, to = -1;

    if (fd < 0 || getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return fd;
    most = limit;
    if (most.rlim_cur < DESCRIPTORS)
        most.rlim_cur = most.rlim_max < DESCRIPTORS ? most.rlim_max : DESCRIPTORS;
    if (setrlimit(RLIMIT_NOFILE, &most) < 0)
        most = limit;
    at = most.rlim_cur < DESCRIPTORS ? (int)most.rlim_cur : (int)DESCRIPTORS;
    while (to < 0 && --at > fd)
        to = fcntl(fd, F_DUPFD_CLOEXEC, at); /* the lowest from @at on: there is none above */
    setrlimit(RLIMIT_NOFILE, &limit);
    if (to < 0)
        return fd;
    close(fd);
    return to;
}

static int open_device(struct nvme_vfio *v, struct tutti_error *err)
{
    struct vfio_region_info bar = {.argsz = sizeof(bar), .index = VFIO_PCI_BAR0_REGION_INDEX};
    struct vfio_region_info config = {.argsz = sizeof(config),
                                      .index = VFIO_PCI_CONFIG_REGION_INDEX};

    pthread_mutex_lock(&all_lock);
    v->device = highest(ioctl(v->memory.group, VFIO_GROUP_GET_DEVICE_FD, v->name));
    pthread_mutex_unlock(&all_lock);
    if (v->device < 0)
        return tutti_error_set(err, -errno, "%s: VFIO does not give it: %s; see the kernel's log",
                               v->name, strerror(errno));
    if (ioctl(v->device, VFIO_DEVICE_GET_REGION_INFO, &config) < 0 ||
        ioctl(v->device, VFIO_DEVICE_GET_REGION_INFO, &bar) < 0 ||
        !(bar.flags & VFIO_REGION_INFO_FLAG_MMAP) || bar.size == 0)
        return tutti_error_set(err, -EOPNOTSUPP, "%s: its registers cannot be mapped (BAR 0)",
                               v->name);
    v->config = (off_t)config.offset;
    v->bar_bytes = bar.size;
    pthread_mutex_lock(&all_lock); /* the mapping holds the device as the descriptor does */
    v->bar =
        mmap(NULL, v->bar_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v->device, (off_t)bar.offset);
    if (v->bar != MAP_FAILED && madvise(v->bar, v->bar_bytes, MADV_DONTFORK) < 0) {
        munmap(v->bar, v->bar_bytes);
        v->bar = MAP_FAILED;
    }
    pthread_mutex_unlock(&all_lock);
    if (v->bar == MAP_FAILED)
        return tutti_error_set(err, -ENOMEM, "%s: its registers cannot be mapped: %s", v->name,
                               strerror(errno));
    return 0;
}

/** Let it reach memory, or not. Return: 0, -ENODEV: it does not answer. */
static int bus_master(struct nvme_vfio *v, bool on)
{
    uint16_t command = 0, now = 0;
    off_t at = v->config + PCI_COMMAND;

    if (pread(v->device, &command, 2, at) != 2 || command == UINT16_MAX)
        return -ENODEV;
    command = (uint16_t)(on ? command | PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY
                            : command & ~PCI_COMMAND_MASTER);
    if (pwrite(v->device, &command, 2, at) != 2 || pread(v->device, &now, 2, at) != 2 ||
        now == UINT16_MAX || (now & PCI_COMMAND_MASTER) != (command & PCI_COMMAND_MASTER))
        return -ENODEV;
    v->master = on;
    return 0;
}

/* Events and interrupts. */

static int set_events(const struct nvme_vfio *v, uint32_t index, uint32_t start, uint32_t count,
                      const int *fds)
{
    union {
        struct vfio_irq_set set;
        uint8_t room[sizeof(struct vfio_irq_set) + VECTORS * sizeof(int)];
    } u;

    u.set = (struct vfio_irq_set){
        .argsz = (uint32_t)(sizeof(u.set) + count * sizeof(int)),
        .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
        .index = index,
        .start = start,
        .count = count,
    };
    memcpy(u.room + sizeof(u.set), fds, count * sizeof(int));
    return ioctl(v->device, VFIO_DEVICE_SET_IRQS, &u.set) < 0 ? -errno : 0;
}

/** @fd stays -1 where the function has no such event. */
static int watch(const struct nvme_vfio *v, uint32_t index, int *fd, struct tutti_error *err)
{
    struct vfio_irq_info info = {.argsz = sizeof(info), .index = index};
    int rc;

    if (ioctl(v->device, VFIO_DEVICE_GET_IRQ_INFO, &info) < 0 || info.count == 0)
        return 0;
    *fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    rc = *fd < 0 ? -errno : set_events(v, index, 0, 1, fd);
    if (rc < 0)
        return tutti_error_set(err, rc, "%s: its events cannot be watched: %s", v->name,
                               strerror(-rc));
    return 0;
}

int nvme_vfio_interrupt(struct nvme_vfio *v, uint32_t number, struct tutti_error *err)
{
    struct vfio_irq_info info = {.argsz = sizeof(info), .index = VFIO_PCI_MSIX_IRQ_INDEX};
    int fd, rc = 0;

    if (v->vectors == 0 && ioctl(v->device, VFIO_DEVICE_GET_IRQ_INFO, &info) == 0) {
        uint32_t vectors = info.count < VECTORS ? info.count : VECTORS;

        /* All at once, without descriptors: not every kernel adds vectors to those in use. */
        rc = vectors == 0 ? 0 : set_events(v, VFIO_PCI_MSIX_IRQ_INDEX, 0, vectors, v->vector);
        if (rc == 0)
            v->vectors = vectors;
    }
    if (rc == 0 && (number == 0 || number >= v->vectors))
        return tutti_error_set(err, -EINVAL,
                               "%s: queue %" PRIu32 " cannot interrupt: the drive has %" PRIu32
                               " vectors, the first is the admin queue's; poll it",
                               v->name, number, v->vectors);
    if (rc == 0 && v->vector[number] >= 0)
        return v->vector[number];
    fd = rc < 0 ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (rc == 0)
        rc = fd < 0 ? -errno : set_events(v, VFIO_PCI_MSIX_IRQ_INDEX, number, 1, &fd);
    if (rc < 0) {
        close_one(&fd);
        return tutti_error_set(err, rc, "%s: interrupts of queue %" PRIu32 ": %s; poll it", v->name,
                               number, strerror(-rc));
    }
    return v->vector[number] = fd;
}

int nvme_vfio_removal(const struct nvme_vfio *v)
{
    return v->removal;
}

int nvme_vfio_error(const struct nvme_vfio *v)
{
    return v->error;
}

/* Memory. */

int nvme_vfio_map(struct nvme_vfio *v, void *memory, size_t bytes, uint64_t *address,
                  struct tutti_error *err)
{
    int rc = nvme_container_map(&v->memory, memory, bytes, address, err);

    if (rc < 0 || v->master || bus_master(v, true) == 0)
        return rc;
    nvme_container_unmap(&v->memory, *address, bytes, NULL);
    return tutti_error_set(err, -ENODEV, "%s: the drive does not answer: it was removed", v->name);
}

int nvme_vfio_unmap(struct nvme_vfio *v, uint64_t address, size_t bytes, struct tutti_error *err)
{
    return nvme_container_unmap(&v->memory, address, bytes, err);
}

/* The port. */

static int port_map(void *self, void *memory, size_t bytes, uint64_t *address)
{
    struct nvme_vfio *v = self;

    return nvme_vfio_map(v, memory, bytes, address, &v->said);
}

static int port_unmap(void *self, uint64_t address, size_t bytes)
{
    struct nvme_vfio *v = self;

    return nvme_vfio_unmap(v, address, bytes, &v->said);
}

static uint32_t port_vector(void *self, uint32_t number)
{
    const struct nvme_vfio *v = self;

    return number < v->vectors && v->vector[number] >= 0 ? number : 0;
}

static void port_idle(void *self, uint64_t waited_ns)
{
    const struct timespec nap = {.tv_nsec = NAP_NS};

    (void)self;
    if (waited_ns > SPIN_NS)
        nanosleep(&nap, NULL);
}

static bool port_leaving(void *self)
{
    const struct nvme_vfio *v = self;
    uint64_t count;

    return v->removal >= 0 && read(v->removal, &count, sizeof(count)) == sizeof(count);
}

static int port_cut(void *self)
{
    return bus_master(self, false);
}

static void port_close(void *self)
{
    nvme_vfio_close(self);
}

/* Life. */

static void forget(struct nvme_vfio *v)
{
    pthread_mutex_lock(&all_lock);
    for (struct nvme_vfio **link = &all; *link; link = &(*link)->next)
        if (*link == v) {
            *link = v->next;
            break;
        }
    pthread_mutex_unlock(&all_lock);
    free(v);
}

/** What the kernel may take its time for. Frees @self. */
static void *let_go(void *self)
{
    struct nvme_vfio *v = self;
    int device, group, container;

    pthread_mutex_lock(
        &all_lock); /* a child closes none of them: the numbers may be others' soon */
    device = v->device;
    group = v->memory.group;
    container = v->memory.container;
    v->device = v->memory.group = v->memory.container = -1;
    pthread_mutex_unlock(&all_lock);
    close_one(&device);
    close_one(&group);
    close_one(&container);
    forget(v);
    return NULL;
}

void nvme_vfio_close(struct nvme_vfio *v)
{
    struct timespec until;
    pthread_t thread;
    bool held, there;

    if (!v)
        return;
    held = v->device >= 0;
    there = held && bus_master(v, false) == 0;
    nvme_container_unmap_all(&v->memory);
    if (v->bar != MAP_FAILED)
        munmap(v->bar, v->bar_bytes);
    pthread_mutex_lock(&all_lock);
    v->ending = true;
    v->bar = MAP_FAILED;
    pthread_mutex_unlock(&all_lock);
    close_one(&v->removal);
    close_one(&v->error);
    for (uint32_t i = 0; i < VECTORS; i++)
        close_one(&v->vector[i]);
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += CLOSE_SECONDS;
    if (!held || pthread_create(&thread, NULL, let_go, v) != 0)
        let_go(v);
    else if (!there || pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &until) != 0)
        pthread_detach(thread);
}

/** Among all that are open. While a former life ends, the kernel would keep a new one waiting. */
static int remember(struct nvme_vfio *v, struct tutti_error *err)
{
    bool ending = false;

    pthread_once(&all_once, watch_forks);
    pthread_mutex_lock(&all_lock);
    for (const struct nvme_vfio *other = all; other; other = other->next)
        ending |= other->ending && strcmp(other->name, v->name) == 0;
    if (!ending) {
        v->next = all;
        all = v;
    }
    pthread_mutex_unlock(&all_lock);
    if (ending)
        return tutti_error_set(err, -EBUSY,
                               "%s: closed, and the kernel has not let go of it yet; wait a minute",
                               v->name);
    return 0;
}

int nvme_vfio_open(const char *address, struct nvme_port *port, struct nvme_vfio **out,
                   struct tutti_error *err)
{
    struct nvme_vfio *v = calloc(1, sizeof(*v));
    int group = -1, rc;

    if (!v)
        return tutti_error_set(err, -ENOMEM, "%s: no memory", address);
    v->memory = (struct nvme_container){.container = -1, .group = -1};
    v->device = v->removal = v->error = -1;
    v->bar = MAP_FAILED;
    for (uint32_t i = 0; i < VECTORS; i++)
        v->vector[i] = -1;
    rc = check_function(v, address, &group, err);
    if (rc == 0)
        rc = remember(v, err);
    if (rc == 0)
        rc = nvme_container_open(&v->memory, v->name, group, err);
    if (rc == 0)
        rc = open_device(v, err);
    if (rc == 0)
        rc = watch(v, VFIO_PCI_REQ_IRQ_INDEX, &v->removal, err);
    if (rc == 0)
        rc = watch(v, VFIO_PCI_ERR_IRQ_INDEX, &v->error, err);
    if (rc < 0) {
        nvme_vfio_close(v);
        return rc;
    }
    *port = (struct nvme_port){.name = v->name,
                               .bar = v->bar,
                               .bar_bytes = v->bar_bytes,
                               .map = port_map,
                               .unmap = port_unmap,
                               .idle = port_idle,
                               .leaving = port_leaving,
                               .cut = port_cut,
                               .close = port_close,
                               .vector = port_vector,
                               .said = &v->said,
                               .self = v};
    *out = v;
    return 0;
}
