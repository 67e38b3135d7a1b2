/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guest.h: what the tests inside the virtual machine share.
 *
 * One static program is the guest's /init and all of its tests (init.c). The
 * machine that run.py makes has five drives and a peer, at fixed places:
 *
 *     PLAIN    512-byte blocks, 512 KiB a command
 *     FAULTY   512-byte blocks; reads of BAD_READ and writes of BAD_WRITE fail
 *     SLOW     512-byte blocks; a few commands a second
 *     PULLED   4096-byte blocks, 128 KiB a command
 *     LOST     512-byte blocks, 128 KiB a command; the last test of pools takes it away
 *     PEER     ivshmem: a PCI device whose BAR is memory, as a GPU's is
 *
 * PULLED, FAULTY and LOST stand in slots that can be switched off. Before all stands an IOMMU that
 * lets them reach what was mapped only.
 */
#ifndef TESTS_VM_GUEST_H
#define TESTS_VM_GUEST_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "nvme/vfio.h"

#define PLAIN "0000:00:04.0"
#define FAULTY "0000:02:00.0"
#define SLOW "0000:00:06.0"
#define PEER "0000:00:07.0"
#define PORT "0000:00:03.0"
#define PORT_OF_FAULTY "0000:00:05.0"
#define PULLED "0000:01:00.0"
#define PORT_OF_LOST "0000:00:08.0"
#define LOST "0000:03:00.0"

#define BAD_READ 2560u
#define BAD_WRITE 4352u
#define DRIVE_BYTES (64u << 20)
#define PEER_BYTES (8u << 20)
#define SECOND UINT64_C(1000000000)
#define PATIENCE (30 * SECOND) /* for what comes at once on a machine that is not busy */

struct test {
    const char *name;
    void (*run)(void);
};

/* One list a file; each ends with a zero. */
extern const struct test use_tests[];
extern const struct test trouble_tests[];
extern const struct test lane_tests[];
extern const struct test rule_tests[];
extern const struct test memory_tests[];
extern const struct test pool_tests[];
extern const struct test pool_trouble_tests[];
extern const struct test death_tests[];

/** Ends the test where @condition does not hold. */
#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("  %s:%d: %s;", __FILE__, __LINE__, #condition);                                \
            printf(" " __VA_ARGS__);                                                               \
            printf("\n");                                                                          \
            test_failed();                                                                         \
        }                                                                                          \
    } while (0)

void test_failed(void) __attribute__((noreturn));
/** In a process that a test made and that the test judges by its verdict. */
void test_passed(void) __attribute__((noreturn));

/* pci.c: the guest's Linux. */

void pci_bind(const char *address, const char *driver);
void pci_path(char to[96], const char *address, const char *file);
/** Writes text to a file, or fails the test. */
void put(const char *path, const char *text);
uint16_t pci_config(const char *address, uint32_t offset);
void pci_config_write(const char *address, uint32_t offset, uint16_t value);
/** Where a capability lies in a function's configuration space, or 0. */
uint32_t pci_capability(const char *address, uint8_t id);
bool pci_bus_master(const char *address);
/** What a drive is to Linux's own driver: a descriptor, and where @node is not NULL its path. */
int pci_disk(const char *address, char node[300]);
/** Takes the drive out of a port's slot: death.c says how. */
void pci_empty_slot(const char *port, bool pulled_out);
/** PEER's memory, or part of it. */
uint8_t *peer_map(void);
/** What the kernel logs from now on. Return: a descriptor for klog_says(). */
int klog_open(void);
bool klog_says(int fd, const char *one, const char *other, uint64_t within_ns);

/* drive.c: a drive through src/nvme. */

struct drive {
    const char *address;
    struct nvme_port port;
    struct nvme_vfio *vfio;
    struct nvme_controller *controller;
    struct nvme_facts facts;
};

void drive_open(struct drive *d, const char *address);
void drive_close(struct drive *d);
/** Pages of the host's, mapped. */
uint8_t *drive_memory(struct drive *d, size_t bytes, uint64_t *address);
void drive_queue(struct drive *d, struct nvme_queue *q, uint32_t number, uint32_t depth);
void drive_queue_close(struct drive *d, struct nvme_queue *q);
/** Put a read or write. Return: its identifier. */
uint32_t drive_put(const struct drive *d, struct nvme_queue *q, uint32_t opcode, uint64_t address,
                   uint64_t at, uint32_t bytes);
/** Wait for the next completion. */
struct nvme_done drive_take(struct nvme_queue *q);
/** The same for one command alone. Return: its status. */
uint32_t drive_do(const struct drive *d, struct nvme_queue *q, uint32_t opcode, uint64_t address,
                  uint64_t at, uint32_t bytes);
/** A pair of queues in memory of the caller's choice, such as the peer's. */
void drive_queue_at(struct drive *d, struct nvme_queue *q, uint32_t number, uint32_t depth,
                    uint8_t *memory, uint64_t address);

/** Bytes that tell their place and @seed. */
void fill(uint8_t *memory, uint32_t bytes, uint64_t seed);
bool filled(const uint8_t *memory, uint32_t bytes, uint64_t seed);

#endif
