/* SPDX-License-Identifier: Apache-2.0 */
/* controllers.c: see controllers.h. Must not know how a controller is bound. */
#include "controllers.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NVME_CLASS "0x010802" /* PCI: mass storage, NVM, NVM Express */
#define BRIDGE_CLASS "0x0604" /* PCI-to-PCI bridge, any interface */
#define PCI "/sys/bus/pci/devices/%s"
#define SECTOR 512u /* what sysfs counts sizes in, whatever the drive's own */

const char *bound_path(const struct controller *c, char path[MACHINE_PATH])
{
    snprintf(path, MACHINE_PATH, "/run/tutti/bound/%s", c->address);
    return path;
}

const char *unit_name(const struct controller *c, char name[64])
{
    name[0] = 0;
    for (const char *p = c->serial; *p; p++)
        if (!isalnum((unsigned char)*p) && *p != '-' && *p != '_' && *p != '.')
            return name;
    if (c->serial[0])
        snprintf(name, 64, "tutti-bind-%s.service", c->serial);
    return name;
}

bool controller_bound(const struct controller *c)
{
    return strcmp(c->driver, "vfio-pci") == 0;
}

static void look_at_group(const struct machine *m, struct controller *c)
{
    struct names devices;
    char name[32], class[16];

    machine_read(m, name, sizeof(name), PCI "/iommu_group/name", c->address);
    if (strcmp(name, "vfio-noiommu") == 0 ||
        !machine_link(m, c->group, sizeof(c->group), PCI "/iommu_group", c->address))
        return;
    machine_list(m, &devices, PCI "/iommu_group/devices", c->address);
    for (uint32_t i = 0; i < devices.count; i++) {
        const char *address = devices.entry[i]->d_name;
        struct peer *p;

        machine_read(m, class, sizeof(class), PCI "/class", address);
        if (strcmp(address, c->address) == 0 ||
            strncmp(class, BRIDGE_CLASS, strlen(BRIDGE_CLASS)) == 0)
            continue;
        if (c->peers++ >= MOST_PEERS)
            continue;
        p = &c->peer[c->peers - 1];
        snprintf(p->address, sizeof(p->address), "%.31s", address);
        machine_link(m, p->driver, sizeof(p->driver), PCI "/driver", address);
    }
    names_free(&devices);
}

/**
 * The block device that shows a namespace: nvme0n1. Where a drive could have
 * several controllers the controller's folder holds its path there instead,
 * hidden: nvme0c3n1 is controller 3's path to nvme0n1.
 */
static bool block_device(const char *entry, char name[32])
{
    unsigned subsystem, controller, number;
    int end = 0;

    if (sscanf(entry, "nvme%uc%un%u%n", &subsystem, &controller, &number, &end) != 3 &&
        sscanf(entry, "nvme%un%u%n", &subsystem, &number, &end) != 2)
        return false;
    snprintf(name, 32, "nvme%un%u", subsystem, number);
    return entry[end] == 0;
}

static void look_at_namespaces(const struct machine *m, bool contents, struct controller *c)
{
    struct names found;
    char name[32], text[32];

    machine_list(m, &found, PCI "/nvme/%s", c->address, c->instance);
    for (uint32_t i = 0; i < found.count; i++) {
        struct namespace *n;

        if (!block_device(found.entry[i]->d_name, name) || c->namespaces++ >= MOST_NAMESPACES)
            continue;
        n = &c->namespace[c->namespaces - 1];
        memcpy(n->name, name, sizeof(n->name));
        machine_read(m, text, sizeof(text), "/sys/class/block/%s/size", name);
        n->bytes = strtoull(text, NULL, 10) * SECTOR;
        c->bytes += n->bytes;
        if (contents)
            contents_examine(m, name, &n->contents);
    }
    names_free(&found);
}

static bool is_controller(const char *name)
{
    int end = 0;

    return sscanf(name, "nvme%*u%n", &end) == 0 && end > 0 && name[end] == 0;
}

/** Controllers of the NVM subsystem that this one belongs to. */
static void count_paths(const struct machine *m, struct controller *c)
{
    struct names subsystems, entries;

    c->paths = 1;
    machine_list(m, &subsystems, "/sys/class/nvme-subsystem");
    for (uint32_t s = 0; s < subsystems.count; s++) {
        const char *name = subsystems.entry[s]->d_name;
        uint32_t count = 0;

        if (!machine_has(m, "/sys/class/nvme-subsystem/%s/%s", name, c->instance))
            continue;
        machine_list(m, &entries, "/sys/class/nvme-subsystem/%s", name);
        for (uint32_t i = 0; i < entries.count; i++)
            count += is_controller(entries.entry[i]->d_name);
        names_free(&entries);
        c->paths = count;
    }
    names_free(&subsystems);
}

/** The driver's name for it, and what the drive says of itself. */
static void ask_driver(const struct machine *m, bool contents, struct controller *c)
{
    struct names found;

    machine_list(m, &found, PCI "/nvme", c->address);
    if (found.count > 0)
        snprintf(c->instance, sizeof(c->instance), "%.31s", found.entry[0]->d_name);
    names_free(&found);
    if (!c->instance[0])
        return;
    machine_read(m, c->serial, sizeof(c->serial), PCI "/nvme/%s/serial", c->address, c->instance);
    machine_read(m, c->model, sizeof(c->model), PCI "/nvme/%s/model", c->address, c->instance);
    count_paths(m, c);
    look_at_namespaces(m, contents, c);
}

/** What bind wrote down. */
static void recall(const struct machine *m, struct controller *c)
{
    char path[MACHINE_PATH], full[MACHINE_PATH], line[128];
    FILE *file = fopen(machine_path(m, full, "%s", bound_path(c, path)), "re");

    while (file && fgets(line, sizeof(line), file)) {
        line[strcspn(line, "\n")] = 0;
        if (strncmp(line, "serial ", 7) == 0)
            snprintf(c->serial, sizeof(c->serial), "%.31s", line + 7);
        else if (strncmp(line, "model ", 6) == 0)
            snprintf(c->model, sizeof(c->model), "%.47s", line + 6);
        else if (strncmp(line, "bytes ", 6) == 0)
            c->bytes = strtoull(line + 6, NULL, 10);
    }
    if (file)
        fclose(file);
}

static void look_at(const struct machine *m, bool contents, struct controller *c,
                    const char *address)
{
    char name[64];

    *c = (struct controller){0};
    snprintf(c->address, sizeof(c->address), "%.31s", address);
    machine_link(m, c->driver, sizeof(c->driver), PCI "/driver", address);
    machine_read(m, c->override, sizeof(c->override), PCI "/driver_override", address);
    if (strcmp(c->override, "(null)") == 0)
        c->override[0] = 0;
    look_at_group(m, c);
    if (controller_bound(c) || !c->driver[0])
        recall(m, c);
    else
        ask_driver(m, contents, c);
    c->persists = unit_name(c, name)[0] && machine_has(m, "/etc/systemd/system/%s", name);
}

int controllers_find(const struct machine *m, bool contents, struct controller **list,
                     uint32_t *count, struct tutti_error *err)
{
    struct names devices;
    char class[16];
    int rc = 0;

    *list = NULL;
    *count = 0;
    machine_list(m, &devices, "/sys/bus/pci/devices");
    for (uint32_t i = 0; i < devices.count && rc == 0; i++) {
        struct controller *more;

        machine_read(m, class, sizeof(class), PCI "/class", devices.entry[i]->d_name);
        if (strcmp(class, NVME_CLASS) != 0)
            continue;
        more = realloc(*list, (*count + 1) * sizeof(**list));
        if (more) {
            *list = more;
            look_at(m, contents, &more[(*count)++], devices.entry[i]->d_name);
        } else {
            rc = tutti_error_set(err, -ENOMEM, "no memory for a list of NVMe controllers");
        }
    }
    names_free(&devices);
    return rc;
}

/* VFIO gives a group away when each device in it is VFIO's, or nobody's. */
static bool in_the_way(const struct peer *p)
{
    return !p->named && p->driver[0] && strcmp(p->driver, "vfio-pci") != 0 &&
           strcmp(p->driver, "pci-stub") != 0;
}

bool controller_group_viable(const struct controller *c)
{
    for (uint32_t i = 0; i < c->peers && i < MOST_PEERS; i++)
        if (in_the_way(&c->peer[i]))
            return false;
    return c->peers <= MOST_PEERS;
}

const char *controller_peers_text(const struct controller *c, char *text, size_t size)
{
    size_t length = 0;

    text[0] = 0;
    for (uint32_t i = 0; i < c->peers && i < MOST_PEERS && length < size; i++)
        if (in_the_way(&c->peer[i]))
            length += (size_t)snprintf(text + length, size - length, "%s%s (%s)",
                                       length ? ", " : "", c->peer[i].address, c->peer[i].driver);
    return text;
}

static bool obstacle(struct obstacle *o, int code, bool data, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static bool obstacle(struct obstacle *o, int code, bool data, const char *format, ...)
{
    va_list arguments;

    o->code = code;
    o->data = data;
    va_start(arguments, format);
    vsnprintf(o->text, sizeof(o->text), format, arguments);
    va_end(arguments);
    return true;
}

/** Who has it now. */
static bool taken(const struct controller *c, struct obstacle *o)
{
    if (c->driver[0] && strcmp(c->driver, "nvme") != 0)
        return obstacle(o, -EBUSY, false, "driver %s has it: give it back to nvme first",
                        c->driver);
    for (uint32_t i = 0; i < c->namespaces && i < MOST_NAMESPACES; i++)
        if (c->namespace[i].contents.in_use[0])
            return obstacle(o, -EBUSY, false, "%s: %s", c->namespace[i].name,
                            c->namespace[i].contents.in_use);
    if (c->paths > 1)
        return obstacle(o, -EBUSY, false,
                        "multipath: its NVM subsystem has %u controllers, and the others reach the "
                        "same namespaces",
                        c->paths);
    if (c->namespaces > MOST_NAMESPACES)
        return obstacle(o, -EBUSY, false, "%u namespaces are more than are looked at (%u)",
                        c->namespaces, MOST_NAMESPACES);
    return false;
}

static bool not_isolated(const struct controller *c, struct obstacle *o)
{
    char peers[256];

    if (!c->group[0])
        return obstacle(o, -EOPNOTSUPP, false,
                        "no IOMMU: turn VT-d or AMD-Vi on in the firmware, and boot with "
                        "intel_iommu=on ('tutti doctor' says which)");
    if (!controller_group_viable(c))
        return obstacle(o, -EOPNOTSUPP, false,
                        "IOMMU group %s holds others that are in use: %s; take another slot, turn "
                        "ACS on in the firmware, or bind them too",
                        c->group, controller_peers_text(c, peers, sizeof(peers)));
    return false;
}

static bool holds_data(const struct controller *c, struct obstacle *o)
{
    for (uint32_t i = 0; i < c->namespaces && i < MOST_NAMESPACES; i++)
        if (c->namespace[i].contents.foreign)
            return obstacle(o, -EEXIST, true, "%s holds data: %s", c->namespace[i].name,
                            c->namespace[i].contents.holds);
    if (c->namespaces == 0)
        return obstacle(o, -EEXIST, true, "nobody can say what it holds: %s",
                        c->driver[0] ? "it shows no namespace (nvme list-ns)"
                                     : "no driver has it (modprobe nvme)");
    return false;
}

bool controller_obstacle(const struct controller *c, struct obstacle *o)
{
    return taken(c, o) || not_isolated(c, o) || holds_data(c, o);
}
