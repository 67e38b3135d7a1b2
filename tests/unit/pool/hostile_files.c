/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What somebody else may have put into a pool's folder: records and scan files
 * whose sums hold and whose fields are nasty, links and FIFOs under our names,
 * files that claim to be enormous. None of it crashes a reader, hangs it, is
 * written to, or is told in a message.
 * Seen to fail with a scan file whose entries' order is not looked at, with a
 * member opened without O_NONBLOCK (the alarm ends it), and with a scan that
 * writes through a link under its temporary name.
 */
#include "fixture.h"
#include "nasty.h"

#include <sys/statvfs.h>

#include "tutti/directory.h"

enum { RECORDS = 3000, HANG = 60 };

/* A home with one member, and its paths. */
struct place {
    char *home;
    char *member;
    char *secret;
    struct tutti_pool_options options;
};

static void make(struct place *p)
{
    p->home = fixture_folder();
    p->member = fixture_path(p->home, "rank0.member0.tutti");
    p->secret = fixture_path(p->home, "secret");
    p->options = fixture_options(p->home);
    fixture_format(&p->options);
}

static void unmake(struct place *p)
{
    free(p->member);
    free(p->secret);
    fixture_remove(p->home);
}

/** Put nasty values into some of a record's fields, and seal it. */
static void spoil(struct tutti_record *r, uint32_t stride)
{
    unsigned char *bytes = (unsigned char *)r;

    for (uint64_t i = any() % 5; i-- > 0;) {
        size_t at = any() % (sizeof(*r) / 4) * 4;
        uint64_t value = nasty();

        memcpy(bytes + at, &value, at % 8 == 0 && any() % 2 ? 8 : 4);
    }
    if (any() % 8 != 0 && r->layers >= 1 && r->layers <= TUTTI_MAX_LAYERS &&
        tutti_record_bytes(r->layers) <= stride)
        tutti_record_seal(r);
}

/** All that reads records: what the scan lets through is loaded by a directory that trusts nobody.
 */
static void read_all(struct tutti_pool *pool, const struct place *p)
{
    struct tutti_directory_options options = {.geometry = small_shape, .ranks = 1};
    const struct tutti_scan_entry *all;
    struct tutti_scan_entry *entries;
    struct tutti_directory *d;
    struct tutti_error err = {0};
    struct tutti_pool_info info;
    size_t count;
    (void)p;

    assert_true(tutti_pool_check(pool, true, NULL, NULL, NULL, NULL, &err) >= 0);
    must(tutti_pool_scan(pool, 0, &entries, &count, NULL, &err), &err);
    tutti_pool_info(pool, &info);
    must(tutti_pool_placement(pool, 0, &options.placement), &err);
    memcpy(options.secret, tutti_pool_secret(pool), 16);
    memcpy(options.identity, fixture_identity, 16);
    must(tutti_directory_new(&options, &d, &err), &err);
    all = entries;
    must(tutti_directory_load(d, &all, &count, &err), &err);
    must(tutti_directory_audit(d, &err), &err);
    must(tutti_directory_begin_epoch(d, info.superblock.epoch + 1, false, NULL, &err), &err);
    tutti_directory_free(d);
    free(entries);
}

static void records(void **state)
{
    struct tutti_record *r = aligned_alloc(4096, 4096);
    struct tutti_placement p;
    struct tutti_error err = {0};
    struct tutti_pool *pool;
    struct place place;
    uint32_t slots;
    (void)state;

    assert_non_null(r);
    make(&place);
    pool = fixture_open(&place.options);
    fixture_begin_epoch(pool, 5, 0);
    must(tutti_pool_placement(pool, 0, &p), &err);
    slots = p.extents * p.slots_per_extent;
    for (uint32_t i = 0; i < RECORDS; i++) {
        uint32_t n = i % slots;
        struct fixture_slot f = {.slot = n / p.slots_per_extent * p.records_per_extent +
                                         n % p.slots_per_extent,
                                 .generation = generation_of(1 + any() % 6, i + 1),
                                 .incarnation = (uint32_t)(any() % 3),
                                 .seed = i};
        struct tutti_place at = tutti_record_place(&p, f.slot);
        int fd = tutti_pool_member_fd(pool, at.member);

        fixture_write_slot(pool, &f);
        assert_int_equal(pread(fd, r, p.record_stride, (off_t)at.offset), p.record_stride);
        spoil(r, p.record_stride);
        assert_int_equal(pwrite(fd, r, p.record_stride, (off_t)at.offset), p.record_stride);
        if (n == slots - 1)
            read_all(pool, &place);
    }
    tutti_pool_close(pool);
    unmake(&place);
    free(r);
}

/** The header of a scan file: its sums are no secret. */
struct scan_header {
    uint64_t magic;
    uint32_t version, entry_bytes;
    uint64_t count;
    uint8_t pool[16];
    uint32_t rank, reserved;
    uint64_t entries_sum, checksum;
};

static void scan_files(void **state)
{
    char *path;
    struct place place;
    struct tutti_pool *pool;
    struct tutti_error err = {0};
    struct bytes good;
    uint32_t refused = 0, taken = 0;
    (void)state;

    make(&place);
    path = fixture_path(place.home, "scan.rank0");
    pool = fixture_open(&place.options);
    fixture_begin_epoch(pool, 1, 0);
    for (uint32_t slot = 0; slot < 20; slot++)
        fixture_write_slot(pool, &(struct fixture_slot){.slot = slot,
                                                        .incarnation = 1,
                                                        .generation = generation_of(1, slot + 1)});
    must(tutti_pool_scan_to_file(pool, 0, path, NULL, &err), &err);
    good = fixture_bytes(path);
    for (int i = 0; i < 2000; i++) {
        const struct tutti_scan_entry *entries;
        unsigned char *copy = malloc(good.count);
        struct scan_header *h = (struct scan_header *)(void *)copy;
        size_t count;
        void *handle;

        memcpy(copy, good.data, good.count);
        for (uint64_t k = 1 + any() % 4; k-- > 0;) {
            size_t at = any() % (good.count / 8) * 8;
            uint64_t value = nasty();

            memcpy(copy + at, &value, 8);
        }
        h->entries_sum = tutti_sum64(copy + sizeof(*h), good.count - sizeof(*h));
        h->checksum = tutti_sum64(h, offsetof(struct scan_header, checksum));
        fixture_poke(path, 0, copy, good.count);
        if (tutti_scan_file_open(path, &entries, &count, &handle, &err) == 0) {
            struct tutti_directory_options options = {.geometry = small_shape, .ranks = 1};
            struct tutti_directory *d;

            must(tutti_pool_placement(pool, 0, &options.placement), &err);
            must(tutti_directory_new(&options, &d, &err), &err);
            must(tutti_directory_load(d, &entries, &count, &err), &err);
            must(tutti_directory_audit(d, &err), &err);
            tutti_directory_free(d);
            tutti_scan_file_close(handle);
            taken++;
        } else {
            assert_non_null(strstr(err.message, path));
            refused++;
        }
        free(copy);
    }
    assert_true(taken > 100 && refused > 100);
    free(good.data);
    free(path);
    tutti_pool_close(pool);
    unmake(&place);
}

static char *somebodys_file(const struct place *p)
{
    char *path = fixture_path(p->home, "somebody's");
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, "root:x:0:0:private", 18), 18);
    close(fd);
    return path;
}

static void put_link(const char *target, const char *at)
{
    unlink(at);
    assert_int_equal(symlink(target, at), 0);
}

/** A link under each of our names leads to somebody's file: it stays as it is, and untold. */
static void links(void **state)
{
    uint8_t id[16], secret[16];
    struct tutti_error err = {0};
    struct tutti_pool *pool;
    struct place p;
    struct bytes before;
    char *victim, *temporary, *scan, *writing = NULL, *switch_;
    (void)state;

    make(&p);
    victim = somebodys_file(&p);
    before = fixture_bytes(victim);
    temporary = fixture_path(p.home, "rank0.member0.tutti.formatting");
    scan = fixture_path(p.home, "scan.rank0");
    switch_ = fixture_path(p.home, "disabled");
    assert_true(asprintf(&writing, "%s.%ld.writing", scan, (long)getpid()) > 0);

    pool = fixture_open(&p.options);
    put_link(victim, scan);
    must(tutti_pool_scan_to_file(pool, 0, scan, NULL, &err), &err); /* takes the link's place */
    assert_unchanged(victim, before);
    put_link(victim, writing);
    assert_int_equal(tutti_pool_scan_to_file(pool, 0, scan, NULL, &err), -ELOOP);
    assert_unchanged(victim, before);
    tutti_pool_close(pool);

    put_link(victim, switch_);
    must(tutti_pool_disable(p.home, "a reason", &err), &err);
    must(tutti_pool_enable(p.home, &err), &err);
    assert_unchanged(victim, before);

    put_link(victim, p.member);
    REFUSED(&p.options, -EUCLEAN, p.member);
    assert_int_equal(tutti_pool_format(&p.options, &err), -EEXIST);
    assert_unchanged(victim, before);
    unlink(p.member);
    put_link(victim, temporary);
    assert_int_equal(tutti_pool_format(&p.options, &err), -ELOOP);
    assert_unchanged(victim, before);
    unlink(temporary);

    put_link(victim, p.secret);
    assert_int_equal(tutti_pool_secret_load(p.home, true, id, secret, &err), -EUCLEAN);
    assert_null(strstr(err.message, "private")); /* its content is not told */
    assert_unchanged(victim, before);
    unlink(victim); /* a link to nowhere makes no file there */
    assert_true(tutti_pool_secret_load(p.home, true, id, secret, &err) < 0);
    assert_int_equal(access(victim, F_OK), -1);
    free(before.data);
    free(victim);
    free(temporary);
    free(scan);
    free(writing);
    free(switch_);
    unmake(&p);
}

static void put_fifo(const char *at)
{
    unlink(at);
    assert_int_equal(mkfifo(at, 0600), 0);
}

/** A FIFO or a folder under each of our names: no reader waits for it. */
static void fifos(void **state)
{
    const struct tutti_scan_entry *entries;
    struct tutti_error err = {0};
    char reason[64];
    struct place p;
    size_t count;
    void *handle;
    char *switch_, *scan;
    (void)state;

    make(&p);
    alarm(HANG); /* or it hangs */
    switch_ = fixture_path(p.home, "disabled");
    scan = fixture_path(p.home, "scan.rank0");
    put_fifo(switch_);
    assert_int_equal(tutti_pool_disabled(p.home, reason, sizeof(reason)), 1);
    must(tutti_pool_enable(p.home, &err), &err);
    assert_int_equal(mkdir(switch_, 0700), 0);
    assert_int_equal(tutti_pool_disabled(p.home, reason, sizeof(reason)), 1);
    rmdir(switch_);

    put_fifo(scan);
    assert_int_equal(tutti_scan_file_open(scan, &entries, &count, &handle, &err), -EUCLEAN);
    put_fifo(p.member);
    REFUSED(&p.options, -EINVAL, p.member, "neither");
    p.options.force = true;
    assert_int_equal(tutti_pool_format(&p.options, &err), -EINVAL);
    put_fifo(p.secret);
    REFUSED(&p.options, -EUCLEAN, p.secret);
    alarm(0);
    free(switch_);
    free(scan);
    unmake(&p);
}

/** Sizes that no disk has: refused, or as many slots as are believed and no more memory. */
static void enormous(void **state)
{
    struct tutti_superblock s;
    struct tutti_error err = {0};
    struct place p;
    uint8_t id[16], secret[16];
    (void)state;

    make(&p);
    fixture_superblock(p.member, 1, &s);
    s.extents = UINT32_MAX / s.records_per_extent / 2;
    for (unsigned copy = 0; copy < 2; copy++)
        fixture_put_superblock(p.member, copy, &s);
    REFUSED(&p.options, -EFBIG, p.member, "cut short");
    assert_int_equal(truncate(p.secret, 1 << 30), 0); /* sparse */
    assert_int_equal(tutti_pool_secret_load(p.home, false, id, secret, &err), -EUCLEAN);
    unmake(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records), cmocka_unit_test(scan_files), cmocka_unit_test(links),
        cmocka_unit_test(fifos),   cmocka_unit_test(enormous),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
