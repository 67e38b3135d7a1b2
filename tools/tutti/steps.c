/* SPDX-License-Identifier: Apache-2.0 */
/* steps.c: see steps.h. Must not know why the steps are taken. */
#include "steps.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LINE_BYTES 1400u

/* A driver's probe may end on another thread, some seconds later. */
enum { LOOK_TIMES = 500, LOOK_US = 10000 };

struct step *plan_add(struct plan *plan, enum step_kind kind, const char *text, const char *format,
                      ...)
{
    struct step *s = &plan->step[plan->count < MOST_STEPS ? plan->count++ : MOST_STEPS - 1];
    va_list arguments;

    *s = (struct step){.kind = kind};
    snprintf(s->text, sizeof(s->text), "%s", text);
    va_start(arguments, format);
    vsnprintf(s->path, sizeof(s->path), format, arguments);
    va_end(arguments);
    return s;
}

void plan_hand_over(struct plan *plan, const char *address, const char *driver, const char *path)
{
    struct step *s = plan_add(plan, STEP_WRITE, address, "%s", path);

    snprintf(s->address, sizeof(s->address), "%s", address);
    snprintf(s->driver, sizeof(s->driver), "%s", driver);
}

static const char *line_of(const struct step *s, char line[LINE_BYTES])
{
    switch (s->kind) {
    case STEP_LOAD:
        snprintf(line, LINE_BYTES, "modprobe %s", s->path);
        break;
    case STEP_WRITE:
        snprintf(line, LINE_BYTES, "echo %s%s> %s", s->text, s->text[0] ? " " : "", s->path);
        break;
    case STEP_MAKE:
        snprintf(line, LINE_BYTES, "write %s", s->path);
        break;
    case STEP_LINK:
        snprintf(line, LINE_BYTES, "ln -s %s %s", s->text, s->path);
        break;
    default:
        snprintf(line, LINE_BYTES, "rm -f %s", s->path);
    }
    return line;
}

void plan_print(const struct plan *plan)
{
    char line[LINE_BYTES];

    for (uint32_t i = 0; i < plan->count; i++) {
        const struct step *s = &plan->step[i];

        printf("  %s\n", line_of(s, line));
        for (const char *p = s->text; s->kind == STEP_MAKE && *p;) {
            size_t length = strcspn(p, "\n");

            printf("    | %.*s\n", (int)length, p);
            p += length + (p[length] == '\n');
        }
    }
}

json_t *plan_json(const struct plan *plan)
{
    json_t *list = json_array();
    char line[LINE_BYTES];

    for (uint32_t i = 0; i < plan->count; i++)
        json_array_append_new(list, json_string(line_of(&plan->step[i], line)));
    return list;
}

/** Wait, for a bounded time, until the device has the driver that it shall have. */
static int see_driver(const struct machine *m, const struct step *s, struct tutti_error *err)
{
    char driver[32];

    for (unsigned i = 0; i < LOOK_TIMES; i++) {
        machine_link(m, driver, sizeof(driver), "/sys/bus/pci/devices/%s/driver", s->address);
        if (strcmp(driver, s->driver) == 0)
            return 0;
        usleep(LOOK_US);
    }
    return tutti_error_set(
        err, -EIO,
        "%s was written to, and %s has driver %s, not %s: the kernel's log (dmesg) says why",
        s->path, s->address, driver[0] ? driver : "none", s->driver[0] ? s->driver : "none");
}

static int take(const struct machine *m, struct step *s, struct tutti_error *err)
{
    char line[sizeof(s->text) + 1];
    int rc;

    switch (s->kind) {
    case STEP_LOAD:
        return machine_load(m, s->path, err);
    case STEP_WRITE:
        snprintf(line, sizeof(line), "%s\n", s->text);
        rc = machine_write(m, s->path, line, err);
        return rc == 0 && s->address[0] ? see_driver(m, s, err) : rc;
    case STEP_MAKE:
        s->fresh = !machine_has(m, "%s", s->path);
        return machine_make(m, s->path, s->text, err);
    case STEP_LINK:
        s->fresh = !machine_has(m, "%s", s->path);
        return machine_make_link(m, s->path, s->text, err);
    default:
        return machine_remove(m, s->path, err);
    }
}

int plan_run(const struct machine *m, struct plan *plan, bool all, struct tutti_error *err)
{
    int result = 0;

    for (uint32_t i = 0; i < plan->count && (all || result == 0); i++) {
        int rc = take(m, &plan->step[i], result == 0 ? err : NULL);

        plan->step[i].done = rc == 0;
        result = result == 0 ? rc : result;
    }
    return result;
}
