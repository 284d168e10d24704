/*
 * YAML 1.2 (core schema) as JSON values, with the line of each member, for files that people write.
 * Every document of a stream is given on; a stream that turns bad later has had its good ones.
 *
 * Refused: keys that are no plain text or occur twice, tags other than the core ones, merge keys,
 * and what passes the limits, aliases counted as often as they are used.
 */
#pragma once

#include "base/diag.h"

#include <jansson.h>
#include <stddef.h>

#define YAML_DEPTH_MAX 32
#define YAML_NODES_MAX 200000 /* of one stream */

struct yaml_document {
    json_t *value; /* borrowed during the call */
    json_t *lines; /* borrowed: {"spec.target.address": 7}; list elements are "list[0]" */
    unsigned line; /* where its content begins, from 1 */
    size_t number; /* from 1; empty documents count */
};

/* Stops when `fn` returns a negative code and returns it. ERR_INVALID or ERR_TOO_LARGE with a text,
 * and the line in `*error_line`. Empty documents are not given. */
int yaml_load(const char *text, size_t len,
              int (*fn)(void *arg, const struct yaml_document *document), void *arg,
              unsigned *error_line, struct diag *d);
