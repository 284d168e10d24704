/*
 * Declared objects read from files: YAML (.yaml, .yml, .json; several documents, each an object or
 * a list of them) and TOML (.toml; one array of tables for each kind, [[tunnel]]).
 *
 *     kind: tunnel
 *     name: web
 *     version: 3                      # optional: made from this version, and refused for others
 *     spec: {target: {network: site, address: 10.0.0.17:80}}
 */
#pragma once

#include "base/diag.h"
#include "cli/kinds.h"

#include <stdint.h>

#define MANIFEST_FILE_MAX    (4 * 1024 * 1024) /* bytes */
#define MANIFEST_OBJECTS_MAX 10000

struct manifest_object {
    const struct kind *kind;
    const char *name; /* in `body` */
    uint64_t version; /* 0: not said */
    json_t *body;     /* without kind and version: what the hub is sent */
    char *file;       /* as it was named */
    size_t document;  /* from 1 */
    unsigned line;
    json_t *lines; /* of the document */
    char *prefix;  /* of this object's members in `lines`: "", "[2]", "tunnel[0]" */
};

struct manifest {
    struct manifest_object *objects;
    size_t n;
};

/* Adds what is in a file, a folder (its files, by name; not the folders in it) or, for "-", in the
 * standard input. Errors name file, line, document and field. */
int manifest_read(struct manifest *m, const char *path, struct diag *d);
/* From text; `file` decides the format by its name. */
int manifest_parse(struct manifest *m, const char *file, const char *text, size_t len,
                   struct diag *d);
void manifest_done(struct manifest *m);

/* Where a member of the object stands: the line of its longest part that is known. */
unsigned manifest_line(const struct manifest_object *o, const char *field);
/* "site.yaml:7 (document 2)" into `out`. */
void manifest_place(const struct manifest_object *o, const char *field, char *out, size_t size);
