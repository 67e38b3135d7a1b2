/* SPDX-License-Identifier: Apache-2.0 */
/* Ranks that start at once agree on one secret and one pool. */
#include "fixture.h"

#include <dirent.h>
#include <sys/wait.h>

enum { PROCESSES = 8 };

/* How often to try; a lost race shows in the first few, a rare one under make torture. */
static int rounds(int usual)
{
    return getenv("TUTTI_TORTURE") ? 100 * usual : usual;
}

struct made {
    uint8_t pool[16];
    uint8_t secret[16];
    int rc;
};

/* Start all at once; each tells what it got through the pipe. */
static void race(const char *home, struct made made[PROCESSES],
                 void (*work)(const char *, int, struct made *))
{
    int gate[2];
    int answer[2];
    char byte;

    assert_int_equal(pipe(gate), 0);
    assert_int_equal(pipe(answer), 0);
    for (int i = 0; i < PROCESSES; i++) {
        if (fork() == 0) {
            struct made m = {.rc = -1};

            close(gate[1]);
            if (read(gate[0], &byte, 1) == 0) /* opens when the parent closes it */
                work(home, i, &m);
            _exit(write(answer[1], &m, sizeof(m)) == sizeof(m) ? 0 : 1);
        }
    }
    close(gate[0]);
    close(gate[1]);
    for (int i = 0; i < PROCESSES; i++)
        assert_int_equal(read(answer[0], &made[i], sizeof(made[i])), sizeof(made[i]));
    for (int i = 0; i < PROCESSES; i++)
        wait(NULL);
    close(answer[0]);
    close(answer[1]);
}

static void load(const char *home, int index, struct made *m)
{
    (void)index;
    m->rc = tutti_pool_secret_load(home, true, m->pool, m->secret, NULL);
}

static void format_and_open(const char *home, int index, struct made *m)
{
    struct tutti_pool_options options = fixture_options(home);
    struct tutti_error err = {0};
    struct tutti_pool *pool;
    struct tutti_pool_info info;

    options.ranks = PROCESSES;
    options.rank = (uint32_t)index;
    options.bytes = 2 * MIB;
    m->rc = tutti_pool_format(&options, &err);
    if (m->rc == 0)
        m->rc = tutti_pool_open(&options, &pool, &err);
    if (m->rc < 0) {
        fprintf(stderr, "rank %d: %s\n", index, err.message);
        return;
    }
    tutti_pool_info(pool, &info);
    memcpy(m->pool, info.superblock.pool, 16);
    memcpy(m->secret, tutti_pool_secret(pool), 16);
    tutti_pool_close(pool);
}

static void agree(void (*work)(const char *, int, struct made *), int files, int usual)
{
    for (int round = 0; round < rounds(usual); round++) {
        char *folder = fixture_folder();
        char *home = fixture_path(folder, "home");
        struct made made[PROCESSES];
        DIR *dir;
        int found = 0;

        race(home, made, work);
        for (int i = 0; i < PROCESSES; i++) {
            assert_int_equal(made[i].rc, 0);
            assert_memory_equal(&made[i], &made[0], 32);
        }
        dir = opendir(home);
        for (struct dirent *e = readdir(dir); e; e = readdir(dir))
            found += e->d_name[0] != '.';
        closedir(dir);
        assert_int_equal(found, files); /* no temporary file is left */
        free(home);
        fixture_remove(folder);
    }
}

static void one_secret(void **state)
{
    (void)state;
    agree(load, 1, 30);
}

static void one_pool(void **state)
{
    (void)state;
    agree(format_and_open, 1 + PROCESSES, 4);
}

/* Two of the same rank: one formats, the other is told. */
static void format_same(const char *home, int index, struct made *m)
{
    struct tutti_pool_options options = fixture_options(home);

    (void)index;
    m->rc = tutti_pool_format(&options, NULL);
}

static void one_format(void **state)
{
    (void)state;
    for (int round = 0; round < rounds(10); round++) {
        char *folder = fixture_folder();
        struct tutti_pool_options options = fixture_options(folder);
        struct made made[PROCESSES];
        int won = 0;

        race(folder, made, format_same);
        for (int i = 0; i < PROCESSES; i++) {
            assert_true(made[i].rc == 0 || made[i].rc == -EEXIST || made[i].rc == -EBUSY);
            won += made[i].rc == 0;
        }
        assert_int_equal(won, 1);
        tutti_pool_close(fixture_open(&options));
        fixture_remove(folder);
    }
}

static void refuses_foreign_file(void **state)
{
    char *folder = fixture_folder();
    char *path = fixture_path(folder, "secret");
    uint8_t id[16];
    uint8_t secret[16];
    struct tutti_error err = {0};

    (void)state;
    assert_int_equal(tutti_pool_secret_load(folder, false, id, secret, &err), -ENOENT);
    must(tutti_pool_secret_load(folder, true, id, secret, &err), &err);
    for (off_t at = 0; at < 93; at++) {
        struct bytes before = fixture_bytes(path);

        fixture_poke(path, at, "?", 1);
        assert_int_equal(tutti_pool_secret_load(folder, true, id, secret, &err), -EUCLEAN);
        fixture_poke(path, 0, before.data, before.count);
        free(before.data);
    }
    must(tutti_pool_secret_load(folder, false, id, secret, &err), &err);
    assert_int_equal(truncate(path, 92), 0);
    assert_int_equal(tutti_pool_secret_load(folder, true, id, secret, &err), -EUCLEAN);
    assert_non_null(strstr(err.message, "92 bytes"));
    free(path);
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(one_secret), cmocka_unit_test(one_pool),
                                       cmocka_unit_test(one_format),
                                       cmocka_unit_test(refuses_foreign_file)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
