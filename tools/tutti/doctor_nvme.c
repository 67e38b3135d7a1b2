/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doctor_nvme.c: what keeps NVMe controllers from being driven from user space,
 * each obstacle with what removes it.
 *
 * Responsible for: IOMMU, groups, vfio-pci, /dev/vfio, the VFIO container,
 * locked memory, a GPU's BAR1. All of that is a choice, so nothing here is
 * worse than "worse", and it counts for the verdict only where a controller is
 * bound: a machine without serves through io_uring. Must not know
 * which controller somebody wants to bind ('tutti devices' judges each).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "controllers.h"
#include "doctor.h"
#include "size.h"

#define NVIDIA "0x10de"
#define DISPLAY_CLASS "0x03" /* PCI: display controller, whatever its kind */
#define MIB (UINT64_C(1) << 20)

/** Return: whether there is one at all. */
static bool examine_iommu(struct diagnosis *d, const struct machine *m,
                          const struct controller *list, uint32_t count)
{
    struct finding *f;

    for (uint32_t i = 0; i < count; i++)
        if (list[i].group[0]) {
            find(d, "IOMMU", GOOD, "on");
            return true;
        }
    f = find(d, "IOMMU", WORSE, "off: NVMe controllers have no IOMMU group");
    if (machine_has(m, "/sys/firmware/acpi/tables/DMAR"))
        remedy(f, "boot with intel_iommu=on (GRUB_CMDLINE_LINUX in /etc/default/grub, update-grub, "
                  "reboot)");
    else if (machine_has(m, "/sys/firmware/acpi/tables/IVRS"))
        remedy(f, "boot without amd_iommu=off and iommu=off (GRUB_CMDLINE_LINUX in "
                  "/etc/default/grub, update-grub, reboot)");
    else
        remedy(f, "turn VT-d (Intel) or AMD-Vi (AMD) on in the firmware's set-up, and on Intel "
                  "boot with intel_iommu=on; in a virtual machine, give it an IOMMU");
    return false;
}

static void examine_groups(struct diagnosis *d, const struct controller *list, uint32_t count)
{
    const struct controller *bad = NULL;
    uint32_t shared = 0;
    char peers[128];
    struct finding *f;

    for (uint32_t i = 0; i < count; i++)
        if (list[i].group[0] && !controller_group_viable(&list[i])) {
            bad = bad ? bad : &list[i];
            shared++;
        }
    if (!bad) {
        find(d, "IOMMU groups", GOOD, "no NVMe controller shares its group with a device in use");
        return;
    }
    f = find(d, "IOMMU groups", WORSE,
             "%u of %u NVMe controllers cannot be given away alone: %s is in group %s with %s",
             shared, count, bad->address, bad->group,
             controller_peers_text(bad, peers, sizeof(peers)));
    remedy(f, "another slot for the drive, ACS on in the firmware, or bind all of the group "
              "('tutti devices' shows it)");
}

/** The module, then what it makes in /dev, then who answers there; each needs the one before. */
static void examine_vfio(struct diagnosis *d, const struct machine *m,
                         const struct controller *list, uint32_t count)
{
    struct finding *f;

    if (!machine_has(m, "/sys/bus/pci/drivers/vfio-pci")) {
        f = find(d, "vfio-pci", WORSE, "the module is not loaded");
        remedy(f, "modprobe vfio-pci%s ('tutti bind' does it too)",
               machine_in_container(m) ? " on the host" : "");
        return;
    }
    find(d, "vfio-pci", GOOD, "loaded");
    if (!machine_has(m, "/dev/vfio/vfio")) {
        f = find(d, "/dev/vfio", WORSE, "/dev/vfio/vfio is not here%s",
                 machine_in_container(m) ? ", in this container" : "");
        if (machine_in_container(m))
            remedy(f, "docker run --device /dev/vfio/vfio --device /dev/vfio/GROUP --ulimit "
                      "memlock=-1 (GROUP: see 'tutti devices' on the host)");
        else
            remedy(f, "modprobe vfio; a kernel with CONFIG_VFIO_CONTAINER");
        return;
    }
    for (uint32_t i = 0; i < count; i++)
        if (controller_bound(&list[i]) && !machine_has(m, "/dev/vfio/%s", list[i].group)) {
            f = find(d, "/dev/vfio", WORSE, "/dev/vfio/%s of %s is not here", list[i].group,
                     list[i].address);
            remedy(f,
                   "docker run --device /dev/vfio/vfio --device /dev/vfio/%s --ulimit memlock=-1",
                   list[i].group);
        }
    if (machine_has(m, "/sys/module/vfio_iommu_type1")) {
        find(d, "VFIO container", GOOD, "vfio_iommu_type1 answers at /dev/vfio/vfio");
        return;
    }
    f = find(d, "VFIO container", WORSE,
             "%s at /dev/vfio/vfio, not vfio_iommu_type1: it takes no GPU memory",
             machine_has(m, "/dev/iommu") ? "iommufd answers" : "who answers is not known");
    remedy(f, "modprobe vfio_iommu_type1; where there is no such module, a kernel with "
              "CONFIG_VFIO_CONTAINER and without CONFIG_IOMMUFD_VFIO_CONTAINER");
}

static void examine_locked(struct diagnosis *d)
{
    struct rlimit limit = {.rlim_cur = RLIM_INFINITY};
    char size[SIZE_TEXT];
    struct finding *f;

    getrlimit(RLIMIT_MEMLOCK, &limit);
    if (limit.rlim_cur == RLIM_INFINITY || may_lock()) {
        find(d, "locked memory", GOOD, "a drive may be given any amount of memory");
        return;
    }
    f = find(d, "locked memory", WORSE, "a drive may be given %s of memory at most",
             size_text(limit.rlim_cur, size));
    remedy(f,
           "ulimit -l unlimited (systemd: LimitMEMLOCK=infinity; docker run --ulimit memlock=-1)");
}

/** Size of BAR1 from the table of resources; 0: none. */
static uint64_t bar1_bytes(const struct machine *m, const char *address)
{
    char path[MACHINE_PATH], line[128];
    unsigned long long start, end;
    uint64_t bytes = 0;
    FILE *file = fopen(machine_path(m, path, "/sys/bus/pci/devices/%s/resource", address), "re");

    if (!file)
        return 0;
    if (fgets(line, sizeof(line), file) && fgets(line, sizeof(line), file) &&
        sscanf(line, "%llx %llx", &start, &end) == 2 && end > start)
        bytes = end - start + 1;
    fclose(file);
    return bytes;
}

/**
 * The largest BAR1 that the GPU could have is its memory rounded up to a power
 * of two. Where it cannot be resized, only the 256 MiB of old are known to be small.
 */
static void examine_gpu(struct diagnosis *d, const struct machine *m, const char *address)
{
    uint64_t now = bar1_bytes(m, address), most = 0, sizes;
    char text[32], size[SIZE_TEXT], larger[SIZE_TEXT];
    struct finding *f;

    machine_read(m, text, sizeof(text), "/sys/bus/pci/devices/%s/resource1_resize", address);
    sizes = strtoull(text, NULL, 16);
    for (unsigned bit = 0; bit < 40; bit++)
        if (sizes >> bit & 1)
            most = MIB << bit;
    if (now >= most && now > 256 * MIB) {
        find(d, "GPU BAR1", GOOD, "%s: %s", address, size_text(now, size));
        return;
    }
    f = find(d, "GPU BAR1", WORSE, "%s: %s%s%s: a drive cannot reach all of the GPU's memory",
             address, size_text(now, size), most > now ? ", and could be " : "",
             most > now ? size_text(most, larger) : "");
    remedy(f, "turn Above 4G Decoding and Resizable BAR on in the firmware's set-up");
}

static void examine_gpus(struct diagnosis *d, const struct machine *m)
{
    struct names devices;
    char vendor[16], class[16];

    machine_list(m, &devices, "/sys/bus/pci/devices");
    for (uint32_t i = 0; i < devices.count; i++) {
        const char *address = devices.entry[i]->d_name;

        machine_read(m, vendor, sizeof(vendor), "/sys/bus/pci/devices/%s/vendor", address);
        machine_read(m, class, sizeof(class), "/sys/bus/pci/devices/%s/class", address);
        if (strcmp(vendor, NVIDIA) == 0 &&
            strncmp(class, DISPLAY_CLASS, strlen(DISPLAY_CLASS)) == 0)
            examine_gpu(d, m, address);
    }
    names_free(&devices);
}

int examine_nvme(struct diagnosis *d, const struct machine *m, struct tutti_error *err)
{
    struct controller *list;
    uint32_t count, bound = 0, before = d->count;
    int rc = controllers_find(m, false, &list, &count, err);

    for (uint32_t i = 0; rc == 0 && i < count; i++)
        bound += controller_bound(&list[i]);
    if (rc == 0 && count == 0) {
        find(d, "NVMe", GOOD, "no NVMe controller: none to drive from user space");
    } else if (rc == 0) {
        find(d, "NVMe", GOOD, "%u controller%s, %u bound to vfio-pci ('tutti devices')", count,
             count == 1 ? "" : "s", bound);
        if (examine_iommu(d, m, list, count)) {
            examine_groups(d, list, count);
            examine_vfio(d, m, list, count);
        }
        examine_locked(d);
        examine_gpus(d, m);
    }
    for (uint32_t i = before; i < d->count; i++)
        d->finding[i].aside = bound == 0; /* nobody asked for it: a machine without serves well */
    free(list);
    return rc;
}
