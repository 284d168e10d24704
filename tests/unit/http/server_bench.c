#include "server_bench.h"

#include "base/macro.h"
#include "http/rest.h"
#include "net/conn.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

struct bench b;

static void handle_hello(struct http_request *req, void *ctx)
{
    http_respond_text(req, 200, "hello");
}

static void handle_echo(struct http_request *req, void *ctx)
{
    size_t len;
    const void *body = http_body(req, &len);
    http_respond(req, 200, "text/plain", body, len);
}

static void handle_item(struct http_request *req, void *ctx)
{
    const char *query = http_query(req, "q");
    char text[256];
    snprintf(text, sizeof(text), "%s|%s|%s", http_param(req, "id"), query ? query : "-",
             http_route(req)->summary);
    http_respond_text(req, 200, text);
}

static void handle_hold(struct http_request *req, void *ctx)
{
    b.held = req;
}

static void handle_big(struct http_request *req, void *ctx)
{
    static char big[200 * 1024];
    memset(big, 'x', sizeof(big));
    http_respond(req, 200, "text/plain", big, sizeof(big));
}

static void on_sse_close(void *arg)
{
    b.sse_closed++;
}

static void handle_events(struct http_request *req, void *ctx)
{
    b.sse = http_sse_start(req, on_sse_close, NULL);
}

static void handle_object(struct http_request *req, void *ctx)
{
    http_respond_json(req, 200, json_pack("{s:s}", "name", "web"), 7);
}

static const struct http_route routes[] = {
    {"GET", "/hello", HTTP_PUBLIC, 0, handle_hello, "hello"},
    {"POST", "/echo", HTTP_PUBLIC, 100, handle_echo, "echo"},
    {"GET", "/items/{id}", HTTP_PUBLIC, 0, handle_item, "item"},
    {"GET", "/items/self", HTTP_PUBLIC, 0, handle_item, "self"},
    {"POST", "/items/{id}:stop", HTTP_PUBLIC, 0, handle_item, "stop"},
    {"DELETE", "/items/{id}", HTTP_PUBLIC, 0, handle_item, "delete"},
    {"GET", "/hold", HTTP_PUBLIC, 0, handle_hold, "hold"},
    {"GET", "/big", HTTP_PUBLIC, 0, handle_big, "big"},
    {"GET", "/events", HTTP_PUBLIC, 0, handle_events, "events"},
    {"GET", "/object", HTTP_PUBLIC, 0, handle_object, "object"},
    {"GET", "/private", HTTP_OPERATOR, 0, handle_hello, "private"},
};

static int authenticate(struct http_request *req, struct diag *d, void *arg)
{
    if (b.sleeps) {
        b.asleep = req;
        return HTTP_LATER;
    }
    return b.auth ? diag_set(d, b.auth, "who are you?") : 0;
}

static int after(struct http_request *req, int status, const void *body, size_t len, void *arg)
{
    b.after_status = status;
    return 0;
}

/* Idempotency-Key: "stored" has an answer already. */
static int before(struct http_request *req, struct diag *d, void *arg)
{
    const char *key = http_header(req, "Idempotency-Key");
    if (!key || strcmp(key, "stored") != 0)
        return 0;
    http_respond_text(req, 201, "as before");
    return HTTP_LATER;
}

/* --- the client ------------------------------------------------------------------------------- */

void pump(void)
{
    char part[65536];
    for (int quiet = 0; quiet < 3;) {
        loop_turn(b.loop, false);
        ssize_t n = b.fd < 0 ? -1 : recv(b.fd, part, sizeof(part), MSG_DONTWAIT);
        if (n > 0)
            buf_append(&b.got, part, (size_t)n);
        if (n == 0 || (n < 0 && errno != EAGAIN))
            b.got_end = true;
        quiet = n > 0 ? 0 : quiet + 1;
    }
}

void say_bytes(const char *data, size_t len)
{
    buf_clear(&b.got);
    assert_int_equal(send(b.fd, data, len, MSG_NOSIGNAL), len);
    pump();
}

void say(const char *text)
{
    say_bytes(text, strlen(text));
}

void hang_up(void)
{
    close(b.fd);
    b.fd = -1;
    pump();
}

void connect_client(void)
{
    int fds[2];
    struct conn *c;
    test_tcp_pair(fds);
    b.fd = fds[0];
    b.got_end = false;
    buf_clear(&b.got);
    assert_int_equal(conn_new_plain(b.loop, fds[1], NULL, &c), 0);
    http_server_take(b.server, c);
    pump();
}

int set_up_with(struct http_limits limits)
{
    b = (struct bench){.fd = -1};
    const struct http_server_config cfg = {.hooks = {authenticate, before, after, NULL},
                                           .limits = limits};
    struct http_server_config c = cfg;
    assert_int_equal(loop_new_virtual(&b.loop, 1000), 0);
    c.loop = b.loop;
    assert_int_equal(http_server_new(&c, &b.server), 0);
    http_server_add(b.server, routes, ARRAY_SIZE(routes), NULL);
    connect_client();
    return 0;
}

int set_up(void **state)
{
    return set_up_with((struct http_limits){0});
}

int tear_down(void **state)
{
    struct http_server *s = b.server;
    if (b.sse)
        http_sse_end(b.sse);
    http_server_free(s);
    pump();
    if (b.fd >= 0)
        hang_up();
    loop_free(b.loop);
    buf_done(&b.got);
    return 0;
}
