/* SPDX-License-Identifier: Apache-2.0 */
/*
 * contents.h: what a namespace holds, and who uses it.
 *
 * Responsible for: mounts, swap, holders, partitions and signatures of one
 * block device. Must not know PCI, nor what is done with the answer.
 *
 * The idea: the kernel is asked last and believed most. What is found in lists
 * (mountinfo, swaps, holders) gives the reason its name; opening the device
 * exclusively finds what no list shows: another container's mounts, ZFS, a
 * Tutti pool that is served from.
 */
#ifndef TOOLS_CONTENTS_H
#define TOOLS_CONTENTS_H

#include "machine.h"

/**
 * struct contents - what was found
 * @in_use: "mounted on /data"; then nobody may take the device. Empty: not in use
 * @holds: "ext4 file system", "Tutti pool (...)"; empty: nothing
 * @foreign: what it holds is not only Tutti's
 */
struct contents {
    char in_use[256];
    char holds[256];
    bool foreign;
};

/** Look at /dev/@name; writes nothing. What cannot be looked at counts as in use. */
void contents_examine(const struct machine *m, const char *name, struct contents *c);

/**
 * contents_claim() - keep others off /dev/@name for now
 *
 * While the descriptor is open nobody can mount it or claim it otherwise.
 * Return: the descriptor, or a negative errno (-EBUSY: somebody has it).
 */
int contents_claim(const struct machine *m, const char *name);

#endif
