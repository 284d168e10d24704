/*
 * TOML 1.0 flattened into items, the one place where C++ is met. Private to this folder.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum conf_toml_kind {
    CONF_TOML_STRING,
    CONF_TOML_INTEGER,
    CONF_TOML_BOOL,
    CONF_TOML_EMPTY_ARRAY,
    CONF_TOML_OTHER /* `text` says what it is: "a date", "a table", ... */
};

struct conf_toml_item {
    const char *path; /* "limits.handshakes"; a part that is no bare key is quoted */
    enum conf_toml_kind kind;
    const char *text; /* the value as text */
    bool in_array;    /* one of several with this path */
    unsigned line;
};

/* Calls `fn` for each value in the file's order of keys (sorted by name within a table); stops when
 * that returns a negative code and returns it. A syntax error: ERR_INVALID, with its line and a
 * description in `error`. */
int conf_toml_parse(const char *text, size_t len,
                    int (*fn)(void *arg, const struct conf_toml_item *item), void *arg,
                    unsigned *error_line, char *error, size_t error_size);

#ifdef __cplusplus
}
#endif
