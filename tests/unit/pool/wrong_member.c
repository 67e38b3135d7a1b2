/* SPDX-License-Identifier: Apache-2.0 */
/* A member counts only in its own pool, rank, place and company; nothing is written to others. */
#include "fixture.h"

struct world {
    char *folder;
    char *home;
    char *drive[2];
    char *file[2];
    const char *order[2];
    struct tutti_pool_options options;
};

static void begin(struct world *w, const char *home)
{
    memset(w, 0, sizeof(*w));
    w->folder = fixture_folder();
    w->home = fixture_path(w->folder, home);
    for (int i = 0; i < 2; i++) {
        char name[32];

        snprintf(name, sizeof(name), "drive%d", i);
        w->drive[i] = fixture_path(w->folder, name);
        assert_int_equal(mkdir(w->drive[i], 0700), 0);
        snprintf(name, sizeof(name), "rank0.member%d.tutti", i);
        w->file[i] = fixture_path(w->drive[i], name);
        w->order[i] = w->file[i];
    }
    w->options = fixture_options(w->home);
    w->options.bytes = 10 * MIB;
    w->options.member = w->order;
    w->options.members = 2;
    fixture_format(&w->options);
}

static void end(struct world *w)
{
    for (int i = 0; i < 2; i++) {
        free(w->drive[i]);
        free(w->file[i]);
    }
    free(w->home);
    fixture_remove(w->folder);
}

static void refuse(struct world *w, int code, const char *word, const char *remedy)
{
    struct bytes before[2] = {fixture_bytes(w->file[0]), fixture_bytes(w->file[1])};

    REFUSED(&w->options, code, "rank0.member", word, remedy);
    for (int i = 0; i < 2; i++) {
        assert_unchanged(w->file[i], before[i]);
        free(before[i].data);
    }
}

static void other_order(void **state)
{
    struct world w;

    (void)state;
    begin(&w, "home");
    w.order[0] = w.file[1];
    w.order[1] = w.file[0];
    refuse(&w, -EXDEV, "is member 1", "in their order");
    end(&w);
}

static void too_few(void **state)
{
    struct world w;

    (void)state;
    begin(&w, "home");
    w.options.members = 1;
    refuse(&w, -EXDEV, "one of 2 members", "name all of them");
    end(&w);
}

static void missing(void **state)
{
    struct world w;
    char *away;

    (void)state;
    begin(&w, "home");
    away = fixture_path(w.folder, "away");
    assert_int_equal(rename(w.file[1], away), 0);
    REFUSED(&w.options, -ENOENT, w.file[1], "member 1 of rank 0 is missing", "bring it back");
    assert_int_equal(rename(away, w.file[1]), 0);
    tutti_pool_close(fixture_open(&w.options)); /* negative control */
    free(away);
    end(&w);
}

static void twice(void **state)
{
    struct world w;
    struct tutti_error err = {0};
    char *other;

    (void)state;
    begin(&w, "home");
    w.order[1] = w.file[0];
    refuse(&w, -EINVAL, "given twice", "of its own");
    other = fixture_path(w.folder, "link");
    assert_int_equal(symlink(w.file[0], other), 0);
    w.order[1] = other;
    REFUSED(&w.options, -EINVAL, other, "given twice");
    assert_int_equal(unlink(other), 0);
    assert_int_equal(link(w.file[0], other), 0);
    REFUSED(&w.options, -EINVAL, other, "given twice");
    free(other);
    other = fixture_path(w.drive[0], "../drive0/new"); /* neither exists yet */
    w.order[0] = other;
    w.order[1] = fixture_path(w.drive[0], "new");
    assert_int_equal(tutti_pool_format(&w.options, &err), -EINVAL);
    assert_non_null(strstr(err.message, "given twice"));
    free(other);
    free((char *)(uintptr_t)w.order[1]);
    end(&w);
}

static void other_ranks(void **state)
{
    struct world w;

    (void)state;
    begin(&w, "home");
    w.options.ranks = 2;
    refuse(&w, -EXDEV, "formatted for 1 ranks", "tensor-parallel size");
    w.options.rank = 1;
    refuse(&w, -EXDEV, "formatted for 1 ranks", "tensor-parallel size");
    end(&w);
}

static void other_rank(void **state)
{
    char *folder = fixture_folder();
    char *path = fixture_path(folder, "rank0.member0.tutti");
    struct tutti_pool_options options = fixture_options(folder);

    (void)state;
    options.ranks = 2;
    fixture_format(&options);
    options.rank = 1;
    options.member = (const char *const *)&path;
    options.members = 1;
    REFUSED(&options, -EXDEV, path, "belongs to rank 0", "own members");
    free(path);
    fixture_remove(folder);
}

static void other_pool(void **state)
{
    struct world w;
    struct world v;

    (void)state;
    begin(&w, "home");
    begin(&v, "other");
    w.order[1] = v.file[1];
    refuse(&w, -EXDEV, "belongs to pool", "of one pool");
    end(&v);
    end(&w);
}

/* Formatted twice under one secret: two members of different formats do not make a rank. */
static void other_format(void **state)
{
    struct world w;

    (void)state;
    begin(&w, "home");
    assert_int_equal(unlink(w.file[0]), 0);
    w.order[1] = "unused";
    w.options.bytes = 6 * MIB;
    w.order[1] = fixture_path(w.folder, "spare");
    fixture_format(&w.options);
    free((char *)(uintptr_t)w.order[1]);
    w.order[1] = w.file[1];
    refuse(&w, -EXDEV, "not formatted together", "of one format");
    end(&w);
}

/** Each number that members of one format have in common. */
static void other_numbers(void **state)
{
    struct tutti_superblock good, s;
    struct world w;
    (void)state;

    begin(&w, "home");
    fixture_superblock(w.file[1], 1, &good);
#define OTHER(...)                                                                                 \
    do {                                                                                           \
        s = good;                                                                                  \
        __VA_ARGS__;                                                                               \
        fixture_put_superblock(w.file[1], 1, &s);                                                  \
        refuse(&w, -EXDEV, "not formatted together", "of one format");                             \
    } while (0)
    OTHER((s.alignment = 4096, s.record_stride = 4096, s.records_per_extent = 4));
    OTHER(s.record_stride *= 2);
    OTHER(s.records_per_extent--);
    OTHER(s.extents--);
    OTHER(s.extent_bytes -= 4096);
    OTHER(s.first_extent -= 4096);
    OTHER(s.created++);
#undef OTHER
    fixture_put_superblock(w.file[1], 1, &good);
    tutti_pool_close(fixture_open(&w.options));
    end(&w);
}

static void other_secret(void **state)
{
    struct world w;
    char *secret;

    (void)state;
    begin(&w, "home");
    secret = fixture_path(w.home, "secret");
    fixture_poke(secret, 60, "00000000000000000000000000000000", 32);
    refuse(&w, -EXDEV, "another secret", "bring back the secret");
    free(secret);
    end(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(other_order),   cmocka_unit_test(too_few),
        cmocka_unit_test(missing),       cmocka_unit_test(twice),
        cmocka_unit_test(other_ranks),   cmocka_unit_test(other_rank),
        cmocka_unit_test(other_pool),    cmocka_unit_test(other_format),
        cmocka_unit_test(other_numbers), cmocka_unit_test(other_secret)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
