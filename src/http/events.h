/*
 * The reading side of server-sent events (WHATWG HTML §9.2.6), without I/O.
 */
#pragma once

#include "base/buf.h"

#include <stdbool.h>

struct http_event {
    const char *id, *event, *data; /* "" when absent; `event` then is "message" */
};

#define HTTP_EVENT_MAX (1024 * 1024) /* bytes of one event's data, and of one line */

/* Zero-initialised is ready. */
struct http_event_reader {
    struct buf line, data, id, event;
    bool has_data, after_cr, past_first_line;
};

/* Calls `on_event` for each complete event; its non-zero result ends the reading and is the result.
 * ERR_TOO_LARGE for an event above the limit. */
int http_events_read(struct http_event_reader *r, const void *data, size_t len,
                     int (*on_event)(void *arg, const struct http_event *e), void *arg);
void http_events_done(struct http_event_reader *r);
