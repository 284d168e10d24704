/* The types of settings: text into values and back. */
#include "conf/internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/text.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct type {
    size_t size;
    int (*set)(const struct conf_row *row, void *at, const char *text, struct diag *d);
    void (*format)(const struct conf_row *row, const void *at, char *out, size_t size);
    bool is_bare; /* in TOML: without quotes */
};

#define VALUE_TEXT_SIZE 320 /* a host and port, the longest of the formatted */

static int check_range(const struct conf_row *row, const char *text, uint64_t v, struct diag *d)
{
    char low[32], high[32];
    bool has_range = row->min || row->max;
    if (v <= INT64_MAX && (!has_range || ((int64_t)v >= row->min && (int64_t)v <= row->max)))
        return 0;
    if (!has_range)
        return diag_set(d, ERR_INVALID, "%.60s is too large", text);
    if (row->type == CONF_DURATION) {
        text_from_duration_ms(row->min, low, sizeof(low));
        text_from_duration_ms(row->max, high, sizeof(high));
    } else {
        snprintf(low, sizeof(low), "%" PRId64, row->min);
        snprintf(high, sizeof(high), "%" PRId64, row->max);
    }
    return diag_set(d, ERR_INVALID, "%.60s is not within %s to %s", text, low, high);
}

static int set_text(const struct conf_row *row, void *at, const char *text, struct diag *d)
{
    if (row->type == CONF_PATH && !*text)
        return diag_set(d, ERR_INVALID, "the path is empty");
    *(char **)at = mem_strdup(text);
    return 0;
}

static int set_int(const struct conf_row *row, void *at, const char *text, struct diag *d)
{
    uint64_t v;
    if (text_to_u64(text, UINT64_MAX, &v) < 0)
        return diag_set(d, ERR_INVALID, "'%.60s' is not a whole number", text);
    TRY(check_range(row, text, v, d));
    *(int64_t *)at = (int64_t)v;
    return 0;
}

static void format_int(const struct conf_row *row, const void *at, char *out, size_t size)
{
    snprintf(out, size, "%" PRId64, *(const int64_t *)at);
}

static int set_bool(const struct conf_row *row, void *at, const char *text, struct diag *d)
{
    if (text_to_bool(text, at) < 0)
        return diag_set(d, ERR_INVALID, "'%.60s' is neither true nor false", text);
    return 0;
}

static void format_bool(const struct conf_row *row, const void *at, char *out, size_t size)
{
    snprintf(out, size, "%s", *(const bool *)at ? "true" : "false");
}

static int set_duration(const struct conf_row *row, void *at, const char *text, struct diag *d)
{
    int64_t v;
    if (text_to_duration_ms(text, &v) < 0)
        return diag_set(d, ERR_INVALID, "'%.60s' is not a time such as 250ms, 30s, 15m, 24h, 7d",
                        text);
    TRY(check_range(row, text, (uint64_t)v, d));
    *(int64_t *)at = v;
    return 0;
}

static void format_duration(const struct conf_row *row, const void *at, char *out, size_t size)
{
    text_from_duration_ms(*(const int64_t *)at, out, size);
}

static int set_bytes(const struct conf_row *row, void *at, const char *text, struct diag *d)
{
    uint64_t v;
    if (text_to_bytes(text, &v) < 0)
        return diag_set(d, ERR_INVALID, "'%.60s' is not a size such as 4096, 64KiB, 8MiB, 1GiB",
                        text);
    TRY(check_range(row, text, v, d));
    *(uint64_t *)at = v;
    return 0;
}

static void format_bytes(const struct conf_row *row, const void *at, char *out, size_t size)
{
    static const char *const units[] = {"", "KiB", "MiB", "GiB"};
    uint64_t v = *(const uint64_t *)at;
    size_t unit = 0;
    while (v && v % 1024 == 0 && unit + 1 < ARRAY_SIZE(units)) {
        v /= 1024;
        unit++;
    }
    snprintf(out, size, "%" PRIu64 "%s", v, units[unit]);
}

static int set_enum(const struct conf_row *row, void *at, const char *text, struct diag *d)
{
    char known[200] = "";
    for (int i = 0; row->choices[i]; i++) {
        if (strcmp(text, row->choices[i]) == 0) {
            *(int *)at = i;
            return 0;
        }
        size_t n = strlen(known);
        snprintf(known + n, sizeof(known) - n, "%s%s", i ? ", " : "", row->choices[i]);
    }
    return diag_set(d, ERR_INVALID, "'%.60s' is none of %s", text, known);
}

static void format_enum(const struct conf_row *row, const void *at, char *out, size_t size)
{
    snprintf(out, size, "%s", row->choices[*(const int *)at]);
}

static int set_addr(const struct conf_row *row, void *at, const char *text, struct diag *d)
{
    return host_port_parse(text, true, at, d);
}

static void format_addr(const struct conf_row *row, const void *at, char *out, size_t size)
{
    host_port_format(at, out, size);
}

static const struct type types[] = {
    [CONF_STRING] = {sizeof(char *), set_text, NULL, false},
    [CONF_PATH] = {sizeof(char *), set_text, NULL, false},
    [CONF_LIST] = {sizeof(struct conf_list), NULL, NULL, false},
    [CONF_INT] = {sizeof(int64_t), set_int, format_int, true},
    [CONF_BOOL] = {sizeof(bool), set_bool, format_bool, true},
    [CONF_DURATION] = {sizeof(int64_t), set_duration, format_duration, false},
    [CONF_BYTES] = {sizeof(uint64_t), set_bytes, format_bytes, false},
    [CONF_ENUM] = {sizeof(int), set_enum, format_enum, false},
    [CONF_ADDR] = {sizeof(struct host_port), set_addr, format_addr, false},
};
static_assert(ARRAY_SIZE(types) == CONF_TYPE_COUNT, "a row for each type");

#define VALUE_SIZE_MAX sizeof(struct host_port)

static bool is_text(const struct conf_row *row)
{
    return row->type == CONF_STRING || row->type == CONF_PATH;
}

void conf_value_done(const struct conf_row *row, void *at)
{
    if (is_text(row)) {
        mem_free(*(char **)at);
    } else if (row->type == CONF_LIST) {
        struct conf_list *list = at;
        for (size_t i = 0; i < list->n; i++)
            mem_free(list->items[i]);
        mem_free(list->items);
    }
    memset(at, 0, types[row->type].size);
}

int conf_value_set(const struct conf_row *row, void *at, const char *const *items, size_t n,
                   struct diag *d)
{
    union {
        char bytes[VALUE_SIZE_MAX];
        struct conf_list list;
        int64_t align;
    } v = {{0}};
    assert(n == 1 || row->type == CONF_LIST);
    for (size_t i = 0; row->check && i < n; i++)
        TRY(row->check(items[i], d));
    if (row->type == CONF_LIST) {
        v.list.items = mem_new(n * sizeof(*v.list.items));
        for (; v.list.n < n; v.list.n++)
            v.list.items[v.list.n] = mem_strdup(items[v.list.n]);
    } else {
        TRY(types[row->type].set(row, &v, items[0], d));
    }
    conf_value_done(row, at);
    memcpy(at, &v, types[row->type].size);
    return 0;
}

bool conf_value_equal(const struct conf_row *row, const void *a, const void *b)
{
    if (is_text(row)) {
        const char *x = *(char *const *)a, *y = *(char *const *)b;
        return x == y || (x && y && strcmp(x, y) == 0);
    }
    if (row->type == CONF_LIST) {
        const struct conf_list *x = a, *y = b;
        for (size_t i = 0; x->n == y->n && i < x->n; i++) {
            if (strcmp(x->items[i], y->items[i]) != 0)
                return false;
        }
        return x->n == y->n;
    }
    char x[VALUE_TEXT_SIZE], y[VALUE_TEXT_SIZE];
    types[row->type].format(row, a, x, sizeof(x));
    types[row->type].format(row, b, y, sizeof(y));
    return strcmp(x, y) == 0;
}

void conf_value_swap(const struct conf_row *row, void *a, void *b)
{
    char t[VALUE_SIZE_MAX];
    memcpy(t, a, types[row->type].size);
    memcpy(a, b, types[row->type].size);
    memcpy(b, t, types[row->type].size);
}

static int put_quoted(struct buf *out, const char *s)
{
    TRY(buf_puts(out, "\""));
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            TRY(buf_printf(out, "\\%c", c));
        else if (c < 0x20 || c == 0x7f)
            TRY(buf_printf(out, "\\u%04X", c));
        else
            TRY(buf_append(out, s, 1));
    }
    return buf_puts(out, "\"");
}

static int dump_list(const struct conf_list *list, struct buf *out)
{
    TRY(buf_puts(out, "["));
    for (size_t i = 0; i < list->n; i++) {
        TRY(buf_puts(out, i ? ", " : ""));
        TRY(put_quoted(out, list->items[i]));
    }
    return buf_puts(out, "]");
}

int conf_value_dump(const struct conf_row *row, const void *at, struct buf *out)
{
    char text[VALUE_TEXT_SIZE];
    if (is_text(row))
        return put_quoted(out, *(char *const *)at ? *(char *const *)at : "");
    if (row->type == CONF_LIST)
        return dump_list(at, out);
    types[row->type].format(row, at, text, sizeof(text));
    return types[row->type].is_bare ? buf_puts(out, text) : put_quoted(out, text);
}

bool conf_value_is_unset(const struct conf_row *row, const void *at)
{
    if (row->type == CONF_ADDR)
        return !((const struct host_port *)at)->host[0];
    return is_text(row) && !*(char *const *)at;
}
