/*
 * A client: hello (of a proxy) ─► waits for the uplink ─► its relay has the socket ─► the end.
 */
#include "cli/local.h"

#include "base/error.h"
#include "base/mem.h"
#include "wire/http1.h"
#include "wire/proxy_status.h"
#include "wire/socks.h"

#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

#define DRAIN_MAX 64 /* reads */

static void free_client(struct local_client *c)
{
    timer_stop(&c->deadline);
    uplink_wait_cancel(&c->waiter);
    if (c->associate)
        local_associate_end(c);
    DL_DELETE(c->local->clients, c);
    c->local->n_clients--;
    mem_free(c);
}

static void end_socket(struct local_client *c, bool is_reset)
{
    if (c->fd < 0)
        return;
    if (is_reset) {
        struct linger zero = {.l_onoff = 1};
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &zero, sizeof(zero));
    }
    if (c->io.loop)
        io_stop(&c->io);
    close(c->fd);
    c->fd = -1;
}

void local_client_close(struct local_client *c, bool is_reset)
{
    end_socket(c, is_reset);
    free_client(c);
}

void local_client_send(struct local_client *c, const void *data, size_t len)
{
    /* The socket's buffer is empty: an answer fits, or the client has gone. */
    (void)!send(c->fd, data, len, MSG_NOSIGNAL);
}

/* ---- answers ---- */

static void send_http_failure(struct local_client *c, int err)
{
    char field[PROXY_STATUS_SIZE], length[24];
    CLEANUP(buf_done) struct buf head = {0}, body = {0};
    bool is_stranger = err == ERR_UNAUTHENTICATED;
    int status = is_stranger ? 407 : proxy_status_format(err, field);
    buf_printf(&body, "%s: %s\n", c->target.host[0] ? c->target.host : "warren", error_text(err));
    snprintf(length, sizeof(length), "%zu", body.len);
    http1_put_status(&head, status);
    if (is_stranger)
        http1_put_field(&head, "Proxy-Authenticate", "Basic realm=\"warren\"");
    else
        http1_put_field(&head, "Proxy-Status", field);
    http1_put_field(&head, "Content-Type", "text/plain; charset=utf-8");
    http1_put_field(&head, "Content-Length", length);
    http1_put_field(&head, "Connection", "close");
    http1_put_end(&head);
    buf_append(&head, body.data, body.len);
    local_client_send(c, head.data, head.len);
}

static void send_failure(struct local_client *c, int err)
{
    uint8_t out[SOCKS_REPLY_MAX];
    if (c->style == LOCAL_SOCKS5)
        local_client_send(c, out, socks_reply(err, NULL, out));
    else if (c->style == LOCAL_SOCKS4)
        local_client_send(c, out, socks4_reply(err, out));
    else if (c->style != LOCAL_PLAIN)
        send_http_failure(c, err);
}

/* What the client has sent is read over, or a reset would overtake the answer; not all that it may
 * go on sending. */
static void drain(int fd)
{
    char part[4096];
    shutdown(fd, SHUT_WR);
    for (int i = 0; i < DRAIN_MAX && recv(fd, part, sizeof(part), MSG_DONTWAIT) > 0; i++)
        ;
}

void local_client_fail(struct local_client *c, int err)
{
    if (c->fd >= 0) {
        send_failure(c, err);
        if (c->style != LOCAL_PLAIN)
            drain(c->fd);
    }
    local_client_close(c, c->style == LOCAL_PLAIN);
}

static void send_success(struct local_client *c, int fd)
{
    static const char http[] = "HTTP/1.1 200 Connection established\r\n\r\n";
    uint8_t out[SOCKS_REPLY_MAX];
    if (c->style == LOCAL_SOCKS5)
        (void)!send(fd, out, socks_reply(0, NULL, out), MSG_NOSIGNAL);
    else if (c->style == LOCAL_SOCKS4)
        (void)!send(fd, out, socks4_reply(0, out), MSG_NOSIGNAL);
    else if (c->style == LOCAL_HTTP_CONNECT)
        (void)!send(fd, http, sizeof(http) - 1, MSG_NOSIGNAL);
}

/* ---- the stream ---- */

static void on_open(void *arg, struct relay *r)
{
    struct local_client *c = arg;
    send_success(c, relay_fd(r));
}

static void on_end(void *arg, struct relay *r, const struct relay_result *res)
{
    struct local_client *c = arg;
    c->relay = NULL;
    c->fd = res->fd;
    if (res->end != RELAY_END_NOT_OPENED) {
        free_client(c);
        return;
    }
    char target[LOCAL_TARGET_SIZE];
    host_port_format(&c->target, target, sizeof(target));
    if (!c->local->is_stopping)
        local_note(c->local, "%s: %s", target, error_text(res->err));
    local_client_fail(c, res->err);
}

static const struct relay_ops relay_ops = {.on_open = on_open, .on_end = on_end};

static void on_uplink(struct uplink_waiter *w, struct h2conn *hc, int err)
{
    struct local_client *c = container_of(w, struct local_client, waiter);
    struct local *l = c->local;
    char target[LOCAL_TARGET_SIZE];
    struct relay_open_params p = {.peer = c->peer,
                                  .authority = target,
                                  .set = &l->relays,
                                  .ops = &relay_ops,
                                  .arg = c,
                                  .keeps_fd = true};
    p.headers = uplink_headers(l->uplink, &p.n_headers);
    host_port_format(&c->target, target, sizeof(target));
    if (!err)
        err = relay_open(hc, c->fd, &p, &c->relay);
    if (err < 0)
        local_client_fail(c, err);
    else
        c->fd = -1;
}

void local_client_connect(struct local_client *c)
{
    timer_stop(&c->deadline);
    if (c->io.loop)
        io_stop(&c->io);
    c->waiter.fn = on_uplink;
    uplink_wait(c->local->uplink, &c->waiter);
}

/* ---- beginnings ---- */

static void on_deadline(struct timer *t)
{
    local_client_close(container_of(t, struct local_client, deadline), true);
}

void local_client_new(struct local_door *door, int fd, const struct addr *peer)
{
    struct local *l = door->local;
    struct local_client *c = NEW(struct local_client);
    c->local = l;
    c->door = door;
    c->fd = fd;
    c->peer = *peer;
    c->target = door->target;
    timer_init(&c->deadline, l->loop, on_deadline);
    DL_APPEND(l->clients, c);
    if (++l->n_clients > LOCAL_CLIENTS_MAX) {
        local_note(l, "too many clients at once: more than %d", LOCAL_CLIENTS_MAX);
        local_client_close(c, true);
    } else if (door->is_proxy) {
        timer_start(&c->deadline, LOCAL_HELLO_MS);
        local_hello_start(c);
    } else {
        local_client_connect(c);
    }
}

void local_clients_cut(struct local *l)
{
    struct local_client *c, *next;
    DL_FOREACH_SAFE (l->clients, c, next) {
        if (c->relay)
            relay_abort(c->relay, ERR_CANCELED);
        else
            local_client_close(c, true);
    }
}
