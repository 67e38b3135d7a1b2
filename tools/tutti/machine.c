/* SPDX-License-Identifier: Apache-2.0 */
/* machine.c: see machine.h. Must not know what a drive is. */
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define LONGEST_ROOT 1024u

static const struct argp_option machine_options[] = {
    {"root", 0x500, "FOLDER", OPTION_HIDDEN, "For tests: /sys, /proc, /dev below FOLDER", 0}, {0}};

static error_t parse_machine(int key, char *text, struct argp_state *state)
{
    struct machine *m = state->input;

    if (key != 0x500)
        return ARGP_ERR_UNKNOWN;
    if (strlen(text) > LONGEST_ROOT)
        argp_error(state, "--root is too long");
    m->root = text;
    return 0;
}

const struct argp machine_argp = {machine_options, parse_machine, NULL, NULL, NULL, NULL, NULL};

static void place(const struct machine *m, char path[MACHINE_PATH], const char *format,
                  va_list arguments)
{
    size_t length = 0;

    path[0] = 0;
    if (m->root) {
        length = strlen(m->root);
        memcpy(path, m->root, length + 1);
    }
    vsnprintf(path + length, MACHINE_PATH - length, format, arguments);
}

/* What "..." says, as a path below the root. */
#define PLACE(m, path, format)                                                                     \
    do {                                                                                           \
        va_list arguments_;                                                                        \
        va_start(arguments_, format);                                                              \
        place(m, path, format, arguments_);                                                        \
        va_end(arguments_);                                                                        \
    } while (0)

const char *machine_path(const struct machine *m, char path[MACHINE_PATH], const char *format, ...)
{
    PLACE(m, path, format);
    return path;
}

bool machine_has(const struct machine *m, const char *format, ...)
{
    char path[MACHINE_PATH];

    PLACE(m, path, format);
    return access(path, F_OK) == 0;
}

bool machine_read(const struct machine *m, char *line, size_t size, const char *format, ...)
{
    char path[MACHINE_PATH];
    size_t length;
    FILE *file;

    PLACE(m, path, format);
    line[0] = 0;
    file = fopen(path, "re");
    if (!file)
        return false;
    if (!fgets(line, (int)size, file))
        line[0] = 0;
    fclose(file);
    length = strlen(line);
    while (length > 0 && (line[length - 1] == '\n' || line[length - 1] == ' '))
        line[--length] = 0;
    return true;
}

bool machine_link(const struct machine *m, char *name, size_t size, const char *format, ...)
{
    char path[MACHINE_PATH], target[MACHINE_PATH];
    const char *slash;
    ssize_t length;

    PLACE(m, path, format);
    name[0] = 0;
    length = readlink(path, target, sizeof(target) - 1);
    if (length < 0)
        return false;
    target[length] = 0;
    slash = strrchr(target, '/');
    snprintf(name, size, "%s", slash ? slash + 1 : target);
    return true;
}

static int not_hidden(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

void machine_list(const struct machine *m, struct names *names, const char *format, ...)
{
    char path[MACHINE_PATH];
    int count;

    PLACE(m, path, format);
    names->entry = NULL;
    count = scandir(path, &names->entry, not_hidden, versionsort);
    names->count = count > 0 ? (uint32_t)count : 0;
}

void names_free(struct names *names)
{
    for (uint32_t i = 0; i < names->count; i++)
        free(names->entry[i]);
    free((void *)names->entry);
    *names = (struct names){0};
}

static int failed(int code, const char *what, const char *path, struct tutti_error *err)
{
    return tutti_error_set(err, code, "%s %s: %s%s", what, path, strerror(-code),
                           code == -EACCES || code == -EPERM ? ": run it as root, on the host"
                                                             : "");
}

static int write_all(int fd, const char *text)
{
    size_t length = strlen(text);
    ssize_t done = write(fd, text, length);

    return done < 0 ? -errno : (size_t)done == length ? 0 : -EIO;
}

int machine_write(const struct machine *m, const char *path, const char *text,
                  struct tutti_error *err)
{
    char full[MACHINE_PATH];
    int fd = open(machine_path(m, full, "%s", path), O_WRONLY | O_TRUNC | O_CLOEXEC);
    int rc;

    if (fd < 0)
        return failed(-errno, "opening", path, err);
    rc = write_all(fd, text);
    close(fd);
    return rc < 0 ? failed(rc, "writing to", path, err) : 0;
}

/** The folders above a path below the root. Return: 0, or the first failure. */
static int make_above(const struct machine *m, const char *path)
{
    char full[MACHINE_PATH];
    char *slash;
    int rc = 0;

    machine_path(m, full, "%s", path);
    slash = full + (m->root ? strlen(m->root) : 0);
    while ((slash = strchr(slash + 1, '/'))) {
        *slash = 0;
        if (mkdir(full, 0755) < 0 && errno != EEXIST && rc == 0)
            rc = -errno;
        *slash = '/';
    }
    return rc;
}

int machine_make(const struct machine *m, const char *path, const char *text,
                 struct tutti_error *err)
{
    char full[MACHINE_PATH], new[MACHINE_PATH];
    int fd, rc = make_above(m, path);

    if (rc < 0)
        return failed(rc, "making the folder of", path, err);
    machine_path(m, full, "%s", path);
    fd = open(machine_path(m, new, "%s.new", path), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return failed(-errno, "making", path, err);
    rc = write_all(fd, text);
    if (rc == 0 && fsync(fd) < 0)
        rc = -errno;
    close(fd);
    if (rc == 0 && rename(new, full) < 0)
        rc = -errno;
    if (rc == 0)
        return 0;
    unlink(new);
    return failed(rc, "making", path, err);
}

int machine_make_link(const struct machine *m, const char *path, const char *target,
                      struct tutti_error *err)
{
    char full[MACHINE_PATH];
    int rc = make_above(m, path);

    if (rc < 0)
        return failed(rc, "making the folder of", path, err);
    if (symlink(target, machine_path(m, full, "%s", path)) < 0 && errno != EEXIST)
        return failed(-errno, "making", path, err);
    return 0;
}

int machine_remove(const struct machine *m, const char *path, struct tutti_error *err)
{
    char full[MACHINE_PATH];

    if (unlink(machine_path(m, full, "%s", path)) < 0 && errno != ENOENT)
        return failed(-errno, "removing", path, err);
    return 0;
}

int machine_load(const struct machine *m, const char *module, struct tutti_error *err)
{
    char program[MACHINE_PATH], name[64];
    char *arguments[] = {program, name, NULL};
    int status = -1;
    pid_t child;
    int rc;

    machine_path(m, program, "/sbin/modprobe");
    snprintf(name, sizeof(name), "%s", module);
    rc = -posix_spawn(&child, program, NULL, NULL, arguments, environ);
    if (rc == 0 && waitpid(child, &status, 0) < 0)
        rc = -errno;
    if (rc == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    return tutti_error_set(err, rc < 0 ? rc : -EPERM,
                           "the module %s is not loaded, and cannot be loaded from here: run "
                           "'modprobe %s' as root on the host",
                           module, module);
}

bool machine_in_container(const struct machine *m)
{
    return machine_has(m, "/.dockerenv") || machine_has(m, "/run/.containerenv") ||
           getenv("KUBERNETES_SERVICE_HOST");
}
