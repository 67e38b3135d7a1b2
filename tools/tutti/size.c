/* SPDX-License-Identifier: Apache-2.0 */
/* size.c: sizes as people write them; see size.h. Must not know what a size is of. */
#include "size.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char units[] = "KMGTP";

int size_parse(const char *text, uint64_t *bytes)
{
    char *end;
    long double value, scale = 1;

    if (!isdigit((unsigned char)text[0]))
        return -EINVAL;
    errno = 0;
    value = strtold(text, &end);
    if (errno || end == text || (text[0] == '0' && tolower((unsigned char)text[1]) == 'x'))
        return -EINVAL;
    while (*end == ' ')
        end++;
    if (*end) {
        const char *unit = strchr(units, toupper((unsigned char)*end));
        long double step = 1024;

        if (unit) {
            end++;
            if (tolower((unsigned char)end[0]) == 'b' && !end[1])
                step = 1000;
            else if (*end && strcasecmp(end, "ib") != 0)
                return -EINVAL;
            scale = powl(step, (long double)(unit - units + 1));
        } else if (strcasecmp(end, "b") != 0) {
            return -EINVAL;
        }
    }
    value *= scale;
    if (value >= 18446744073709551616.0L)
        return -ERANGE;
    if (value != floorl(value) && scale == 1)
        return -EINVAL;
    *bytes = (uint64_t)value;
    return 0;
}

const char *size_text(uint64_t bytes, char text[SIZE_TEXT])
{
    double value = (double)bytes;
    int unit = -1;

    while (value >= 1024 && unit < (int)sizeof(units) - 2) {
        value /= 1024;
        unit++;
    }
    if (unit < 0)
        snprintf(text, SIZE_TEXT, "%llu B", (unsigned long long)bytes);
    else if (value == floor(value))
        snprintf(text, SIZE_TEXT, "%.0f %ciB", value, units[unit]);
    else
        snprintf(text, SIZE_TEXT, "%.2f %ciB", value, units[unit]);
    return text;
}
