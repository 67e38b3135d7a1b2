/* SPDX-License-Identifier: Apache-2.0 */
/*
 * secret.c: the file "secret" in a pool's home: the pool's id and the 16 bytes
 * that key its hashes.
 *
 * Knows no member. The idea: the file appears whole or not at all. It is
 * written under a name of its own, flushed, and linked to its final name, which
 * fails when another rank was faster; then that rank's file is read. So all
 * ranks that start at once agree.
 *
 * Text, so that a person can see what it is and copy it with the pool:
 *
 *     tutti-secret 1
 *     pool 0123456789abcdef0123456789abcdef
 *     secret 0123456789abcdef0123456789abcdef
 */
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pool/internal.h"

enum { SECRET_BYTES = 15 + 5 + 32 + 1 + 7 + 32 + 1 }; /* the three lines */

static int parse_hex(const char *text, uint8_t out[16])
{
    return sodium_hex2bin(out, 16, text, 32, NULL, NULL, NULL); /* all 32 digits, or none */
}

static int parse(const char text[SECRET_BYTES], uint8_t pool_id[16], uint8_t secret[16])
{
    if (memcmp(text, "tutti-secret 1\npool ", 20) != 0 || text[52] != '\n' ||
        memcmp(text + 53, "secret ", 7) != 0 || text[92] != '\n')
        return -1;
    return parse_hex(text + 20, pool_id) < 0 || parse_hex(text + 60, secret) < 0 ? -1 : 0;
}

static int secret_read(const char *path, uint8_t pool_id[16], uint8_t secret[16],
                       struct tutti_error *err)
{
    char text[SECRET_BYTES + 1];
    struct stat st;
    ssize_t n;
    int rc = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0 && errno == ENOENT)
        return tutti_error_set(err, -ENOENT,
                               "%s: no such file: there is no pool in this folder; make one with "
                               "'tutti format', or name the folder that holds it",
                               path);
    if (fd < 0)
        return backing_error(-errno, "opening", path, 0, err);
    n = read(fd, text, sizeof(text));
    if (n < 0 || fstat(fd, &st) < 0)
        rc = backing_error(-errno, "reading", path, 0, err);
    else if (st.st_mode & 077)
        rc = tutti_error_set(err, -EACCES,
                             "%s: mode %04o lets others read the pool's secret: chmod 600 %s, and "
                             "if somebody may have read it, format a new pool",
                             path, (unsigned)st.st_mode & 07777u, path);
    else if (n != SECRET_BYTES || parse(text, pool_id, secret) < 0)
        rc = tutti_error_set(err, -EUCLEAN,
                             "%s: not a secret file of Tutti (%zd bytes at offset 0, %d expected): "
                             "bring back the right one; without it the pool's content cannot be "
                             "found again",
                             path, n, SECRET_BYTES);
    sodium_memzero(text, sizeof(text));
    close(fd);
    return rc;
}

static int random_bytes(uint8_t *out, size_t bytes)
{
    ssize_t n;

    do
        n = getrandom(out, bytes, 0); /* up to 256 bytes come whole */
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)bytes ? 0 : -EIO;
}

/* Link the complete file to its name. -EEXIST: another rank was first. */
static int give_name(const char *temporary, const char *path)
{
    int rc = link(temporary, path) < 0 ? -errno : 0;

    if (rc == 0 || rc == -EEXIST) {
        unlink(temporary);
        return rc;
    }
    /* File systems without hard links. */
    return renameat2(AT_FDCWD, temporary, AT_FDCWD, path, RENAME_NOREPLACE) < 0 ? -errno : 0;
}

static int write_new(const char *temporary, const char *text)
{
    ssize_t n;
    int rc;
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        return -errno;
    n = write(fd, text, SECRET_BYTES);
    rc = n < 0 ? -errno : (n == SECRET_BYTES ? 0 : -ENOSPC);
    if (rc == 0 && (fchmod(fd, 0600) < 0 || fsync(fd) < 0))
        rc = -errno;
    if (close(fd) < 0 && rc == 0)
        rc = -errno;
    return rc;
}

static int secret_create(const char *path, struct tutti_error *err)
{
    uint8_t random[16 + 16 + 8];
    char hex[3][33];
    char text[SECRET_BYTES + 1];
    char temporary[POOL_MAX_PATH + 64];
    int rc = random_bytes(random, sizeof(random));

    if (rc < 0)
        return tutti_error_set(err, rc, "%s: the system gives no random bytes", path);
    sodium_bin2hex(hex[0], sizeof(hex[0]), random, 16);
    sodium_bin2hex(hex[1], sizeof(hex[1]), random + 16, 16);
    sodium_bin2hex(hex[2], sizeof(hex[2]), random + 32, 8);
    snprintf(text, sizeof(text), "tutti-secret 1\npool %s\nsecret %s\n", hex[0], hex[1]);
    snprintf(temporary, sizeof(temporary), "%s.%s", path, hex[2]);
    rc = write_new(temporary, text);
    if (rc == 0)
        rc = give_name(temporary, path);
    if (rc == 0)
        rc = folder_sync(path);
    if (rc < 0)
        unlink(temporary);
    sodium_memzero(text, sizeof(text));
    sodium_memzero(random, sizeof(random));
    sodium_memzero(hex, sizeof(hex));
    if (rc < 0 && rc != -EEXIST)
        return backing_error(rc, "creating", path, 0, err);
    return 0;
}

int tutti_pool_secret_load(const char *home, bool create, uint8_t pool_id[16], uint8_t secret[16],
                           struct tutti_error *err)
{
    char path[POOL_MAX_PATH];
    int rc = home_path(path, home, "secret", err);

    if (rc < 0)
        return rc;
    if (create) {
        if (mkdir(home, 0700) < 0 && errno != EEXIST)
            return backing_error(-errno, "making the folder", home, 0, err);
        if (access(path, F_OK) < 0 && errno == ENOENT)
            rc = secret_create(path, err);
        if (rc < 0)
            return rc;
    }
    return secret_read(path, pool_id, secret, err);
}
