/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Systems that lack something: each makes a pool that opens, or a sentence that says what is
 * missing. File systems without allocation, RENAME_NOREPLACE, locks of open files or quota, of odd
 * alignment, and those that charge more than they were asked for; and a file that another process
 * takes away between two calls.
 * Seen to fail with -ENOSYS not taken for "no allocation", without the second try of a rename,
 * with a lock whose refusal is passed by, and with a shrink that is not looked at.
 */
#include "fixture.h"

#include <linux/magic.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>

/* What the system does instead; an errno where the word is a call's name. */
static struct {
    int fallocate, ftruncate, fstatvfs, renameat2, rename, lock, flock;
    int statx;                /* an errno, or -1: the two words below */
    uint32_t memory, offset;  /* what direct I/O is aligned to */
    int no_buffers, no_reads; /* how many fail after statx */
    size_t no_buffer_of;      /* bytes */
    uint64_t more_blocks;     /* that a file occupies */
    int32_t block_bytes;      /* that it prefers */
    uint32_t type;            /* of its file system */
    bool writes_nothing, reads_half;
    int other_file, other_disk; /* how many looks at a temporary name lead elsewhere */
} poor;

static int pending_buffers, pending_reads;

#define CALL(name, parameters, arguments, code)                                                    \
    int __real_##name parameters;                                                                  \
    int __wrap_##name parameters;                                                                  \
    int __wrap_##name parameters                                                                   \
    {                                                                                              \
        if ((code) != 0) {                                                                         \
            errno = (code);                                                                        \
            return -1;                                                                             \
        }                                                                                          \
        return __real_##name arguments;                                                            \
    }

CALL(fallocate64, (int fd, int mode, off_t at, off_t bytes), (fd, mode, at, bytes), poor.fallocate)
CALL(ftruncate64, (int fd, off_t bytes), (fd, bytes), bytes > 0 ? poor.ftruncate : 0)
CALL(fstatvfs64, (int fd, struct statvfs *fs), (fd, fs), poor.fstatvfs)
CALL(renameat2, (int a, const char *from, int b, const char *to, unsigned flags),
     (a, from, b, to, flags), poor.renameat2)
CALL(rename, (const char *from, const char *to), (from, to), poor.rename)
CALL(flock, (int fd, int operation), (fd, operation), operation &LOCK_EX ? poor.flock : 0)

int __real_fcntl64(int fd, int command, ...);
int __wrap_fcntl64(int fd, int command, ...);
int __wrap_fcntl64(int fd, int command, ...)
{
    va_list arguments;
    unsigned long argument;

    va_start(arguments, command);
    argument = va_arg(arguments, unsigned long);
    va_end(arguments);
    if (command == F_OFD_SETLK && poor.lock) {
        errno = poor.lock;
        return -1;
    }
    return __real_fcntl64(fd, command, argument);
}

int __real_statx(int fd, const char *path, int flags, unsigned mask, struct statx *x);
int __wrap_statx(int fd, const char *path, int flags, unsigned mask, struct statx *x);
int __wrap_statx(int fd, const char *path, int flags, unsigned mask, struct statx *x)
{
    int rc = __real_statx(fd, path, flags, mask, x);

    pending_buffers = poor.no_buffers;
    pending_reads = poor.no_reads;
    if (poor.statx > 0) {
        errno = poor.statx;
        return -1;
    }
    if (rc == 0 && poor.statx < 0) {
        x->stx_mask |= STATX_DIOALIGN;
        x->stx_dio_mem_align = poor.memory;
        x->stx_dio_offset_align = poor.offset;
    }
    return rc;
}

int __real_fstat64(int fd, struct stat *st);
int __wrap_fstat64(int fd, struct stat *st);
int __wrap_fstat64(int fd, struct stat *st)
{
    int rc = __real_fstat64(fd, st);

    st->st_blocks += (blkcnt_t)poor.more_blocks;
    if (poor.block_bytes)
        st->st_blksize = poor.block_bytes;
    return rc;
}

int __real_stat64(const char *path, struct stat *st);
int __wrap_stat64(const char *path, struct stat *st);
int __wrap_stat64(const char *path, struct stat *st)
{
    int rc = __real_stat64(path, st);

    if (rc == 0 && strstr(path, ".formatting")) {
        st->st_ino += poor.other_file > 0 && poor.other_file-- > 0;
        st->st_dev += poor.other_disk > 0 && poor.other_disk-- > 0;
    }
    return rc;
}

int __real_fstatfs64(int fd, struct statfs *fs);
int __wrap_fstatfs64(int fd, struct statfs *fs);
int __wrap_fstatfs64(int fd, struct statfs *fs)
{
    int rc = __real_fstatfs64(fd, fs);

    if (poor.type)
        fs->f_type = poor.type;
    return rc;
}

void *__real_aligned_alloc(size_t at, size_t bytes);
void *__wrap_aligned_alloc(size_t at, size_t bytes);
void *__wrap_aligned_alloc(size_t at, size_t bytes)
{
    if (bytes == poor.no_buffer_of || (pending_buffers > 0 && pending_buffers-- > 0))
        return NULL;
    return __real_aligned_alloc(at, bytes);
}

ssize_t __real_pread64(int fd, void *data, size_t bytes, off_t at);
ssize_t __wrap_pread64(int fd, void *data, size_t bytes, off_t at);
ssize_t __wrap_pread64(int fd, void *data, size_t bytes, off_t at)
{
    if (pending_reads > 0 && pending_reads-- > 0) {
        errno = EINVAL;
        return -1;
    }
    if (poor.reads_half && bytes > 512)
        bytes = bytes / 2 / 512 * 512;
    return __real_pread64(fd, data, bytes, at);
}

ssize_t __real_pwrite64(int fd, const void *data, size_t bytes, off_t at);
ssize_t __wrap_pwrite64(int fd, const void *data, size_t bytes, off_t at);
ssize_t __wrap_pwrite64(int fd, const void *data, size_t bytes, off_t at)
{
    return poor.writes_nothing ? 0 : __real_pwrite64(fd, data, bytes, at);
}

static char *folder, *member;
static struct tutti_pool_options options;

static int begin(void **state)
{
    (void)state;
    memset(&poor, 0, sizeof(poor));
    folder = fixture_folder();
    member = fixture_path(folder, "rank0.member0.tutti");
    options = fixture_options(folder);
    options.alignment = 512;
    poor.statx = -1; /* whatever the disk below is */
    poor.memory = poor.offset = 512;
    return 0;
}

static int end(void **state)
{
    (void)state;
    memset(&poor, 0, sizeof(poor));
    pending_buffers = pending_reads = 0;
    free(member);
    fixture_remove(folder);
    return 0;
}

static void said(int code, const char *words)
{
    struct tutti_error err = {0};

    assert_int_equal(tutti_pool_format(&options, &err), code);
    assert_int_equal(err.code, code);
    if (!strstr(err.message, words) || !strstr(err.message, folder))
        fail_msg("'%s' is not in: %s", words, err.message);
}

static void refused(int code, const char *words)
{
    char *begun = NULL;

    said(code, words);
    assert_true(asprintf(&begun, "%s.formatting", member) > 0);
    assert_int_equal(access(begun, F_OK), -1); /* nothing is left behind */
    free(begun);
}

/** Made, opened and closed. Return: what it says of itself. */
static struct tutti_pool_info made(void)
{
    struct tutti_pool_info info;
    struct tutti_pool *pool;

    fixture_format(&options);
    pool = fixture_open(&options);
    tutti_pool_info(pool, &info);
    tutti_pool_close(pool);
    assert_int_equal(unlink(member), 0);
    return info;
}

static void allocation(void **state)
{
    (void)state;
    poor.fallocate = EOPNOTSUPP;
    assert_int_equal(made().superblock.extents, 4);
    poor.fallocate = ENOSYS;
    assert_int_equal(made().superblock.extents, 4);
    poor.no_buffer_of = 4 * MIB;
    refused(-ENOMEM, "allocating");
    poor.no_buffer_of = 0;
    poor.fallocate = EDQUOT;
    refused(-EDQUOT, "choose a smaller size");
    poor.fallocate = EFBIG;
    refused(-EFBIG, "choose a smaller size");
    poor.fstatvfs = EIO;
    refused(-EFBIG, "has 0 free");
    poor.fallocate = 0;
    poor.no_buffer_of = 4096; /* nor a superblock, and before it no trial */
    refused(-ENOMEM, "superblock");
}

static void names(void **state)
{
    (void)state;
    poor.renameat2 = EINVAL;
    made();
    poor.rename = EIO;
    refused(-EIO, "completing");
}

/** What is replaced needs no flag: then -EINVAL is one. */
static void names_taken(void **state)
{
    int fd = open(member, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    struct stat st;
    (void)state;

    assert_int_equal(write(fd, "mine", 4), 4);
    close(fd);
    options.force = true;
    poor.renameat2 = EINVAL;
    refused(-EINVAL, "completing");
    assert_int_equal(stat(member, &st), 0);
    assert_int_equal(st.st_size, 4);
}

static void direct_io(void **state)
{
    struct tutti_pool_info info;
    (void)state;

    poor.memory = 4;
    poor.offset = 256;
    assert_int_equal(made().logical_block, 512);
    poor.memory = 0;
    info = made();
    assert_false(info.direct);
    assert_non_null(strstr(info.direct_reason, "for this file"));
    poor.memory = 512;
    poor.offset = 0;
    assert_false(made().direct);
    poor.offset = 8192;
    refused(-EINVAL, "units of 8192 bytes");
    poor.offset = 512;
    poor.memory = 4096;
    refused(-EINVAL, "format with alignment 4096");
    options.alignment = 4096;
    assert_int_equal(made().logical_block, 4096);

    poor.statx = ENOSYS; /* a trial tells */
    poor.no_reads = 1;
    info = made();
    assert_true(!info.direct || info.logical_block == 4096);
    poor.no_reads = 2;
    assert_false(made().direct);
    poor.no_reads = 0;
    poor.no_buffers = 2;
    assert_false(made().direct);
    poor.type = RAMFS_MAGIC;
    info = made();
    assert_false(info.direct);
    assert_non_null(strstr(info.direct_reason, "memory"));
}

/** Objects of 4,096 bytes would suit 4,096; a file system of small blocks does not ask for it. */
static void small_blocks(void **state)
{
    struct tutti_geometry shape = small_shape;
    (void)state;

    shape.object_bytes = 8192;
    options.geometry = &shape;
    options.alignment = 0;
    assert_int_equal(made().superblock.alignment, 4096);
    poor.block_bytes = 512;
    assert_int_equal(made().superblock.alignment, 512);
}

/** What the file system charges besides comes off the pool's size. */
static void bookkeeping(void **state)
{
    (void)state;
    poor.more_blocks = 3 * MIB / 2 / 512;
    assert_int_equal(made().superblock.extents, 2);
    poor.ftruncate = EIO;
    refused(-EIO, "shrinking");
    poor.ftruncate = 0;
    poor.more_blocks = 100 * MIB / 512;
    refused(-EINVAL, "the file system needs");
}

static void locks(void **state)
{
    static const int none[] = {EINVAL, ENOSYS, EOPNOTSUPP, ENOLCK};
    (void)state;

    for (int i = 0; i < 4; i++) {
        poor.lock = none[i];
        made();
    }
    poor.flock = EIO;
    said(-EIO, "locking"); /* what is not locked is not ours to remove */
}

static void reads_and_writes(void **state)
{
    (void)state;
    poor.reads_half = true; /* and once more for the rest */
    made();
    poor.writes_nothing = true;
    refused(-EIO, "superblock");
}

static void others(void **state)
{
    (void)state;
    poor.other_file = 3;
    made();
    assert_int_equal(poor.other_file, 0);
    poor.other_disk = 3;
    made();
    assert_int_equal(poor.other_disk, 0);
    poor.other_file = 1000;
    said(-EBUSY, "keep formatting it");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(allocation),  TEST(names), TEST(names_taken),      TEST(direct_io), TEST(small_blocks),
        TEST(bookkeeping), TEST(locks), TEST(reads_and_writes), TEST(others),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
