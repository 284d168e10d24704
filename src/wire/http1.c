/*
 * See the header. The flow of bytes: feed → (head) scan → llhttp → ops. llhttp only ever sees a
 * head whose line ends are all CRLF; the body goes to it directly.
 */
#include "wire/http1.h"

#include "base/error.h"
#include "base/macro.h"

#include <limits.h>
#include <string.h>
#include <strings.h>

/* Chunked bodies: bytes of framing (sizes, extensions, trailers) allowed beside the body. */
#define FRAMING_MIN      16384
#define FRAMING_PER_BYTE 8

static int refuse(struct http1 *p, int code, int status, const char *reason)
{
    p->refused = code;
    p->status = status;
    p->reason = reason;
    return code;
}

/* --- llhttp's callbacks ----------------------------------------------------------------------- */

static int on_target(llhttp_t *l, const char *at, size_t len)
{
    struct http1 *p = l->data;
    return buf_append(&p->value, at, len) < 0 ? HPE_USER : 0;
}

static int on_target_complete(llhttp_t *l)
{
    struct http1 *p = l->data;
    p->head.target = arena_strndup(&p->arena, buf_text(&p->value), p->value.len);
    buf_clear(&p->value);
    return 0;
}

static int on_field_name(llhttp_t *l, const char *at, size_t len)
{
    struct http1 *p = l->data;
    if (!p->in_head) /* a trailer: read over */
        return 0;
    return buf_append(&p->name, at, len) < 0 ? HPE_USER : 0;
}

static int on_field_value(llhttp_t *l, const char *at, size_t len)
{
    struct http1 *p = l->data;
    if (!p->in_head)
        return 0;
    return buf_append(&p->value, at, len) < 0 ? HPE_USER : 0;
}

static int on_field_complete(llhttp_t *l)
{
    struct http1 *p = l->data;
    if (!p->in_head)
        return 0;
    if (p->head.n_fields == p->limits.field_count) {
        refuse(p, ERR_TOO_LARGE, 431, "too many header fields");
        return HPE_USER;
    }
    if (!http_is_token(buf_text(&p->name)) || !http_value_is_safe(buf_text(&p->value))) {
        refuse(p, ERR_PROTO, 400, "malformed header field"); /* llhttp takes ": x" */
        return HPE_USER;
    }
    size_t end = p->value.len;
    while (end > 0 && (p->value.data[end - 1] == ' ' || p->value.data[end - 1] == '\t'))
        end--;
    if (!p->fields)
        p->fields = arena_alloc(&p->arena, p->limits.field_count * sizeof(*p->fields));
    p->fields[p->head.n_fields++] =
        (struct http_header){arena_strndup(&p->arena, buf_text(&p->name), p->name.len),
                             arena_strndup(&p->arena, buf_text(&p->value), end)};
    buf_clear(&p->name);
    buf_clear(&p->value);
    return 0;
}

static size_t count_field(const struct http1_head *h, const char *name)
{
    size_t n = 0;
    for (size_t i = 0; i < h->n_fields; i++)
        n += strcasecmp(h->fields[i].name, name) == 0;
    return n;
}

static int check_framing(struct http1 *p)
{
    const struct http1_head *h = &p->head;
    size_t n_te = count_field(h, "Transfer-Encoding");
    size_t n_cl = count_field(h, "Content-Length");
    if (n_te > 0 && (n_cl > 0 || n_te > 1 || h->minor == 0))
        return refuse(p, ERR_PROTO, 400, "ambiguous body length");
    if (n_cl > 1)
        return refuse(p, ERR_PROTO, 400, "more than one Content-Length");
    if (n_te > 0 &&
        strcasecmp(http_header_get(h->fields, h->n_fields, "Transfer-Encoding"), "chunked") != 0)
        return refuse(p, ERR_PROTO, 501, "transfer encoding not supported");
    return 0;
}

static int check_request(struct http1 *p)
{
    const struct http1_head *h = &p->head;
    size_t n_host = count_field(h, "Host");
    if (n_host > 1 || (n_host == 0 && h->minor == 1))
        return refuse(p, ERR_PROTO, 400, "exactly one Host header is required");
    const char *expect = http_header_get(h->fields, h->n_fields, "Expect");
    if (expect && strcasecmp(expect, "100-continue") != 0)
        return refuse(p, ERR_PROTO, 417, "expectation not supported");
    return 0;
}

static void describe(struct http1 *p)
{
    struct http1_head *h = &p->head;
    llhttp_t *l = &p->parser;
    h->fields = p->fields;
    h->minor = l->http_minor;
    h->keep_alive = llhttp_should_keep_alive(l);
    bool chunked = count_field(h, "Transfer-Encoding") > 0;
    bool told = count_field(h, "Content-Length") > 0;
    h->content_length =
        !chunked && told ? (int64_t)MIN(l->content_length, (uint64_t)INT64_MAX) : -1;
    h->has_body = chunked || h->content_length > 0;
    if (l->type == HTTP_REQUEST) {
        h->method = llhttp_method_name(l->method);
        h->expect_continue = h->minor == 1 && h->has_body &&
                             http_header_get(h->fields, h->n_fields, "Expect") != NULL;
    } else {
        h->status = l->status_code;
    }
}

static bool is_upgrade(const struct http1 *p)
{
    return p->may_upgrade && p->parser.status_code == 101;
}

static int on_headers_complete(llhttp_t *l)
{
    struct http1 *p = l->data;
    l->upgrade = 0; /* offers to upgrade are ignored (RFC 9110 §7.8) */
    if (l->http_major != 1 || l->http_minor > 1) {
        refuse(p, ERR_PROTO, 505, "HTTP version not supported");
        return HPE_USER;
    }
    describe(p);
    if (check_framing(p) < 0 || (l->type == HTTP_REQUEST && check_request(p) < 0))
        return HPE_USER;
    p->in_head = false;
    if (l->type == HTTP_RESPONSE && l->status_code < 200 && !is_upgrade(p)) {
        if (l->status_code == 101) {
            refuse(p, ERR_PROTO, 502, "unexpected change of protocol");
            return HPE_USER;
        }
        return 0;
    }
    int rc = p->ops->on_head(p, &p->head);
    if (rc < 0) {
        p->refused = rc;
        return HPE_USER;
    }
    return p->no_body ? 1 : 0;
}

static int on_body(llhttp_t *l, const char *at, size_t len)
{
    struct http1 *p = l->data;
    p->body_len += len;
    int rc = p->ops->on_body(p, at, len);
    if (rc < 0)
        p->refused = rc;
    return rc < 0 ? HPE_USER : 0;
}

static int on_message_complete(llhttp_t *l)
{
    struct http1 *p = l->data;
    p->ended = true;
    if (l->type == HTTP_REQUEST || l->status_code >= 200) {
        int rc = p->ops->on_end(p);
        if (rc < 0) {
            p->refused = rc;
            return HPE_USER;
        }
    }
    return HPE_PAUSED;
}

static const llhttp_settings_t *settings(void)
{
    static const llhttp_settings_t s = {
        .on_url = on_target,
        .on_url_complete = on_target_complete,
        .on_header_field = on_field_name,
        .on_header_value = on_field_value,
        .on_header_value_complete = on_field_complete,
        .on_headers_complete = on_headers_complete,
        .on_body = on_body,
        .on_message_complete = on_message_complete,
    };
    return &s;
}

/* --- the parser ------------------------------------------------------------------------------- */

static void begin(struct http1 *p, llhttp_type_t type)
{
    llhttp_init(&p->parser, type, settings());
    p->parser.data = p;
    p->head = (struct http1_head){.content_length = -1};
    p->fields = NULL;
    p->head_len = p->line_len = p->n_lines = 0;
    p->body_len = p->framing_len = 0;
    p->last = '\0';
    p->in_head = true;
    p->in_message = p->ended = false;
    buf_clear(&p->name);
    buf_clear(&p->value);
}

static void init(struct http1 *p, const struct http1_ops *ops, struct http1_limits limits,
                 llhttp_type_t type)
{
    *p = (struct http1){.ops = ops, .limits = limits};
    begin(p, type);
}

void http1_init_server(struct http1 *p, const struct http1_ops *ops, struct http1_limits limits)
{
    init(p, ops, limits, HTTP_REQUEST);
}

void http1_init_client(struct http1 *p, const struct http1_ops *ops, struct http1_limits limits)
{
    init(p, ops, limits, HTTP_RESPONSE);
}

void http1_done(struct http1 *p)
{
    arena_done(&p->arena);
    buf_done(&p->name);
    buf_done(&p->value);
}

static void next_head(struct http1 *p)
{
    arena_done(&p->arena);
    begin(p, p->parser.type);
}

void http1_next(struct http1 *p)
{
    p->no_body = p->may_upgrade = false;
    next_head(p);
}

void http1_expect_no_body(struct http1 *p)
{
    p->no_body = true;
}

void http1_expect_upgrade(struct http1 *p)
{
    p->may_upgrade = true;
}

struct arena http1_take_arena(struct http1 *p)
{
    struct arena a = p->arena;
    p->arena = (struct arena){0};
    return a;
}

static int scan_byte(struct http1 *p, char c, bool *end)
{
    if (++p->head_len > p->limits.head_bytes)
        return refuse(p, ERR_TOO_LARGE, p->n_lines == 0 ? 414 : 431,
                      p->n_lines == 0 ? "request line too long" : "header too large");
    bool bad = c == '\0' || (p->last == '\r') != (c == '\n');
    p->last = c;
    if (c == '\n') {
        *end = p->line_len == 0 && p->n_lines > 0;
        p->n_lines += p->line_len > 0;
        p->line_len = 0;
    } else if (c != '\r') {
        bad = bad || (p->line_len == 0 && p->n_lines > 0 && (c == ' ' || c == '\t'));
        p->line_len++;
        p->in_message = true;
    }
    return bad ? refuse(p, ERR_PROTO, 400, "malformed line in the header") : 0;
}

/* How many of these bytes belong to the head. */
static int64_t scan_head(struct http1 *p, const char *data, size_t len)
{
    bool end = false;
    size_t i = 0;
    while (i < len && !end)
        TRY(scan_byte(p, data[i++], &end));
    return (int64_t)i;
}

static int parse_error(struct http1 *p, llhttp_errno_t err)
{
    if (p->refused)
        return p->refused;
    switch (err) {
    case HPE_INVALID_METHOD:
        return refuse(p, ERR_PROTO, 501, "method not known");
    case HPE_INVALID_VERSION:
        return refuse(p, ERR_PROTO, 505, "HTTP version not supported");
    default:
        return refuse(p, ERR_PROTO, 400, llhttp_get_error_reason(&p->parser));
    }
}

/* One run of llhttp; returns the bytes it used. */
static int64_t execute(struct http1 *p, const char *data, size_t len)
{
    llhttp_errno_t err = llhttp_execute(&p->parser, data, len);
    if (err == HPE_OK)
        return (int64_t)len;
    if (err == HPE_PAUSED && p->ended)
        return llhttp_get_error_pos(&p->parser) - data;
    return parse_error(p, err);
}

static int64_t feed_body(struct http1 *p, const char *data, size_t len)
{
    uint64_t before = p->body_len;
    int64_t used = TRY(execute(p, data, len));
    p->framing_len += (uint64_t)used - (p->body_len - before);
    if (p->framing_len > FRAMING_MIN + p->body_len * FRAMING_PER_BYTE)
        return refuse(p, ERR_TOO_LARGE, 400, "too much framing around the body");
    return used;
}

int64_t http1_feed(struct http1 *p, const void *data, size_t len)
{
    const char *at = data;
    size_t used = 0;
    if (p->refused)
        return p->refused;
    while (used < len && !p->ended) {
        if (p->in_head) {
            size_t part = (size_t)TRY(scan_head(p, at + used, len - used));
            if (TRY(execute(p, at + used, part)) != (int64_t)part)
                return refuse(p, ERR_PROTO, 400, "malformed header");
            used += part;
        } else {
            used += (size_t)TRY(feed_body(p, at + used, len - used));
        }
        if (p->ended && p->parser.type == HTTP_RESPONSE && p->parser.status_code < 200 &&
            !is_upgrade(p))
            next_head(p); /* 100 Continue and its like; the real one follows */
    }
    return (int64_t)used;
}

int http1_finish(struct http1 *p)
{
    if (p->refused)
        return p->refused;
    if (p->ended || !p->in_message)
        return 0;
    llhttp_errno_t err = llhttp_finish(&p->parser);
    if (p->ended && !p->refused)
        return 0;
    if (err == HPE_OK)
        return refuse(p, ERR_PROTO, 400, "the message is cut short");
    return parse_error(p, err);
}

/* --- writing ---------------------------------------------------------------------------------- */

int http1_put_status(struct buf *b, int status)
{
    return buf_printf(b, "HTTP/1.1 %d %s\r\n", status, http_reason(status));
}

int http1_put_field(struct buf *b, const char *name, const char *value)
{
    return buf_printf(b, "%s: %s\r\n", name, value);
}

int http1_put_end(struct buf *b)
{
    return buf_puts(b, "\r\n");
}

int http1_put_chunk(struct buf *b, const void *data, size_t len)
{
    TRY(buf_printf(b, "%zx\r\n", len));
    TRY(buf_append(b, data, len));
    return buf_puts(b, "\r\n");
}
