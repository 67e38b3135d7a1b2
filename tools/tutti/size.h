/* SPDX-License-Identifier: Apache-2.0 */
/*
 * size.h: sizes as people write them. Pure text and numbers.
 */
#ifndef TOOLS_SIZE_H
#define TOOLS_SIZE_H

#include <stdint.h>

/**
 * size_parse() - "200GiB", "4G", "1.5TiB", "64MB" or plain bytes
 *
 * K, M, G, T, P alone and with "iB" are powers of 1,024; with "B", powers of
 * 1,000. Upper or lower case. Return: 0, -EINVAL, or -ERANGE.
 */
int size_parse(const char *text, uint64_t *bytes);

/** Bytes of a size's text. */
#define SIZE_TEXT 32

/** "1.00 GiB", "960 KiB", "17 B"; returns @text. */
const char *size_text(uint64_t bytes, char text[SIZE_TEXT]);

#endif
