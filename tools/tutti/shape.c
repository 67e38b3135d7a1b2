/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shape.c: KV cache shapes by name or by numbers; see shape.h.
 *
 * The numbers are those of the models' published config.json (num_hidden_layers,
 * num_key_value_heads, head_dim; for DeepSeek-V3 kv_lora_rank 512 +
 * qk_rope_head_dim 64 in one part; GLM-4-9B's multi_query_group_num 2).
 */
#include "shape.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "command.h"

#define BF16 2u
#define DEFAULT_BLOCK_TOKENS 16u /* vLLM's on GPUs */

const struct shape shapes[] = {
    {"llama3-8b", 32, 2, 8, 128 * BF16, 8.03e9}, {"llama3-70b", 80, 2, 8, 128 * BF16, 70.6e9},
    {"qwen3-32b", 64, 2, 8, 128 * BF16, 32.8e9}, {"glm-4-9b", 40, 2, 2, 128 * BF16, 9.4e9},
    {"deepseek-v3", 61, 1, 0, 576 * BF16, 37e9},
};
const size_t shape_count = sizeof(shapes) / sizeof(shapes[0]);

uint64_t shape_token_bytes(const struct shape *shape)
{
    return (uint64_t)shape->layers * shape->parts * (shape->heads ? shape->heads : 1) *
           shape->head_bytes;
}

static const struct shape *find_shape(const char *name, struct argp_state *state)
{
    char known[256] = "";

    for (size_t i = 0; i < shape_count; i++) {
        if (strcmp(shapes[i].name, name) == 0)
            return &shapes[i];
        if (i)
            strncat(known, ", ", sizeof(known) - strlen(known) - 1);
        strncat(known, shapes[i].name, sizeof(known) - strlen(known) - 1);
    }
    argp_error(state,
               "unknown model '%s'; known: %s; any other by --layers, --parts, --object-bytes "
               "and --block-tokens",
               name, known);
    return NULL;
}

enum { OPTION_LAYERS = 0x100, OPTION_PARTS, OPTION_OBJECT, OPTION_TOKENS };

static const struct argp_option shape_options[] = {
    {"model", 'm', "NAME", 0,
     "llama3-8b, llama3-70b, qwen3-32b, glm-4-9b or deepseek-v3 (MLA), KV in bf16", 0},
    {"layers", OPTION_LAYERS, "N", 0, "Layers", 0},
    {"parts", OPTION_PARTS, "N", 0, "Tensors a layer: 2 for K and V, 1 where fused or MLA", 0},
    {"object-bytes", OPTION_OBJECT, "SIZE", 0, "Bytes of one block of one part of one layer", 0},
    {"block-tokens", OPTION_TOKENS, "N", 0, "Tokens of one engine block (default 16)", 0},
    {0}};

static error_t parse_shape(int key, char *argument, struct argp_state *state)
{
    struct shape_options *options = state->input;

    switch (key) {
    case 'm':
        options->model = find_shape(argument, state);
        return 0;
    case OPTION_LAYERS:
        options->layers = number_option(argument, "--layers", 1, TUTTI_MAX_LAYERS, state);
        return 0;
    case OPTION_PARTS:
        options->parts = number_option(argument, "--parts", 1, TUTTI_MAX_PARTS, state);
        return 0;
    case OPTION_OBJECT:
        options->object_bytes = size_option(argument, "--object-bytes", state);
        return 0;
    case OPTION_TOKENS:
        options->block_tokens = number_option(argument, "--block-tokens", 1, 65536, state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp shape_argp = {shape_options, parse_shape, NULL, NULL, NULL, NULL, NULL};

static int from_model(const struct shape *shape, uint32_t ranks, struct tutti_geometry *g,
                      struct tutti_error *err)
{
    uint32_t heads = shape->heads ? shape->heads : 1;

    if (shape->heads && ranks > 1) {
        if (shape->heads % ranks != 0 && ranks % shape->heads != 0)
            return tutti_error_set(err, -EINVAL, "%s: %u KV heads cannot be split over %u ranks",
                                   shape->name, shape->heads, ranks);
        heads = shape->heads > ranks ? shape->heads / ranks : 1;
    }
    g->layers = shape->layers;
    g->parts = shape->parts;
    g->object_bytes = (uint64_t)heads * shape->head_bytes * g->block_tokens;
    return 0;
}

int shape_geometry(const struct shape_options *o, uint32_t ranks, struct tutti_geometry *g,
                   struct tutti_error *err)
{
    bool numbers = o->layers || o->parts || o->object_bytes;
    int rc = 0;

    memset(g, 0, sizeof(*g));
    g->block_tokens = o->block_tokens ? o->block_tokens : DEFAULT_BLOCK_TOKENS;
    if (o->model && numbers)
        return tutti_error_set(err, -EINVAL,
                               "--model and --layers, --parts or --object-bytes "
                               "exclude each other");
    if (o->model) {
        rc = from_model(o->model, ranks, g, err);
    } else if (o->layers && o->parts && o->object_bytes) {
        g->layers = o->layers;
        g->parts = o->parts;
        g->object_bytes = o->object_bytes;
    } else {
        return tutti_error_set(err, -EINVAL,
                               "name a shape: --model NAME, or --layers, --parts "
                               "and --object-bytes");
    }
    return rc < 0 ? rc : tutti_geometry_check(g, err);
}
