/* SPDX-License-Identifier: Apache-2.0 */
/*
 * make_pool.c: what test_format.py needs from the library: make a pool of a
 * given shape with slots in it, and say what the library finds in one.
 *
 *   make_pool make  HOME KEY=VALUE... [MEMBER...]
 *   make_pool scan  HOME KEY=VALUE... [MEMBER...]   JSON: entries and counts
 *   make_pool check HOME KEY=VALUE... [MEMBER...]   JSON: what does not match
 *
 * Keys: rank ranks bytes alignment extent layers parts object tokens tag group
 * fill (of a hundred slots, how many are written) seed epoch.
 */
#include "../unit/pool/fixture.h"

#include <inttypes.h>

struct arguments {
    struct tutti_pool_options options;
    struct tutti_geometry shape;
    uint32_t fill;
    uint64_t seed;
    uint64_t epoch;
    const char *member[TUTTI_MAX_MEMBERS];
};

static void take_pair(struct arguments *a, const char *key, uint64_t value)
{
    const struct {
        const char *name;
        uint32_t *where;
    } words[] = {{"rank", &a->options.rank},
                 {"ranks", &a->options.ranks},
                 {"alignment", &a->options.alignment},
                 {"layers", &a->shape.layers},
                 {"parts", &a->shape.parts},
                 {"tokens", &a->shape.block_tokens},
                 {"tag", &a->shape.layout_tag},
                 {"group", &a->shape.group},
                 {"fill", &a->fill}};
    const struct {
        const char *name;
        uint64_t *where;
    } longs[] = {{"bytes", &a->options.bytes},
                 {"extent", &a->options.extent_bytes},
                 {"object", &a->shape.object_bytes},
                 {"seed", &a->seed},
                 {"epoch", &a->epoch}};

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (strcmp(key, words[i].name) == 0) {
            *words[i].where = (uint32_t)value;
            return;
        }
    for (size_t i = 0; i < sizeof(longs) / sizeof(longs[0]); i++)
        if (strcmp(key, longs[i].name) == 0) {
            *longs[i].where = value;
            return;
        }
    fprintf(stderr, "make_pool: unknown key %s\n", key);
    exit(2);
}

static void parse(struct arguments *a, int argc, char **argv)
{
    a->options.home = argv[2];
    a->options.ranks = 1;
    a->shape = small_shape;
    a->fill = 60;
    a->epoch = 1;
    for (int i = 3; i < argc; i++) {
        char *equals = strchr(argv[i], '=');

        if (equals && argv[i][0] != '/') {
            *equals = '\0';
            take_pair(a, argv[i], strtoull(equals + 1, NULL, 0));
        } else {
            a->member[a->options.members++] = argv[i];
        }
    }
    a->options.member = a->options.members ? a->member : NULL;
}

static void give_up(const struct tutti_error *err)
{
    fprintf(stderr, "make_pool: %s\n", err->message);
    exit(1);
}

static int make(struct arguments *a)
{
    struct tutti_error err = {0};
    struct tutti_placement p;
    struct tutti_pool *pool;
    uint64_t counter = 0;

    a->options.geometry = &a->shape;
    a->options.groups = 1;
    if (tutti_pool_format(&a->options, &err) < 0 || tutti_pool_open(&a->options, &pool, &err) < 0 ||
        tutti_pool_begin_epoch(pool, a->epoch, 0, fixture_identity, &err) < 0)
        give_up(&err);
    tutti_pool_placement(pool, a->shape.group, &p);
    for (uint32_t slot = 0; slot < p.extents * p.records_per_extent; slot++) {
        struct fixture_slot f = {.group = a->shape.group,
                                 .slot = slot,
                                 .generation = generation_of(a->epoch, ++counter),
                                 .incarnation = slot / p.records_per_extent % 3,
                                 .seed = a->seed};

        if (tutti_slot_valid(&p, slot) && slot * 37 % 100 < a->fill)
            fixture_write_slot(pool, &f);
    }
    tutti_pool_count_written(pool, counter);
    tutti_pool_close(pool);
    return 0;
}

static void print_hex(const char *name, const void *data, size_t bytes)
{
    const unsigned char *p = data;

    printf("\"%s\": \"", name);
    for (size_t i = 0; i < bytes; i++)
        printf("%02x", p[i]);
    printf("\"");
}

static void print_report(const struct tutti_scan_report *r)
{
    printf("\"valid\": %" PRIu64 ", \"empty\": %" PRIu64 ", \"torn\": %" PRIu64
           ", \"void\": %" PRIu64 ", \"alien\": %" PRIu64,
           r->valid, r->empty, r->torn, r->void_, r->alien);
}

static int scan(struct tutti_pool *pool)
{
    struct tutti_scan_entry *entries;
    struct tutti_scan_report report;
    struct tutti_error err = {0};
    size_t count;

    if (tutti_pool_scan(pool, 0, &entries, &count, &report, &err) < 0)
        give_up(&err);
    printf("{");
    print_report(&report);
    printf(", \"slots\": [");
    for (size_t i = 0; i < count; i++) {
        printf("%s{\"slot\": %" PRIu32 ", \"generation\": %" PRIu64 ", ", i ? ", " : "",
               entries[i].slot, entries[i].generation);
        print_hex("key", &entries[i].key, 16);
        printf(", ");
        print_hex("parent", &entries[i].parent, 16);
        printf("}");
    }
    printf("]}\n");
    free(entries);
    return 0;
}

struct bad_list {
    int printed;
};

static int print_bad(void *argument, const struct tutti_scan_entry *entry, uint32_t layer,
                     const char *what)
{
    struct bad_list *list = argument;

    printf("%s{\"slot\": %" PRIu32 ", \"layer\": %" PRId64 ", \"what\": \"%s\"}",
           list->printed++ ? ", " : "", entry->slot, layer == UINT32_MAX ? -1 : (int64_t)layer,
           what);
    return 0;
}

static int check(struct tutti_pool *pool)
{
    struct tutti_scan_report report;
    struct tutti_error err = {0};
    struct bad_list list = {0};
    int64_t mismatched;

    printf("{\"bad\": [");
    mismatched = tutti_pool_check(pool, true, &report, print_bad, NULL, &list, &err);
    if (mismatched < 0)
        give_up(&err);
    printf("], \"mismatched\": %" PRId64 ", ", mismatched);
    print_report(&report);
    printf("}\n");
    return 0;
}

int main(int argc, char **argv)
{
    struct arguments a = {0};
    struct tutti_error err = {0};
    struct tutti_pool *pool;
    int rc;

    if (argc < 3)
        return 2;
    parse(&a, argc, argv);
    if (strcmp(argv[1], "make") == 0)
        return make(&a);
    a.options.read_only = true;
    if (tutti_pool_open(&a.options, &pool, &err) < 0)
        give_up(&err);
    rc = strcmp(argv[1], "scan") == 0 ? scan(pool) : check(pool);
    tutti_pool_close(pool);
    return rc;
}
