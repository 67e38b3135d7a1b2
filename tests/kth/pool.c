/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The k-th allocation or system call fails, for every k, in all that a pool
 * does: a format leaves nothing or a whole pool, an epoch is begun or not, what
 * is opened, scanned or checked is right or refused with a sentence, and
 * afterwards all works again.
 * Seen to fail with a superblock that is written without looking at the result
 * (an epoch that had been begun was gone), with a scan that skips what cannot be
 * read, and (LeakSanitizer) without free(path) in a refused open.
 */
#include "../unit/pool/fixture.h"

#include "kth.h"

struct two {
    char *folder;
    char *home;
    char *file[2];
    struct tutti_pool_options options;
};

/** The first errors are met on a disk, with direct I/O; repetitions cost least in memory. */
static void lie_in_memory(bool yes)
{
    if (yes && access("/dev/shm", W_OK) == 0)
        setenv("TMPDIR", "/dev/shm", 1);
    else
        unsetenv("TMPDIR");
}

static void begin(struct two *t)
{
    t->folder = fixture_folder();
    t->home = fixture_path(t->folder, "home");
    t->file[0] = fixture_path(t->folder, "first");
    t->file[1] = fixture_path(t->folder, "second");
    t->options = fixture_options(t->home);
    t->options.bytes = 6 * MIB;
    t->options.member = (const char *const *)t->file;
    t->options.members = 2;
}

static void end(struct two *t)
{
    free(t->file[0]);
    free(t->file[1]);
    free(t->home);
    fixture_remove(t->folder);
}

/** A failed call has a code and a sentence; with one failure only, it may also have gone on. */
static void assert_said(int rc, const struct tutti_error *err)
{
    if (rc < 0) {
        assert_true(strlen(err->message) > 0);
        assert_int_equal(err->code, rc);
    }
}

/** Nothing is there; a temporary file may lie about, empty, where locking it failed. */
static void assert_nothing_made(const struct two *t, const struct tutti_error *err)
{
    struct stat st;

    for (int i = 0; i < 2; i++) {
        char *temporary = NULL;

        assert_true(asprintf(&temporary, "%s.formatting", t->file[i]) > 0);
        assert_int_equal(stat(t->file[i], &st), -1);
        assert_true(stat(temporary, &st) < 0 ||
                    (st.st_size == 0 && strstr(err->message, "locking")));
        free(temporary);
    }
}

/** Where all goes wrong from some call on, what was made cannot be removed either. */
static void remove_leftovers(const struct two *t)
{
    for (int i = 0; i < 2; i++)
        unlink(t->file[i]);
}

static void try_format(bool lasting)
{
    struct tutti_error err = {0};
    struct two t;
    int rc;

    begin(&t);
    kth_arm();
    rc = tutti_pool_format(&t.options, &err);
    kth_disarm();
    assert_said(rc, &err);
    if (rc < 0) {
        if (lasting)
            remove_leftovers(&t);
        else
            assert_nothing_made(&t, &err);
        fixture_format(&t.options);
    }
    tutti_pool_close(fixture_open(&t.options));
    end(&t);
}

static void format_all_or_nothing(void **state)
{
    static const int how[] = {EIO, EINVAL, ENOSPC, EINTR, EOPNOTSUPP, KTH_SHORT};
    uint64_t met = 0;
    (void)state;

    lie_in_memory(false);
    for (kth_every(KTH_MEMORY, ENOMEM); kth_more();)
        try_format(false);
    met += kth_met();
    for (size_t i = 0; i < sizeof(how) / sizeof(how[0]); i++) {
        for (kth_every(KTH_SYSTEM, how[i]); kth_more();)
            try_format(false);
        met += kth_met();
        lie_in_memory(i > 0);
    }
    for (kth_from_every(KTH_MEMORY | KTH_SYSTEM, EIO); kth_more();)
        try_format(true);
    met += kth_met();
    for (kth_from_every(KTH_SYSTEM, ENOSPC); kth_more();)
        try_format(true);
    met += kth_met();
    print_message("format: %llu failures\n", (unsigned long long)met);
    assert_true(met > 300);
}

/** Begin an epoch with one failure; it is begun or it is not, now and after a restart. */
static void try_epoch(bool again)
{
    struct tutti_error err = {0};
    struct tutti_pool_info info;
    struct tutti_pool *pool;
    struct two t;
    int rc;

    begin(&t);
    fixture_format(&t.options);
    pool = fixture_open(&t.options);
    fixture_begin_epoch(pool, 1, 0);
    tutti_pool_count_written(pool, 4096);
    kth_arm();
    rc = tutti_pool_begin_epoch(pool, 2, 2, fixture_identity, &err);
    kth_disarm();
    assert_said(rc, &err);
    tutti_pool_info(pool, &info);
    assert_int_equal(info.superblock.epoch, rc < 0 ? 1 : 2);
    if (rc < 0 && again) /* try again at once, or after a restart */
        fixture_begin_epoch(pool, 2, 2);
    tutti_pool_close(pool);
    if (rc == 0) /* it is in both copies of both members */
        for (unsigned i = 0; i < 4; i++) {
            struct tutti_superblock s;

            fixture_superblock(t.file[i / 2], i % 2, &s);
            assert_int_equal(s.epoch, 2);
        }
    pool = fixture_open(&t.options);
    tutti_pool_info(pool, &info);
    if (rc == 0 || again)
        assert_int_equal(info.superblock.epoch, 2);
    else
        assert_true(info.superblock.epoch == 1 || info.superblock.epoch == 2);
    fixture_begin_epoch(pool, 3, 0);
    tutti_pool_close(pool);
    end(&t);
}

static void epoch_begun_or_not(void **state)
{
    (void)state;
    for (int again = 0; again < 2; again++) {
        for (kth_every(KTH_SYSTEM, EIO); kth_more();)
            try_epoch(again);
        assert_int_equal(kth_met(), 8); /* two copies on two members, written and flushed */
        for (kth_every(KTH_SYSTEM, KTH_SHORT); kth_more();)
            try_epoch(again);
        for (kth_from_every(KTH_SYSTEM, EIO); kth_more();)
            try_epoch(again);
        for (kth_every(KTH_MEMORY, ENOMEM); kth_more();)
            try_epoch(again);
        assert_int_equal(kth_met(), 4);
    }
}

/** A flush of all members is one, or says which was not. */
static void flushed_or_not(void **state)
{
    struct two t;
    struct tutti_pool *pool;
    (void)state;

    begin(&t);
    fixture_format(&t.options);
    pool = fixture_open(&t.options);
    for (kth_every(KTH_SYSTEM, EIO); kth_more();) {
        struct tutti_error err = {0};
        int rc;

        kth_arm();
        rc = tutti_pool_flush(pool, &err);
        assert_int_equal(rc, kth_disarm() ? -EIO : 0);
        assert_true(rc == 0 || strstr(err.message, t.file[kth_met() - 1]));
    }
    assert_int_equal(kth_met(), 2);
    for (kth_from_every(KTH_SYSTEM, EIO); kth_more();) { /* the first that was not is named */
        struct tutti_error err = {0};
        int rc;

        kth_arm();
        rc = tutti_pool_flush(pool, &err);
        assert_int_equal(rc, kth_disarm() ? -EIO : 0);
        assert_true(err.code == 0 || strstr(err.message, t.file[kth_met() - 1]));
    }
    tutti_pool_close(pool);
    end(&t);
}

enum { SLOTS = 20, BAD = 7 };

static struct two filled; /* a pool with SLOTS slots, of which BAD does not match */

static int fill(void **state)
{
    struct tutti_placement p;
    struct tutti_pool *pool;
    (void)state;

    begin(&filled);
    fixture_format(&filled.options);
    pool = fixture_open(&filled.options);
    fixture_begin_epoch(pool, 1, 0);
    assert_int_equal(tutti_pool_placement(pool, 0, &p), 0);
    for (uint32_t i = 0; i < SLOTS; i++) {
        struct fixture_slot slot = {.slot = i / p.slots_per_extent * p.records_per_extent +
                                            i % p.slots_per_extent,
                                    .generation = generation_of(1, i + 1),
                                    .incarnation = 1,
                                    .seed = i};

        fixture_write_slot(pool, &slot);
        if (i == BAD) {
            struct tutti_place place = tutti_object_place(&p, slot.slot, 1, 0);

            fixture_flip(filled.file[place.member], (off_t)place.offset + 8);
        }
    }
    tutti_pool_close(pool);
    return 0;
}

static int empty(void **state)
{
    (void)state;
    end(&filled);
    return 0;
}

/** Open, scan and check, each in turn with the failure; another time with none. */
static void try_reading(bool lasting)
{
    struct tutti_error err[3] = {{0}};
    struct tutti_scan_report report = {0}, checked = {0};
    struct tutti_scan_entry *entries = NULL;
    struct tutti_pool *pool = NULL;
    int64_t found = 0;
    size_t count = 0;
    int opened, scanned = -1;

    kth_arm();
    opened = tutti_pool_open(&filled.options, &pool, &err[0]);
    if (opened == 0)
        scanned = tutti_pool_scan(pool, 0, &entries, &count, &report, &err[1]);
    if (opened == 0)
        found = tutti_pool_check(pool, true, &checked, NULL, NULL, NULL, &err[2]);
    kth_disarm();
    assert_said(opened, &err[0]);
    if (opened == 0) {
        assert_said(scanned, &err[1]);
        assert_said((int)(found < 0 ? found : 0), &err[2]);
        if (scanned == 0) /* what could not be read is told, not left out; empty slots, too */
            assert_true(lasting ? count + report.torn >= SLOTS : count + report.torn == SLOTS);
        if (found >= 0)
            assert_true(found + (int64_t)checked.torn >= 1);
    } else {
        assert_null(pool);
    }
    free(entries);
    tutti_pool_close(pool);
    pool = fixture_open(&filled.options);
    assert_int_equal(tutti_pool_check(pool, true, NULL, NULL, NULL, NULL, &err[0]), 1);
    tutti_pool_close(pool);
}

static void reading_is_right_or_refused(void **state)
{
    static const int how[] = {EIO, EINTR, EACCES, EPERM, EMFILE, KTH_SHORT};
    uint64_t met = 0;
    (void)state;

    for (size_t i = 0; i < sizeof(how) / sizeof(how[0]); i++) {
        for (kth_every(KTH_SYSTEM, how[i]); kth_more();)
            try_reading(false);
        met += kth_met();
    }
    for (kth_every(KTH_MEMORY, ENOMEM); kth_more();)
        try_reading(false);
    met += kth_met();
    for (kth_from_every(KTH_MEMORY | KTH_SYSTEM, EIO); kth_more();)
        try_reading(true);
    met += kth_met();
    print_message("open, scan, check: %llu failures\n", (unsigned long long)met);
    assert_true(met > 300);
}

static void try_scan_file(const char *path)
{
    const struct tutti_scan_entry *entries = NULL;
    struct tutti_error err[2] = {{0}};
    struct tutti_scan_report report;
    struct tutti_pool *pool = fixture_open(&filled.options);
    void *handle = NULL;
    size_t count = 0;
    int written, mapped = -1;

    kth_arm();
    written = tutti_pool_scan_to_file(pool, 1, path, &report, &err[0]);
    if (written == 0)
        mapped = tutti_scan_file_open(path, &entries, &count, &handle, &err[1]);
    kth_disarm();
    assert_said(written, &err[0]);
    if (written == 0)
        assert_said(mapped, &err[1]);
    if (mapped == 0) {
        assert_int_equal(count + report.torn, SLOTS);
        for (size_t i = 0; i < count; i++)
            assert_int_equal(tutti_generation_epoch(entries[i].generation), 1);
    }
    tutti_scan_file_close(handle);
    tutti_pool_close(pool);
}

static void scan_files(void **state)
{
    char *path = fixture_path(filled.folder, "scan");
    (void)state;

    for (kth_every(KTH_SYSTEM, EIO); kth_more();)
        try_scan_file(path);
    for (kth_every(KTH_SYSTEM, EINTR); kth_more();)
        try_scan_file(path);
    for (kth_every(KTH_SYSTEM, EOPNOTSUPP); kth_more();)
        try_scan_file(path);
    for (kth_every(KTH_SYSTEM, ENOSYS); kth_more();)
        try_scan_file(path);
    for (kth_every(KTH_SYSTEM, KTH_NOTHING); kth_more();)
        try_scan_file(path);
    for (kth_every(KTH_SYSTEM, KTH_SHORT); kth_more();)
        try_scan_file(path);
    for (kth_every(KTH_MEMORY, ENOMEM); kth_more();)
        try_scan_file(path);
    for (kth_from_every(KTH_MEMORY | KTH_SYSTEM, EIO); kth_more();)
        try_scan_file(path);
    free(path);
}

/** The secret: the same one ever after, or an error. */
static void try_secret(void)
{
    uint8_t id[2][16], secret[2][16];
    struct tutti_error err = {0};
    char *folder = fixture_folder();
    char *home = fixture_path(folder, "home");
    int rc;

    kth_arm();
    rc = tutti_pool_secret_load(home, true, id[0], secret[0], &err);
    kth_disarm();
    assert_said(rc, &err);
    must(tutti_pool_secret_load(home, true, id[1], secret[1], &err), &err);
    if (rc == 0) {
        assert_memory_equal(id[0], id[1], 16);
        assert_memory_equal(secret[0], secret[1], 16);
    }
    free(home);
    fixture_remove(folder);
}

static void secrets(void **state)
{
    (void)state;
    for (kth_every(KTH_SYSTEM, EIO); kth_more();)
        try_secret();
    assert_true(kth_met() > 8);
    for (kth_every(KTH_SYSTEM, EINTR); kth_more();)
        try_secret();
    for (kth_every(KTH_SYSTEM, KTH_SHORT); kth_more();)
        try_secret();
    for (kth_from_every(KTH_MEMORY | KTH_SYSTEM, EIO); kth_more();)
        try_secret();
}

/** A switch that was not thrown says so; one that cannot be read counts as thrown. */
static void try_switch(void)
{
    struct tutti_error err[2] = {{0}};
    char reason[64];
    int thrown, seen, lifted;

    kth_arm();
    thrown = tutti_pool_disable(filled.home, "a reason", &err[0]);
    seen = tutti_pool_disabled(filled.home, reason, sizeof(reason));
    kth_disarm();
    assert_said(thrown, &err[0]);
    assert_true(thrown < 0 || seen == 1);
    kth_arm(); /* the same count, from the other call on */
    lifted = tutti_pool_enable(filled.home, &err[1]);
    kth_disarm();
    assert_said(lifted, &err[1]);
    must(tutti_pool_enable(filled.home, &err[1]), &err[1]);
    assert_int_equal(tutti_pool_disabled(filled.home, reason, sizeof(reason)), 0);
}

static void kill_switch(void **state)
{
    (void)state;
    for (kth_every(KTH_SYSTEM, EIO); kth_more();)
        try_switch();
    assert_true(kth_met() > 6);
    for (kth_every(KTH_SYSTEM, KTH_SHORT); kth_more();)
        try_switch();
    for (kth_every(KTH_MEMORY, ENOMEM); kth_more();)
        try_switch();
    for (kth_from_every(KTH_SYSTEM, EIO); kth_more();)
        try_switch();
}

/** A switch that is lifted is gone, or said to be there still or not flushed. */
static void kill_switch_lifted(void **state)
{
    char reason[64];
    (void)state;

    for (kth_every(KTH_SYSTEM, EIO); kth_more();) {
        struct tutti_error err = {0};
        int lifted;

        must(tutti_pool_disable(filled.home, "a reason", &err), &err);
        kth_arm();
        lifted = tutti_pool_enable(filled.home, &err);
        kth_disarm();
        assert_said(lifted, &err);
        assert_true(lifted < 0 || !tutti_pool_disabled(filled.home, reason, sizeof(reason)));
    }
    assert_true(kth_met() >= 3);
    must(tutti_pool_enable(filled.home, NULL), NULL);
}

/** A member comes back only when all of the probe was well. */
static void try_probe(void)
{
    struct tutti_error err = {0};
    int rc;

    kth_arm();
    rc = tutti_pool_probe_member(filled.home, 0, 0, &err);
    kth_disarm();
    assert_said(rc, &err);
    must(tutti_pool_probe_member(filled.home, 0, 0, &err), &err);
}

static void probed(void **state)
{
    struct tutti_error err = {0};
    uint64_t met = 0;
    (void)state;

    must(tutti_pool_disable_member(filled.home, 0, 0, "it erred", filled.file[0], &err), &err);
    for (kth_every(KTH_SYSTEM, EIO); kth_more();)
        try_probe();
    met += kth_met();
    for (kth_every(KTH_SYSTEM, EPERM); kth_more();)
        try_probe();
    for (kth_every(KTH_SYSTEM, KTH_NOTHING); kth_more();)
        try_probe();
    for (kth_every(KTH_MEMORY, ENOMEM); kth_more();)
        try_probe();
    met += kth_met();
    for (kth_from_every(KTH_MEMORY | KTH_SYSTEM, EIO); kth_more();)
        try_probe();
    print_message("probe: %llu failures\n", (unsigned long long)met);
    assert_true(met > 15);
}

/** A scrub drops the bad slots or says why not; another one finishes what it began. */
static void try_scrub(void)
{
    struct tutti_error err[2] = {{0}};
    struct tutti_pool_scrub report = {0}, again;
    struct tutti_pool *pool = fixture_open(&filled.options);
    struct tutti_place place;
    struct tutti_placement p;
    int rc;

    assert_int_equal(tutti_pool_placement(pool, 0, &p), 0);
    for (uint32_t slot = BAD; slot < BAD + 2; slot++) {
        fixture_write_slot(pool, &(struct fixture_slot){.slot = slot,
                                                        .generation = generation_of(1, slot + 1),
                                                        .incarnation = 1,
                                                        .seed = slot});
        place = tutti_object_place(&p, slot, 1, 0);
        fixture_flip(filled.file[place.member], (off_t)place.offset + 8);
    }
    kth_arm();
    rc = tutti_pool_scrub(pool, UINT64_C(1) << 40, &report, NULL, NULL, NULL, &err[0]);
    kth_disarm();
    assert_said(rc, &err[0]);
    if (rc == 0) /* nothing was overlooked but what could not be read, which is told */
        assert_true(report.dropped >= 2 || report.records.torn > 0);
    must(tutti_pool_scrub(pool, 0, &again, NULL, NULL, NULL, &err[1]), &err[1]);
    assert_true(report.dropped + again.dropped >= 2);
    assert_int_equal(tutti_pool_check(pool, true, &again.records, NULL, NULL, NULL, &err[1]), 0);
    assert_int_equal(again.records.torn, 0);
    tutti_pool_close(pool);
}

static void scrubbed(void **state)
{
    uint64_t met = 0;
    (void)state;

    for (kth_every(KTH_SYSTEM, EIO); kth_more();)
        try_scrub();
    met += kth_met();
    for (kth_every(KTH_MEMORY, ENOMEM); kth_more();)
        try_scrub();
    met += kth_met();
    print_message("scrub: %llu failures\n", (unsigned long long)met);
    assert_true(met > 12);
}

/** A pool whose members are at their usual place: their names are made, or are not. */
static void usual_place(void **state)
{
    struct tutti_error err = {0};
    char *folder = fixture_folder();
    struct tutti_pool_options options = fixture_options(folder);
    (void)state;

    fixture_format(&options);
    for (kth_every(KTH_MEMORY, ENOMEM); kth_more();) {
        struct tutti_pool *pool = NULL;
        int rc;

        kth_arm();
        rc = tutti_pool_open(&options, &pool, &err);
        assert_int_equal(rc < 0, kth_disarm());
        assert_said(rc, &err);
        tutti_pool_close(pool);
    }
    assert_true(kth_met() >= 4);
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(format_all_or_nothing),
        cmocka_unit_test(epoch_begun_or_not),
        cmocka_unit_test(flushed_or_not),
        cmocka_unit_test_setup_teardown(reading_is_right_or_refused, fill, empty),
        cmocka_unit_test_setup_teardown(scan_files, fill, empty),
        cmocka_unit_test(secrets),
        cmocka_unit_test_setup_teardown(kill_switch, fill, empty),
        cmocka_unit_test_setup_teardown(kill_switch_lifted, fill, empty),
        cmocka_unit_test_setup_teardown(probed, fill, empty),
        cmocka_unit_test_setup_teardown(scrubbed, fill, empty),
        cmocka_unit_test(usual_place),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
