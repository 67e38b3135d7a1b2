/* SPDX-License-Identifier: Apache-2.0 */
/*
 * machine.h: this machine's /sys, /proc, /dev, /etc and /run.
 *
 * Responsible for: reading, listing and writing there, and starting modprobe.
 * Must not know what a drive is.
 *
 * The idea: one root stands in front of every path. On a machine it is empty;
 * tests name a folder that they made up with the hidden option --root. It is an
 * option and no environment variable: an option is seen where it acts, and
 * nothing inherits it.
 */
#ifndef TOOLS_MACHINE_H
#define TOOLS_MACHINE_H

#include <argp.h>
#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tutti/error.h"

#define MACHINE_PATH 4096

struct machine {
    const char *root; /* NULL: "" */
};

/** Child parser for --root; its input is a struct machine. */
extern const struct argp machine_argp;

/** The entry of machine_argp among a subcommand's children. */
#define MACHINE_CHILD &machine_argp, 0, NULL, 0

/** A path below the root; returns @path. */
const char *machine_path(const struct machine *m, char path[MACHINE_PATH], const char *format, ...)
    __attribute__((format(printf, 3, 4)));

bool machine_has(const struct machine *m, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/** First line of a file without blanks at its end. Return: false, and "", when there is none. */
bool machine_read(const struct machine *m, char *line, size_t size, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/** Last part of what a link points to. Return: false, and "", when there is no link. */
bool machine_link(const struct machine *m, char *name, size_t size, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/** Names in a folder, in order, without hidden ones; none where there is no folder. */
struct names {
    struct dirent **entry;
    uint32_t count;
};

void machine_list(const struct machine *m, struct names *names, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void names_free(struct names *names);

/** Write to a file that is there, in one call, as sysfs wants it. Return: 0 or a negative errno. */
int machine_write(const struct machine *m, const char *path, const char *text,
                  struct tutti_error *err);

/** Make a file (0644) and the folders above it; whole or not at all. */
int machine_make(const struct machine *m, const char *path, const char *text,
                 struct tutti_error *err);

/** Make a link, or leave the one that is there. */
int machine_make_link(const struct machine *m, const char *path, const char *target,
                      struct tutti_error *err);

/** Remove a file or a link; one that is not there is no error. */
int machine_remove(const struct machine *m, const char *path, struct tutti_error *err);

/** modprobe @module. Return: 0, or a negative errno with a message that says the command. */
int machine_load(const struct machine *m, const char *module, struct tutti_error *err);

/** Whether this process lives in a container. */
bool machine_in_container(const struct machine *m);

#endif
