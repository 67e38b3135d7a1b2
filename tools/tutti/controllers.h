/* SPDX-License-Identifier: Apache-2.0 */
/*
 * controllers.h: the NVMe controllers of this machine, and what keeps each from
 * being driven from user space.
 *
 * Responsible for: what sysfs says of them, and the verdict. Must not know how
 * a controller is bound, nor print.
 *
 * A controller is called by its drive's serial, which stays the same when
 * addresses are given anew. Under vfio-pci sysfs shows no serial: bind writes
 * it down first (bound_path()), so it is forgotten at the next boot, when it is
 * shown again.
 */
#ifndef TOOLS_CONTROLLERS_H
#define TOOLS_CONTROLLERS_H

#include <jansson.h>

#include "contents.h"
#include "machine.h"

#define MOST_NAMESPACES 128u /* looked at; a drive with more is not taken */
#define MOST_PEERS 32u

struct namespace
{
    char name[32]; /* of its block device: "nvme0n1" */
    uint64_t bytes;
    struct contents contents;
};

/** Another device of the IOMMU group; bridges are none. */
struct peer {
    char address[32];
    char driver[32];
    bool named; /* is bound by the same command */
};

struct controller {
    char address[32]; /* "0000:01:00.0" */
    char serial[32];  /* empty: not known */
    char model[48];
    char driver[32];   /* empty: none */
    char override[32]; /* driver_override; empty: none */
    char instance[32]; /* "nvme0"; empty where the nvme driver does not have it */
    char group[16];    /* IOMMU group; empty: none */
    struct peer peer[MOST_PEERS];
    uint32_t peers; /* may be more than MOST_PEERS */
    uint32_t paths; /* controllers of its NVM subsystem, this one included */
    uint64_t bytes;
    struct namespace namespace[MOST_NAMESPACES];
    uint32_t namespaces; /* may be more than MOST_NAMESPACES */
    bool persists;       /* is bound again at each boot */
};

/**
 * controllers_find() - find them all
 * @contents: look at what their namespaces hold, too; opens the block devices
 * @list: free() it
 *
 * Return: 0 or -ENOMEM with a message.
 */
int controllers_find(const struct machine *m, bool contents, struct controller **list,
                     uint32_t *count, struct tutti_error *err);

/** Where bind writes down what sysfs will not show; below the machine's root. */
const char *bound_path(const struct controller *c, char path[MACHINE_PATH]);

/** The unit that binds it again at boot, "" where the serial cannot be a file's name. */
const char *unit_name(const struct controller *c, char name[64]);

bool controller_bound(const struct controller *c);

/** Whether VFIO would give its group away, once this controller is bound. */
bool controller_group_viable(const struct controller *c);

/** "0000:02:00.0 (xhci_hcd)" for each other device of the group that is in the way. */
const char *controller_peers_text(const struct controller *c, char *text, size_t size);

/**
 * struct obstacle - why a controller is not bound
 * @code: negative errno
 * @data: only for the sake of data, and it may be said that they do not matter
 */
struct obstacle {
    int code;
    bool data;
    char text[512];
};

/** Return: false when nothing is in the way. */
bool controller_obstacle(const struct controller *c, struct obstacle *o);

#endif
