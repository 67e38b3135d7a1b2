/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The k-th allocation or system call fails, for every k, while a block device is
 * formatted and opened: refused with a sentence, or a pool without a single
 * record, whatever lay there before. On a loop device of 4,096-byte sectors.
 * Seen to fail with a device whose record areas are not cleared (torn records),
 * and with a size taken for granted when it cannot be asked: 4 MiB (a pool that is not
 * all of the device).
 */
#include "../unit/pool/mounts.h"

#include <linux/falloc.h>
#include <linux/fs.h>

#include "kth.h"

enum { SECTORS = 4096, MIBS = 6 };

static struct loop device;
static char *backing;
static uint32_t extents; /* that all of the device has */

/** What somebody left: bytes everywhere, and no pool. */
static void spoil(void)
{
    static unsigned char noise[MIBS << 20] __attribute__((aligned(4096)));
    int fd = open(backing, O_WRONLY | O_CLOEXEC);

    if (noise[0] == 0)
        memset(noise, 0x5a, sizeof(noise));
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, noise, sizeof(noise), 0), sizeof(noise));
    assert_int_equal(ioctl(device.fd, BLKFLSBUF, 0), 0);
    close(fd);
}

static void wipe(void)
{
    int fd = open(backing, O_WRONLY | O_CLOEXEC);

    assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, MIBS << 20), 0);
    assert_int_equal(ioctl(device.fd, BLKFLSBUF, 0), 0);
    close(fd);
}

static void try_device(const char *home, bool force)
{
    const char *members[1] = {device.path};
    struct tutti_pool_options options = fixture_options(home);
    struct tutti_scan_report report = {0};
    struct tutti_scan_entry *entries = NULL;
    struct tutti_error err[3] = {{0}};
    struct tutti_pool *pool = NULL;
    struct tutti_pool_info info;
    size_t count = 0;
    int made, opened = -1, scanned = -1;

    options.bytes = 0; /* all of it */
    options.member = members;
    options.members = 1;
    options.force = force;
    if (force)
        spoil();
    else
        wipe();
    kth_arm();
    made = tutti_pool_format(&options, &err[0]);
    if (made == 0)
        opened = tutti_pool_open(&options, &pool, &err[1]);
    if (opened == 0)
        scanned = tutti_pool_scan(pool, 1, &entries, &count, &report, &err[2]);
    kth_disarm();
    assert_true(made == 0 || strlen(err[0].message) > 0);
    assert_true(made < 0 || opened == 0 || strlen(err[1].message) > 0);
    assert_true(opened < 0 || scanned == 0 || strlen(err[2].message) > 0);
    if (scanned == 0 && report.torn <= 256) /* a record that cannot be read counts as torn */
        assert_int_equal(count, 0);
    free(entries);
    tutti_pool_close(pool);
    if (made < 0) {
        wipe();
        fixture_format(&options);
    }
    pool = fixture_open(&options);
    must(tutti_pool_scan(pool, 1, &entries, &count, &report, &err[2]), &err[2]);
    assert_int_equal(count + report.torn + report.alien + report.void_, 0);
    free(entries);
    tutti_pool_info(pool, &info);
    if (extents == 0)
        extents = info.extents;
    assert_int_equal(info.extents, extents);
    tutti_pool_close(pool);
}

static void made_or_refused(void **state)
{
    static const int how[] = {EIO, EINVAL};
    uint64_t met = 0;
    char *folder, *home;
    (void)state;

    if (access("/dev/shm", W_OK) == 0)
        setenv("TMPDIR", "/dev/shm", 1); /* a loop device needs no disk below */
    folder = fixture_folder();
    home = fixture_path(folder, "home");
    backing = sparse_file(folder, "backing", MIBS << 20);
    device = loop_attach(backing, SECTORS);
    for (int force = 0; force < 2; force++) {
        for (kth_every(KTH_SYSTEM, how[force]); kth_more();)
            try_device(home, force);
        met += kth_met();
    }
    for (kth_every(KTH_MEMORY, ENOMEM); kth_more();)
        try_device(home, false);
    met += kth_met();
    for (kth_from_every(KTH_SYSTEM, EIO); kth_more();)
        try_device(home, true);
    met += kth_met();
    print_message("device: %llu failures\n", (unsigned long long)met);
    assert_true(met > 100);
    close(device.fd);
    free(backing);
    free(home);
    fixture_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(made_or_refused)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
