/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bind.c: "tutti bind" and "tutti unbind": give NVMe controllers to vfio-pci,
 * for an engine that drives them from user space, and give them back.
 *
 * Responsible for: which controllers are meant, refusing, asking, and putting
 * everything back when a step fails. Must not know the steps.
 *
 * The idea: all are judged before the first is touched, and each is claimed
 * while it is handed over, so that nobody mounts it between look and step.
 */
#include <errno.h>
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "binding.h"
#include "command.h"

struct arguments {
    struct common common;
    struct machine machine;
    struct strings devices;
    bool dry_run;
    bool yes;
    bool persist;
    bool despite_data;
    bool binds; /* bind, and not unbind */
};

enum { OPTION_DRY_RUN = 0x600, OPTION_PERSIST, OPTION_DESPITE_DATA };

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->machine;
        state->child_inputs[1] = &a->common;
        return 0;
    case OPTION_DRY_RUN:
        a->dry_run = true;
        return 0;
    case 'y':
        a->yes = true;
        return 0;
    case OPTION_PERSIST:
        a->persist = true;
        return 0;
    case OPTION_DESPITE_DATA:
        a->despite_data = true;
        return 0;
    case ARGP_KEY_ARG:
        add_string(&a->devices, text, state);
        return 0;
    case ARGP_KEY_END:
        if (!a->devices.count)
            argp_error(state, "name a DEVICE, by serial or PCI address ('tutti devices' lists "
                              "them)");
        else if (a->binds && a->common.json && !a->yes && !a->dry_run)
            argp_error(state, "--json cannot ask: add --yes or --dry-run");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {{MACHINE_CHILD}, {COMMON_CHILD}, {0}};
static const struct argp_option bind_options[] = {
    {"dry-run", OPTION_DRY_RUN, NULL, 0, "Say what would be done, and do nothing", 1},
    {"yes", 'y', NULL, 0, "Do not ask", 1},
    {"persist", OPTION_PERSIST, NULL, 0, "Bind it at every boot too, with a unit of systemd's", 2},
    {"despite-data", OPTION_DESPITE_DATA, NULL, 0,
     "Bind a drive although it holds a partition table, a file system or other data (never one "
     "that "
     "is in use)",
     3},
    {0}};
static const struct argp bind_parser = {
    bind_options,
    parse,
    "DEVICE...",
    "Give NVMe controllers, named by serial or PCI address, to the driver vfio-pci, so that Tutti "
    "can drive them from user space. Their block devices go away. A drive that is in use or that "
    "is reached through several controllers is refused, and one that holds data that is not "
    "Tutti's "
    "unless told so. What will be done is said first; if a step fails, all is put back."
    "\vExample:\n  tutti bind S6CKNE0T300143 --persist\n\n"
    "Exit status: 0 bound (also when it was before), 2 wrong usage, 3 cannot, or not wanted after "
    "all; nothing was changed then.",
    children,
    NULL,
    NULL};
static const struct argp_option unbind_options[] = {
    {"dry-run", OPTION_DRY_RUN, NULL, 0, "Say what would be done, and do nothing", 1}, {0}};
static const struct argp unbind_parser = {
    unbind_options,
    parse,
    "DEVICE...",
    "Give NVMe controllers, named by serial or PCI address, back to the driver nvme, now and at "
    "every boot. Their block devices come back, with what is on them."
    "\vExample:\n  tutti unbind S6CKNE0T300143\n\n"
    "Exit status: 0 given back (also when it was before), 2 wrong usage, 3 cannot: a process uses "
    "it, or a step failed; the message says which.",
    children,
    NULL,
    NULL};

/** What was named, in the order of its naming, each once. */
struct chosen {
    struct controller *item[MAX_STRINGS];
    struct plan plan[MAX_STRINGS];
    uint32_t count;
};

static bool is_called(const struct controller *c, const char *name)
{
    return (name[0] && strcmp(c->serial, name) == 0) || strcasecmp(c->address, name) == 0 ||
           (strncmp(c->address, "0000:", 5) == 0 && strcasecmp(c->address + 5, name) == 0);
}

static int choose_one(const char *name, struct controller *list, uint32_t count,
                      struct chosen *chosen, struct tutti_error *err)
{
    struct controller *found = NULL;

    for (uint32_t i = 0; i < count; i++) {
        if (!is_called(&list[i], name))
            continue;
        if (found)
            return tutti_error_set(err, -ENOTUNIQ,
                                   "%s: the controllers %s and %s have this serial: name a PCI "
                                   "address",
                                   name, found->address, list[i].address);
        found = &list[i];
    }
    if (!found)
        return tutti_error_set(err, -ENODEV,
                               "%s: no NVMe controller has this serial or PCI address ('tutti "
                               "devices' lists them)",
                               name);
    for (uint32_t i = 0; i < chosen->count; i++)
        if (chosen->item[i] == found)
            return 0;
    chosen->item[chosen->count++] = found;
    return 0;
}

/** Devices of a group that are bound by one command are not in each other's way. */
static void mark_peers(struct chosen *chosen)
{
    for (uint32_t i = 0; i < chosen->count; i++)
        for (uint32_t p = 0; p < chosen->item[i]->peers && p < MOST_PEERS; p++)
            for (uint32_t j = 0; j < chosen->count; j++)
                if (strcmp(chosen->item[i]->peer[p].address, chosen->item[j]->address) == 0)
                    chosen->item[i]->peer[p].named = true;
}

static int choose(const struct arguments *a, struct controller *list, uint32_t count,
                  struct chosen *chosen, struct tutti_error *err)
{
    int rc = 0;

    for (uint32_t i = 0; i < a->devices.count && rc == 0; i++)
        rc = choose_one(a->devices.item[i], list, count, chosen, err);
    mark_peers(chosen);
    return rc;
}

static const char *name_of(const struct controller *c)
{
    return c->serial[0] ? c->serial : c->address;
}

static int plan_to_bind(const struct arguments *a, struct chosen *chosen, struct tutti_error *err)
{
    bool load = !machine_has(&a->machine, "/sys/bus/pci/drivers/vfio-pci");
    char unit[1024];
    int rc;

    for (uint32_t i = 0; i < chosen->count; i++) {
        const struct controller *c = chosen->item[i];
        struct obstacle o;

        if (!controller_bound(c) && controller_obstacle(c, &o) && !(o.data && a->despite_data))
            return tutti_error_set(err, o.code, "%s (%s): not bound: %s%s", name_of(c), c->address,
                                   o.text,
                                   o.data ? "; say --despite-data if that does not matter" : "");
        rc = a->persist ? unit_text(&a->machine, c, a->despite_data, unit, err) : 0;
        if (rc < 0)
            return rc;
        plan_bind(c, load && !controller_bound(c), a->persist ? unit : NULL, &chosen->plan[i]);
        load = load && controller_bound(c);
    }
    return 0;
}

/** The process that has the controller open, by its number; 0: none that can be seen. */
static long user_of(const struct machine *m, const struct controller *c)
{
    char pattern[MACHINE_PATH], group[64], device[320], target[320];
    struct names names;
    glob_t found = {0};
    long process = 0;

    /* Through its group, or by itself where iommufd is used. */
    snprintf(group, sizeof(group), "/dev/vfio/%s", c->group);
    machine_list(m, &names, "/sys/bus/pci/devices/%s/vfio-dev", c->address);
    snprintf(device, sizeof(device), "/dev/vfio/devices/%s",
             names.count ? names.entry[0]->d_name : "none");
    names_free(&names);
    if (glob(machine_path(m, pattern, "/proc/[1-9]*/fd/*"), GLOB_NOSORT, NULL, &found) == 0)
        for (size_t i = 0; i < found.gl_pathc && !process; i++) {
            ssize_t length = readlink(found.gl_pathv[i], target, sizeof(target) - 1);

            if (length < 0)
                continue;
            target[length] = 0;
            if (strcmp(target, group) == 0 || strcmp(target, device) == 0)
                process = strtol(strstr(found.gl_pathv[i], "/proc/") + 6, NULL, 10);
        }
    globfree(&found);
    return process;
}

static int plan_to_unbind(const struct arguments *a, struct chosen *chosen, struct tutti_error *err)
{
    for (uint32_t i = 0; i < chosen->count; i++) {
        const struct controller *c = chosen->item[i];
        long process = controller_bound(c) ? user_of(&a->machine, c) : 0;

        if (process)
            return tutti_error_set(err, -EBUSY, "%s (%s): process %ld uses it: stop that first",
                                   name_of(c), c->address, process);
        if (c->driver[0] && !controller_bound(c) && strcmp(c->driver, "nvme") != 0)
            return tutti_error_set(err, -EBUSY, "%s (%s): driver %s has it, not vfio-pci",
                                   name_of(c), c->address, c->driver);
        plan_unbind(&a->machine, c, &chosen->plan[i]);
    }
    return 0;
}

static void print_plans(const struct chosen *chosen)
{
    for (uint32_t i = 0; i < chosen->count; i++) {
        const struct controller *c = chosen->item[i];

        printf("%s  %s  %s, driver %s%s\n", name_of(c), c->model, c->address,
               c->driver[0] ? c->driver : "none", chosen->plan[i].count ? "" : ": nothing to do");
        plan_print(&chosen->plan[i]);
    }
}

static bool agreed(const struct chosen *chosen)
{
    uint32_t steps = 0;
    char line[16];

    for (uint32_t i = 0; i < chosen->count; i++)
        steps += chosen->plan[i].count;
    if (!steps)
        return true;
    printf("Their block devices go away. Do this? [y/N] ");
    fflush(stdout);
    return fgets(line, sizeof(line), stdin) && (line[0] == 'y' || line[0] == 'Y');
}

/** One controller, with its namespaces claimed from the last look to the end. */
static int run_one(const struct arguments *a, const struct controller *c, struct plan *plan,
                   struct tutti_error *err)
{
    int claim[MOST_NAMESPACES];
    uint32_t count = 0;
    int rc = 0;

    for (; a->binds && count < c->namespaces && rc == 0; count++) {
        claim[count] = contents_claim(&a->machine, c->namespace[count].name);
        if (claim[count] < 0)
            rc = tutti_error_set(err, claim[count], "/dev/%s: %s", c->namespace[count].name,
                                 strerror(-claim[count]));
    }
    if (rc == 0)
        rc = plan_run(&a->machine, plan, false, err);
    for (uint32_t i = 0; i < count; i++)
        if (claim[i] >= 0)
            close(claim[i]);
    return rc;
}

/** Put back those that were tried, the last one first. Return: 0, or the first that failed. */
static int restore(const struct arguments *a, struct chosen *chosen, uint32_t tried,
                   struct tutti_error *err)
{
    int result = 0;

    for (uint32_t i = tried; i-- > 0;) {
        struct plan back;
        int rc;

        plan_restore(&a->machine, chosen->item[i], &chosen->plan[i], &back);
        rc = plan_run(&a->machine, &back, true, result == 0 ? err : NULL);
        result = result == 0 ? rc : result;
    }
    return result;
}

/** What failed was only the removal of a file: the controllers are where they should be. */
static bool handed_over(const struct plan *plan)
{
    for (uint32_t i = 0; i < plan->count; i++)
        if (!plan->step[i].done)
            return plan->step[i].kind == STEP_REMOVE;
    return true;
}

/*
 * Between the steps is no good place to stop: who interrupts waits until they
 * are all taken, or all taken back. (What a kill leaves, unbind puts right.)
 */
static void hold_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
}

static int run_all(const struct arguments *a, struct chosen *chosen, struct tutti_error *err)
{
    hold_signals();
    for (uint32_t i = 0; i < chosen->count; i++) {
        const struct controller *c = chosen->item[i];
        struct tutti_error why = {0}, back = {0};
        int rc = run_one(a, c, &chosen->plan[i], &why);

        if (rc == 0)
            continue;
        if (handed_over(&chosen->plan[i]))
            return tutti_error_set(err, rc, "%s (%s) is given back, but: %s", name_of(c),
                                   c->address, why.message);
        if (restore(a, chosen, i + 1, &back) == 0)
            return tutti_error_set(err, rc, "%s (%s): %.300s; all is put back as it was",
                                   name_of(c), c->address, why.message);
        return tutti_error_set(err, rc, "%s (%s): %.300s; and putting it back failed: %.300s",
                               name_of(c), c->address, why.message, back.message);
    }
    return 0;
}

static int tell(const struct arguments *a, const struct chosen *chosen)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < chosen->count; i++) {
        const struct controller *c = chosen->item[i];

        if (!a->common.json && !a->dry_run)
            printf("%s (%s) is %s now\n", name_of(c), c->address,
                   a->binds ? "vfio-pci's" : "the nvme driver's");
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s, s:o}", "serial", c->serial,
                                              "address", c->address, "was", c->driver, "group",
                                              c->group, "steps", plan_json(&chosen->plan[i])));
    }
    if (a->common.json)
        print_json(json_pack("{s:s, s:b, s:o}", "command", a->binds ? "bind" : "unbind", "dry_run",
                             (int)a->dry_run, "devices", list));
    else
        json_decref(list);
    return DONE;
}

static int work(struct arguments *a)
{
    static struct chosen chosen; /* large */
    struct controller *list = NULL;
    struct tutti_error err = {0};
    uint32_t count = 0;
    int rc = controllers_find(&a->machine, a->binds, &list, &count, &err);
    int status = DONE;

    if (rc == 0)
        rc = choose(a, list, count, &chosen, &err);
    if (rc == 0)
        rc = a->binds ? plan_to_bind(a, &chosen, &err) : plan_to_unbind(a, &chosen, &err);
    if (rc == 0 && !a->common.json)
        print_plans(&chosen);
    if (rc == 0 && a->binds && !a->yes && !a->dry_run && !agreed(&chosen))
        rc = tutti_error_set(&err, -ECANCELED, "not wanted: nothing was done");
    if (rc == 0 && !a->dry_run)
        rc = run_all(a, &chosen, &err);
    status = rc < 0 ? cannot(&a->common, &err) : tell(a, &chosen);
    free(list);
    return status;
}

int command_bind(int argc, char **argv)
{
    struct arguments a = {.binds = true};

    argp_parse(&bind_parser, argc, argv, 0, NULL, &a);
    return work(&a);
}

int command_unbind(int argc, char **argv)
{
    struct arguments a = {0};

    argp_parse(&unbind_parser, argc, argv, 0, NULL, &a);
    return work(&a);
}
