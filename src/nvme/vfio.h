/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vfio.h: a way to a real controller, through the kernel's VFIO.
 *
 * Responsible for owning a PCI function that is bound to vfio-pci: its
 * registers, the memory that it may reach, its interrupts, and the order in
 * which all that ends. Knows nothing of NVMe but its PCI class; what the
 * registers mean is controller.c's.
 *
 * The IOMMU is what makes it safe: the drive reaches what was mapped and
 * nothing else. Host memory is pinned by the kernel. Memory of another device
 * (a GPU's BAR) is not: nobody tells the drive when it goes. So the drive is
 * stopped first, in every kind of end:
 *
 *     in order    queues deleted, nvme_close(), bus mastering off, unmapped, and only then freed
 *     killed      the kernel closes the highest descriptor first: the drive's is the highest
 *     fork        a child would keep the drive running after its parent's death. It gets neither
 *                 the registers (MADV_DONTFORK) nor, from fork(), the descriptors; exec closes
 *                 them. What calls clone() directly and never execs has to close them itself.
 *
 * A child of fork() cannot use the drive. Host memory stays readable there; its
 * pages are pinned, so it is the child that gets the copies (Linux 5.12).
 *
 * A drive has a container of its own, and one thread at a time calls for it.
 */
#ifndef TUTTI_NVME_VFIO_H
#define TUTTI_NVME_VFIO_H

#include "nvme/controller.h"

struct nvme_vfio;

/**
 * nvme_vfio_open() - take a controller that is bound to vfio-pci
 * @address: such as "0000:01:00.0"
 * @port: filled in for nvme_open(); good until nvme_vfio_close()
 *
 * The port's close is nvme_vfio_close(). It cannot reach memory before the first mapping. Return:
 * 0, or a negative errno with a message that names what is missing and how to get it; -EBUSY where
 * another process has it, or where its former close is still going on.
 */
int nvme_vfio_open(const char *address, struct nvme_port *port, struct nvme_vfio **vfio,
                   struct tutti_error *err);

/**
 * nvme_vfio_close() - give it back; after nvme_close()
 *
 * When it returns the drive reaches no memory. The kernel may take more than a minute to let go of
 * a drive that was pulled out: a thread waits for that, not the caller. NULL is nothing.
 */
void nvme_vfio_close(struct nvme_vfio *vfio);

/**
 * nvme_vfio_map() - let the drive reach memory: the host's, huge pages, another device's BAR
 * @memory, @bytes: whole pages
 * @address: on the bus
 *
 * Return: 0, or a negative errno with a message; then nothing of it is mapped.
 */
int nvme_vfio_map(struct nvme_vfio *vfio, void *memory, size_t bytes, uint64_t *address,
                  struct tutti_error *err);

/**
 * nvme_vfio_unmap() - take away what one nvme_vfio_map() gave
 *
 * Return: 0; or a negative errno with a message: then the drive may still reach it, and it has to
 * stay.
 */
int nvme_vfio_unmap(struct nvme_vfio *vfio, uint64_t address, size_t bytes,
                    struct tutti_error *err);

/**
 * nvme_vfio_interrupt() - have the completions of a queue pair announced
 * @number: of the pair, before its nvme_queue_open()
 *
 * To sleep: poll the queue, find nothing, poll(2) the descriptor, read it, poll the queue. A busy
 * thread needs none, and is better off without: each completion costs an interrupt.
 *
 * Return: an eventfd, non-blocking, the vfio's; or a negative errno with a message.
 */
int nvme_vfio_interrupt(struct nvme_vfio *vfio, uint32_t number, struct tutti_error *err);

/**
 * nvme_vfio_removal() - an eventfd: the kernel asks for the drive back (unbound, or taken out)
 *
 * It asks again every few seconds, and waits, until nvme_vfio_close().
 */
int nvme_vfio_removal(const struct nvme_vfio *vfio);

/** An eventfd: the bus reported an error that is not corrected. -1 where the drive cannot say. */
int nvme_vfio_error(const struct nvme_vfio *vfio);

#endif
