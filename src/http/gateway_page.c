/*
 * What the gateway answers by itself: refusals and failures, as a page for a browser and as
 * problem+json (RFC 9457) for everything else. They tell the reason, and what it is that failed.
 */
#include "http/gateway_internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "net/conn.h"
#include "wire/proxy_status.h"

#include <stdio.h>
#include <string.h>

#define PAGE_HEADERS 16

static const char page[] =
    "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">"
    "<meta name=\"viewport\" content=\"width=device-width\"><title>%d %s</title>"
    "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:36em;margin:15vh auto;padding:0 1em}"
    "h1{font-size:1.4em}p{color:#555}</style><h1>%d %s</h1><p>%s</p><p><small>%s</small></p>\n";

void gateway_page_answer(struct gateway_exchange *x, int status, const char *content_type,
                         const char *body, const struct http_header *headers)
{
    char date[40];
    struct http_header out[PAGE_HEADERS];
    size_t n = 0, len = body ? strlen(body) : 0;
    x->gateway->stats.status_class[(unsigned)status / 100 % 6]++;
    if (x->stream)
        gateway_stream_drop(TAKE(x->stream), ERR_CANCELED);
    if (!x->side) {
        gateway_exchange_end(x);
        return;
    }
    out[n++] = (struct http_header){"date", http_date(x->gateway->loop, date)};
    out[n++] = (struct http_header){"cache-control", "no-store"};
    out[n++] = (struct http_header){"x-content-type-options", "nosniff"};
    if (content_type)
        out[n++] = (struct http_header){"content-type", content_type};
    for (; headers && headers->name && n < PAGE_HEADERS; headers++)
        out[n++] = *headers;
    bool has_body = len > 0 && !x->is_head;
    x->step = EXCHANGE_ANSWERED;
    x->ops->begin(x, status, out, n, has_body, (int64_t)len);
    if (has_body)
        x->ops->send(x, body, len);
    x->ops->finish(x);
    gateway_exchange_end(x);
}

/* Text of ours and host names only: nothing in it needs to be escaped but what JSON and HTML have
 * in common. */
static void write_safe(struct buf *out, const char *text)
{
    for (; *text; text++) {
        if (strchr("<>&\"\\", *text) || (unsigned char)*text < ' ')
            buf_puts(out, "'");
        else
            buf_append(out, text, 1);
    }
}

static void explain(struct gateway_exchange *x, int status, int code, const char *reason,
                    const struct http_header *headers)
{
    CLEANUP(buf_done) struct buf body = {0}, safe = {0};
    const char *accept = http_header_get(x->fields, x->n_fields, "accept");
    bool is_html = accept && http_value_has(accept, "text/html");
    write_safe(&safe, reason);
    if (is_html)
        buf_printf(&body, page, status, http_reason(status), status, http_reason(status),
                   buf_text(&safe), x->host);
    else
        buf_printf(&body,
                   "{\"type\":\"urn:warren:error:%s\",\"title\":\"%s\",\"status\":%d,"
                   "\"detail\":\"%s\"}\n",
                   error_name(code), error_text(code), status, buf_text(&safe));
    gateway_page_answer(x, status,
                        is_html ? "text/html; charset=utf-8" : "application/problem+json",
                        buf_text(&body), headers);
}

void gateway_page_error(struct gateway_exchange *x, int err, const char *reason)
{
    char proxy_status[PROXY_STATUS_SIZE];
    int status = proxy_status_format(err, proxy_status);
    if (status < 500 && !x->gateway->is_forward)
        status = 502; /* it is not the client's fault that the target may not be reached */
    struct http_header headers[] = {
        {"proxy-status", proxy_status}, {status == 503 ? "retry-after" : NULL, "1"}, {NULL, NULL}};
    explain(x, status, err, reason && *reason ? reason : error_text(err), headers);
}

void gateway_page_refuse(struct gateway_exchange *x, int status, const char *reason,
                         const struct http_header *headers)
{
    int code = status == 503                    ? ERR_LIMIT
               : status == 408                  ? ERR_TIMEOUT
               : status == 413                  ? ERR_TOO_LARGE
               : status == 401                  ? ERR_UNAUTHENTICATED
               : status == 404                  ? ERR_NOT_FOUND
               : status == 403 || status == 421 ? ERR_DENIED
                                                : ERR_INVALID;
    explain(x, status, code, reason, headers);
}
