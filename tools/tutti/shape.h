/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shape.h: the KV cache shapes that the command line knows by name.
 *
 * Responsible for: names, numbers, and turning --model or --layers ... into a
 * geometry. Must not know pools or disks.
 */
#ifndef TOOLS_SHAPE_H
#define TOOLS_SHAPE_H

#include <argp.h>
#include <stddef.h>
#include <stdint.h>

#include "tutti/geometry.h"

/**
 * struct shape - a model's KV cache, bf16
 * @heads: KV heads, which tensor parallelism splits; 0: one latent, held whole by every rank
 * @head_bytes: bytes of one token of one head (or latent) of one part of one layer
 * @parameters: that take part in computing a token (for the time that recomputing takes)
 */
struct shape {
    const char *name;
    uint32_t layers;
    uint32_t parts;
    uint32_t heads;
    uint32_t head_bytes;
    double parameters;
};

extern const struct shape shapes[];
extern const size_t shape_count;

/** Bytes of KV of one token, all ranks of a tensor-parallel group counted once. */
uint64_t shape_token_bytes(const struct shape *shape);

/** Options --model, or --layers, --parts, --object-bytes; and --block-tokens. */
struct shape_options {
    const struct shape *model;
    uint32_t layers;
    uint32_t parts;
    uint64_t object_bytes;
    uint32_t block_tokens;
};

/** Child parser; its input is a struct shape_options. */
extern const struct argp shape_argp;

#define SHAPE_CHILD &shape_argp, 0, "Shape of the KV cache, by name or by numbers:", 10

/**
 * shape_geometry() - one rank's share of the shape
 *
 * Return: 0, or -EINVAL with a message (neither name nor numbers, both, a
 * number of ranks that the heads cannot be split over).
 */
int shape_geometry(const struct shape_options *options, uint32_t ranks,
                   struct tutti_geometry *geometry, struct tutti_error *err);

#endif
