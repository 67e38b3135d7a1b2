/* SPDX-License-Identifier: Apache-2.0 */
/*
 * devices.c: "tutti devices": the NVMe controllers of this machine, what they
 * hold, and whether each can be bound to vfio-pci.
 *
 * Must not know how that is found out, and changes nothing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "controllers.h"
#include "size.h"

struct arguments {
    struct common common;
    struct machine machine;
};

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    (void)text;
    if (key != ARGP_KEY_INIT)
        return ARGP_ERR_UNKNOWN;
    state->child_inputs[0] = &a->machine;
    state->child_inputs[1] = &a->common;
    return 0;
}

static const struct argp_child children[] = {{MACHINE_CHILD}, {COMMON_CHILD}, {0}};
static const struct argp parser = {
    NULL,
    parse,
    NULL,
    "List the NVMe controllers of this machine: serial, model, PCI address, driver, IOMMU group, "
    "size, what their namespaces hold, and whether 'tutti bind' would take them, or why not. "
    "Changes nothing; run it as root, or it cannot see what they hold."
    "\vExample:\n  tutti devices --json\n\n"
    "Exit status: 0 listed (also when there is none), 2 wrong usage, 3 cannot.",
    children,
    NULL,
    NULL};

static uint32_t shown(const struct controller *c)
{
    return c->namespaces < MOST_NAMESPACES ? c->namespaces : MOST_NAMESPACES;
}

static json_t *describe(const struct controller *c, bool blocked, const struct obstacle *o)
{
    json_t *namespaces = json_array(), *peers = json_array();

    for (uint32_t i = 0; i < shown(c); i++) {
        const struct namespace *n = &c->namespace[i];

        json_array_append_new(namespaces,
                              json_pack("{s:s, s:I, s:s, s:s, s:b}", "name", n->name, "bytes",
                                        (json_int_t)n->bytes, "holds", n->contents.holds, "in_use",
                                        n->contents.in_use, "foreign", (int)n->contents.foreign));
    }
    for (uint32_t i = 0; i < c->peers && i < MOST_PEERS; i++)
        json_array_append_new(peers, json_pack("{s:s, s:s}", "address", c->peer[i].address,
                                               "driver", c->peer[i].driver));
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:b, s:o, s:I, s:o, s:b, s:b, s:b, s:b, s:s}",
                     "serial", c->serial, "model", c->model, "address", c->address, "driver",
                     c->driver, "group", c->group, "alone", (int)(c->group[0] && c->peers == 0),
                     "group_peers", peers, "bytes", (json_int_t)c->bytes, "namespaces", namespaces,
                     "bound", (int)controller_bound(c), "persists", (int)c->persists, "bindable",
                     (int)!blocked, "despite_data", (int)(blocked && o->data), "reason",
                     blocked ? o->text : "");
}

static void print_group(const struct controller *c)
{
    if (!c->group[0])
        printf(", no IOMMU group");
    else
        printf(", IOMMU group %s (%s)", c->group, c->peers ? "shared" : "alone in it");
}

static void print(const struct controller *c, bool blocked, const struct obstacle *o)
{
    const char *name = c->serial[0] ? c->serial : c->address;
    char size[SIZE_TEXT];

    printf("%s  %s\n  %s, driver %s", c->serial[0] ? c->serial : "(serial not known)", c->model,
           c->address, c->driver[0] ? c->driver : "none");
    print_group(c);
    printf(", %s\n", c->bytes ? size_text(c->bytes, size) : "size not known");
    for (uint32_t i = 0; i < shown(c); i++) {
        const struct contents *found = &c->namespace[i].contents;

        printf("  %s: %s%s%s\n", c->namespace[i].name, found->in_use,
               found->in_use[0] && found->holds[0] ? "; " : "",
               found->holds[0] || found->in_use[0] ? found->holds : "nothing");
    }
    if (controller_bound(c))
        printf("  bound%s: tutti unbind %s\n", c->persists ? ", at every boot" : "", name);
    else if (!blocked)
        printf("  can be bound: tutti bind %s\n", name);
    else if (o->data)
        printf("  %s: tutti bind --despite-data %s\n", o->text, name);
    else
        printf("  cannot be bound: %s\n", o->text);
}

int command_devices(int argc, char **argv)
{
    struct arguments a = {0};
    struct tutti_error err = {0};
    struct controller *list;
    json_t *devices;
    uint32_t count;

    argp_parse(&parser, argc, argv, 0, NULL, &a);
    if (controllers_find(&a.machine, true, &list, &count, &err) < 0) {
        free(list);
        return cannot(&a.common, &err);
    }
    devices = json_array();
    for (uint32_t i = 0; i < count; i++) {
        struct obstacle o = {0};
        bool blocked = controller_bound(&list[i]) || controller_obstacle(&list[i], &o);

        if (a.common.json)
            json_array_append_new(devices, describe(&list[i], blocked, &o));
        else
            print(&list[i], blocked, &o);
    }
    if (a.common.json)
        print_json(json_pack("{s:s, s:o}", "command", "devices", "devices", devices));
    else if (count == 0)
        printf("no NVMe controller\n");
    if (!a.common.json)
        json_decref(devices);
    free(list);
    return DONE;
}
