/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool.c: pools on drives of our own, as a server has them: format, epoch, store, retrieve, the
 * next life, and Linux's own driver on the same bytes.
 *
 * Seen to fail: striped where a PRP list skipped a page; by_serial where a drive was not asked for
 * its own; other_driver with blocks taken for 512 bytes.
 */
#include <fcntl.h>

#include "pool.h"

enum { CHAINS = 8 };

static const char *const four[] = {DRIVE(PLAIN), DRIVE(LOST), DRIVE(SLOW), DRIVE(PULLED)};

/** Of all members; or as they report. QEMU always has SGLs. */
static void use_prp(const struct rig *r, bool of_odd)
{
    for (uint32_t m = 0; m < r->count; m++)
        if ((m & 1) == of_odd)
            pool_drive(r, m)->lane[1]->limits.sgls = 0;
}

/** Four controllers, of other MDTS and block sizes each; half of them by PRP, half by SGL. */
static void striped(void)
{
    uint32_t slots[4] = {0};
    struct tutti_pool_info info;
    struct rig r;

    pool_make(&r, four, 4);
    rig_open(&r, "nvme", NULL);
    tutti_pool_info(r.pool, &info);
    CHECK(info.superblock.alignment == 4096 && info.superblock.members == 4);
    CHECK(strcmp(tutti_serve_engine(r.serve), "nvme") == 0, "%s", tutti_serve_engine(r.serve));
    use_prp(&r, false);
    CHECK(pool_fill(&r, CHAINS) == CHAINS * CHAIN);
    CHECK(pool_load_all(&r, CHAINS) == CHAINS);
    for (uint32_t c = 0; c < CHAINS; c++) {
        struct tutti_transfer items[64];
        struct tutti_match match;

        CHECK(rig_find(&r, 2 * c, CHAIN, INTO, &match, items) == CHAIN);
        for (uint32_t i = 0; i < CHAIN; i++)
            slots[pool_member_of(&r, items[i].slot)]++;
        CHECK(tutti_directory_unpin(r.directory, match.slot, match.generation) == 0);
    }
    CHECK(slots[0] && slots[1] && slots[2] && slots[3], "%u %u %u %u slots a member", slots[0],
          slots[1], slots[2], slots[3]);
    rig_close(&r);
    rig_open(&r, "nvme", NULL);
    use_prp(&r, true);
    CHECK(pool_load_all(&r, CHAINS) == CHAINS);
    pool_remove(&r);
}

/** A pool of ours is one to Linux's driver and engine "threads" too, and the reverse. */
static void other_driver(void)
{
    static const char *const ours[] = {DRIVE(PLAIN), DRIVE(PULLED)};
    char node[2][300];
    const char *const linux_s[] = {node[0], node[1]};
    struct rig r;

    pool_make(&r, ours, 2);
    rig_open(&r, "nvme", NULL);
    CHECK(pool_fill(&r, 4) == 4 * CHAIN);
    rig_close(&r);
    close(pci_disk(PLAIN, node[0]));
    close(pci_disk(PULLED, node[1]));
    r.others = linux_s;
    rig_open(&r, "threads", NULL);
    CHECK(pool_load_all(&r, 4) == 4);
    CHECK(pool_fill(&r, 6) == 2 * CHAIN); /* two more */
    rig_close(&r);
    pci_bind(PLAIN, "vfio-pci");
    pci_bind(PULLED, "vfio-pci");
    r.others = ours;
    rig_open(&r, "nvme", NULL);
    CHECK(pool_load_all(&r, 6) == 6);
    pool_remove(&r);
}

/** As "tutti bind" writes it down. */
static void bound(const char *address, const char *serial)
{
    char path[96], text[64];
    int fd;

    mkdir("/run", 0755);
    mkdir("/run/tutti", 0755);
    mkdir("/run/tutti/bound", 0755);
    snprintf(path, sizeof(path), "/run/tutti/bound/%s", address);
    fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    CHECK(fd >= 0, "%s", strerror(errno));
    close(fd);
    snprintf(text, sizeof(text), "serial %s\nmodel M\n", serial);
    put(path, text);
}

static void refused(struct rig *r, int code, const char *word)
{
    struct tutti_pool_options options = rig_pool_options(r);
    struct tutti_error err = {0};
    struct tutti_pool *pool;
    int rc = tutti_pool_open(&options, &pool, &err);

    CHECK(rc == code && strstr(err.message, word), "%d: %s", rc, err.message);
}

/** Formatted by address, found by serial; and what says that it is another is refused. */
static void by_serial(void)
{
    static const char *const by_address[] = {DRIVE(PLAIN), DRIVE(LOST)};
    static const char *const serials[] = {DRIVE("serial=plain"), DRIVE("serial=lost/1")};
    static const char *const twice[] = {DRIVE("serial=plain"), DRIVE(PLAIN)};
    struct rig r;

    pool_make(&r, by_address, 2);
    rig_open(&r, "nvme", NULL);
    CHECK(pool_fill(&r, 2) == 2 * CHAIN);
    rig_close(&r);
    r.others = serials;
    refused(&r, -ENODEV, "tutti bind");
    bound(PLAIN, "lost"); /* addresses were given anew, and nobody bound since */
    bound(LOST, "plain");
    refused(&r, -ENXIO, "says that it is lost");
    bound(PLAIN, "plain");
    bound(LOST, "lost ");
    rig_open(&r, "nvme", NULL);
    CHECK(pool_load_all(&r, 2) == 2);
    rig_close(&r);
    r.others = twice;
    refused(&r, -EBUSY, "in use");
    rig_remove(&r);
}

const struct test pool_tests[] = {
    {"a pool striped over four controllers, by PRP and by SGL", striped},
    {"a pool is found by its drives' serials", by_serial},
    {"a pool of ours is one to Linux's driver, and the reverse", other_driver},
    {0},
};
