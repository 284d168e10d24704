#include "http/events.h"

#include "base/error.h"
#include "base/macro.h"

#include <string.h>

static int dispatch(struct http_event_reader *r,
                    int (*on_event)(void *arg, const struct http_event *e), void *arg)
{
    if (!r->has_data) {
        buf_clear(&r->event);
        return 0;
    }
    struct http_event e = {.id = buf_text(&r->id),
                           .event = r->event.len ? buf_text(&r->event) : "message",
                           .data = buf_text(&r->data)};
    int rc = on_event(arg, &e);
    buf_clear(&r->event);
    buf_clear(&r->data);
    r->has_data = false;
    return rc;
}

static int take_field(struct http_event_reader *r, const char *name, const char *value)
{
    if (strcmp(name, "data") == 0) {
        if (r->has_data)
            TRY(buf_puts(&r->data, "\n"));
        r->has_data = true;
        r->data.limit = HTTP_EVENT_MAX;
        return buf_puts(&r->data, value);
    }
    struct buf *b = strcmp(name, "id") == 0 ? &r->id : &r->event;
    if (b == &r->event && strcmp(name, "event") != 0)
        return 0;
    buf_clear(b);
    return buf_puts(b, value);
}

static int take_line(struct http_event_reader *r,
                     int (*on_event)(void *arg, const struct http_event *e), void *arg)
{
    const char *text = buf_text(&r->line);
    if (!r->past_first_line && strncmp(text, "\xef\xbb\xbf", 3) == 0)
        text += 3;
    r->past_first_line = true;
    if (!*text)
        return dispatch(r, on_event, arg);
    char name[8] = "";
    size_t len = strcspn(text, ":");
    if (len == 0 || len >= sizeof(name))
        return 0; /* a comment, or nothing we know */
    memcpy(name, text, len);
    const char *value = text + len + (text[len] == ':');
    return take_field(r, name, value + (*value == ' '));
}

int http_events_read(struct http_event_reader *r, const void *data, size_t len,
                     int (*on_event)(void *arg, const struct http_event *e), void *arg)
{
    const char *at = data, *end = at + len;
    r->line.limit = HTTP_EVENT_MAX;
    while (at < end) {
        if (r->after_cr && *at == '\n') {
            r->after_cr = false;
            at++;
            continue;
        }
        r->after_cr = false;
        const char *stop = at;
        while (stop < end && *stop != '\r' && *stop != '\n')
            stop++;
        TRY(buf_append(&r->line, at, (size_t)(stop - at)));
        if (stop == end)
            return 0;
        r->after_cr = *stop == '\r';
        at = stop + 1;
        int rc = take_line(r, on_event, arg);
        buf_clear(&r->line);
        if (rc)
            return rc;
    }
    return 0;
}

void http_events_done(struct http_event_reader *r)
{
    buf_done(&r->line);
    buf_done(&r->data);
    buf_done(&r->id);
    buf_done(&r->event);
}
