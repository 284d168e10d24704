/*
 * TOML 1.0, the one place where C++ is met: flattened into items for the settings of this folder,
 * or as JSON for whoever reads objects from files.
 */
#pragma once

#include <jansson.h>
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

/* A whole file as JSON, and {"a.b[0].c": LINE} for each key and element. Keys nested
 * deeper than TOML_JSON_DEPTH are refused. New references; errors as above. */
#define TOML_JSON_DEPTH 32
int conf_toml_json(const char *text, size_t len, json_t **ret, json_t **ret_lines,
                   unsigned *error_line, char *error, size_t error_size);

#ifdef __cplusplus
}
#endif
