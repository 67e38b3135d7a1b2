/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a drive may reach, against a kernel of the test's making: it answers the
 * calls of VFIO type 1, remembers what is mapped, and fails as it is told to.
 *
 * The virtual machine (tests/vm) has a real one; here are the answers that a
 * real one gives once in a thousand runs.
 *
 * Seen to fail: race without a second try and without a bound on them; refused
 * where every error was tried again, and without a remedy; unmapped_in_part
 * where the size that came back was not looked at; counted where unmapping did
 * not count, and without the limit; places with addresses aligned to small
 * pages only, ends one page too late, a search that stopped at the wrong
 * neighbour, and more ranges than there is room for; unusable without each of
 * the three checks (group, page, ranges).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "nvme/container.h"

#define PAGE UINT64_C(4096)
#define MOST 64

struct span {
    uint64_t first;
    uint64_t last;
};

/** The kernel. */
static struct {
    struct span mapped[MOST]; /* those with last > first */
    uint32_t maps;            /* calls */
    int fail;                 /* errno of the next @fails maps */
    uint32_t fails;
    int unmap_errno;
    uint64_t unmap_keeps; /* bytes that stay, of the next unmap */
    bool apart;           /* the group is all of it the caller's */
    int set_errno;
    uint64_t pages; /* sizes, a bit each */
    uint32_t ranges;
    struct span range[20];
    uint32_t left; /* pieces; 0: does not say */
} linux_;

int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...)
{
    if (strncmp(path, "/dev/vfio/", 10) != 0)
        return __real_open64(path, flags, 0600);
    if (strcmp(path, "/dev/vfio/99") == 0) {
        errno = EACCES;
        return -1;
    }
    assert_true(flags & O_CLOEXEC);
    return __real_open64("/dev/null", O_RDWR | O_CLOEXEC);
}

static int answer(int error)
{
    errno = error;
    return error ? -1 : 0;
}

static int get_info(struct vfio_iommu_type1_info *info)
{
    struct vfio_iommu_type1_info_cap_iova_range *cap = (void *)(info + 1);
    size_t spans = sizeof(*cap) + linux_.ranges * sizeof(struct vfio_iova_range);
    struct vfio_iommu_type1_info_dma_avail *avail = (void *)((uint8_t *)cap + spans);
    uint32_t room = info->argsz;

    info->argsz = (uint32_t)(sizeof(*info) + spans + sizeof(*avail));
    info->iova_pgsizes = linux_.pages;
    info->flags = 0;
    if (room < info->argsz || linux_.ranges == 0)
        return 0;
    info->flags = VFIO_IOMMU_INFO_CAPS | VFIO_IOMMU_INFO_PGSIZES;
    info->cap_offset = sizeof(*info);
    cap->header = (struct vfio_info_cap_header){.id = VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE};
    cap->nr_iovas = linux_.ranges;
    for (uint32_t i = 0; i < linux_.ranges; i++)
        cap->iova_ranges[i] = (struct vfio_iova_range){linux_.range[i].first, linux_.range[i].last};
    if (linux_.left) {
        cap->header.next = (uint32_t)(sizeof(*info) + spans);
        avail->header = (struct vfio_info_cap_header){.id = VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL};
        avail->avail = linux_.left;
    }
    return 0;
}

static int map(const struct vfio_iommu_type1_dma_map *m)
{
    struct span *to = NULL;
    uint64_t last = m->iova + m->size - 1;
    bool inside = false;

    linux_.maps++;
    if (linux_.fails > 0) {
        linux_.fails--;
        assert_true(linux_.maps < 1000); /* it is tried for ever */
        return answer(linux_.fail);
    }
    for (uint32_t i = 0; i < linux_.ranges; i++)
        inside |= m->iova >= linux_.range[i].first && last <= linux_.range[i].last;
    assert_true(inside && m->iova > 0 && m->iova % PAGE == 0);
    for (int i = 0; i < MOST; i++) {
        struct span *s = &linux_.mapped[i];

        if (s->last == 0)
            to = s;
        else
            assert_true(last < s->first || m->iova > s->last);
    }
    assert_non_null(to);
    *to = (struct span){m->iova, last};
    return 0;
}

static int unmap(struct vfio_iommu_type1_dma_unmap *u)
{
    uint64_t keeps = linux_.unmap_keeps;

    if (linux_.unmap_errno)
        return answer(linux_.unmap_errno);
    linux_.unmap_keeps = 0;
    for (int i = 0; i < MOST; i++)
        if (linux_.mapped[i].first == u->iova && linux_.mapped[i].last == u->iova + u->size - 1) {
            if (keeps == 0)
                linux_.mapped[i] = (struct span){0};
            u->size -= keeps;
            return 0;
        }
    u->size = 0;
    return 0;
}

int __wrap_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    void *argument;

    (void)fd;
    va_start(arguments, request);
    argument = va_arg(arguments, void *);
    va_end(arguments);
    switch (request) {
    case VFIO_GET_API_VERSION:
        return VFIO_API_VERSION;
    case VFIO_CHECK_EXTENSION:
        return 1;
    case VFIO_GROUP_GET_STATUS:
        ((struct vfio_group_status *)argument)->flags = linux_.apart ? VFIO_GROUP_FLAGS_VIABLE : 0;
        return 0;
    case VFIO_GROUP_SET_CONTAINER:
        return 0;
    case VFIO_SET_IOMMU:
        return answer(linux_.set_errno);
    case VFIO_IOMMU_GET_INFO:
        return get_info(argument);
    case VFIO_IOMMU_MAP_DMA:
        return map(argument);
    case VFIO_IOMMU_UNMAP_DMA:
        return unmap(argument);
    default:
        fail_msg("ioctl %#lx", request);
        return answer(ENOTTY);
    }
}

static int usual(void **state)
{
    (void)state;
    memset(&linux_, 0, sizeof(linux_));
    linux_.apart = true;
    linux_.pages = PAGE | 1 << 21 | 1 << 30;
    linux_.ranges = 2;
    linux_.range[0] = (struct span){0, 0xfedfffff};
    linux_.range[1] = (struct span){0xfef00000, (UINT64_C(1) << 39) - 1};
    return 0;
}

static void start(struct nvme_container *c)
{
    struct tutti_error err = {0};

    if (nvme_container_open(c, "drive", 7, &err) < 0)
        fail_msg("%s", err.message);
}

static void end(struct nvme_container *c)
{
    nvme_container_unmap_all(c);
    assert_null(c->piece);
    for (int i = 0; i < MOST; i++)
        assert_true(linux_.mapped[i].last == 0);
    close(c->container);
    close(c->group);
}

static void *at(uint64_t address)
{
    return (void *)(uintptr_t)address; /* no memory of anybody's: the kernel here looks at none */
}

/** A BAR's page tables change while it is mapped: tried again, but not for ever. */
static void race(void **state)
{
    struct tutti_error err = {0};
    struct nvme_container c;
    uint64_t bus;
    (void)state;

    start(&c);
    linux_.fail = EINVAL;
    linux_.fails = 5;
    assert_int_equal(nvme_container_map(&c, at(1 << 20), 4 * PAGE, &bus, &err), 0);
    assert_int_equal(linux_.maps, 6);
    linux_.fails = UINT32_MAX;
    linux_.maps = 0;
    assert_int_equal(nvme_container_map(&c, at(1 << 20), 4 * PAGE, &bus, &err), -EINVAL);
    assert_in_range(linux_.maps, 2, 100);
    assert_non_null(strstr(err.message, "drive: 16384 bytes"));
    assert_non_null(strstr(err.message, "iommufd"));
    linux_.fails = 0;
    end(&c);
}

/** What fails for good is not tried again, and says what to do. */
static void refused(void **state)
{
    static const struct {
        int code;
        const char *word;
    } all[] = {{ENOMEM, "LimitMEMLOCK"},
               {ENOSPC, "dma_entry_limit"},
               {EFAULT, "not writable"},
               {EEXIST, "kernel's log"}};
    struct nvme_container c;
    uint64_t bus;
    (void)state;

    start(&c);
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        struct tutti_error err = {0};

        linux_.fail = all[i].code;
        linux_.fails = UINT32_MAX;
        linux_.maps = 0;
        assert_int_equal(nvme_container_map(&c, at(PAGE), PAGE, &bus, &err), -all[i].code);
        assert_int_equal(linux_.maps, 1);
        if (!strstr(err.message, all[i].word))
            fail_msg("%s", err.message);
    }
    end(&c);
}

/** Less was unmapped than asked for: an error, and the piece is still counted as mapped. */
static void unmapped_in_part(void **state)
{
    struct tutti_error err = {0};
    struct nvme_container c;
    uint64_t bus;
    (void)state;

    start(&c);
    assert_int_equal(nvme_container_map(&c, at(PAGE), 4 * PAGE, &bus, &err), 0);
    linux_.unmap_keeps = PAGE;
    assert_int_equal(nvme_container_unmap(&c, bus, 4 * PAGE, &err), -EIO);
    assert_non_null(strstr(err.message, "12288 were unmapped"));
    linux_.unmap_errno = EINVAL;
    assert_int_equal(nvme_container_unmap(&c, bus, 4 * PAGE, &err), -EIO);
    assert_non_null(strstr(err.message, "Invalid argument"));
    linux_.unmap_errno = 0;
    assert_int_equal(nvme_container_unmap(&c, bus, 4 * PAGE, &err), 0);
    assert_int_equal(nvme_container_unmap(&c, bus, 4 * PAGE, &err), -EINVAL);
    end(&c);
}

/** The kernel says how many pieces it takes, and the count follows what is mapped. */
static void counted(void **state)
{
    struct tutti_error err = {0};
    struct nvme_container c;
    uint64_t bus[2], more;
    (void)state;

    linux_.left = 2;
    start(&c);
    for (int i = 0; i < 2; i++)
        assert_int_equal(nvme_container_map(&c, at(PAGE), PAGE, &bus[i], &err), 0);
    assert_int_equal(nvme_container_map(&c, at(PAGE), PAGE, &more, &err), -ENOSPC);
    assert_int_equal(linux_.maps, 2);
    assert_int_equal(nvme_container_unmap(&c, bus[0], PAGE, &err), 0);
    assert_int_equal(nvme_container_map(&c, at(PAGE), PAGE, &more, &err), 0);
    assert_true(more == bus[0]);
    end(&c);
}

/** Pieces of all sizes among small ranges: each inside one, congruent, and none over another. */
static void places(void **state)
{
    uint64_t bus[MOST] = {0}, bytes[MOST], seed = 3;
    uint32_t mapped = 0, full = 0;
    struct tutti_error err = {0};
    struct nvme_container c;
    (void)state;

    linux_.ranges = 20; /* more than are taken notice of */
    for (uint64_t i = 0; i < 20; i++)
        linux_.range[i] = (struct span){i << 25, (i << 25) + ((1 + i % 3) << 22) - 1};
    start(&c);
    for (int round = 0; round < 20000; round++) {
        uint32_t dice = (uint32_t)((seed = seed * 6364136223846793005u + 1) >> 33);
        uint32_t i = dice % (MOST - 1);
        uint64_t memory = (dice >> 6) % 100000 * PAGE;
        int rc;

        if (bus[i]) {
            assert_int_equal(nvme_container_unmap(&c, bus[i], bytes[i], &err), 0);
            bus[i] = 0;
            continue;
        }
        bytes[i] = (1 + (dice >> 8) % (dice % 5 == 0 ? 2000 : 20)) * PAGE;
        rc = nvme_container_map(&c, at(memory), bytes[i], &bus[i], &err);
        assert_true(rc == 0 || rc == -ENOSPC);
        full += rc != 0;
        mapped += rc == 0;
        if (rc == 0 && bytes[i] >= 1 << 21)
            assert_true((bus[i] ^ memory) % (1 << 21) == 0);
    }
    assert_true(mapped > 5000 && full > 0);
    end(&c);
}

/** What cannot be used is refused at the start, by name. */
static void unusable(void **state)
{
    struct tutti_error err = {0};
    struct nvme_container c;
    (void)state;

    assert_int_equal(nvme_container_open(&c, "drive", 99, &err), -EACCES);
    assert_non_null(strstr(err.message, "/dev/vfio/99"));
    end(&c);
    linux_.apart = false;
    assert_int_equal(nvme_container_open(&c, "drive", 7, &err), -EBUSY);
    assert_non_null(strstr(err.message, "iommu_groups/7/devices"));
    end(&c);
    usual(state);
    linux_.set_errno = EPERM;
    assert_int_equal(nvme_container_open(&c, "drive", 7, &err), -EPERM);
    assert_non_null(strstr(err.message, "interrupt remapping"));
    end(&c);
    usual(state);
    linux_.pages = 65536;
    assert_int_equal(nvme_container_open(&c, "drive", 7, &err), -EOPNOTSUPP);
    assert_non_null(strstr(err.message, "65536"));
    end(&c);
    usual(state);
    linux_.ranges = 0;
    assert_int_equal(nvme_container_open(&c, "drive", 7, &err), -EOPNOTSUPP);
    end(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(race, usual),
        cmocka_unit_test_setup(refused, usual),
        cmocka_unit_test_setup(unmapped_in_part, usual),
        cmocka_unit_test_setup(counted, usual),
        cmocka_unit_test_setup(places, usual),
        cmocka_unit_test_setup(unusable, usual),
    };

    return cmocka_run_group_tests_name("container", tests, NULL, NULL);
}
