/* SPDX-License-Identifier: Apache-2.0 */
/* pci.c: drivers, disks, slots, configuration space, BARs and the kernel's log, through sysfs. */
#include <dirent.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "guest.h"

void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    CHECK(fd >= 0, "%s: %s", path, strerror(errno));
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "%s: %s: %s", path, text,
          strerror(errno));
    close(fd);
}

void pci_path(char to[96], const char *address, const char *file)
{
    snprintf(to, 96, "/sys/bus/pci/devices/%s/%s", address, file);
}

/** Whether @driver has it. */
static bool bound(const char *address, const char *driver)
{
    char path[96], link[256] = "";

    pci_path(path, address, "driver");
    return readlink(path, link, sizeof(link) - 1) > 0 && strstr(link, driver);
}

void pci_bind(const char *address, const char *driver)
{
    char path[96], link[8];

    if (bound(address, driver))
        return;
    pci_path(path, address, "driver_override");
    put(path, driver);
    pci_path(path, address, "driver");
    if (readlink(path, link, sizeof(link)) > 0) {
        pci_path(path, address, "driver/unbind");
        put(path, address);
    }
    put("/sys/bus/pci/drivers_probe", address);
    CHECK(bound(address, driver), "%s is not bound to %s", address, driver);
}

static int config_open(const char *address)
{
    char path[96];
    int fd;

    pci_path(path, address, "config");
    fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0, "%s: %s", path, strerror(errno));
    return fd;
}

uint16_t pci_config(const char *address, uint32_t offset)
{
    int fd = config_open(address);
    uint16_t value = 0;

    CHECK(pread(fd, &value, 2, offset) == 2);
    close(fd);
    return value;
}

void pci_config_write(const char *address, uint32_t offset, uint16_t value)
{
    int fd = config_open(address);

    CHECK(pwrite(fd, &value, 2, offset) == 2);
    close(fd);
}

int pci_disk(const char *address, char node[300])
{
    char path[96], found[300] = "";
    struct dirent *entry;
    int fd = -1;
    DIR *dir;

    pci_bind(address, "nvme");
    pci_path(path, address, "nvme");
    for (int tries = 0; fd < 0 && tries < 5000; tries++) { /* it probes in a thread of its own */
        dir = opendir(path);
        while (dir && (entry = readdir(dir)))
            if (strncmp(entry->d_name, "nvme", 4) == 0)
                snprintf(found, sizeof(found), "/dev/%sn1", entry->d_name);
        if (dir)
            closedir(dir);
        fd = open(found, O_RDWR | O_DIRECT | O_CLOEXEC);
        if (fd < 0)
            usleep(1000);
    }
    CHECK(fd >= 0, "%s: %s", found, strerror(errno));
    if (node)
        snprintf(node, 300, "%s", found);
    return fd;
}

uint32_t pci_capability(const char *address, uint8_t id)
{
    uint32_t at = pci_config(address, PCI_CAPABILITY_LIST) & 0xfc;

    for (int i = 0; at != 0 && i < 48; i++) {
        uint16_t head = pci_config(address, at);

        if ((head & 0xff) == id)
            return at;
        at = head >> 8 & 0xfc;
    }
    return 0;
}

bool pci_bus_master(const char *address)
{
    return pci_config(address, PCI_COMMAND) & PCI_COMMAND_MASTER;
}

static void slot_control(const char *port, uint16_t value)
{
    pci_config_write(port, pci_capability(port, PCI_CAP_ID_EXP) + PCI_EXP_SLTCTL, value);
}

/**
 * A slot with power off loses its drive. With power on again at once it is as if the drive had been
 * pulled out: the kernel, whose thread must not run in between, did not empty the slot itself.
 */
void pci_empty_slot(const char *port, bool pulled_out)
{
    const struct sched_param first = {.sched_priority = 99}, usual = {0};
    uint16_t on = pci_config(port, pci_capability(port, PCI_CAP_ID_EXP) + PCI_EXP_SLTCTL);

    put("/sys/devices/system/cpu/cpu1/online", "0");
    CHECK(sched_setscheduler(0, SCHED_FIFO, &first) == 0, "%s", strerror(errno));
    slot_control(port, on | PCI_EXP_SLTCTL_PCC | PCI_EXP_SLTCTL_PWR_IND_OFF);
    if (pulled_out)
        slot_control(port, on);
    CHECK(sched_setscheduler(0, SCHED_OTHER, &usual) == 0);
    put("/sys/devices/system/cpu/cpu1/online", "1");
}

uint8_t *peer_map(void)
{
    char path[96];
    void *memory;
    int fd;

    pci_path(path, PEER, "enable");
    put(path, "1");
    pci_path(path, PEER, "resource2");
    fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0, "%s: %s", path, strerror(errno));
    memory = mmap(NULL, PEER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(memory != MAP_FAILED, "%s", strerror(errno));
    close(fd);
    return memory;
}

int klog_open(void)
{
    int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);

    CHECK(fd >= 0, "/dev/kmsg: %s", strerror(errno));
    lseek(fd, 0, SEEK_END);
    return fd;
}

bool klog_says(int fd, const char *one, const char *other, uint64_t within_ns)
{
    uint64_t began = tutti_clock_now();

    do {
        char line[2048];
        ssize_t got = read(fd, line, sizeof(line) - 1);

        if (got > 0) {
            line[got] = 0;
            if (strstr(line, one) && strstr(line, other))
                return true;
        } else {
            usleep(1000);
        }
    } while (tutti_clock_now() - began < within_ns);
    return false;
}
