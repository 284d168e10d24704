/*
 * Answers as people and scripts read them: aligned tables, JSON, YAML.
 *
 * Text that came from elsewhere (an agent's host name, a reason) cannot move the cursor or change
 * colours of a terminal: control characters are shown as '?' in tables. Colours only when asked.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum output_format { OUTPUT_TABLE, OUTPUT_JSON, OUTPUT_YAML, OUTPUT_FORMAT_COUNT };
extern const char *const output_formats[]; /* names, ends with NULL */

enum column_kind {
    COLUMN_TEXT,
    COLUMN_TIME,  /* local time */
    COLUMN_AGE,   /* "3m ago", "in 23h" */
    COLUMN_BYTES, /* "1.2 MiB" */
    COLUMN_PHASE, /* in colour */
    COLUMN_REF,   /* an id, shown as the name of that object of `collection` */
    COLUMN_KIND_COUNT
};

struct column {
    const char *title;
    const char *path; /* "status.endpoint.address" */
    enum column_kind kind;
    const char *collection;
};

/* How one kind of object is shown. */
struct view {
    const char *collection; /* "tunnels", as in the REST paths */
    const char *noun;       /* "tunnel" */
    const struct column *columns;
    size_t n;
};

struct output {
    FILE *file;
    enum output_format format;
    bool is_coloured;
    bool is_quiet;  /* ids only */
    int64_t now_ms; /* for ages */
    /* The name of an object, or NULL. May be NULL itself. */
    const char *(*name_of)(void *arg, const char *collection, const char *id);
    void *arg;
};

/* Columns keep their widths over several calls, so that rows added later stay aligned. */
#define OUTPUT_COLUMNS_MAX 16
struct output_widths {
    size_t columns[OUTPUT_COLUMNS_MAX];
    bool has_header;
};

int output_list(const struct output *o, const struct view *v, const json_t *array);
int output_rows(const struct output *o, const struct view *v, const json_t *array,
                struct output_widths *widths); /* tables only */
/* One object: a table has a line for each member. */
int output_object(const struct output *o, const json_t *obj);
/* One of a stream of objects: a line of JSON, or a YAML document. Flushes. */
int output_item(const struct output *o, const json_t *obj);

/* The value at a dotted path; NULL when some step is missing. */
const json_t *output_at(const json_t *obj, const char *path);

/* Text from elsewhere without control characters; "3m ago". */
struct buf;
void output_put_safe(struct buf *out, const char *s);
void output_put_age(struct buf *out, int64_t from_now_ms);

int yaml_write(FILE *out, const json_t *value, bool is_one_of_many);
