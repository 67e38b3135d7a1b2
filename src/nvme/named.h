/* SPDX-License-Identifier: Apache-2.0 */
/*
 * named.h: drives by the serial that is printed on them.
 *
 * PCI addresses are given anew when hardware is added; a serial stays. Under vfio-pci sysfs shows
 * none, so "tutti bind" writes it to /run/tutti/bound/ADDRESS. That is a hint: whoever opens the
 * drive there compares what it says of itself.
 */
#ifndef TUTTI_NVME_NAMED_H
#define TUTTI_NVME_NAMED_H

#include <stdbool.h>

#include "tutti/error.h"

#define NVME_NAME 64

/** The serial of a name "nvme:serial=SERIAL[/NAMESPACE]". Return: whether it is one. */
bool nvme_named_serial(const char *name, char serial[NVME_NAME]);

/**
 * nvme_named_resolve() - the same drive by its address: "nvme:0000:01:00.0[/NAMESPACE]"
 * @root: before /run and /sys; "" but in tests
 *
 * Return: 0, -ENODEV (nothing has this serial), -ENXIO (the kernel's driver has it), -ENOTUNIQ, or
 * -EINVAL, with a message.
 */
int nvme_named_resolve(const char *root, const char *name, char to[NVME_NAME],
                       struct tutti_error *err);

#endif
