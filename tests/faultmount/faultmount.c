/* SPDX-License-Identifier: Apache-2.0 */
/*
 * faultmount: a folder seen through a mount that fails on command.
 *
 *     faultmount BACKING MOUNTPOINT
 *
 * Stays in the foreground until SIGTERM, SIGINT or the end of whoever started
 * it, then unmounts. Ends with 77 and a sentence where FUSE mounts are not
 * permitted. Nothing is cached: what a program does at the mountpoint is an
 * operation here, with its offset and length (direct I/O too, in pieces of at
 * most 1 MiB); each has a thread of its own, so one that waits holds up no other.
 *
 * The file .faults at the mountpoint is the control. Write lines to it:
 *
 *     line      = rule | "lift" [ " " number ] | "zero"
 *     rule      = operation ":" fault *( ":" key "=" value )
 *     operation = "read" | "write" | "fsync" | "open" | "any"
 *
 *     lift          take that rule, or all of them, away; whoever it delays goes on
 *     zero          count operations from nought again
 *
 *     fault         what happens to the operation
 *     delay         it is passed on @ms later
 *     hold          it is passed on when the rule is lifted, never before
 *     limit         it is passed on when all that this rule let through before has had its
 *                   time at @mb megabytes (10^6) a second; reads and writes
 *     eio, enospc, erofs, eacces   it fails with that errno, nothing is moved
 *     short         its first @by bytes are moved and reported; reads and writes (Linux makes EIO
 *                   of a short write that was asynchronous, as io_uring's are)
 *     torn          each 512 bytes of a write are moved or not, at random; reported as whole
 *     lost          a write or fsync is not done; reported as whole
 *     stale         a read gets what the place held before the last write of it that came
 *                   after the rule
 *
 *     key           which operations the rule is about; all must hold
 *     file=PATTERN  its path below the mountpoint, as a shell's pattern; "*" (holds any "/")
 *     offset=A-B    it touches bytes A to B of the file (B not included); reads and writes
 *     after=N       not the first N of those
 *     every=N       every N-th of those
 *     count=N       at most N times in all
 *     permille=N    with that probability, from @seed
 *     seed=N        of the rule's random numbers; 1
 *     ms=N, by=N, mb=N     see above; 100, 512, 1
 *
 * "read:hold:file=*.tutti:count=1", "write:enospc:offset=1048576-2097152". All rules that delay
 * an operation do so, together; of the others the first that holds is the one that acts. A line
 * that is not understood fails the write with EINVAL. Reading .faults gives what was counted:
 *
 *     read operations 12 bytes 49152        (as asked for; likewise write, fsync, open)
 *     rule 3 read:hold:count=1 seen 9 acted 1 waiting 1
 */
#define FUSE_USE_VERSION 312

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <fuse_lowlevel.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "old.h"
#include "rules.h"

#define CONTROL "/.faults"
#define MOST_THREADS 2048
#define SECTOR 512u

static int backing = -1;
static const char *mountpoint;

/** A path of the mount, below the backing folder. */
static const char *below(const char *path)
{
    return path[1] ? path + 1 : ".";
}

static int outcome(int rc)
{
    return rc < 0 ? -errno : 0;
}

/** An open file. @fd: -1 for the control file; @report: what reading that gives. */
struct file {
    int fd;
    char *report;
    size_t report_bytes;
    char path[];
};

static struct file *file_of(const struct fuse_file_info *info)
{
    return (struct file *)(uintptr_t)info->fh;
}

/** @info: where there is one, @path may be NULL. */
static bool is_control(const char *path, const struct fuse_file_info *info)
{
    return info ? file_of(info)->fd < 0 : strcmp(path, CONTROL) == 0;
}

static void meet(enum operation operation, const char *path, uint64_t offset, uint64_t bytes,
                 struct verdict *verdict)
{
    rules_meet(&(struct spot){operation, path + 1, offset, bytes}, verdict);
}

/* Files. */

static int open_control(struct file *file)
{
    enum { ROOM = 64 << 10 };

    file->report = malloc(ROOM);
    if (!file->report)
        return -ENOMEM;
    file->report_bytes = rules_report(file->report, ROOM);
    return 0;
}

static int open_backing(struct file *file, int flags, mode_t mode)
{
    struct verdict verdict;

    meet(OPERATION_OPEN, file->path, 0, 0, &verdict);
    if (verdict.fault == FAULT_ERROR)
        return -verdict.error;
    /* The kernel has done its part of these; our buffers are not aligned. */
    file->fd =
        openat(backing, below(file->path), (flags & ~(O_DIRECT | O_APPEND)) | O_CLOEXEC, mode);
    return outcome(file->fd);
}

static int open_file(const char *path, int flags, mode_t mode, struct fuse_file_info *info)
{
    struct file *file = calloc(1, sizeof(*file) + strlen(path) + 1);
    int rc;

    if (!file)
        return -ENOMEM;
    strcpy(file->path, path);
    file->fd = -1;
    rc = is_control(path, NULL) ? open_control(file) : open_backing(file, flags, mode);
    if (rc < 0) {
        free(file);
        return rc;
    }
    info->fh = (uint64_t)(uintptr_t)file;
    info->direct_io = 1;
    return 0;
}

static int do_open(const char *path, struct fuse_file_info *info)
{
    return open_file(path, info->flags, 0, info);
}

static int do_create(const char *path, mode_t mode, struct fuse_file_info *info)
{
    return open_file(path, info->flags | O_CREAT, mode, info);
}

static int do_release(const char *path, struct fuse_file_info *info)
{
    struct file *file = file_of(info);
    (void)path;

    if (file->fd >= 0)
        close(file->fd);
    free(file->report);
    free(file);
    return 0;
}

static int read_control(const struct file *file, char *data, size_t bytes, uint64_t offset)
{
    if (offset >= file->report_bytes)
        return 0;
    if (bytes > file->report_bytes - offset)
        bytes = file->report_bytes - offset;
    memcpy(data, file->report + offset, bytes);
    return (int)bytes;
}

static int do_read(const char *path, char *data, size_t bytes, off_t offset,
                   struct fuse_file_info *info)
{
    const struct file *file = file_of(info);
    struct verdict verdict;
    ssize_t rc;
    (void)path;

    if (file->fd < 0)
        return read_control(file, data, bytes, (uint64_t)offset);
    meet(OPERATION_READ, file->path, (uint64_t)offset, bytes, &verdict);
    if (verdict.fault == FAULT_ERROR)
        return -verdict.error;
    if (verdict.fault == FAULT_SHORT && verdict.by < bytes)
        bytes = verdict.by;
    rc = pread(file->fd, data, bytes, offset);
    if (rc > 0 && verdict.fault == FAULT_STALE)
        old_put_over(file->fd, (uint64_t)offset, data, (size_t)rc);
    return rc < 0 ? -errno : (int)rc;
}

/** Sector by sector, or not. */
static int write_torn(int fd, const char *data, size_t bytes, off_t offset, uint64_t random)
{
    for (size_t at = 0; at < bytes; at += SECTOR) {
        size_t step = bytes - at < SECTOR ? bytes - at : SECTOR;

        random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        if (random >> 63 && pwrite(fd, data + at, step, offset + (off_t)at) < 0)
            return -errno;
    }
    return (int)bytes;
}

static int do_write(const char *path, const char *data, size_t bytes, off_t offset,
                    struct fuse_file_info *info)
{
    const struct file *file = file_of(info);
    struct verdict verdict;
    ssize_t rc;
    (void)path;

    if (file->fd < 0) {
        int bad = rules_control(data, bytes);

        return bad < 0 ? bad : (int)bytes;
    }
    meet(OPERATION_WRITE, file->path, (uint64_t)offset, bytes, &verdict);
    if (verdict.fault == FAULT_ERROR)
        return -verdict.error;
    if (verdict.fault == FAULT_LOST)
        return (int)bytes;
    if (rules_want_old(file->path + 1))
        old_keep(file->fd, (uint64_t)offset, bytes);
    if (verdict.fault == FAULT_TORN)
        return write_torn(file->fd, data, bytes, offset, verdict.random);
    if (verdict.fault == FAULT_SHORT && verdict.by < bytes)
        bytes = verdict.by;
    rc = pwrite(file->fd, data, bytes, offset);
    return rc < 0 ? -errno : (int)rc;
}

static int do_fsync(const char *path, int data_only, struct fuse_file_info *info)
{
    const struct file *file = file_of(info);
    struct verdict verdict;
    (void)path;

    if (file->fd < 0)
        return 0;
    meet(OPERATION_FSYNC, file->path, 0, 0, &verdict);
    if (verdict.fault == FAULT_ERROR)
        return -verdict.error;
    if (verdict.fault == FAULT_LOST)
        return 0;
    return outcome(data_only ? fdatasync(file->fd) : fsync(file->fd));
}

static int do_fallocate(const char *path, int mode, off_t offset, off_t bytes,
                        struct fuse_file_info *info)
{
    (void)path;
    return outcome(fallocate(file_of(info)->fd, mode, offset, bytes));
}

static int do_truncate(const char *path, off_t bytes, struct fuse_file_info *info)
{
    int fd, rc;

    if (is_control(path, info))
        return 0;
    if (info)
        return outcome(ftruncate(file_of(info)->fd, bytes));
    fd = openat(backing, below(path), O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    rc = outcome(ftruncate(fd, bytes));
    close(fd);
    return rc;
}

static int do_getattr(const char *path, struct stat *s, struct fuse_file_info *info)
{
    if (is_control(path, info)) {
        memset(s, 0, sizeof(*s));
        s->st_mode = S_IFREG | 0600;
        s->st_nlink = 1;
        return 0;
    }
    if (info)
        return outcome(fstat(file_of(info)->fd, s));
    return outcome(fstatat(backing, below(path), s, AT_SYMLINK_NOFOLLOW));
}

static int do_chmod(const char *path, mode_t mode, struct fuse_file_info *info)
{
    if (info)
        return outcome(fchmod(file_of(info)->fd, mode));
    return outcome(fchmodat(backing, below(path), mode, 0));
}

static int do_utimens(const char *path, const struct timespec times[2], struct fuse_file_info *info)
{
    if (info)
        return outcome(futimens(file_of(info)->fd, times));
    return outcome(utimensat(backing, below(path), times, AT_SYMLINK_NOFOLLOW));
}

/* Names. */

static int do_opendir(const char *path, struct fuse_file_info *info)
{
    struct file *file = calloc(1, sizeof(*file) + 1);

    if (!file)
        return -ENOMEM;
    file->fd = openat(backing, below(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file->fd < 0) {
        int rc = -errno;

        free(file);
        return rc;
    }
    info->fh = (uint64_t)(uintptr_t)file;
    return 0;
}

static int do_readdir(const char *path, void *to, fuse_fill_dir_t fill, off_t offset,
                      struct fuse_file_info *info, enum fuse_readdir_flags flags)
{
    int fd = openat(file_of(info)->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *entry;
    (void)path;
    (void)offset;
    (void)flags;

    if (!folder)
        return -errno;
    while ((entry = readdir(folder)))
        fill(to, entry->d_name, NULL, 0, 0);
    closedir(folder);
    return 0;
}

static int do_mkdir(const char *path, mode_t mode)
{
    return outcome(mkdirat(backing, below(path), mode));
}

static int do_unlink(const char *path)
{
    return outcome(unlinkat(backing, below(path), 0));
}

static int do_rmdir(const char *path)
{
    return outcome(unlinkat(backing, below(path), AT_REMOVEDIR));
}

static int do_rename(const char *from, const char *to, unsigned flags)
{
    return outcome(renameat2(backing, below(from), backing, below(to), flags));
}

static int do_link(const char *from, const char *to)
{
    return outcome(linkat(backing, below(from), backing, below(to), 0));
}

static int do_symlink(const char *target, const char *path)
{
    return outcome(symlinkat(target, backing, below(path)));
}

static int do_readlink(const char *path, char *target, size_t room)
{
    ssize_t rc = readlinkat(backing, below(path), target, room - 1);

    if (rc < 0)
        return -errno;
    target[rc] = 0;
    return 0;
}

static int do_statfs(const char *path, struct statvfs *s)
{
    (void)path;
    return outcome(fstatvfs(backing, s));
}

static void *do_init(struct fuse_conn_info *connection, struct fuse_config *config)
{
    connection->max_background = MOST_THREADS;
    connection->congestion_threshold = MOST_THREADS;
    config->use_ino = 1;
    config->nullpath_ok = 1;
    config->hard_remove = 1; /* what is open stays readable by its descriptor */
    config->entry_timeout = 0;
    config->attr_timeout = 0;
    config->negative_timeout = 0;
    return NULL;
}

static const struct fuse_operations operations = {
    .init = do_init,
    .open = do_open,
    .create = do_create,
    .release = do_release,
    .read = do_read,
    .write = do_write,
    .fsync = do_fsync,
    .fallocate = do_fallocate,
    .truncate = do_truncate,
    .getattr = do_getattr,
    .chmod = do_chmod,
    .utimens = do_utimens,
    .opendir = do_opendir,
    .releasedir = do_release,
    .readdir = do_readdir,
    .mkdir = do_mkdir,
    .unlink = do_unlink,
    .rmdir = do_rmdir,
    .rename = do_rename,
    .link = do_link,
    .symlink = do_symlink,
    .readlink = do_readlink,
    .statfs = do_statfs,
};

/* The end: FUSE's own would wait for operations that wait for a rule. */

static void block_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, set, NULL);
}

/** Until a signal comes or the mount is gone: then end, whatever is under way. */
static void *watch(void *argument)
{
    struct fuse *fuse = argument;
    struct pollfd device = {.fd = fuse_session_fd(fuse_get_session(fuse))};
    const struct timespec pause = {.tv_nsec = 200000000};
    sigset_t set;

    block_signals(&set);
    while (sigtimedwait(&set, NULL, &pause) < 0)
        if (poll(&device, 1, 0) > 0 && (device.revents & POLLERR))
            break;
    rules_end();
    if (umount2(mountpoint, MNT_DETACH) < 0) /* not root: with fusermount's help */
        fuse_unmount(fuse);
    _exit(0);
}

static int serve(struct fuse *fuse)
{
    struct fuse_loop_config *loop = fuse_loop_cfg_create();
    pthread_t watcher;
    int rc;

    fuse_loop_cfg_set_max_threads(loop, MOST_THREADS);
    fuse_loop_cfg_set_idle_threads(loop, MOST_THREADS);
    if (pthread_create(&watcher, NULL, watch, fuse) != 0)
        return 1;
    rc = fuse_loop_mt(fuse, loop);
    fuse_loop_cfg_destroy(loop);
    rules_end();
    fuse_unmount(fuse);
    return rc < 0;
}

int main(int argc, char **argv)
{
    struct fuse_args arguments = FUSE_ARGS_INIT(1, argv);
    sigset_t set;
    struct fuse *fuse;

    if (argc != 3) {
        fprintf(stderr, "usage: faultmount BACKING MOUNTPOINT\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    backing = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (backing < 0) {
        perror(argv[1]);
        return 2;
    }
    mountpoint = argv[2];
    umask(0); /* modes come as their maker's umask left them */
    block_signals(&set);
    fuse = fuse_new(&arguments, &operations, sizeof(operations), NULL);
    if (!fuse || fuse_mount(fuse, mountpoint) < 0) {
        fprintf(stderr, "faultmount: %s: FUSE mounts are not permitted here\n", mountpoint);
        return 77;
    }
    return serve(fuse);
}
