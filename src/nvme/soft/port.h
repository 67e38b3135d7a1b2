/* SPDX-License-Identifier: Apache-2.0 */
/* port.h: a port to a software controller whose medium is a file. */
#ifndef TUTTI_NVME_SOFT_PORT_H
#define TUTTI_NVME_SOFT_PORT_H

#include "nvme/controller.h"

struct soft;

/**
 * soft_port_open() - a software controller over a file, with a thread of its own
 * @what: FILE[,lba=4096][,sgls=1][,mdts=5][,depth=1024][,queues=64][,aborts=1][,ready=59]
 *   [,timing=1][,warns=8]: block bytes; 0 no SGL, 1 any alignment, 2 dwords; log2 of pages a
 *   transfer; entries and pairs of queues; 0: aborts are answered and do nothing; CAP.TO; 1: it
 *   takes the time of a PCIe 5 drive, where this machine is as fast; NVME_WARNING_ bits of its
 *   health log
 *
 * Addresses on its bus are not those of memory. The file is locked while it is open. Return: 0, or
 * a negative errno with a message. @port->close ends it.
 */
int soft_port_open(const char *what, struct nvme_port *port, struct tutti_error *err);

/** The controller behind a port of soft_port_open(); for tests. */
struct soft *soft_port_soft(const struct nvme_port *port);

#endif
