#include "base/log.h"

#include "base/buf.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINE_MAX_BYTES 8192
#define BEGINNING_SIZE 1024 /* of a value that is too long for its line */

static const char *const level_names[] = {"debug", "info", "warn", "error"};
static_assert(ARRAY_SIZE(level_names) == LOG_LEVEL_COUNT, "a name for each level");

/* Changed by a reload while other threads write. */
static struct {
    _Atomic enum log_level least;
    _Atomic enum log_format format;
    _Atomic int fd;
} sink = {LOG_LEVEL_INFO, LOG_FORMAT_TEXT, STDERR_FILENO};

void log_setup(enum log_level least, enum log_format format, int fd)
{
    sink.least = least;
    sink.format = format;
    sink.fd = fd;
}

bool log_enabled(enum log_level level)
{
    return level >= sink.least;
}

static void put_quoted(struct buf *line, const char *s)
{
    buf_puts(line, "\"");
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            buf_printf(line, "\\%c", c);
        else if (c < 0x20 || c == 0x7f)
            buf_printf(line, "\\u%04x", c);
        else
            buf_append(line, s, 1);
    }
    buf_puts(line, "\"");
}

/* Control characters could pass for another line, or tell a terminal to hide one. */
static bool is_plain(const char *s)
{
    for (const char *c = s; *c; c++) {
        if ((unsigned char)*c <= ' ' || *c == 0x7f || strchr("\"\\=", *c))
            return false;
    }
    return *s != '\0';
}

static void put_value(struct buf *line, const struct log_field *f, bool quote_always)
{
    if (f->type == LOG_FIELD_INT)
        buf_printf(line, "%" PRId64, f->num);
    else if (f->type == LOG_FIELD_BOOL)
        buf_puts(line, f->num ? "true" : "false");
    else if (!f->str)
        buf_puts(line, quote_always ? "null" : "-");
    else if (!quote_always && is_plain(f->str))
        buf_puts(line, f->str);
    else
        put_quoted(line, f->str);
}

/* Whole or, if it does not fit, as its beginning or not at all: a line that is cut is a good one
 * still. False: cut. */
static bool put_field(struct buf *line, const struct log_field *f, bool json)
{
    __attribute__((cleanup(buf_done_cleanup))) struct buf field = {0};
    char beginning[BEGINNING_SIZE];
    struct log_field part = *f;
    buf_printf(&field, json ? ",\"%s\":" : " %s=", f->key);
    size_t key_len = field.len;
    put_value(&field, f, json);
    if (buf_append(line, field.data, field.len) == 0)
        return true;
    if (f->type == LOG_FIELD_STR && f->str) {
        size_t len = strnlen(f->str, sizeof(beginning) - 1);
        while (len > 0 && ((unsigned char)f->str[len] & 0xc0) == 0x80)
            len--; /* not within a letter */
        memcpy(beginning, f->str, len);
        beginning[len] = '\0';
        part.str = beginning;
        field.len = key_len;
        put_value(&field, &part, json);
        (void)buf_append(line, field.data, field.len);
    }
    return false;
}

void log_write(enum log_level level, const char *text, const struct log_field *fields)
{
    __attribute__((cleanup(buf_done_cleanup))) struct buf line = {.limit = LINE_MAX_BYTES};
    char now[TIME_TEXT_SIZE];
    time_format(time_wall_ms(), now);
    bool json = sink.format == LOG_FORMAT_JSON;
    if (json) {
        buf_printf(&line, "{\"time\":\"%s\",\"level\":\"%s\",\"event\":", now, level_names[level]);
        put_quoted(&line, text);
    } else {
        buf_printf(&line, "%s %-5s %s", now, level_names[level], text);
    }
    bool is_cut = false;
    for (; fields->key; fields++)
        is_cut |= !put_field(&line, fields, json);
    line.limit = 0;
    if (is_cut)
        buf_puts(&line, json ? ",\"cut\":true" : " cut=true");
    buf_puts(&line, json ? "}\n" : "\n");
    ssize_t n = write(sink.fd, line.data, line.len);
    (void)n; /* there is nowhere to report that the log is gone */
}

void secret_set(struct secret *s, const void *data, size_t len)
{
    secret_done(s);
    s->data = mem_new(len + 1);
    memcpy(s->data, data, len);
    s->len = len;
}

void secret_done(struct secret *s)
{
    if (s->data) {
        explicit_bzero(s->data, s->len);
        free(s->data);
    }
    *s = (struct secret){0};
}
