/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c: picks the subcommand. Must not know what any of them does.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

const char *argp_program_version = "tutti " TUTTI_VERSION;

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} commands[] = {
    {"format", command_format, "make a pool"},
    {"info", command_info, "say what a pool is and what it holds"},
    {"check", command_check, "verify a pool's records, and with --data every byte"},
    {"scrub", command_scrub, "verify every byte at a rate, and drop for good what is bad"},
    {"bench", command_bench, "store and retrieve, beside a raw pass over the same bytes"},
    {"doctor", command_doctor, "what this machine and path will give, and what to change"},
    {"devices", command_devices, "list NVMe controllers, and whether each can be bound"},
    {"bind", command_bind, "give NVMe controllers to vfio-pci, to be driven from user space"},
    {"unbind", command_unbind, "give them back to the nvme driver"},
    {"disable", command_disable, "switch a pool off, without a restart"},
    {"enable", command_enable, "switch it on again"},
};

static void help(FILE *out)
{
    fprintf(out, "Usage: tutti COMMAND [OPTION...]\n"
                 "Keeps the KV cache of LLM serving on SSDs.\n\n");
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fprintf(out, "\n'tutti COMMAND --help' explains a command, with an example; every command "
                 "takes --json.\n\nExample, for a newcomer:\n"
                 "  tutti doctor /data\n"
                 "  tutti format /data/tutti --size 200GiB --model llama3-8b\n\n"
                 "Exit status: 0 done, 1 a bad verdict, 2 wrong usage, 3 cannot.\n");
}

int main(int argc, char **argv)
{
    char name[64];

    argp_err_exit_status = USAGE;
    if (argc < 2) {
        help(stderr);
        return USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-?") == 0 ||
        strcmp(argv[1], "help") == 0) {
        help(stdout);
        return DONE;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        puts(argp_program_version);
        return DONE;
    }
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(argv[1], commands[i].name) != 0)
            continue;
        snprintf(name, sizeof(name), "tutti %s", commands[i].name);
        argv[1] = name;
        return commands[i].run(argc - 1, argv + 1);
    }
    fprintf(stderr, "tutti: no command '%s'; 'tutti --help' lists them\n", argv[1]);
    return USAGE;
}
