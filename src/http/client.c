/*
 * The client: an exchange dials, sends one request, reads one answer, and closes. Its owner hears
 * of the end once; the memory goes when the connection is closed too.
 */
#include "http/client.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "net/dialer.h"
#include "wire/http1.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define CONNECT_MS     10000
#define TIMEOUT_MS     30000
#define REPLY_MAX      (16 * 1024 * 1024)
#define FILE_MAX       (1024 * 1024)
#define HEAD_BYTES_MAX (64 * 1024)
#define HEAD_COUNT_MAX 200

struct http_client {
    struct loop *loop;
    struct tls_client *tls;
    struct host_port target;
    char *authority, *prefix, *bearer;
    uint32_t connect_ms, timeout_ms;
    size_t reply_max;
    struct http_exchange *exchanges; /* that have not ended */
    size_t n_alive;                  /* also those whose connection still closes */
    bool is_freed;
};

struct http_exchange {
    struct http_client *client; /* NULL once it has ended */
    struct http_client *owner;
    struct loop *loop;
    struct http_exchange_ops ops;
    void *arg;
    struct dial *dial;
    struct conn *conn;
    struct http1 parser;
    struct buf out;
    size_t out_at;
    struct http_reply reply;
    struct timer timeout;
    bool has_head, is_connect;
    struct http_exchange *prev, *next;
};

/* --- set-up ----------------------------------------------------------------------------------- */

/* "https://host[:port][/prefix]" */
static int parse_url(struct http_client *c, const char *url, struct diag *d)
{
    static const char scheme[] = "https://";
    char text[HOST_SIZE + 16];
    if (strncmp(url, scheme, sizeof(scheme) - 1) != 0)
        return diag_set(d, ERR_INVALID, "%s: the URL must begin with https://", url);
    const char *host = url + sizeof(scheme) - 1;
    size_t len = strcspn(host, "/?#");
    const char *bracket = memchr(host, ']', len);
    bool has_port =
        memchr(bracket ? bracket : host, ':', len - (size_t)(bracket ? bracket - host : 0));
    if (len == 0 || len + 5 > sizeof(text) || memchr(host, '@', len))
        return diag_set(d, ERR_INVALID, "%s: there is no usable host in the URL", url);
    snprintf(text, sizeof(text), "%.*s%s", (int)len, host, has_port ? "" : ":443");
    TRY(host_port_parse(text, false, &c->target, d));
    c->authority = mem_strndup(host, len);
    size_t path_len = strcspn(host + len, "?#");
    while (path_len > 0 && host[len + path_len - 1] == '/')
        path_len--;
    c->prefix = mem_strndup(host + len, path_len);
    return 0;
}

static int read_file(const char *path, struct buf *ret, struct diag *d)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return diag_set(d, ERR_TLS, "%s: cannot be read (%m)", path);
    char part[4096];
    size_t n;
    int rc = 0;
    ret->limit = FILE_MAX;
    while (rc == 0 && (n = fread(part, 1, sizeof(part), f)) > 0)
        rc = buf_append(ret, part, n);
    if (rc == 0 && ferror(f))
        rc = ERR_IO;
    fclose(f);
    explicit_bzero(part, sizeof(part));
    return rc < 0 ? diag_set(d, ERR_TLS, "%s: cannot be read (%s)", path, error_text(rc)) : 0;
}

static int make_tls(struct http_client *c, const struct http_client_config *cfg, struct diag *d)
{
    struct buf ca = {0}, chain = {0}, key = {0};
    struct secret key_pem = {0};
    int rc = 0;
    if (cfg->ca_file)
        rc = read_file(cfg->ca_file, &ca, d);
    if (rc == 0 && cfg->cert_file)
        rc = read_file(cfg->cert_file, &chain, d);
    if (rc == 0 && cfg->key_file)
        rc = read_file(cfg->key_file, &key, d);
    if (rc == 0) {
        secret_set(&key_pem, buf_text(&key), key.len);
        const struct tls_client_config tls = {
            .ca_pem = cfg->ca_file ? buf_text(&ca) : cfg->ca_pem,
            .ca_pin = cfg->ca_sha256,
            .chain_pem = cfg->cert_file ? buf_text(&chain) : NULL,
            .key_pem = cfg->key_file ? &key_pem : NULL,
            .server_name = c->target.host,
            .insecure = cfg->insecure,
            .alpn = {cfg->alpn ? cfg->alpn : "http/1.1"},
        };
        rc = tls_client_new(&tls, &c->tls, d);
    }
    if (key.len > 0)
        explicit_bzero(key.data, key.len);
    secret_done(&key_pem);
    buf_done(&ca);
    buf_done(&chain);
    buf_done(&key);
    return rc;
}

int http_client_new(struct loop *l, const struct http_client_config *cfg, struct http_client **ret,
                    struct diag *d)
{
    struct http_client *c = NEW(struct http_client);
    c->loop = l;
    c->connect_ms = cfg->connect_ms ? cfg->connect_ms : CONNECT_MS;
    c->timeout_ms = cfg->timeout_ms ? cfg->timeout_ms : TIMEOUT_MS;
    c->reply_max = cfg->reply_max ? cfg->reply_max : REPLY_MAX;
    c->bearer = mem_strdup(cfg->bearer);
    int rc = parse_url(c, cfg->base_url, d);
    if (rc == 0 && c->bearer && !http_value_is_safe(c->bearer))
        rc = diag_set(d, ERR_INVALID, "the token has characters that no token has");
    if (rc == 0)
        rc = make_tls(c, cfg, d);
    if (rc < 0) {
        http_client_free(c);
        return rc;
    }
    *ret = c;
    return 0;
}

struct dial *http_client_dial(struct http_client *c,
                              void (*on_done)(void *arg, const struct dial_result *r), void *arg)
{
    return dial_start(c->loop, &(struct dial_params){.target = c->target,
                                                     .deadline_ms = c->connect_ms,
                                                     .tls = c->tls,
                                                     .on_done = on_done,
                                                     .arg = arg});
}

const char *http_client_authority(const struct http_client *c)
{
    return c->authority;
}

static void client_free_if_over(struct http_client *c)
{
    if (!c->is_freed || c->n_alive > 0)
        return;
    tls_client_unref(c->tls);
    if (c->bearer)
        explicit_bzero(c->bearer, strlen(c->bearer));
    mem_free(c->bearer);
    mem_free(c->authority);
    mem_free(c->prefix);
    mem_free(c);
}

void http_client_free(struct http_client *c)
{
    if (!c)
        return;
    c->n_alive++; /* while it is walked */
    c->is_freed = true;
    while (c->exchanges)
        http_exchange_cancel(c->exchanges);
    c->n_alive--;
    client_free_if_over(c);
}

bool http_client_is_idle(const struct http_client *c)
{
    return c->n_alive == 0;
}

/* --- the end of an exchange ------------------------------------------------------------------- */

static void exchange_free(struct http_exchange *x)
{
    http1_done(&x->parser);
    http_reply_done(&x->reply);
    if (x->out.len > 0) /* may hold a token */
        explicit_bzero(x->out.data, x->out.len);
    buf_done(&x->out);
    x->owner->n_alive--;
    client_free_if_over(x->owner);
    mem_free(x);
}

/* Nothing is told any more; the memory goes with the connection. */
static void detach(struct http_exchange *x)
{
    DL_DELETE(x->client->exchanges, x);
    x->client = NULL;
    timer_stop(&x->timeout);
}

static void fail(struct http_exchange *x, const struct diag *d)
{
    detach(x);
    if (x->ops.done)
        x->ops.done(x->arg, NULL, d);
    if (x->conn)
        conn_abort(x->conn, ERR_CANCELED);
    else
        exchange_free(x);
}

static void succeed(struct http_exchange *x)
{
    struct diag ok = {0};
    detach(x);
    if (x->ops.done)
        x->ops.done(x->arg, &x->reply, &ok);
    conn_close(x->conn);
}

void http_exchange_cancel(struct http_exchange *x)
{
    detach(x);
    if (x->dial)
        dial_cancel(x->dial);
    if (x->conn)
        conn_abort(x->conn, ERR_CANCELED);
    else
        exchange_free(x);
}

static void on_timeout(struct timer *t)
{
    struct http_exchange *x = container_of(t, struct http_exchange, timeout);
    struct diag d = {0};
    diag_set(&d, ERR_TIMEOUT, "%s did not answer within %u ms", x->client->authority,
             x->client->timeout_ms);
    fail(x, &d);
}

/* --- the answer ------------------------------------------------------------------------------- */

/* One block: the array, then the strings. */
static struct http_header *copy_headers(const struct http_header *from, size_t n)
{
    size_t size = (n + 1) * sizeof(*from);
    for (size_t i = 0; i < n; i++)
        size += strlen(from[i].name) + strlen(from[i].value) + 2;
    struct http_header *to = mem_new(size);
    char *at = (char *)(to + n + 1);
    for (size_t i = 0; i < n; i++) {
        to[i].name = at;
        at = stpcpy(at, from[i].name) + 1;
        to[i].value = at;
        at = stpcpy(at, from[i].value) + 1;
    }
    return to;
}

static int on_head(struct http1 *p, const struct http1_head *head)
{
    struct http_exchange *x = container_of(p, struct http_exchange, parser);
    x->has_head = true;
    if (x->is_connect && head->status / 100 == 2)
        http1_expect_no_body(p);
    x->reply.status = head->status;
    x->reply.headers = copy_headers(head->fields, head->n_fields);
    x->reply.body.limit = x->client->reply_max;
    return x->ops.on_head ? x->ops.on_head(x->arg, &x->reply) : 0;
}

static int on_body(struct http1 *p, const void *data, size_t len)
{
    struct http_exchange *x = container_of(p, struct http_exchange, parser);
    if (!x->ops.on_data)
        return buf_append(&x->reply.body, data, len);
    timer_start(&x->timeout, x->client->timeout_ms);
    return x->ops.on_data(x->arg, data, len);
}

static int on_message_end(struct http1 *p)
{
    return 0;
}

static const struct http1_ops parser_ops = {on_head, on_body, on_message_end};

static void fail_reading(struct http_exchange *x, int code)
{
    struct diag d = {0};
    const char *who = x->client->authority;
    if (x->parser.reason)
        diag_set(&d, code, "the answer of %s is not proper HTTP: %s", who, x->parser.reason);
    else if (code == ERR_TOO_LARGE)
        diag_set(&d, code, "the answer of %s is larger than %zu bytes", who, x->client->reply_max);
    else
        diag_set(&d, code, "%s", error_text(code)); /* the caller's own refusal */
    fail(x, &d);
}

/* --- the connection --------------------------------------------------------------------------- */

static void become_tunnel(struct http_exchange *x)
{
    struct conn *c = TAKE(x->conn);
    detach(x);
    conn_pause(c);
    x->ops.on_tunnel(x->arg, c);
    exchange_free(x);
}

static size_t on_data(void *arg, const uint8_t *data, size_t len)
{
    struct http_exchange *x = arg;
    if (!x->client)
        return len;
    int64_t n = http1_feed(&x->parser, data, len);
    if (!x->client) /* a callback cancelled it */
        return len;
    if (n < 0)
        fail_reading(x, (int)n);
    else if (x->parser.ended && x->is_connect && x->reply.status / 100 == 2) {
        become_tunnel(x);
        return (size_t)n;
    } else if (x->parser.ended)
        succeed(x);
    return len;
}

static void fail_closed(struct http_exchange *x, int err)
{
    struct diag d = {0};
    const struct diag *told = conn_diag(x->conn);
    if (err != ERR_CLOSED && told && told->code)
        d = *told;
    else
        diag_set(&d, err ? err : ERR_CLOSED, "%s closed the connection before its answer was there",
                 x->client->authority);
    fail(x, &d);
}

static void on_end(void *arg)
{
    struct http_exchange *x = arg;
    if (!x->client)
        return;
    int rc = http1_finish(&x->parser);
    if (!x->client)
        return;
    if (rc == 0 && x->has_head)
        succeed(x);
    else
        fail_closed(x, ERR_CLOSED);
}

static size_t on_fill(void *arg, uint8_t *out, size_t cap)
{
    struct http_exchange *x = arg;
    size_t n = MIN(cap, x->out.len - x->out_at);
    if (n > 0)
        memcpy(out, x->out.data + x->out_at, n);
    x->out_at += n;
    return n;
}

static void on_close(void *arg, int err)
{
    struct http_exchange *x = arg;
    if (x->client)
        fail_closed(x, err); /* aborting a closed connection changes nothing */
    x->conn = NULL;
    exchange_free(x);
}

static const struct conn_ops conn_ops = {
    .on_data = on_data, .on_end = on_end, .on_fill = on_fill, .on_close = on_close};

static void on_dialled(void *arg, const struct dial_result *r)
{
    struct http_exchange *x = arg;
    x->dial = NULL;
    if (r->err) {
        fail(x, &r->diag);
        return;
    }
    x->conn = r->conn;
    timer_start(&x->timeout, x->client->timeout_ms);
    conn_start(x->conn, &conn_ops, x);
    conn_wake(x->conn);
}

/* --- the request ------------------------------------------------------------------------------ */

static void write_request(struct http_client *c, const struct http_ask *ask, struct buf *out)
{
    const char *method = ask->method ? ask->method : ask->body ? "POST" : "GET";
    bool is_connect = strcmp(method, "CONNECT") == 0;
    buf_printf(out, "%s %s%s HTTP/1.1\r\n", method, is_connect ? "" : c->prefix, ask->path);
    http1_put_field(out, "Host", is_connect ? ask->path : c->authority);
    http1_put_field(out, "User-Agent", "warren/" WARREN_VERSION);
    if (!is_connect)
        http1_put_field(out, "Connection", "close");
    if (c->bearer)
        buf_printf(out, "Authorization: Bearer %s\r\n", c->bearer);
    if (ask->content_type)
        http1_put_field(out, "Content-Type", ask->content_type);
    if (ask->body || strcmp(method, "POST") == 0 || strcmp(method, "PUT") == 0)
        buf_printf(out, "Content-Length: %zu\r\n", ask->body_len);
    for (const struct http_header *h = ask->headers; h && h->name; h++)
        http1_put_field(out, h->name, h->value);
    http1_put_end(out);
    buf_append(out, ask->body, ask->body_len);
}

struct http_exchange *http_client_start(struct http_client *c, const struct http_ask *ask,
                                        const struct http_exchange_ops *ops, void *arg)
{
    struct http_exchange *x = NEW(struct http_exchange);
    x->client = x->owner = c;
    c->n_alive++;
    x->loop = c->loop;
    x->ops = *ops;
    x->arg = arg;
    timer_init(&x->timeout, c->loop, on_timeout);
    http1_init_client(&x->parser, &parser_ops,
                      (struct http1_limits){HEAD_BYTES_MAX, HEAD_COUNT_MAX});
    x->is_connect = ask->method && strcmp(ask->method, "CONNECT") == 0;
    if (ask->method && strcmp(ask->method, "HEAD") == 0)
        http1_expect_no_body(&x->parser);
    write_request(c, ask, &x->out);
    DL_APPEND(c->exchanges, x);
    x->dial = http_client_dial(c, on_dialled, x);
    return x;
}
