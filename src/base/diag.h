/*
 * A diagnosis for people: made once, where the error happens, and carried to the edge (a terminal,
 * a problem+json body, a log line). `field` names the setting or JSON member at fault, if one is.
 */
#pragma once

#include "base/macro.h"

struct diag {
    int code; /* 0 or a negative code of base/error.h */
    char field[64];
    char text[448];
};

/* Fill in and return `code`, so that a caller can `return diag_set(d, ERR_INVALID, ...)`.
 * `d` may be NULL. */
int diag_set(struct diag *d, int code, const char *format, ...) PRINTF_LIKE(3, 4);
int diag_set_field(struct diag *d, int code, const char *field, const char *format, ...)
    PRINTF_LIKE(4, 5);

#ifdef __clang_analyzer__ /* it sees one file at a time: tell it that they return `code` */
#define diag_set(d, code, ...)       ((diag_set)(d, code, __VA_ARGS__), (code))
#define diag_set_field(d, code, ...) ((diag_set_field)(d, code, __VA_ARGS__), (code))
#endif

/* The text, or the code's general text when nobody wrote a better one. */
const char *diag_text(const struct diag *d);
