/* SPDX-License-Identifier: Apache-2.0 */
/*
 * old.h: what places of a file held before they were written last.
 *
 * For stale reads. Kept in memory by pages, from the moment on that a rule asks
 * for it; never given up before the mount ends.
 */
#ifndef TUTTI_TESTS_FAULTMOUNT_OLD_H
#define TUTTI_TESTS_FAULTMOUNT_OLD_H

#include <stddef.h>
#include <stdint.h>

/** Keep what a file's pages hold that touch [offset, offset + bytes). Before a write. */
void old_keep(int fd, uint64_t offset, size_t bytes);

/** Put kept pages' bytes over what was just read from @offset. */
void old_put_over(int fd, uint64_t offset, char *data, size_t bytes);

#endif
