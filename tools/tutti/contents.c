/* SPDX-License-Identifier: Apache-2.0 */
/* contents.c: see contents.h. Must not know PCI. */
#include "contents.h"

#include <blkid/blkid.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tutti/pool.h"

#define MIB (UINT64_C(1) << 20)
#define MOST_RELATIVES 64u

/*
 * A device, its partitions, and all that stands on them: dm, md, bcache. What
 * is mounted or swapped to may be any of these.
 */
struct relative {
    char name[64];
    char number[16]; /* "259:0" */
    bool partition;
    bool holder;
};

struct family {
    struct relative of[MOST_RELATIVES];
    uint32_t count;
    uint32_t partitions;
    bool too_large;
};

static void add(const struct machine *m, struct family *f, const char *name, bool holder)
{
    struct relative *r;

    for (uint32_t i = 0; i < f->count; i++)
        if (strcmp(f->of[i].name, name) == 0)
            return; /* two ways lead there */
    if (f->count == MOST_RELATIVES) {
        f->too_large = true;
        return;
    }
    r = &f->of[f->count++];
    snprintf(r->name, sizeof(r->name), "%.63s", name);
    machine_read(m, r->number, sizeof(r->number), "/sys/class/block/%s/dev", name);
    r->partition = machine_has(m, "/sys/class/block/%s/partition", name);
    r->holder = holder;
    f->partitions += r->partition && !holder;
}

static void gather(const struct machine *m, struct family *f, const char *name)
{
    struct names found;

    *f = (struct family){0};
    add(m, f, name, false);
    for (uint32_t i = 0; i < f->count; i++) {
        const struct relative r = f->of[i];

        machine_list(m, &found, "/sys/class/block/%s", r.name);
        for (uint32_t n = 0; n < found.count; n++)
            if (machine_has(m, "/sys/class/block/%s/%s/partition", r.name, found.entry[n]->d_name))
                add(m, f, found.entry[n]->d_name, r.holder);
        names_free(&found);
        machine_list(m, &found, "/sys/class/block/%s/holders", r.name);
        for (uint32_t n = 0; n < found.count; n++)
            add(m, f, found.entry[n]->d_name, true);
        names_free(&found);
    }
}

/** Whether one of them has this number, or is at this path. */
static const struct relative *member_of(const struct family *f, const char *number,
                                        const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;

    for (uint32_t i = 0; i < f->count; i++)
        if (strcmp(f->of[i].number, number) == 0 || strcmp(f->of[i].name, name) == 0)
            return &f->of[i];
    return NULL;
}

/** The root file system before all others; then the first mount. */
static void find_mounts(const struct machine *m, const struct family *f, struct contents *c)
{
    char path[MACHINE_PATH], number[16], point[180], source[256];
    FILE *file = fopen(machine_path(m, path, "/proc/self/mountinfo"), "re");
    char *line = NULL;
    size_t size = 0;

    while (file && getline(&line, &size, file) > 0) {
        const char *rest = strstr(line, " - ");

        if (!rest || sscanf(line, "%*s %*s %15s %*s %179s", number, point) != 2 ||
            sscanf(rest, " - %*s %255s", source) != 1 || !member_of(f, number, source))
            continue;
        if (strcmp(point, "/") == 0) {
            snprintf(c->in_use, sizeof(c->in_use), "holds the root file system");
            break;
        }
        if (!c->in_use[0])
            snprintf(c->in_use, sizeof(c->in_use), "mounted on %s", point);
    }
    free(line);
    if (file)
        fclose(file);
    else
        snprintf(c->in_use, sizeof(c->in_use), "mounts cannot be read (/proc/self/mountinfo)");
}

static void find_swap(const struct machine *m, const struct family *f, struct contents *c)
{
    char path[MACHINE_PATH], line[512], area[256];
    FILE *file = fopen(machine_path(m, path, "/proc/swaps"), "re"); /* none: no swap */

    while (file && !c->in_use[0] && fgets(line, sizeof(line), file))
        if (sscanf(line, "%255s", area) == 1 && member_of(f, "-", area))
            snprintf(c->in_use, sizeof(c->in_use), "swapped to (%.200s)", area);
    if (file)
        fclose(file);
}

static void find_holders(const struct machine *m, const struct family *f, struct contents *c)
{
    char uuid[128], name[128];

    for (uint32_t i = 0; i < f->count && !c->in_use[0]; i++) {
        const char *holder = f->of[i].name;
        const char *kind = "held by";

        if (!f->of[i].holder)
            continue;
        machine_read(m, uuid, sizeof(uuid), "/sys/class/block/%s/dm/uuid", holder);
        machine_read(m, name, sizeof(name), "/sys/class/block/%s/dm/name", holder);
        if (strncmp(uuid, "mpath-", 6) == 0)
            kind = "a path of dm-multipath's";
        else if (strncmp(uuid, "LVM-", 4) == 0)
            kind = "under LVM's";
        else if (strncmp(holder, "md", 2) == 0)
            kind = "in the array";
        snprintf(c->in_use, sizeof(c->in_use), "%s %s%s%s", kind, holder, name[0] ? " " : "", name);
    }
    if (f->too_large && !c->in_use[0])
        snprintf(c->in_use, sizeof(c->in_use), "more than %u partitions and holders",
                 MOST_RELATIVES);
}

static void found(struct contents *c, bool foreign, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void found(struct contents *c, bool foreign, const char *format, ...)
{
    size_t length = strlen(c->holds);
    va_list arguments;

    if (length > 0 && length < sizeof(c->holds) - 3) {
        memcpy(c->holds + length, ", ", 3);
        length += 2;
    }
    va_start(arguments, format);
    vsnprintf(c->holds + length, sizeof(c->holds) - length, format, arguments);
    va_end(arguments);
    c->foreign = c->foreign || foreign;
}

/** What libblkid calls it, in words. */
static void name_signature(blkid_probe probe, struct contents *c)
{
    static const struct {
        const char *type, *words;
    } known[] = {{"LVM2_member", "LVM physical volume"},
                 {"linux_raid_member", "md member"},
                 {"zfs_member", "ZFS member"},
                 {"swap", "swap space"},
                 {"crypto_LUKS", "LUKS container"}};
    const char *type = NULL, *usage = NULL, *table = NULL;

    if (blkid_probe_lookup_value(probe, "PTTYPE", &table, NULL) == 0)
        found(c, true, "%s partition table", table);
    if (blkid_probe_lookup_value(probe, "TYPE", &type, NULL) < 0)
        return;
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (strcmp(type, known[i].type) == 0) {
            found(c, true, "%s", known[i].words);
            return;
        }
    blkid_probe_lookup_value(probe, "USAGE", &usage, NULL);
    found(c, true, "%s%s", type,
          usage && strcmp(usage, "filesystem") == 0 ? " file system" : " signature");
}

static void find_signatures(int fd, struct contents *c)
{
    blkid_probe probe = blkid_new_probe();
    int rc = -1;

    if (probe && blkid_probe_set_device(probe, fd, 0, 0) == 0) {
        blkid_probe_enable_superblocks(probe, 1);
        blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE);
        blkid_probe_enable_partitions(probe, 1);
        while ((rc = blkid_do_probe(probe)) == 0)
            name_signature(probe, c);
    }
    if (rc < 0)
        found(c, true, "what libblkid cannot read");
    blkid_free_probe(probe);
}

/** 1, 0, or a negative errno. */
static int is_zero(int fd, unsigned char *buffer, uint64_t bytes, uint64_t at)
{
    uint64_t done = 0;

    while (done < bytes) {
        ssize_t n = pread(fd, buffer + done, bytes - done, (off_t)(at + done));

        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        done += (uint64_t)n;
    }
    return bytes == 0 || (buffer[0] == 0 && memcmp(buffer, buffer + 1, bytes - 1) == 0);
}

/** No signature is no proof: an encrypted device looks like nothing but noise. */
static void find_bytes(int fd, struct contents *c)
{
    off_t end = lseek(fd, 0, SEEK_END);
    uint64_t size = end > 0 ? (uint64_t)end : 0;
    uint64_t bytes = size < MIB ? size : MIB;
    unsigned char *buffer = malloc(MIB);
    int rc = buffer && end >= 0 ? is_zero(fd, buffer, bytes, 0) : -EIO;

    if (rc == 1)
        rc = is_zero(fd, buffer, bytes, size - bytes);
    free(buffer);
    if (rc < 0)
        found(c, true, "what cannot be read (%s)", strerror(-rc));
    else if (rc == 0)
        found(c, true, "data of unknown kind");
}

static void find_pool(const char *path, struct contents *c)
{
    struct tutti_superblock s;
    int rc = tutti_pool_recognise(path, &s, NULL);

    if (rc == 0)
        found(c, false, "Tutti pool (rank %u of %u, member %u of %u)", s.rank, s.ranks, s.member,
              s.members);
    else if (rc == -EPROTONOSUPPORT)
        found(c, false, "Tutti pool of another format version");
}

int contents_claim(const struct machine *m, const char *name)
{
    char path[MACHINE_PATH];
    /* On a block device O_EXCL is a claim; without O_CREAT a file does not mind. */
    int fd =
        open(machine_path(m, path, "/dev/%s", name), O_RDONLY | O_EXCL | O_NONBLOCK | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

void contents_examine(const struct machine *m, const char *name, struct contents *c)
{
    static struct family f; /* large */
    char path[MACHINE_PATH];
    int fd = contents_claim(m, name);
    bool busy = fd == -EBUSY;

    /* Only looking: the claim is given up at once, so that nobody's mount fails for it. */
    if (fd >= 0)
        close(fd);
    if (fd >= 0 || busy) {
        fd = open(machine_path(m, path, "/dev/%s", name), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        fd = fd < 0 ? -errno : fd;
    }
    *c = (struct contents){0};
    gather(m, &f, name);
    find_mounts(m, &f, c);
    if (!c->in_use[0])
        find_swap(m, &f, c);
    find_holders(m, &f, c);
    if (f.partitions)
        found(c, true, "%u partition%s", f.partitions, f.partitions == 1 ? "" : "s");
    if (busy && !c->in_use[0])
        snprintf(c->in_use, sizeof(c->in_use),
                 "in use, says the kernel (see lsblk, fuser -v /dev/%s)", name);
    if (fd < 0) {
        if (!c->in_use[0])
            snprintf(c->in_use, sizeof(c->in_use), "/dev/%s cannot be looked at (%s)%s", name,
                     strerror(-fd), fd == -EACCES || fd == -EPERM ? ": run this as root" : "");
        return;
    }
    find_pool(machine_path(m, path, "/dev/%s", name), c);
    find_signatures(fd, c);
    if (!c->holds[0])
        find_bytes(fd, c);
    close(fd);
}
