/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each rule of the fault mount is seen to act, on what it names and on nothing
 * else, and the same operations without it are seen to pass through.
 * Seen to fail with torn, lost, stale, hold, limit, every and offset taken out, one by one.
 */
#include "mount.h"

#include <pthread.h>
#include <sys/mman.h>

enum { FILE_BYTES = 1 << 20, PIECE = 64 << 10 };

static struct fault_mount mount_;
static unsigned char *memory; /* page aligned: PIECE bytes to write, PIECE to read into */

static int open_at(const char *folder, const char *name, int flags)
{
    char path[128];
    int fd;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    fd = open(path, flags | O_CLOEXEC, 0600);
    return fd < 0 ? -errno : fd;
}

static int opened(const char *name)
{
    int fd = open_at(mount_.point, name, O_RDWR | O_CREAT | O_DIRECT);

    assert_true(fd >= 0);
    return fd;
}

static ssize_t write_at(int fd, uint64_t offset, unsigned char value)
{
    ssize_t rc;

    memset(memory, value, PIECE);
    rc = pwrite(fd, memory, PIECE, (off_t)offset);
    return rc < 0 ? -errno : rc;
}

static ssize_t read_at(int fd, uint64_t offset)
{
    ssize_t rc;

    memset(memory + PIECE, 0xEE, PIECE);
    rc = pread(fd, memory + PIECE, PIECE, (off_t)offset);
    return rc < 0 ? -errno : rc;
}

/** Bytes of [0, bytes) of what was read that are so. */
static uint32_t count_read(unsigned char value, uint32_t bytes)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < bytes; i++)
        count += memory[PIECE + i] == value;
    return count;
}

static void expect_at(int fd, uint64_t offset, unsigned char value)
{
    assert_int_equal(read_at(fd, offset), PIECE);
    assert_int_equal(count_read(value, PIECE), PIECE);
}

static int set_up(void **state)
{
    (void)state;
    memory = mmap(NULL, 2 * PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(memory != MAP_FAILED);
    fault_mount_start(&mount_);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    fault_mount_stop(&mount_);
    return 0;
}

static int lift(void **state)
{
    (void)state;
    fault_mount_lift(&mount_);
    return 0;
}

/** Without a rule a mount is its backing folder, and counts what passes. */
static void passes_through(void **state)
{
    int fd, below;
    (void)state;

    assert_int_equal(fault_mount_try(&mount_, "zero"), 0);
    fd = opened("plain");
    assert_int_equal(posix_fallocate(fd, 0, FILE_BYTES), 0);
    assert_int_equal(write_at(fd, 0, 1), PIECE);
    assert_int_equal(write_at(fd, PIECE, 2), PIECE);
    assert_int_equal(fsync(fd), 0);
    expect_at(fd, 0, 1);
    expect_at(fd, PIECE, 2);
    assert_int_equal(fault_mount_count(&mount_, "open", "operations"), 1);
    assert_int_equal(fault_mount_count(&mount_, "fsync", "operations"), 1);
    assert_int_equal(fault_mount_count(&mount_, "write", "operations"), 2);
    assert_int_equal(fault_mount_count(&mount_, "write", "bytes"), 2 * PIECE);
    assert_int_equal(fault_mount_count(&mount_, "read", "bytes"), 2 * PIECE);
    below = open_at(mount_.backing, "plain", O_RDONLY);
    expect_at(below, PIECE, 2);
    assert_int_equal(ftruncate(fd, PIECE), 0);
    assert_int_equal(read_at(below, PIECE), 0);
    assert_int_equal(read_at(fd, PIECE), 0);
    close(below);
    below = open_at(mount_.point, ".", O_RDONLY | O_DIRECTORY);
    assert_int_equal(linkat(below, "plain", below, "other", 0), 0);
    assert_int_equal(renameat2(below, "other", below, "plain", RENAME_NOREPLACE), -1);
    assert_int_equal(unlinkat(below, "plain", 0), 0);
    assert_int_equal(unlinkat(below, "other", 0), 0);
    expect_at(fd, 0, 1); /* open is open */
    close(below);
    close(fd);
}

static void lines_that_are_refused(void **state)
{
    static const char *const bad[] = {
        "read",           "read:eoi",          "seek:eio",        "write:stale",
        "read:torn",      "fsync:limit",       "read:eio:offset", "read:eio:offset=7",
        "read:eio:ms=x",  "read:eio:every=0",  "read:limit:mb=0", "lift x",
        "read:eio:size=", "read:eio:count=1x",
    };
    (void)state;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (fault_mount_try(&mount_, bad[i]) != -EINVAL)
            fail_msg("\"%s\" is taken", bad[i]);
    assert_int_equal(fault_mount_try(&mount_, "read:eio\nwrite:eio\nlift\n"), 0);
}

static void errors(void **state)
{
    int fd = opened("errors");
    (void)state;

    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(write_at(fd, i * PIECE, 1), PIECE);
    fault_mount_rule(&mount_, "read:eio:file=err*:offset=%d-%d", PIECE + 1, PIECE + 2);
    fault_mount_rule(&mount_, "write:enospc:offset=%d-%d", 2 * PIECE, 3 * PIECE);
    fault_mount_rule(&mount_, "open:erofs:file=errors");
    fault_mount_rule(&mount_, "fsync:eacces:count=1");
    assert_int_equal(read_at(fd, 0), PIECE);
    assert_int_equal(read_at(fd, PIECE), -EIO);
    assert_int_equal(read_at(fd, 2 * PIECE), PIECE);
    assert_int_equal(write_at(fd, PIECE, 2), PIECE);
    assert_int_equal(write_at(fd, 2 * PIECE, 2), -ENOSPC);
    assert_int_equal(open_at(mount_.point, "errors", O_RDWR), -EROFS);
    close(opened("another"));
    assert_int_equal(fsync(fd), -1);
    assert_int_equal(errno, EACCES);
    assert_int_equal(fsync(fd), 0);
    fault_mount_lift(&mount_);
    expect_at(fd, PIECE, 2);
    expect_at(fd, 2 * PIECE, 1);
    close(fd);
}

static void short_ones(void **state)
{
    int fd = opened("short");
    (void)state;

    assert_int_equal(write_at(fd, 0, 1), PIECE);
    assert_int_equal(write_at(fd, PIECE, 1), PIECE);
    fault_mount_rule(&mount_, "any:short:by=4096:count=2");
    assert_int_equal(write_at(fd, 0, 2), 4096);
    assert_int_equal(read_at(fd, 0), 4096);
    expect_at(fd, 4096, 1);
    close(fd);
}

/** Some sectors, whole ones, and the same ones for the same seed. */
static void torn_writes(void **state)
{
    unsigned char sectors[2][PIECE / 512];
    int fd = opened("torn");
    (void)state;

    for (uint32_t round = 0; round < 2; round++) {
        uint32_t moved = 0;

        assert_int_equal(write_at(fd, 0, 1), PIECE);
        fault_mount_rule(&mount_, "write:torn:seed=7");
        assert_int_equal(write_at(fd, 0, 2), PIECE);
        fault_mount_lift(&mount_);
        assert_int_equal(read_at(fd, 0), PIECE);
        for (uint32_t i = 0; i < PIECE / 512; i++) {
            sectors[round][i] = memory[PIECE + i * 512];
            moved += sectors[round][i] == 2;
            for (uint32_t k = 0; k < 512; k++)
                assert_int_equal(memory[PIECE + i * 512 + k], sectors[round][i]);
        }
        assert_true(moved > 20 && moved < PIECE / 512 - 20);
    }
    assert_memory_equal(sectors[0], sectors[1], sizeof(sectors[0]));
    close(fd);
}

static void lost_writes(void **state)
{
    int fd = opened("lost");
    (void)state;

    assert_int_equal(write_at(fd, 0, 1), PIECE);
    fault_mount_rule(&mount_, "write:lost");
    assert_int_equal(write_at(fd, 0, 2), PIECE);
    expect_at(fd, 0, 1);
    close(fd);
}

/** What was there before the last write since the rule; places not written since are as they are.
 */
static void stale_reads(void **state)
{
    int fd = opened("stale");
    (void)state;

    for (unsigned char value = 1; value < 3; value++)
        for (unsigned i = 0; i < 2; i++)
            assert_int_equal(write_at(fd, i * PIECE, value), PIECE);
    fault_mount_rule(&mount_, "read:stale:file=stale");
    expect_at(fd, 0, 2);
    assert_int_equal(write_at(fd, 0, 3), PIECE);
    expect_at(fd, 0, 2);
    assert_int_equal(write_at(fd, 0, 4), PIECE);
    expect_at(fd, 0, 3);
    expect_at(fd, PIECE, 2);
    fault_mount_lift(&mount_);
    expect_at(fd, 0, 4);
    close(fd);
}

static uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void delays_and_limits(void **state)
{
    int fd = opened("slow");
    uint64_t began = now_ms();
    (void)state;

    fault_mount_rule(&mount_, "write:delay:ms=300:count=1");
    assert_int_equal(write_at(fd, 0, 1), PIECE);
    assert_true(now_ms() - began >= 300);
    fault_mount_lift(&mount_);
    fault_mount_rule(&mount_, "any:limit:mb=1"); /* a piece takes 65 ms */
    began = now_ms();
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(i % 2 ? read_at(fd, 0) : write_at(fd, 0, 1), PIECE);
    assert_true(now_ms() - began >= 260);
    close(fd);
}

static void which_ones(void **state)
{
    int fd = opened("which");
    uint32_t failed[2] = {0}, rule;
    (void)state;

    assert_int_equal(write_at(fd, 0, 1), PIECE);
    rule = fault_mount_rule(&mount_, "read:eio:after=2:every=3:count=2");
    for (uint32_t i = 1; i <= 12; i++)
        assert_int_equal(read_at(fd, 0), i == 5 || i == 8 ? -EIO : PIECE);
    assert_int_equal(fault_mount_rule_count(&mount_, rule, "seen"), 12);
    assert_int_equal(fault_mount_rule_count(&mount_, rule, "acted"), 2);
    for (uint32_t round = 0; round < 2; round++) {
        fault_mount_lift(&mount_);
        fault_mount_rule(&mount_, "read:eio:permille=300:seed=5");
        for (uint32_t i = 0; i < 20; i++)
            failed[round] |= (uint32_t)(read_at(fd, 0) == -EIO) << i;
    }
    assert_int_equal(failed[0], failed[1]);
    assert_true(__builtin_popcount(failed[0]) > 1 && __builtin_popcount(failed[0]) < 15);
    close(fd);
}

struct reader {
    int fd;
    unsigned char data[512];
    ssize_t result;
};

static void *read_one(void *argument)
{
    struct reader *reader = argument;

    reader->result = pread(reader->fd, reader->data, sizeof(reader->data), 0);
    if (reader->result < 0)
        reader->result = -errno;
    return NULL;
}

static pthread_t held_reader(struct reader *reader, const char *name)
{
    uint32_t rule = fault_mount_rule(&mount_, "read:hold:file=%s", name);
    pthread_t thread;

    reader->fd = open_at(mount_.point, name, O_RDONLY);
    assert_true(reader->fd >= 0);
    assert_int_equal(pthread_create(&thread, NULL, read_one, reader), 0);
    fault_mount_await_waiting(&mount_, rule, 1);
    return thread;
}

/** It does not end, holds up no other, and gets what is there when the rule is lifted. */
static void held_reads(void **state)
{
    int fd = opened("held");
    struct reader reader;
    pthread_t thread;
    (void)state;

    assert_int_equal(write_at(fd, 0, 1), PIECE);
    thread = held_reader(&reader, "held");
    assert_int_equal(write_at(fd, 0, 2), PIECE);
    assert_int_equal(fsync(fd), 0);
    close(opened("meanwhile"));
    fault_mount_lift(&mount_);
    pthread_join(thread, NULL);
    assert_int_equal(reader.result, sizeof(reader.data));
    assert_int_equal(reader.data[0], 2);
    close(reader.fd);
    close(fd);
}

/** The mount ends although somebody waits, and so does who waited. */
static void ends_in_the_middle(void **state)
{
    int fd = opened("last");
    struct reader reader;
    pthread_t thread;

    assert_int_equal(write_at(fd, 0, 1), PIECE);
    thread = held_reader(&reader, "last");
    tear_down(state);
    pthread_join(thread, NULL);
    assert_true(reader.result == sizeof(reader.data) || reader.result < 0);
    assert_true(read_at(fd, 0) < 0);
    close(reader.fd);
    close(fd);
    set_up(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(passes_through, lift),
        cmocka_unit_test_teardown(lines_that_are_refused, lift),
        cmocka_unit_test_teardown(errors, lift),
        cmocka_unit_test_teardown(short_ones, lift),
        cmocka_unit_test_teardown(torn_writes, lift),
        cmocka_unit_test_teardown(lost_writes, lift),
        cmocka_unit_test_teardown(stale_reads, lift),
        cmocka_unit_test_teardown(delays_and_limits, lift),
        cmocka_unit_test_teardown(which_ones, lift),
        cmocka_unit_test_teardown(held_reads, lift),
        cmocka_unit_test(ends_in_the_middle),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
