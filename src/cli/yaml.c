/* JSON values as a YAML 1.2 document, through libyaml's emitter. */
#include "cli/output.h"

#include "base/error.h"
#include "base/macro.h"

#include <string.h>
#include <strings.h>
#include <yaml.h>

static int write_file(void *arg, unsigned char *data, size_t len)
{
    return fwrite(data, 1, len, arg) == len;
}

/* Strings that some reader of YAML (1.1 too) takes for another type are put in quotes. */
static bool is_ambiguous(const char *s)
{
    static const char *const words[] = {"null", "true", "false", "yes",  "no",   "on",   "off",
                                        "y",    "n",    "~",     ".inf", ".nan", "-.inf"};
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        if (strcasecmp(s, words[i]) == 0)
            return true;
    return !*s || strchr("0123456789+-.<=", *s) != NULL;
}

static yaml_scalar_style_t style_of(const char *s)
{
    if (is_ambiguous(s))
        return YAML_DOUBLE_QUOTED_SCALAR_STYLE;
    return strchr(s, '\n') ? YAML_LITERAL_SCALAR_STYLE : YAML_PLAIN_SCALAR_STYLE;
}

static int scalar(yaml_emitter_t *e, const char *text, size_t len, yaml_scalar_style_t style)
{
    yaml_event_t event;
    yaml_scalar_event_initialize(&event, NULL, NULL, (const yaml_char_t *)text, (int)len, 1, 1,
                                 style);
    return yaml_emitter_emit(e, &event);
}

static int plain(yaml_emitter_t *e, const char *text)
{
    return scalar(e, text, strlen(text), YAML_PLAIN_SCALAR_STYLE);
}

static int emit(yaml_emitter_t *e, const json_t *value);

static int emit_object(yaml_emitter_t *e, const json_t *value)
{
    yaml_event_t event;
    const char *key;
    json_t *member;
    yaml_mapping_style_t style =
        json_object_size(value) ? YAML_BLOCK_MAPPING_STYLE : YAML_FLOW_MAPPING_STYLE;
    yaml_mapping_start_event_initialize(&event, NULL, NULL, 1, style);
    if (!yaml_emitter_emit(e, &event))
        return 0;
    json_object_foreach ((json_t *)value, key, member) {
        if (!scalar(e, key, strlen(key), style_of(key)) || !emit(e, member))
            return 0;
    }
    yaml_mapping_end_event_initialize(&event);
    return yaml_emitter_emit(e, &event);
}

static int emit_array(yaml_emitter_t *e, const json_t *value)
{
    yaml_event_t event;
    size_t i;
    json_t *item;
    yaml_sequence_style_t style =
        json_array_size(value) ? YAML_BLOCK_SEQUENCE_STYLE : YAML_FLOW_SEQUENCE_STYLE;
    yaml_sequence_start_event_initialize(&event, NULL, NULL, 1, style);
    if (!yaml_emitter_emit(e, &event))
        return 0;
    json_array_foreach (value, i, item) {
        if (!emit(e, item))
            return 0;
    }
    yaml_sequence_end_event_initialize(&event);
    return yaml_emitter_emit(e, &event);
}

static int emit(yaml_emitter_t *e, const json_t *value)
{
    char number[64];
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return emit_object(e, value);
    case JSON_ARRAY:
        return emit_array(e, value);
    case JSON_STRING:
        return scalar(e, json_string_value(value), json_string_length(value),
                      style_of(json_string_value(value)));
    case JSON_INTEGER:
        snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        return plain(e, number);
    case JSON_REAL:
        snprintf(number, sizeof(number), "%.17g", json_real_value(value));
        return plain(e, number);
    case JSON_TRUE:
        return plain(e, "true");
    case JSON_FALSE:
        return plain(e, "false");
    default:
        return plain(e, "null");
    }
}

int yaml_write(FILE *out, const json_t *value, bool is_one_of_many)
{
    yaml_emitter_t e;
    yaml_event_t event;
    if (!yaml_emitter_initialize(&e))
        return ERR_IO;
    yaml_emitter_set_output(&e, write_file, out);
    yaml_emitter_set_unicode(&e, 1);
    yaml_emitter_set_width(&e, -1);
    yaml_stream_start_event_initialize(&event, YAML_UTF8_ENCODING);
    int ok = yaml_emitter_emit(&e, &event);
    yaml_document_start_event_initialize(&event, NULL, NULL, NULL, !is_one_of_many);
    ok = ok && yaml_emitter_emit(&e, &event) && emit(&e, value);
    yaml_document_end_event_initialize(&event, 1);
    ok = ok && yaml_emitter_emit(&e, &event);
    yaml_stream_end_event_initialize(&event);
    ok = ok && yaml_emitter_emit(&e, &event);
    yaml_emitter_delete(&e);
    return ok ? 0 : ERR_IO;
}
