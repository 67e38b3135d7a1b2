/* SPDX-License-Identifier: Apache-2.0 */
/* rules.c: see rules.h. */
#include "nvme/soft/rules.h"

#define TEXT(name, text, section, qemu) text,
#define SECTION(name, text, section, qemu) section,

const char *soft_rule_text(enum soft_rule rule)
{
    static const char *const all[] = {SOFT_RULES(TEXT)};

    return all[rule];
}

const char *soft_rule_section(enum soft_rule rule)
{
    static const char *const all[] = {SOFT_RULES(SECTION)};

    return all[rule];
}
