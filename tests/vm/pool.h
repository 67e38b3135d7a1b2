/* SPDX-License-Identifier: Apache-2.0 */
/* pool.h: pools on the machine's drives through engine "nvme", for pool.c and pool_trouble.c. */
#ifndef TESTS_VM_POOL_H
#define TESTS_VM_POOL_H

#include "../unit/serve/rig.h"
#include "guest.h"
#include "nvme/drive_internal.h" /* to take away what a drive may reach, and see what was done */
#include "serve/internal.h"      /* to ask the engine for its last error */

enum { CHAIN = 16, INTO = 64 };

#define DRIVE(address) "nvme:" address
#define POOL_EXTENT (UINT64_C(4) << 20)

/** What another test left is not to be found. */
static inline void pool_wipe(const char *name)
{
    static const uint8_t nothing[256 << 10];
    struct tutti_error err = {0};
    struct nvme_drive *drive;

    pci_bind(name + strlen("nvme:"), "vfio-pci");
    CHECK(nvme_drive_open(name, &drive, &err) == 0, "%s", err.message);
    CHECK(nvme_drive_write(drive, nothing, sizeof(nothing), 0) == 0);
    nvme_drive_close(drive);
}

/** A new pool on @count drives. */
static inline void pool_make(struct rig *r, const char *const *drives, uint32_t count)
{
    struct tutti_pool_options options;
    struct tutti_error err = {0};

    rig_init(r, count * (UINT64_C(16) << 20), POOL_EXTENT);
    strcpy(r->home, "pool-XXXXXX");
    CHECK(mkdtemp(r->home));
    for (uint32_t i = 0; i < count; i++)
        pool_wipe(drives[i]);
    r->others = drives;
    r->count = count;
    options = rig_pool_options(r);
    options.force = true; /* over what other tests left elsewhere */
    CHECK(tutti_pool_format(&options, &err) == 0, "%s", err.message);
}

static inline struct nvme_drive *pool_drive(const struct rig *r, uint32_t member)
{
    return tutti_pool_member_drive(r->pool, member);
}

/** Store @chains chains of CHAIN blocks, numbers 0, 2, 4... Return: slots that are good. */
static inline uint32_t pool_fill(struct rig *r, uint32_t chains)
{
    uint32_t good = 0;

    for (uint32_t c = 0; c < chains; c++)
        good += rig_store(r, 2 * c, 0, CHAIN);
    return good;
}

static inline uint32_t pool_member_of(const struct rig *r, uint32_t slot)
{
    struct tutti_placement p;

    CHECK(tutti_pool_placement(r->pool, 0, &p) == 0);
    return tutti_record_place(&p, slot).member;
}

/** The first chain that lies on @member with all of its blocks. */
static inline uint32_t pool_chain_on(struct rig *r, uint32_t member, uint32_t chains)
{
    for (uint32_t c = 0; c < 2 * chains; c += 2) {
        struct tutti_transfer items[64];
        struct tutti_match match;
        uint32_t found = rig_find(r, c, CHAIN, INTO, &match, items), there = 0;

        for (uint32_t i = 0; i < found; i++)
            there += pool_member_of(r, items[i].slot) == member;
        CHECK(tutti_directory_unpin(r->directory, match.slot, match.generation) == 0);
        if (there == CHAIN)
            return c;
    }
    CHECK(false, "no chain lies on member %u", member);
}

/** Chains whose blocks all come back, and right. */
static inline uint32_t pool_load_all(struct rig *r, uint32_t chains)
{
    uint32_t whole = 0;

    for (uint32_t c = 0; c < chains; c++) {
        memset(r->kv, 0xee, r->kv_bytes);
        whole += rig_load(r, 2 * c, CHAIN, INTO) == CHAIN;
    }
    return whole;
}

/** Wait for the end of a retrieve, within a bound. Return: seconds that it took. */
static inline double pool_end(struct tutti_retrieve *retrieve, struct tutti_result *result,
                              uint64_t within)
{
    uint64_t began = tutti_clock_now();

    CHECK(tutti_retrieve_wait(retrieve, within) == 0, "it hangs");
    tutti_retrieve_result(retrieve, result);
    return (double)(tutti_clock_now() - began) / 1e9;
}

/** A chain's retrieve, begun: its blocks go to INTO and on. */
static inline struct tutti_retrieve *pool_begin(struct rig *r, uint32_t chain)
{
    struct tutti_transfer items[64];
    struct tutti_retrieve *retrieve;
    struct tutti_match match;
    struct tutti_error err = {0};

    CHECK(rig_find(r, chain, CHAIN, INTO, &match, items) == CHAIN);
    CHECK(tutti_retrieve_begin(r->serve, 0, items, CHAIN, false, 1, &retrieve, &err) == 0, "%s",
          err.message);
    return retrieve;
}

/** The engine's last error: its code and words of its sentence. */
static inline void pool_said(const struct rig *r, int code, const char *one, const char *other)
{
    struct tutti_error err = {0};
    int rc = tutti_engine_last_error(r->serve->engine, &err);

    CHECK((code == 0 || rc == code) && strstr(err.message, one) && strstr(err.message, other),
          "%d: %s", rc, err.message);
}

static inline void pool_remove(struct rig *r)
{
    rig_close(r);
    rig_remove(r);
}

#endif
