#include "base/diag.h"

#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>

#undef diag_set /* the analyser's views of them */
#undef diag_set_field

static void fill(struct diag *d, int code, const char *field, const char *format, va_list args)
{
    d->code = code;
    snprintf(d->field, sizeof(d->field), "%s", field);
    vsnprintf(d->text, sizeof(d->text), format, args);
}

int diag_set(struct diag *d, int code, const char *format, ...)
{
    if (d) {
        va_list args;
        va_start(args, format);
        fill(d, code, "", format, args);
        va_end(args);
    }
    return code;
}

int diag_set_field(struct diag *d, int code, const char *field, const char *format, ...)
{
    if (d) {
        va_list args;
        va_start(args, format);
        fill(d, code, field, format, args);
        va_end(args);
    }
    return code;
}

const char *diag_text(const struct diag *d)
{
    return d->text[0] ? d->text : error_text(d->code);
}
