/* SPDX-License-Identifier: Apache-2.0 */
/*
 * controller.h: one NVMe controller, from reset to shutdown.
 *
 * Responsible for bring-up, for what the controller says of itself, and for
 * making and deleting queue pairs. Knows no pool and no engine; how registers
 * and memory are reached is the port's (vfio.c, or the software controller).
 *
 * All calls come from one thread, and every wait has a bound. The path of a
 * read or write is queue.h alone.
 */
#ifndef TUTTI_NVME_CONTROLLER_H
#define TUTTI_NVME_CONTROLLER_H

#include <stddef.h>

#include "nvme/queue.h"
#include "tutti/error.h"

/**
 * struct nvme_port - a way to a controller
 * @name: for messages, such as "0000:01:00.0"
 * @bar, @bar_bytes: its registers
 * @map: let it reach memory, whole pages; fills in the address on the bus. 0 or a negative errno
 * @unmap: take that away; nothing may be under way there
 * @idle: called while something is waited for, with the nanoseconds waited so far
 * @leaving: whether the drive is asked for (it is to be unbound, or taken out); NULL: it never is
 * @cut: keep the drive from memory by other means than its own (bus mastering); 0 when that is
 *   sure. NULL: there is none
 * @close: the way is no longer needed; NULL: nothing is to be done
 * @vector: interrupt of the completions of a pair of I/O queues, 0 for none; or NULL
 * @said: where map and unmap say why they failed, or NULL
 * @self: handed to them
 */
struct nvme_port {
    const char *name;
    void *bar;
    size_t bar_bytes;
    int (*map)(void *self, void *memory, size_t bytes, uint64_t *address);
    int (*unmap)(void *self, uint64_t address, size_t bytes);
    void (*idle)(void *self, uint64_t waited_ns);
    bool (*leaving)(void *self);
    int (*cut)(void *self);
    void (*close)(void *self);
    uint32_t (*vector)(void *self, uint32_t number);
    const struct tutti_error *said;
    void *self;
};

/** What a controller says of itself, and of its namespace. */
struct nvme_facts {
    char serial[21];
    char model[41];
    uint32_t depth;          /* deepest queue, entries */
    uint32_t queues;         /* pairs of I/O queues that it granted */
    uint64_t transfer_bytes; /* of one command, at most; UINT64_MAX without a limit */
    uint32_t sgls;           /* 0 none, 1 at any alignment, 2 at dwords */
    bool write_cache;
    bool read_only;
    uint32_t nsid;
    uint32_t block_bytes; /* 512 or 4096 */
    uint64_t blocks;
};

struct nvme_controller;

/**
 * nvme_open() - reset a controller, enable it and ask what it is
 * @nsid: namespace, or 0 for the first
 * @queues: pairs of I/O queues wanted; fewer may be granted
 * @command_ns: bound on each admin command
 *
 * Return: 0; -ENODEV (no controller answers), -ETIMEDOUT (it does not become ready, or does not
 * answer), -EOPNOTSUPP (page size, command set, block size, metadata), -ENOENT (no such
 * namespace), -EIO (it failed), -ENOMEM; with a message that names what and the remedy.
 */
int nvme_open(const struct nvme_port *port, uint32_t nsid, uint32_t queues, uint64_t command_ns,
              struct nvme_controller **controller, struct tutti_error *err);

/**
 * nvme_close() - shut it down in order, then disable it
 *
 * After it nothing of the controller's moves a byte. Return: 0; or -ETIMEDOUT or -EIO with a
 * message where it did not stop: then all memory that it was given has to stay, and does.
 */
int nvme_close(struct nvme_controller *controller, struct tutti_error *err);

/**
 * nvme_alive() - look at its status
 *
 * Return: 0, -ENODEV (it is gone: registers read as ones or zeros), -EIO (fatal status).
 */
int nvme_alive(const struct nvme_controller *controller, struct tutti_error *err);

/** Bound each admin command from here on. */
void nvme_bound(struct nvme_controller *controller, uint64_t command_ns);

/**
 * nvme_stop() - disable it: the last of its own ways to end commands
 *
 * After 0 it reads and writes no memory and all its queues are gone: nvme_queue_lost() each.
 * -ETIMEDOUT: it did not stop. -ENODEV: it is gone, which is as good.
 */
int nvme_stop(struct nvme_controller *controller, struct tutti_error *err);

/** Enable it again, with as many queues as before. Return: as nvme_open(). */
int nvme_restart(struct nvme_controller *controller, struct tutti_error *err);

/** Ask it to end a command of an I/O queue, which it may ignore. Return: as nvme_admin(). */
int nvme_abort(struct nvme_controller *controller, uint32_t queue, uint32_t id,
               struct tutti_error *err);

/**
 * struct nvme_health - how worn it is: Base 5.16.1.3
 * @known: it has the log, and it was read
 * @warnings: NVME_WARNING_ bits
 * @kelvin: 0 where it does not measure it
 * @spare: percent left
 * @used: percent of the rated endurance, may exceed 100
 * @media_errors: data that it could not give back, over its life; the low 64 bits
 */
struct nvme_health {
    bool known;
    uint32_t warnings;
    uint32_t kelvin;
    uint32_t spare;
    uint32_t used;
    uint64_t media_errors;
};

int nvme_health(struct nvme_controller *controller, struct nvme_health *health,
                struct tutti_error *err);

/**
 * nvme_event() - whether it told of something by itself (worn, read-only, about to fail)
 *
 * Asks it to, the first time and again after each event. Return: 1 when it did: look at its health;
 * 0; or a negative errno as nvme_admin().
 */
int nvme_event(struct nvme_controller *controller, struct tutti_error *err);

void nvme_facts(const struct nvme_controller *controller, struct nvme_facts *facts);

/**
 * nvme_queue_open() - make a pair of I/O queues
 * @number: 1 to facts.queues
 * @depth: entries of each, 2 to facts.depth
 *
 * Return: 0, or -EINVAL, -ENOMEM, -EIO, -ETIMEDOUT with a message. @queue stays where it is until
 * nvme_queue_close().
 */
int nvme_queue_open(struct nvme_controller *controller, uint32_t number, uint32_t depth,
                    struct nvme_queue *queue, struct tutti_error *err);

/**
 * struct nvme_source - where memory that a drive reaches comes from
 * @take: whole pages, zeroed; NULL where there is none
 * @give: back, when nothing of it is the drive's any more; what never comes back may still be
 */
struct nvme_source {
    void *(*take)(void *self, size_t bytes);
    void (*give)(void *self, void *memory);
    void *self;
};

/** The same in memory of the caller's: a kernel's queues lie where it polls cheaply. */
int nvme_queue_open_in(struct nvme_controller *controller, uint32_t number, uint32_t depth,
                       const struct nvme_source *source, struct nvme_queue *queue,
                       struct tutti_error *err);

/** Delete a pair; its commands are over then. Return: 0, or as nvme_close(): the pair stays. */
int nvme_queue_close(struct nvme_controller *controller, struct nvme_queue *queue,
                     struct tutti_error *err);

/** Forget a pair that nvme_stop() or a drive that is gone has ended. */
void nvme_queue_lost(struct nvme_controller *controller, struct nvme_queue *queue);

/** An admin command. Return: 0, -EIO with the status in a message, -ETIMEDOUT, -ENODEV. */
int nvme_admin(struct nvme_controller *controller, const uint64_t words[NVME_SQE_WORDS],
               uint32_t *value, struct tutti_error *err);

/** What a status says, in words. */
const char *nvme_status_text(uint32_t status);

#endif
