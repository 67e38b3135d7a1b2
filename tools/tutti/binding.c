/* SPDX-License-Identifier: Apache-2.0 */
/* binding.c: see binding.h. Must not judge whether a controller may be bound. */
#include "binding.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define DRIVERS "/sys/bus/pci/drivers"
#define OVERRIDE "/sys/bus/pci/devices/%s/driver_override"
#define PROBE "/sys/bus/pci/drivers_probe"
#define UNITS "/etc/systemd/system"
#define WANTED UNITS "/multi-user.target.wants"

static void leave(struct plan *plan, const struct controller *c, const char *driver)
{
    char path[128];

    snprintf(path, sizeof(path), DRIVERS "/%s/unbind", driver);
    plan_hand_over(plan, c->address, "", path);
}

/*
 * Files first: what cannot be written then costs nothing, and the serial is on
 * record before the driver that knows it is gone.
 */
void plan_bind(const struct controller *c, bool load, const char *unit, struct plan *plan)
{
    char text[256], path[MACHINE_PATH], name[64];

    *plan = (struct plan){0};
    if (load)
        plan_add(plan, STEP_LOAD, "", "vfio-pci");
    if (!controller_bound(c)) {
        snprintf(text, sizeof(text), "serial %s\nmodel %s\nbytes %llu\n", c->serial, c->model,
                 (unsigned long long)c->bytes);
        plan_add(plan, STEP_MAKE, text, "%s", bound_path(c, path));
    }
    if (unit) {
        unit_name(c, name);
        plan_add(plan, STEP_MAKE, unit, UNITS "/%s", name);
        snprintf(text, sizeof(text), "../%s", name);
        plan_add(plan, STEP_LINK, text, WANTED "/%s", name);
    }
    if (controller_bound(c))
        return;
    plan_add(plan, STEP_WRITE, "vfio-pci", OVERRIDE, c->address);
    if (c->driver[0])
        leave(plan, c, c->driver);
    plan_hand_over(plan, c->address, "vfio-pci", PROBE);
}

void plan_unbind(const struct machine *m, const struct controller *c, struct plan *plan)
{
    char path[MACHINE_PATH], name[64];

    *plan = (struct plan){0};
    if ((controller_bound(c) || !c->driver[0]) && !machine_has(m, DRIVERS "/nvme"))
        plan_add(plan, STEP_LOAD, "", "nvme");
    if (strcmp(c->override, "vfio-pci") == 0)
        plan_add(plan, STEP_WRITE, "", OVERRIDE, c->address);
    if (controller_bound(c))
        leave(plan, c, c->driver);
    if (controller_bound(c) || !c->driver[0]) /* none: a bind that was killed between its steps */
        plan_hand_over(plan, c->address, "nvme", PROBE);
    if (machine_has(m, "%s", bound_path(c, path)))
        plan_add(plan, STEP_REMOVE, "", "%s", path);
    if (c->persists) {
        unit_name(c, name);
        plan_add(plan, STEP_REMOVE, "", WANTED "/%s", name);
        plan_add(plan, STEP_REMOVE, "", UNITS "/%s", name);
    }
}

void plan_restore(const struct machine *m, const struct controller *was, const struct plan *tried,
                  struct plan *plan)
{
    char driver[32], override[32], path[128];
    bool moved;

    *plan = (struct plan){0};
    machine_link(m, driver, sizeof(driver), "/sys/bus/pci/devices/%s/driver", was->address);
    machine_read(m, override, sizeof(override), OVERRIDE, was->address);
    if (strcmp(override, "(null)") == 0)
        override[0] = 0;
    moved = strcmp(driver, was->driver) != 0;
    if (moved && driver[0])
        leave(plan, was, driver);
    if (strcmp(override, was->override) != 0)
        plan_add(plan, STEP_WRITE, was->override, OVERRIDE, was->address);
    if (moved && was->driver[0]) {
        snprintf(path, sizeof(path), DRIVERS "/%s/bind", was->driver);
        plan_hand_over(plan, was->address, was->driver, path);
    }
    for (uint32_t i = tried->count; i-- > 0;)
        if (tried->step[i].done && tried->step[i].fresh)
            plan_add(plan, STEP_REMOVE, "", "%s", tried->step[i].path);
}

/** Nothing in it that a unit file would take for more than a word. */
static bool plain(const char *text)
{
    for (; *text; text++)
        if (!isalnum((unsigned char)*text) && !strchr("/._-+", *text))
            return false;
    return true;
}

int unit_text(const struct machine *m, const struct controller *c, bool despite_data,
              char text[1024], struct tutti_error *err)
{
    char program[512], name[64];
    ssize_t length = readlink("/proc/self/exe", program, sizeof(program) - 1);

    program[length > 0 ? length : 0] = 0;
    if (!machine_has(m, "/run/systemd/system"))
        return tutti_error_set(
            err, -EOPNOTSUPP,
            "--persist makes a unit of systemd's, and this machine is not run by "
            "it: have 'tutti bind --yes %s' run at boot",
            c->serial[0] ? c->serial : c->address);
    if (!unit_name(c, name)[0])
        return tutti_error_set(
            err, -EINVAL,
            "%s: --persist goes by serial, and this one's %s: have 'tutti bind "
            "--yes %s' run at boot",
            c->address, c->serial[0] ? "cannot be the name of a unit" : "is not known", c->address);
    if (!program[0] || !plain(program))
        return tutti_error_set(err, -EINVAL,
                               "%s: --persist wants this program at a path that a unit can name: "
                               "install it (make install)",
                               program);
    snprintf(text, 1024,
             "# Made by 'tutti bind --persist'; 'tutti unbind %s' removes it.\n"
             "[Unit]\n"
             "Description=Give the NVMe drive %s to vfio-pci, for Tutti\n"
             "StartLimitIntervalSec=120\n"
             "StartLimitBurst=10\n"
             "[Service]\n"
             "Type=oneshot\n"
             "RemainAfterExit=yes\n"
             "ExecStart=%s bind --yes %s%s\n"
             "Restart=on-failure\n"
             "RestartSec=5\n"
             "[Install]\n"
             "WantedBy=multi-user.target\n",
             c->serial, c->serial, program, despite_data ? "--despite-data " : "", c->serial);
    return 0;
}
