/*
 * Settings as rows of a table. A row names the setting, its type, default, environment variable,
 * flag, help and its place in a plain struct; loading, checking, dumping, help and reload are
 * drawn from it. Sources, each stronger than the one before: default, TOML file, environment, flag.
 *
 *     struct hub_settings *s = conf_settings(conf);
 *
 * Secrets are never values: a setting names the file that holds one (conf_read_secret).
 */
#pragma once

#include "base/addr.h"
#include "base/buf.h"
#include "base/diag.h"
#include "base/log.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * type      member of the struct  in a TOML file            as text (flag, environment, default)
 * STRING    char *                "text"                    text; NULL when not set
 * PATH      char *                "x", from the file's      x, from the working folder
 *                                 own folder
 * LIST      struct conf_list      ["a", "b"] or "a"         a b; a flag is given once per item
 * INT       int64_t               42                        42
 * BOOL      bool                  true                      true, yes, on, 1 or their opposites
 * DURATION  int64_t, ms           "30s"                     30s
 * BYTES     uint64_t              "8MiB" or 4096            8MiB
 * ENUM      int, the index        "json"                    json
 * ADDR      struct host_port      "0.0.0.0:8443"            0.0.0.0:8443
 */
enum conf_type {
    CONF_STRING,
    CONF_PATH,
    CONF_LIST,
    CONF_INT,
    CONF_BOOL,
    CONF_DURATION,
    CONF_BYTES,
    CONF_ENUM,
    CONF_ADDR,
    CONF_TYPE_COUNT
};

struct conf_list {
    char **items;
    size_t n;
};

/* Flags of a row */
#define CONF_RELOADABLE (1U << 0) /* a change applies to the running process */
#define CONF_REQUIRED   (1U << 1) /* must be set by some source */

struct conf_row {
    const char *name; /* TOML key, "listen" or "limits.handshakes" for one in a [table] */
    enum conf_type type;
    size_t offset;              /* offsetof in the settings struct */
    const char *fallback;       /* the default as text; NULL: nothing (empty, 0, false) */
    const char *env;            /* "WARREN_LISTEN" */
    const char *flag;           /* "--listen"; NULL: none */
    const char *metavar;        /* "ADDR:PORT", for help */
    const char *help;           /* one sentence */
    unsigned flags;             /* CONF_RELOADABLE ... */
    int64_t min, max;           /* of INT, DURATION (ms), BYTES; both 0: any that is not negative */
    const char *const *choices; /* ENUM: names, ends with NULL; the index is the value */
    int (*check)(const char *item, struct diag *d); /* on the text; of a list: on each item */
};

struct conf_table {
    const struct conf_row *rows;
    size_t n_rows;
    size_t size; /* of the settings struct */
    /* Rules between rows, when each row alone was right. May be NULL. */
    int (*check)(const void *settings, struct diag *d);
};

/* A flag as it stood on the command line. */
struct conf_flag {
    const char *flag;  /* "--listen" */
    const char *value; /* NULL: given without one, which is "true" for a BOOL */
};

struct conf_sources {
    const char *file; /* path of the TOML file; NULL: none */
    char *const *env; /* `environ`; NULL: none */
    const struct conf_flag *flags;
    size_t n_flags;
};

struct conf;

/* Reads everything and checks it. The diagnosis names the setting, the source and, in a file, the
 * line; for an unknown key or flag also the nearest known one. */
int conf_load(const struct conf_table *table, const struct conf_sources *sources, struct conf **ret,
              struct diag *d);
void conf_free(struct conf *c);

/* The same from the text of a file in memory, with `name` in diagnoses. For tests and fuzzing. */
int conf_load_text(const struct conf_table *table, const char *name, const char *text, size_t len,
                   struct conf **ret, struct diag *d);

/* The struct; it stays at its place and owns all it points to until conf_free. Strings and lists of
 * reloadable rows are replaced by conf_reload: do not keep pointers to those. */
void *conf_settings(struct conf *c);

/* Where the effective value of a row came from: "default", "hub.toml:12", "WARREN_LISTEN",
 * "--listen". NULL for an unknown name. */
const char *conf_origin(const struct conf *c, const char *name);

/* All effective settings as a TOML file, each with its help and where its value came from. */
int conf_dump(const struct conf *c, struct buf *out);

/* Loads again from new sources. Changed reloadable settings are put in place; of each change,
 * `report` is told whether it applies now or needs a restart. On error nothing changed. */
int conf_reload(struct conf *c, const struct conf_sources *sources,
                void (*report)(void *arg, const struct conf_row *row, bool applies_now), void *arg,
                struct diag *d);
/* A `report` that tells the log. */
void conf_log_change(void *arg, const struct conf_row *row, bool applies_now);

const struct conf_row *conf_find(const struct conf_table *table, const char *name);
const struct conf_row *conf_find_flag(const struct conf_table *table, const char *flag);

/* Reads a secret (trailing newline removed) of at most 4 KiB from a file that nobody but its owner
 * may read; "-" is the standard input. */
int conf_read_secret(const char *path, struct secret *ret, struct diag *d);
