/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doctor.h: what the files of "tutti doctor" share.
 *
 *     doctor.c          options, verdict, output
 *     doctor_system.c   the machine: kernel, io_uring, limits, huge pages
 *     doctor_nvme.c     what keeps NVMe controllers from being driven from user space
 *     doctor_path.c     the path: file system, direct I/O, engine, speed
 */
#ifndef TOOLS_DOCTOR_H
#define TOOLS_DOCTOR_H

#include <stdbool.h>
#include <stdint.h>

#include "command.h"
#include "machine.h"

/** GOOD: as it should be. WORSE: works, at a cost. BAD: Tutti cannot work so. */
enum grade { GOOD, WORSE, BAD };

/**
 * struct finding - one thing that was looked at
 * @fact: what is so
 * @remedy: the command or setting that changes it; empty where nothing should be
 */
struct finding {
    const char *name;
    enum grade grade;
    bool aside; /* of a choice that was not made: it does not count for the verdict */
    char fact[320];
    char remedy[320];
};

#define MOST_FINDINGS 32u

struct diagnosis {
    struct finding finding[MOST_FINDINGS];
    uint32_t count;
    bool uring; /* io_uring may be used */

    /* The path. */
    char path[4096];   /* as asked */
    char folder[4096]; /* where a temporary file may be made; empty: a block device */
    bool measured;
    bool direct; /* transfers would be direct */
    char engine[32];
    char reason[512]; /* why not the first choice, or why staged */
    double read_gb_s;
    double write_gb_s; /* 0: not measured */
};

/** Add one; formats of fact and remedy (which may be NULL) share no arguments. */
struct finding *find(struct diagnosis *d, const char *name, enum grade grade, const char *format,
                     ...) __attribute__((format(printf, 4, 5)));
void remedy(struct finding *finding, const char *format, ...) __attribute__((format(printf, 2, 3)));

void examine_system(struct diagnosis *d);

/** Whether this process may lock memory whatever its limit is (CAP_IPC_LOCK). */
bool may_lock(void);

/** NVMe from user space; one finding where there is no NVMe controller. */
int examine_nvme(struct diagnosis *d, const struct machine *m, struct tutti_error *err);

/** Return: 0, or a negative errno with a message when the path cannot be looked at. */
int examine_path(struct diagnosis *d, const char *path, struct tutti_error *err);

#endif
