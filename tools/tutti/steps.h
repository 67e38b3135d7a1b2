/* SPDX-License-Identifier: Apache-2.0 */
/*
 * steps.h: what is done to the machine, written down before it is done.
 *
 * Responsible for: printing, doing, and checking the effect of each step. Must
 * not know why they are taken, nor in which order they must be.
 *
 * The idea: bind says what it will do from the same list that it then does, so
 * that the two cannot differ.
 */
#ifndef TOOLS_STEPS_H
#define TOOLS_STEPS_H

#include <jansson.h>

#include "machine.h"

#define MOST_STEPS 12u

enum step_kind {
    STEP_LOAD,  /* modprobe @path */
    STEP_WRITE, /* write @text to @path, a file of sysfs */
    STEP_MAKE,  /* make the file @path with @text */
    STEP_LINK,  /* make the link @path to @text */
    STEP_REMOVE /* remove @path */
};

/**
 * struct step - one of them
 * @address: of WRITE: the device whose driver is looked at afterwards; empty: none
 * @driver: the one that it must have then; empty: none
 * @done: it was done
 * @fresh: what it made was not there before
 */
struct step {
    enum step_kind kind;
    char path[256];
    char text[1024];
    char address[32];
    char driver[32];
    bool done;
    bool fresh;
};

struct plan {
    struct step step[MOST_STEPS];
    uint32_t count;
};

/** Add one, and fill in its path. @text of WRITE is a line without its end; may be empty. */
struct step *plan_add(struct plan *plan, enum step_kind kind, const char *text, const char *format,
                      ...) __attribute__((format(printf, 4, 5)));

/** Add a WRITE after which the device at @address must have @driver. */
void plan_hand_over(struct plan *plan, const char *address, const char *driver, const char *path);

/** A step as a person would type it; a file's content in lines after it. */
void plan_print(const struct plan *plan);

/** ["modprobe vfio-pci", "echo vfio-pci > /sys/..."] */
json_t *plan_json(const struct plan *plan);

/**
 * plan_run() - do the steps in order, each only when the one before had its effect
 * @all: go on behind a step that fails
 *
 * Return: 0, or the first failure with a message that names its step; @done says what was done.
 */
int plan_run(const struct machine *m, struct plan *plan, bool all, struct tutti_error *err);

#endif
