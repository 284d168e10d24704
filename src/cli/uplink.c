/*
 * A line is one connection: dialled, then asked "OPTIONS *", which shows at once whether the token
 * and the network are good; only then does it take streams.
 */
#include "cli/uplink.h"

#include "base/backoff.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/text.h"
#include "net/dialer.h"
#include "net/h2conn.h"
#include "wire/proxy_status.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define LINE_ALPN "warren-client/1"
#define LINES_MAX 4
#define LINE_BUSY 24 /* streams, from which on another line is wanted */
#define WAIT_MS   10000
#define CHECK_MS  10000
#define AGAIN_MS  500
#define AGAIN_MAX 10000
#define LEAVE_MS  (3600 * 1000) /* for the streams of a hub that says goodbye */

struct line {
    struct uplink *uplink;
    struct dial *dial;
    struct h2conn *hc;
    struct timer check;
    bool is_good, is_leaving;
    int status; /* of the check; 0: no answer yet */
    char field[256];
    struct line *prev, *next;
};

struct uplink {
    struct loop *loop;
    struct http_client *http;
    char *authorization;
    struct h2_header headers[1];
    uint32_t stream_window, stream_window_max;
    void (*on_state)(void *arg);
    void *arg;
    enum uplink_state state;
    struct diag reason;
    struct backoff backoff;
    struct timer again;
    struct line *lines;
    size_t n_lines;
    struct uplink_waiter *waiters;
    bool was_up, is_closing;
};

static void add_line(struct uplink *u);

static void set_state(struct uplink *u, enum uplink_state state)
{
    if (u->is_closing || (u->state == state && state == UPLINK_UP))
        return;
    u->state = state;
    u->on_state(u->arg);
}

/* ---- waiting ---- */

static void end_wait(struct uplink_waiter *w, struct h2conn *hc, int err)
{
    uplink_wait_cancel(w);
    w->fn(w, hc, err);
}

static void serve_waiters(struct uplink *u)
{
    struct h2conn *hc;
    while (u->waiters && (hc = uplink_pick(u)))
        end_wait(u->waiters, hc, 0);
}

static void on_wait_over(struct timer *t)
{
    struct uplink_waiter *w = container_of(t, struct uplink_waiter, deadline);
    end_wait(w, NULL, w->uplink->reason.code ? w->uplink->reason.code : ERR_UNAVAILABLE);
}

static void on_wait_now(struct timer *t)
{
    struct uplink_waiter *w = container_of(t, struct uplink_waiter, deadline);
    timer_init(t, w->uplink->loop, on_wait_over);
    timer_start(t, WAIT_MS);
    serve_waiters(w->uplink);
}

void uplink_wait(struct uplink *u, struct uplink_waiter *w)
{
    w->uplink = u;
    timer_init(&w->deadline, u->loop, on_wait_now);
    timer_start(&w->deadline, 0);
    DL_APPEND(u->waiters, w);
}

void uplink_wait_cancel(struct uplink_waiter *w)
{
    if (!w->uplink)
        return;
    timer_stop(&w->deadline);
    DL_DELETE(w->uplink->waiters, w);
    w->uplink = NULL;
}

/* ---- lines ---- */

static bool is_usable(const struct line *l)
{
    return l->is_good && !l->is_leaving && l->hc && !h2conn_is_ending(l->hc);
}

struct h2conn *uplink_pick(struct uplink *u)
{
    struct line *l, *best = NULL;
    size_t least = SIZE_MAX, n;
    bool grows = false;
    DL_FOREACH (u->lines, l) {
        grows |= !l->is_good;
        if (!is_usable(l) || (n = h2_stream_count(h2conn_session(l->hc))) >= least ||
            n >= h2_peer_max_streams(h2conn_session(l->hc)))
            continue;
        best = l;
        least = n;
    }
    if (best && least >= LINE_BUSY && !grows && u->n_lines < LINES_MAX)
        add_line(u);
    return best ? best->hc : NULL;
}

static void on_again(struct timer *t)
{
    add_line(container_of(t, struct uplink, again));
}

/* A line is gone, or says goodbye: is another one left, or coming? */
static void replace(struct uplink *u)
{
    struct line *l;
    DL_FOREACH (u->lines, l) {
        if (is_usable(l) || !l->is_good)
            return;
    }
    if (u->is_closing || u->state == UPLINK_REFUSED || timer_is_running(&u->again))
        return;
    timer_start(&u->again, backoff_next(&u->backoff));
    set_state(u, UPLINK_DOWN);
}

static void remove_line(struct line *l)
{
    struct uplink *u = l->uplink;
    timer_stop(&l->check);
    DL_DELETE(u->lines, l);
    u->n_lines--;
    mem_free(l);
    replace(u);
}

/* ---- the check ---- */

static void on_check_headers(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    struct line *l = arg;
    const char *field = h2_headers_get(h, "proxy-status");
    l->status = h2_headers_status(h);
    snprintf(l->field, sizeof(l->field), "%s", field ? field : "");
}

/* The text of the parameter "details". */
static void read_details(const char *field, int err, struct diag *d)
{
    static const char name[] = "details=\"";
    const char *details = strstr(field, name);
    details = details ? details + strlen(name) : error_text(err);
    diag_set(d, err, "%.*s", (int)strcspn(details, "\""), details);
}

static void refused(struct line *l)
{
    struct uplink *u = l->uplink;
    int err = l->status == 407 ? ERR_UNAUTHENTICATED : proxy_status_parse(l->status, l->field);
    read_details(l->field, err, &u->reason);
    bool is_final = !u->was_up && (err == ERR_UNAUTHENTICATED || err == ERR_NOT_FOUND);
    h2conn_abort(l->hc, ERR_CANCELED);
    if (is_final)
        set_state(u, UPLINK_REFUSED);
}

static void on_check_close(void *arg, struct h2_stream *s, uint32_t error)
{
    struct line *l = arg;
    struct uplink *u = l->uplink;
    timer_stop(&l->check);
    if (u->is_closing || h2conn_is_ending(l->hc))
        return;
    if (l->status / 100 != 2) {
        refused(l);
        return;
    }
    l->is_good = u->was_up = true;
    u->reason = (struct diag){0};
    backoff_reset(&u->backoff);
    set_state(u, UPLINK_UP);
    serve_waiters(u);
}

static const struct h2_stream_ops check_ops = {.on_headers = on_check_headers,
                                               .on_close = on_check_close};

static void on_check_late(struct timer *t)
{
    struct line *l = container_of(t, struct line, check);
    diag_set(&l->uplink->reason, ERR_TIMEOUT, "%s does not answer", uplink_hub(l->uplink));
    h2conn_abort(l->hc, ERR_TIMEOUT);
}

static void start_check(struct line *l)
{
    struct uplink *u = l->uplink;
    struct h2_stream *s;
    const struct h2_header headers[] = {{":method", "OPTIONS"},
                                        {":scheme", "https"},
                                        {":authority", uplink_hub(u)},
                                        {":path", "*"},
                                        {"user-agent", "warren/" WARREN_VERSION},
                                        u->headers[0]};
    timer_start(&l->check, CHECK_MS);
    if (h2_request(h2conn_session(l->hc), headers, ARRAY_SIZE(headers), false, &check_ops, l, &s) <
        0)
        h2conn_abort(l->hc, ERR_LIMIT);
}

/* ---- the connection ---- */

static void on_goaway(void *arg, uint32_t error)
{
    struct line *l = arg;
    struct uplink *u = l->uplink;
    if (l->is_leaving)
        return;
    l->is_leaving = true;
    diag_set(&u->reason, ERR_UNAVAILABLE, "%s is about to stop", uplink_hub(u));
    h2conn_shutdown(l->hc, LEAVE_MS);
    replace(u);
}

static void on_close(void *arg, int err)
{
    struct line *l = arg;
    struct uplink *u = l->uplink;
    const struct diag *told = conn_diag(h2conn_conn(l->hc));
    if (!u->reason.code) {
        if (told && told->code)
            u->reason = *told;
        else
            diag_set(&u->reason, err ? err : ERR_CLOSED, "the connection to %s was lost",
                     uplink_hub(u));
    }
    l->hc = NULL;
    remove_line(l);
}

static const struct h2conn_ops line_ops = {.on_goaway = on_goaway, .on_close = on_close};

static void ignore_close(void *arg, int err)
{
}

static const struct conn_ops nobody = {.on_close = ignore_close};

static void on_dialled(void *arg, const struct dial_result *r)
{
    struct line *l = arg;
    struct uplink *u = l->uplink;
    const struct h2conn_config cfg = {.h2 = {.peer_is_trusted = true,
                                             .stream_window = u->stream_window,
                                             .stream_window_max = u->stream_window_max}};
    l->dial = NULL;
    if (r->err == 0 && strcmp(conn_alpn(r->conn), LINE_ALPN) == 0) {
        u->reason = (struct diag){0};
        l->hc = h2conn_new(r->conn, &cfg, &line_ops, l);
        start_check(l);
        return;
    }
    if (r->err == 0) {
        diag_set(&u->reason, ERR_PROTO, "%s is no hub, or one of an older version", uplink_hub(u));
        conn_start(r->conn, &nobody, NULL);
        conn_abort(r->conn, ERR_CANCELED);
    } else {
        u->reason = r->diag;
    }
    remove_line(l);
}

static void add_line(struct uplink *u)
{
    struct line *l = NEW(struct line);
    l->uplink = u;
    timer_init(&l->check, u->loop, on_check_late);
    DL_APPEND(u->lines, l);
    u->n_lines++;
    l->dial = http_client_dial(u->http, on_dialled, l);
}

/* ---- its life ---- */

char *uplink_authorization(const char *network, const char *token)
{
    CLEANUP(mem_free) char *plain = mem_printf("%s:%s", network, token ? token : "");
    size_t len = strlen(plain), size = BASE64_SIZE(len);
    CLEANUP(mem_free) char *coded = mem_new(size);
    text_base64(plain, len, coded, size);
    char *value = mem_printf("Basic %s", coded);
    explicit_bzero(plain, len);
    explicit_bzero(coded, size);
    return value;
}

int uplink_new(const struct uplink_config *cfg, struct uplink **ret, struct diag *d)
{
    struct http_client_config http = *cfg->http;
    struct http_client *client;
    http.alpn = LINE_ALPN;
    http.bearer = NULL;
    TRY(http_client_new(cfg->loop, &http, &client, d));
    struct uplink *u = NEW(struct uplink);
    u->loop = cfg->loop;
    u->http = client;
    u->stream_window = cfg->stream_window;
    u->stream_window_max = cfg->stream_window_max;
    u->on_state = cfg->on_state;
    u->arg = cfg->arg;
    u->backoff = (struct backoff){.first_ms = AGAIN_MS, .max_ms = AGAIN_MAX};
    u->authorization = uplink_authorization(cfg->network, cfg->http->bearer);
    u->headers[0] = (struct h2_header){"proxy-authorization", u->authorization};
    timer_init(&u->again, u->loop, on_again);
    add_line(u);
    *ret = u;
    return 0;
}

void uplink_close(struct uplink *u)
{
    struct line *l, *next;
    u->is_closing = true;
    timer_stop(&u->again);
    DL_FOREACH_SAFE (u->lines, l, next) {
        if (l->hc) {
            h2conn_abort(l->hc, ERR_CANCELED);
        } else {
            dial_cancel(l->dial);
            remove_line(l);
        }
    }
}

bool uplink_is_idle(const struct uplink *u)
{
    return !u->lines;
}

void uplink_free(struct uplink *u)
{
    http_client_free(u->http);
    explicit_bzero(u->authorization, strlen(u->authorization));
    mem_free(u->authorization);
    mem_free(u);
}

enum uplink_state uplink_state(const struct uplink *u)
{
    return u->state;
}

const struct diag *uplink_reason(const struct uplink *u)
{
    return &u->reason;
}

const char *uplink_hub(const struct uplink *u)
{
    return http_client_authority(u->http);
}

const struct h2_header *uplink_headers(const struct uplink *u, size_t *ret_n)
{
    *ret_n = ARRAY_SIZE(u->headers);
    return u->headers;
}
