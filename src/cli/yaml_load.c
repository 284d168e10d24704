#include "cli/yaml_load.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define CORE_TAG "tag:yaml.org,2002:"

struct loader {
    yaml_parser_t parser;
    yaml_event_t event;
    bool has_event;
    json_t *anchors; /* of the document: name to value, once that is complete */
    json_t *lines;
    size_t nodes;
    unsigned error_line;
    struct diag *d;
};

static int next(struct loader *l)
{
    if (l->has_event)
        yaml_event_delete(&l->event);
    l->has_event = false;
    if (!yaml_parser_parse(&l->parser, &l->event)) {
        l->error_line = (unsigned)l->parser.problem_mark.line + 1;
        return diag_set(l->d, ERR_INVALID, "not YAML: %s%s%s",
                        l->parser.problem ? l->parser.problem : "unreadable",
                        l->parser.context ? " " : "", l->parser.context ? l->parser.context : "");
    }
    l->has_event = true;
    return 0;
}

static unsigned line_of(const struct loader *l)
{
    return (unsigned)l->event.start_mark.line + 1;
}

static int fail(struct loader *l, int code, const char *what)
{
    l->error_line = line_of(l);
    return diag_set(l->d, code, "%s", what);
}

static int count(struct loader *l, size_t n)
{
    l->nodes += n;
    if (l->nodes > YAML_NODES_MAX)
        return fail(l, ERR_TOO_LARGE, "too many values in one file, aliases counted");
    return 0;
}

static size_t count_nodes(const json_t *v)
{
    size_t n = 1, i;
    const char *key;
    json_t *member;
    if (json_is_object(v))
        json_object_foreach ((json_t *)v, key, member)
            n += count_nodes(member);
    if (json_is_array(v))
        json_array_foreach (v, i, member)
            n += count_nodes(member);
    return n;
}

/* --- scalars --------------------------------------------------------------------------------- */

static bool is_one_of(const char *s, const char *const *words)
{
    for (; *words; words++)
        if (strcmp(*words, s) == 0)
            return true;
    return false;
}

/* [-+]?[0-9]+ in the given base, as a whole. */
static json_t *integer(const char *s)
{
    bool is_hex = strncmp(s, "0x", 2) == 0, is_octal = strncmp(s, "0o", 2) == 0;
    const char *digits = is_hex || is_octal ? s + 2 : s + (*s == '-' || *s == '+');
    const char *allowed = is_hex ? "0123456789abcdefABCDEF" : is_octal ? "01234567" : "0123456789";
    if (!*digits || digits[strspn(digits, allowed)])
        return NULL;
    errno = 0;
    long long n = strtoll(is_hex || is_octal ? digits : s, NULL, is_hex ? 16 : is_octal ? 8 : 10);
    return errno ? NULL : json_integer(n);
}

/* [-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )? */
static json_t *real(const char *s)
{
    const char *p = s + (*s == '-' || *s == '+');
    size_t whole = strspn(p, "0123456789"), fraction = 0;
    p += whole;
    if (*p == '.') {
        fraction = strspn(++p, "0123456789");
        p += fraction;
    }
    if (whole + fraction == 0)
        return NULL;
    if (*p == 'e' || *p == 'E') {
        p += 1 + (p[1] == '-' || p[1] == '+');
        size_t digits = strspn(p, "0123456789");
        if (!digits)
            return NULL;
        p += digits;
    }
    double value = strtod(s, NULL);
    return *p || !isfinite(value) ? NULL : json_real(value);
}

/* YAML 1.2 §10.3.2. */
static json_t *resolve(const char *s)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
    static const char *const trues[] = {"true", "True", "TRUE", NULL};
    static const char *const falses[] = {"false", "False", "FALSE", NULL};
    if (is_one_of(s, nulls))
        return json_null();
    if (is_one_of(s, trues) || is_one_of(s, falses))
        return json_boolean(is_one_of(s, trues));
    json_t *number = integer(s);
    if (!number)
        number = real(s);
    return number ? number : json_string(s);
}

static int scalar(struct loader *l, json_t **ret)
{
    const char *s = (const char *)l->event.data.scalar.value;
    const char *tag = (const char *)l->event.data.scalar.tag;
    size_t len = l->event.data.scalar.length;
    if (strlen(s) != len)
        return fail(l, ERR_INVALID, "text with a NUL character");
    bool is_text = !l->event.data.scalar.plain_implicit;
    if (tag && strcmp(tag, "!") != 0) {
        if (strcmp(tag, CORE_TAG "str") != 0)
            return fail(l, ERR_INVALID, "of the tags only !!str is understood");
        is_text = true;
    }
    *ret = is_text ? json_string(s) : resolve(s);
    return *ret ? 0 : fail(l, ERR_INVALID, "text that is not UTF-8");
}

/* --- collections ----------------------------------------------------------------------------- */

static int node(struct loader *l, const char *path, int depth, json_t **ret);

static int check_key(struct loader *l, const json_t *object)
{
    if (l->event.type != YAML_SCALAR_EVENT)
        return fail(l, ERR_INVALID, "a key must be plain text");
    const char *key = (const char *)l->event.data.scalar.value;
    if (strlen(key) != l->event.data.scalar.length)
        return fail(l, ERR_INVALID, "a key with a NUL character");
    if (strcmp(key, "<<") == 0 && l->event.data.scalar.plain_implicit)
        return fail(l, ERR_INVALID, "merge keys (<<) are not YAML 1.2 and not understood");
    if (json_object_get(object, key)) {
        l->error_line = line_of(l);
        return diag_set(l->d, ERR_INVALID, "the key '%.80s' occurs twice", key);
    }
    return 0;
}

static int mapping(struct loader *l, const char *path, int depth, json_t *object)
{
    for (;;) {
        TRY(next(l));
        if (l->event.type == YAML_MAPPING_END_EVENT)
            return 0;
        TRY(check_key(l, object));
        CLEANUP(mem_free) char *key = mem_strdup((const char *)l->event.data.scalar.value);
        CLEANUP(mem_free) char *longer = mem_printf("%s%s%s", path, *path ? "." : "", key);
        json_t *value = NULL;
        json_object_set_new(l->lines, longer, json_integer(line_of(l)));
        TRY(next(l));
        TRY(node(l, longer, depth, &value));
        if (json_object_set_new(object, key, value) < 0)
            return fail(l, ERR_INVALID, "a key that is not UTF-8");
    }
}

static int sequence(struct loader *l, const char *path, int depth, json_t *array)
{
    for (size_t i = 0;; i++) {
        TRY(next(l));
        if (l->event.type == YAML_SEQUENCE_END_EVENT)
            return 0;
        CLEANUP(mem_free) char *longer = mem_printf("%s[%zu]", path, i);
        json_t *value = NULL;
        json_object_set_new(l->lines, longer, json_integer(line_of(l)));
        TRY(node(l, longer, depth, &value));
        json_array_append_new(array, value);
    }
}

static int alias(struct loader *l, json_t **ret)
{
    const char *name = (const char *)l->event.data.alias.anchor;
    const json_t *known = json_object_get(l->anchors, name);
    if (!known)
        return fail(l, ERR_INVALID, "an alias to what is not defined before it");
    TRY(count(l, count_nodes(known)));
    *ret = json_deep_copy(known);
    return 0;
}

/* The value that begins with the present event; depth counts what is around it. */
static int node(struct loader *l, const char *path, int depth, json_t **ret)
{
    json_t *value = NULL;
    const yaml_char_t *anchor_name = NULL;
    int rc;
    TRY(count(l, 1));
    if (depth >= YAML_DEPTH_MAX)
        return fail(l, ERR_TOO_LARGE, "nested too deep");
    if (l->event.type == YAML_ALIAS_EVENT)
        return alias(l, ret);
    if (l->event.type == YAML_SCALAR_EVENT)
        anchor_name = l->event.data.scalar.anchor;
    else if (l->event.type == YAML_MAPPING_START_EVENT)
        anchor_name = l->event.data.mapping_start.anchor;
    else
        anchor_name = l->event.data.sequence_start.anchor;
    CLEANUP(mem_free) char *anchor = mem_strdup((const char *)anchor_name);
    if (l->event.type == YAML_SCALAR_EVENT) {
        rc = scalar(l, &value);
    } else if (l->event.type == YAML_MAPPING_START_EVENT) {
        value = json_object();
        rc = mapping(l, path, depth + 1, value);
    } else {
        value = json_array();
        rc = sequence(l, path, depth + 1, value);
    }
    if (rc < 0) {
        json_decref(value);
        return rc;
    }
    if (anchor)
        json_object_set_new(l->anchors, anchor, json_deep_copy(value));
    *ret = value;
    return 0;
}

/* --- documents ------------------------------------------------------------------------------- */

static int document(struct loader *l, size_t number,
                    int (*fn)(void *arg, const struct yaml_document *document), void *arg)
{
    json_t *value = NULL;
    TRY(next(l));
    unsigned line = line_of(l);
    json_object_clear(l->lines);
    json_object_clear(l->anchors);
    TRY(node(l, "", 0, &value));
    int rc = 0;
    if (!json_is_null(value))
        rc = fn(arg, &(struct yaml_document){value, l->lines, line, number});
    json_decref(value);
    TRY(rc);
    return next(l); /* the document's end */
}

static int stream(struct loader *l, int (*fn)(void *arg, const struct yaml_document *document),
                  void *arg)
{
    for (size_t number = 1;;) {
        TRY(next(l));
        if (l->event.type == YAML_STREAM_END_EVENT)
            return 0;
        if (l->event.type == YAML_DOCUMENT_START_EVENT)
            TRY(document(l, number++, fn, arg));
    }
}

int yaml_load(const char *text, size_t len,
              int (*fn)(void *arg, const struct yaml_document *document), void *arg,
              unsigned *error_line, struct diag *d)
{
    struct loader l = {.d = d};
    if (!yaml_parser_initialize(&l.parser))
        return diag_set(d, ERR_IO, "libyaml cannot be used");
    yaml_parser_set_input_string(&l.parser, (const unsigned char *)text, len);
    l.lines = json_object();
    l.anchors = json_object();
    int rc = stream(&l, fn, arg);
    if (l.has_event)
        yaml_event_delete(&l.event);
    yaml_parser_delete(&l.parser);
    json_decref(l.lines);
    json_decref(l.anchors);
    *error_line = l.error_line;
    return rc;
}
