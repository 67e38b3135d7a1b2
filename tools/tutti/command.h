/* SPDX-License-Identifier: Apache-2.0 */
/*
 * command.h: what every subcommand of the command line shares.
 *
 * Responsible for: exit codes, the options --json and --progress, and saying
 * that something cannot be done. Must not know what any subcommand does.
 */
#ifndef TOOLS_COMMAND_H
#define TOOLS_COMMAND_H

#include <argp.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "tutti/error.h"

/** Exit codes, the same for all subcommands; the manual pages list them. */
enum {
    DONE = 0,
    FOUND_BAD = 1, /* it ran, and its verdict is bad */
    USAGE = 2,     /* the command line is wrong; nothing was done */
    CANNOT = 3     /* the system or the pool refused; the message says why */
};

/** Options of every subcommand, filled by common_argp. */
struct common {
    bool json;
    bool progress;
};

/** Child parser for --json and --progress; its input is a struct common. */
extern const struct argp common_argp;

/** The entry of common_argp among a subcommand's children. */
#define COMMON_CHILD &common_argp, 0, "Common options:", 90

/** The subcommands; each returns an exit code. @argv[0] is "tutti NAME". */
int command_format(int argc, char **argv);
int command_info(int argc, char **argv);
int command_check(int argc, char **argv);
int command_scrub(int argc, char **argv);
int command_bench(int argc, char **argv);
int command_doctor(int argc, char **argv);
int command_devices(int argc, char **argv);
int command_bind(int argc, char **argv);
int command_unbind(int argc, char **argv);
int command_disable(int argc, char **argv);
int command_enable(int argc, char **argv);

/** Say why not: on stderr, and as {"error", "errno"} on stdout with --json. Return: CANNOT. */
int cannot(const struct common *common, const struct tutti_error *err);

/** Print one JSON object and a newline on stdout, and let go of it. */
void print_json(json_t *object);

/** A list of strings of bounded length, for options that may be repeated. */
#define MAX_STRINGS 64u
struct strings {
    const char *item[MAX_STRINGS];
    uint32_t count;
};

/** Add one; an error of usage when there are too many. */
void add_string(struct strings *strings, const char *item, struct argp_state *state);

/** A number of an option, or an error of usage that names the option. */
uint32_t number_option(const char *text, const char *option, uint32_t least, uint32_t most,
                       struct argp_state *state);

/** 512 or 4096, or an error of usage. */
uint32_t alignment_option(const char *text, struct argp_state *state);

/** A size of an option ("200GiB"), or an error of usage. */
uint64_t size_option(const char *text, const char *option, struct argp_state *state);

#endif
