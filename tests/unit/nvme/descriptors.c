/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory for descriptors follows from the depth of queues, not from the size of
 * the KV cache (evidence, row 11): what an engine lets a drive to beyond the KV
 * memory itself is the same for 2 MiB and for 64 GiB, and its lists take at most
 * 8 MiB with PRP and 1 MiB with SGL, both lanes together. The paper: 3.75 GB and
 * 15 MB.
 *
 * Seen to fail: with 256 lists for the engine's lane beside the pool's 64 (1.25 MiB
 * with SGL), and with a table of a thousandth of what is
 * registered.
 */
#include <sys/mman.h>

#include "nvme/drive_internal.h"
#include "soft_drive.h"
#include "tutti/engine.h"

enum { MOST = 256 };

/** A port that remembers what is mapped through it. */
struct watched {
    struct nvme_port inner;
    pthread_mutex_t lock; /* the engine's thread maps, and the opener's */
    uint64_t address[MOST];
    uint64_t bytes[MOST];
    uint32_t count;
};

static int map(void *self, void *memory, size_t bytes, uint64_t *address)
{
    struct watched *w = self;
    int rc = w->inner.map(w->inner.self, memory, bytes, address);

    pthread_mutex_lock(&w->lock);
    if (rc == 0 && w->count < MOST) {
        w->address[w->count] = *address;
        w->bytes[w->count++] = bytes;
    }
    pthread_mutex_unlock(&w->lock);
    return rc;
}

static int unmap(void *self, uint64_t address, size_t bytes)
{
    struct watched *w = self;

    pthread_mutex_lock(&w->lock);
    for (uint32_t i = 0; i < w->count; i++)
        if (w->address[i] == address) {
            w->address[i] = w->address[--w->count];
            w->bytes[i] = w->bytes[w->count];
            break;
        }
    pthread_mutex_unlock(&w->lock);
    return w->inner.unmap(w->inner.self, address, bytes);
}

static void idle(void *self, uint64_t waited)
{
    struct watched *w = self;

    w->inner.idle(w->inner.self, waited);
}

static void close_it(void *self)
{
    struct watched *w = self;

    w->inner.close(w->inner.self);
}

static uint64_t mapped_at(const struct watched *w, uint64_t address)
{
    for (uint32_t i = 0; i < w->count; i++)
        if (w->address[i] == address)
            return w->bytes[i];
    return 0;
}

/** An engine over a KV cache of a size. Return: what is mapped beside it; @lists of that. */
static uint64_t beside(const char *options, uint64_t kv_bytes, uint64_t *lists)
{
    static struct watched w;
    struct nvme_port port;
    struct tutti_member member = {.fd = -1, .path = "soft", .direct = true, .alignment = 512};
    struct tutti_engine_options o = {.name = "nvme",
                                     .member = &member,
                                     .members = 1,
                                     .device = &tutti_device_host,
                                     .staging_bytes = 8 << 20};
    struct tutti_error err = {0};
    struct tutti_engine *engine;
    struct tutti_ring *ring;
    char path[64], what[160];
    uint64_t sum = 0;
    void *kv = mmap(NULL, kv_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    assert_ptr_not_equal(kv, MAP_FAILED);
    soft_drive_file(path);
    snprintf(what, sizeof(what), "%s%s", path, options);
    memset(&w, 0, sizeof(w));
    pthread_mutex_init(&w.lock, NULL);
    assert_int_equal(soft_port_open(what, &w.inner, &err), 0);
    unlink(path);
    port = w.inner;
    port.map = map;
    port.unmap = unmap;
    port.idle = idle;
    port.close = close_it;
    port.self = &w;
    assert_int_equal(nvme_drive_open_port("soft", &port, 0, &NVME_BOUNDS, &member.drive, &err), 0);
    assert_int_equal(tutti_ring_new(64, 1, &ring, &err), 0);
    o.ring = ring;
    assert_int_equal(tutti_engine_open(&o, &engine, &err), 0);
    assert_int_equal(tutti_engine_register(engine, (uint64_t)(uintptr_t)kv, kv_bytes, &err), 1);
    for (uint32_t i = 0; i < w.count; i++)
        sum += w.bytes[i];
    *lists = 0;
    for (uint32_t i = 0; i < DRIVE_LANES; i++) {
        assert_non_null(member.drive->lane[i]);
        *lists += mapped_at(&w, member.drive->lane[i]->lists_address);
    }
    assert_true(w.count<MOST && * lists> 0);
    tutti_engine_close(engine);
    tutti_ring_free(ring);
    nvme_drive_close(member.drive);
    assert_int_equal(w.count, 0); /* nothing is left of it */
    pthread_mutex_destroy(&w.lock);
    munmap(kv, kv_bytes);
    return sum - kv_bytes;
}

static void size_of_the_cache(void **state)
{
    static const struct {
        const char *options;
        const char *name;
        uint64_t cap;
    } kind[] = {{",mdts=5", "PRP", UINT64_C(8) << 20},
                {",mdts=5,sgls=1", "SGL", UINT64_C(1) << 20}};
    (void)state;

    for (uint32_t i = 0; i < 2; i++) {
        uint64_t lists, more_lists;
        uint64_t small = beside(kind[i].options, UINT64_C(2) << 20, &lists);
        uint64_t large = beside(kind[i].options, UINT64_C(64) << 30, &more_lists);

        printf("%s: lists %llu KiB, all beside the KV cache %llu KiB, for 2 MiB and for 64 GiB\n",
               kind[i].name, (unsigned long long)lists >> 10, (unsigned long long)large >> 10);
        assert_int_equal(small, large);
        assert_int_equal(lists, more_lists);
        assert_true(lists <= kind[i].cap);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(size_of_the_cache)};

    return cmocka_run_group_tests_name("descriptors", tests, NULL, NULL);
}
