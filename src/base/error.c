/* SPDX-License-Identifier: Apache-2.0 */
/* error.c: composes messages; see tutti/error.h. */
#include "tutti/error.h"

#include <stdarg.h>
#include <stdio.h>

void tutti_error_compose(struct tutti_error *err, int code, const char *format, ...)
{
    va_list arguments;

    if (!err)
        return;
    err->code = code;
    va_start(arguments, format);
    vsnprintf(err->message, sizeof(err->message), format, arguments);
    va_end(arguments);
}
