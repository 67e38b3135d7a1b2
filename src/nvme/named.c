/* SPDX-License-Identifier: Apache-2.0 */
/* named.c: see named.h. Opens no drive. */
#include "nvme/named.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define PREFIX "nvme:serial="
#define BOUND "/run/tutti/bound"
#define DEVICES "/sys/bus/pci/devices"

/** What begins a line of a file is @key: is the rest, without blanks at its end, @value? */
static bool file_says(const char *path, const char *key, const char *value)
{
    FILE *file = fopen(path, "re");
    bool says = false;
    char line[128];

    while (file && !says && fgets(line, sizeof(line), file)) {
        size_t end = strcspn(line, "\n");

        while (end > 0 && line[end - 1] == ' ')
            end--;
        line[end] = 0;
        says = strncmp(line, key, strlen(key)) == 0 && strcmp(line + strlen(key), value) == 0;
    }
    if (file)
        fclose(file);
    return says;
}

bool nvme_named_serial(const char *name, char serial[NVME_NAME])
{
    const char *at = name + strlen(PREFIX), *slash;

    if (strncmp(name, PREFIX, strlen(PREFIX)) != 0)
        return false;
    slash = strrchr(at, '/');
    snprintf(serial, NVME_NAME, "%.*s", slash ? (int)(slash - at) : NVME_NAME, at);
    return true;
}

/** Drives that bind gave away under this serial. Return: how many; the last one's address. */
static int find_bound(const char *root, const char *serial, char address[NVME_NAME])
{
    char path[PATH_MAX];
    struct dirent *entry;
    int found = 0;
    DIR *folder;

    snprintf(path, sizeof(path), "%s" BOUND, root);
    folder = opendir(path);
    while (folder && (entry = readdir(folder))) {
        struct stat st;

        if (entry->d_name[0] == '.' || strlen(entry->d_name) > 20)
            continue;
        snprintf(path, sizeof(path), "%s" DEVICES "/%s", root, entry->d_name);
        if (stat(path, &st) < 0)
            continue; /* it was taken out since */
        snprintf(path, sizeof(path), "%s" BOUND "/%s", root, entry->d_name);
        if (!file_says(path, "serial ", serial))
            continue;
        snprintf(address, NVME_NAME, "%s", entry->d_name);
        found++;
    }
    if (folder)
        closedir(folder);
    return found;
}

/** Whether the kernel's driver has a drive of this serial. */
static bool kernel_has(const char *root, const char *serial)
{
    char path[PATH_MAX];
    struct dirent *entry;
    bool found = false;
    DIR *folder;

    snprintf(path, sizeof(path), "%s/sys/class/nvme", root);
    folder = opendir(path);
    while (folder && !found && (entry = readdir(folder))) {
        snprintf(path, sizeof(path), "%s/sys/class/nvme/%s/serial", root, entry->d_name);
        found = entry->d_name[0] != '.' && file_says(path, "", serial);
    }
    if (folder)
        closedir(folder);
    return found;
}

int nvme_named_resolve(const char *root, const char *name, char to[NVME_NAME],
                       struct tutti_error *err)
{
    const char *slash = strrchr(name, '/');
    char serial[NVME_NAME], address[NVME_NAME];
    int found;

    if (!nvme_named_serial(name, serial) || !serial[0] || strlen(slash ? slash : "") > 12)
        return tutti_error_set(err, -EINVAL, "%s: a drive is called nvme:serial=SERIAL[/NAMESPACE]",
                               name);
    found = find_bound(root, serial, address);
    if (found == 1) {
        snprintf(to, NVME_NAME, "nvme:%.20s%.12s", address, slash ? slash : "");
        return 0;
    }
    if (found > 1)
        return tutti_error_set(err, -ENOTUNIQ,
                               "%s: %d drives were bound under this serial: name a PCI address "
                               "('tutti devices' lists them)",
                               name, found);
    if (kernel_has(root, serial))
        return tutti_error_set(err, -ENXIO,
                               "%s: the driver nvme has it; give it to user space: tutti bind %s",
                               name, serial);
    return tutti_error_set(err, -ENODEV,
                           "%s: 'tutti bind' gave no drive with this serial to user space since "
                           "the machine started, and the driver nvme has none ('tutti devices' "
                           "lists what there is)",
                           name);
}
