/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scratch.h: a temporary folder that is gone afterwards, whatever happens.
 *
 * Removed by scratch_close(), and by ^C, SIGTERM and SIGHUP, which a thread of
 * its own waits for. What a SIGKILL left behind, the next one in the same
 * folder clears away.
 */
#ifndef TOOLS_SCRATCH_H
#define TOOLS_SCRATCH_H

#include "tutti/error.h"

#define SCRATCH_PATH 3072

/**
 * scratch_open() - make a folder under @parent; one at a time in a process
 * @parent: NULL chooses the folder of this executable, else /var/tmp
 * @path: where it is, SCRATCH_PATH bytes
 *
 * Call before any other thread is started. Return: 0 or a negative errno.
 */
int scratch_open(const char *parent, char *path, struct tutti_error *err);

/** Remove it and what is in it. Without one: nothing. */
void scratch_close(void);

/** Remove a file or folder with all that is in it. */
void remove_tree(const char *path);

#endif
