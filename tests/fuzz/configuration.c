/* SPDX-License-Identifier: Apache-2.0 */
/*
 * configuration.c: what people write: sizes, shapes, paths, fault rules; and the
 * plan that formatting makes of them.
 *
 * Claimed: a size is read back from its own text, and a number of digits is that
 * number; options that the command line lets pass are within its limits; a path
 * expands to what it says; fault rules that are accepted act on the commands
 * that they name and on no other; a pool that is planned is one that would be
 * opened, is within the capacity asked for, and has every place inside its
 * members; one that is refused is refused with a sentence.
 *
 * Seen to fail, from what was learned in minutes: a rule that acts on the byte behind its stretch,
 * after 1 s (545 executions); a size of 2^64 taken, within 1 s (336).
 */
#include <argp.h>
#include <errno.h>

#include "base/checksum.h"
#include "engine/fault_rule.h"
#include "input.h"
#include "pool/internal.h"
#include "memory.h"
#include "pools.h"
#include "shape.h"
#include "size.h"

enum { TEXT = 256, WORDS = 12 };

static bool usage; /* the command line was refused */

void __wrap_argp_error(const struct argp_state *state, const char *format, ...);
int __wrap_new_member_begin(struct new_member *n, const char *path, bool force,
                            struct tutti_error *err);
int __wrap_new_member_allocate(struct new_member *n, uint64_t bytes, struct tutti_error *err);
int __wrap_new_member_place(struct new_member *n, struct tutti_error *err);
void __wrap_new_member_end(struct new_member *n, bool undo);
int __wrap_superblock_write(const struct backing *b, struct tutti_superblock *s, unsigned copy,
                            struct tutti_error *err);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    return 0;
}

/** The rest of the input as a string. */
static char *text_of(const struct input *in, char text[TEXT])
{
    size_t length = in->left < TEXT - 1 ? in->left : TEXT - 1;

    memcpy(text, in->at, length);
    text[length] = 0;
    return text;
}

/* Sizes. */

UNTRACED static bool digits(const char *text, uint64_t *value)
{
    __extension__ unsigned __int128 sum = 0;

    for (; *text >= '0' && *text <= '9' && sum <= UINT64_MAX; text++)
        sum = sum * 10 + (unsigned)(*text - '0');
    *value = (uint64_t)sum;
    return *text == 0 && sum <= UINT64_MAX;
}

static void check_size(struct input *in)
{
    char text[TEXT], again[SIZE_TEXT];
    uint64_t bytes = 0, same, value;
    int rc = size_parse(text_of(in, text), &bytes);

    CLAIM(rc == 0 || rc == -EINVAL || rc == -ERANGE, "%d", rc);
    if (text[0] && digits(text, &value))
        CLAIM(rc == 0 && bytes == value, "'%s' is %llu", text, (unsigned long long)bytes);
    if (rc < 0)
        return;
    CLAIM(strlen(size_text(bytes, again)) < SIZE_TEXT, "long");
    if (size_parse(again, &same) < 0) { /* the text is rounded, here beyond the largest number */
        CLAIM(bytes > UINT64_MAX / 1000 * 999, "'%s' is not read back", again);
        return;
    }
    if (!strchr(again, '.'))
        CLAIM(same == bytes || bytes > UINT64_C(1) << 53, "'%s' is %llu", again,
              (unsigned long long)same);
    else
        CLAIM((double)same > (double)bytes * 0.99 && (double)same < (double)bytes * 1.01, "'%s'",
              again);
}

/* The command line's options of a shape. */

void __wrap_argp_error(const struct argp_state *state, const char *format, ...)
{
    (void)state;
    (void)format;
    usage = true;
}

static error_t parse_all(int key, char *argument, struct argp_state *state)
{
    (void)argument;
    if (key == ARGP_KEY_INIT)
        state->child_inputs[0] = state->input;
    return key == ARGP_KEY_INIT || key == ARGP_KEY_ARG ? 0 : ARGP_ERR_UNKNOWN;
}

static void check_shape(struct input *in)
{
    static const struct argp_child children[] = {{SHAPE_CHILD}, {0}};
    static const struct argp parser = {NULL, parse_all, NULL, NULL, children, NULL, NULL};
    char text[TEXT], program[] = "tutti", *argv[WORDS + 1] = {program};
    struct shape_options o = {0};
    struct tutti_geometry g;
    struct tutti_error err = {0};
    uint32_t ranks = 1 + take_below(in, 64);
    int argc = 1;

    for (char *word = strtok(text_of(in, text), " "); word && argc < WORDS;
         word = strtok(NULL, " "))
        argv[argc++] = word;
    usage = false;
    if (argp_parse(&parser, argc, argv, ARGP_NO_EXIT | ARGP_NO_ERRS | ARGP_NO_HELP, NULL, &o) !=
            0 ||
        usage)
        return;
    CLAIM(o.layers <= TUTTI_MAX_LAYERS && o.parts <= TUTTI_MAX_PARTS && o.block_tokens <= 65536,
          "%u layers, %u parts, %u tokens", o.layers, o.parts, o.block_tokens);
    if (shape_geometry(&o, ranks, &g, &err) < 0)
        CLAIM(err.message[0], "refused without a word");
    else
        CLAIM(tutti_geometry_check(&g, NULL) == 0 && g.object_bytes > 0, "a shape");
}

/* Paths. */

/** Whether a path is a pattern's, with the rank where it is named. */
UNTRACED static bool expanded(const char *path, const char *pattern, const char *rank)
{
    static const char mark[] = "{rank}";

    while (*pattern) {
        size_t same = 0;

        while (same < 6 && pattern[same] == mark[same])
            same++;
        if (same < 6 && *path++ != *pattern++)
            return false;
        if (same < 6)
            continue;
        for (const char *digit = rank; *digit; digit++)
            if (*path++ != *digit)
                return false;
        pattern += 6;
    }
    return *path == 0;
}

static void check_paths(struct input *in)
{
    static struct member_paths paths;
    static char pattern[5000], others[] = "{rank}";
    struct strings members = {.count = 1 + take_below(in, MAX_STRINGS)};
    struct tutti_pool_options o = {0};
    struct tutti_error err = {0};
    uint32_t rank = take_below(in, 64);
    uint32_t times = 1 + take_below(in, 24);
    char text[TEXT], mark[16];
    size_t length = 0, piece = strlen(text_of(in, text));

    for (uint32_t i = 0; i < times && length + TEXT < sizeof(pattern); i++, length += piece)
        memcpy(pattern + length, text, piece);
    pattern[length] = 0;
    for (uint32_t m = 0; m < members.count; m++)
        members.item[m] = m + 1 < members.count ? others : pattern;
    if (member_paths_expand(&members, rank, &paths, &o, &err) < 0) {
        CLAIM(err.message[0] && (members.count > TUTTI_MAX_MEMBERS || length > 2000), "refused");
        return;
    }
    CLAIM(o.members == members.count && o.member == paths.path, "members");
    snprintf(mark, sizeof(mark), "%u", rank);
    CLAIM(expanded(paths.text[o.members - 1], pattern, mark), "'%s' becomes '%s'", pattern,
          paths.text[o.members - 1]);
    CLAIM(o.members == 1 || strcmp(paths.text[0], mark) == 0, "the first becomes '%s'",
          paths.text[0]);
}

/* Fault rules. */

static void check_rules(struct input *in)
{
    struct fault_rules rules;
    struct tutti_error err = {0};
    uint32_t member = take_below(in, 4);
    struct command c = {.offset = take(in, 2) * 512, .bytes = (1 + take_below(in, 32)) * 512};
    char text[TEXT];
    uint64_t fired = 0;

    text_of(in, text);
    if (fault_rules_parse(&rules, text, member, &err) < 0) {
        CLAIM(err.message[0], "refused without a word");
        return;
    }
    CLAIM(rules.count <= FAULT_RULES, "%u rules", rules.count);
    for (uint32_t i = 0; i < 16; i++) {
        struct fault_rule *r;

        c.direction = i & 1 ? TUTTI_WRITE : TUTTI_READ;
        r = fault_rules_match(&rules, &c, member);
        if (!r)
            continue;
        fired++;
        CLAIM(i & 1 ? r->writes : r->reads, "'%s': the other direction", text);
        CLAIM(r->fault != FAULT_NONE && r->every > 0, "'%s': no fault", text);
        CLAIM(!(i & 1) || r->fault != FAULT_STALE, "'%s': a stale write", text);
        CLAIM(r->member == UINT64_MAX || r->member == member, "'%s': another member", text);
        CLAIM(r->from < c.offset + c.bytes && c.offset < r->to && r->from < r->to,
              "'%s': bytes %llu to %llu are not touched", text, (unsigned long long)r->from,
              (unsigned long long)r->to);
        CLAIM(r->fired <= r->count && r->fired <= r->seen, "'%s': too often", text);
    }
    CLAIM(rules.count > 0 || fired == 0, "a fault of no rule");
}

/* Formatting's plan, made without a disk. */

static uint64_t planned[TUTTI_MAX_MEMBERS];
static uint32_t begun, device_logical, device_preferred;
static struct tutti_superblock plan;

int __wrap_new_member_begin(struct new_member *n, const char *path, bool force,
                            struct tutti_error *err)
{
    (void)path;
    (void)force;
    (void)err;
    n->backing.fd = -1;
    n->backing.logical = device_logical;
    n->backing.preferred = device_preferred;
    n->backing.inode = begun++;
    n->path = NULL;
    return 0;
}

int __wrap_new_member_allocate(struct new_member *n, uint64_t bytes, struct tutti_error *err)
{
    (void)err;
    planned[n->backing.inode] = bytes;
    return 0;
}

int __wrap_new_member_place(struct new_member *n, struct tutti_error *err)
{
    (void)n;
    (void)err;
    return 0;
}

void __wrap_new_member_end(struct new_member *n, bool undo)
{
    (void)n;
    (void)undo;
}

int __wrap_superblock_write(const struct backing *b, struct tutti_superblock *s, unsigned copy,
                            struct tutti_error *err)
{
    char why[128];

    (void)b;
    (void)copy;
    (void)err;
    s->checksum = 0;
    s->checksum = tutti_sum64(s, sizeof(*s));
    CLAIM(superblock_judge(s, why) == SUPERBLOCK_WHOLE, "planned what nobody would open: %s", why);
    plan = *s;
    return 0;
}

static void check_plan(struct input *in)
{
    struct tutti_geometry g[2] = {0};
    struct tutti_error err = {0};
    struct tutti_pool_options o = {.home = "/",
                                   .member = (const char *const *)memory_path,
                                   .members = 1 + take_below(in, 2),
                                   .rank = take_below(in, 4),
                                   .ranks = take_below(in, 5),
                                   .geometry = g,
                                   .groups = take_below(in, 3)};
    uint64_t how = take(in, 1), sum = 0;

    for (uint32_t i = 0; i < 2; i++) {
        g[i].layers = (uint32_t)take_value(in);
        g[i].parts = (uint32_t)take_value(in);
        g[i].object_bytes = take_value(in);
        g[i].block_tokens = (uint32_t)take_value(in);
        g[i].group = how & 1 ? (uint32_t)take_value(in) : i;
        g[i].reserved = how & 64 && i ? (uint32_t)take_value(in) : 0;
    }
    o.bytes = take_value(in);
    o.alignment = how & 2 ? 0 : how & 4 ? 512 : how & 8 ? 4096 : (uint32_t)take_value(in);
    o.extent_bytes = how & 16 ? 0 : take_value(in) << (how & 32 ? 12 : 0);
    device_logical = how & 0x80 ? 4096 : 512;
    device_preferred = how & 8 ? 4096 : 512;
    begun = 0;
    if (tutti_pool_format(&o, &err) < 0) {
        CLAIM(err.message[0], "refused without a word");
        return;
    }
    for (uint32_t m = 0; m < o.members; m++)
        sum += planned[m];
    CLAIM(sum <= o.bytes && planned[0] == superblock_member_bytes(&plan), "%llu bytes for %llu",
          (unsigned long long)sum, (unsigned long long)o.bytes);
    CLAIM(plan.alignment >= device_logical, "alignment");
    for (uint32_t i = 0; i < plan.groups; i++) {
        struct tutti_placement p;

        CLAIM(tutti_placement_init(&p, &plan.geometry[i], plan.alignment, plan.first_extent,
                                   plan.extent_bytes, plan.extents * plan.members, plan.members,
                                   plan.records_per_extent, plan.record_stride, &err) == 0,
              "%s", err.message);
        memory_check_placement(&p, planned[0]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};

    switch (take(&in, 1) % 6) {
    case 0:
        check_size(&in);
        break;
    case 1:
        check_shape(&in);
        break;
    case 2:
        check_paths(&in);
        break;
    case 3:
        check_rules(&in);
        break;
    default:
        check_plan(&in);
        break;
    }
    return 0;
}
