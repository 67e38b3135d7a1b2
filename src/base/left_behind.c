/* SPDX-License-Identifier: Apache-2.0 */
/* left_behind.c: see left_behind.h. */
#include "base/left_behind.h"

#include "base/atomics.h"

static struct left_behind *all;

void leave_behind(struct left_behind *what)
{
    what->next = tutti_load_relaxed(&all);
    /* CAS: several threads may close what is theirs; nobody takes one from the list. */
    while (!tutti_compare_swap(&all, &what->next, what))
        ;
}
