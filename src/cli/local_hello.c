/*
 * What a proxy's client says first, told apart by the first byte: 5 or 4 is SOCKS, else it is HTTP.
 *
 * Messages are looked at (MSG_PEEK) until they are complete and then taken off the socket to the
 * byte, so that the relay finds the rest where it reads anyway.
 *
 * An HTTP connection that does not begin with CONNECT goes to the gateway (local_web.c) unread.
 */
#include "cli/local.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/text.h"
#include "wire/http1.h"
#include "wire/socks.h"

#include <errno.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#define FIELDS_MAX 100

static int nothing_to_do(struct http1 *p)
{
    return 0;
}

static int keep_head(struct http1 *p, const struct http1_head *head)
{
    return 0;
}

static int skip_body(struct http1 *p, const void *data, size_t len)
{
    return 0;
}

static const struct http1_ops http1_ops = {keep_head, skip_body, nothing_to_do};

/* Takes what was looked at. */
static void take(struct local_client *c, size_t len)
{
    char part[4096];
    while (len > 0) {
        ssize_t n = recv(c->fd, part, MIN(len, sizeof(part)), 0);
        if (n <= 0)
            return; /* it has gone: the relay will see */
        len -= (size_t)n;
    }
    explicit_bzero(part, sizeof(part));
}

/* ---- HTTP ---- */

/* "Basic ..." of a user of ours. */
bool local_users_know_header(const struct local_users *users, const char *header)
{
    char text[520];
    size_t len = sizeof(text) - 1;
    if (!users->n)
        return true;
    if (!header || strncasecmp(header, "Basic ", 6) != 0)
        return false;
    header += 6 + strspn(header + 6, " ");
    if (text_unbase64(header, strlen(header), text, &len) < 0)
        return false;
    text[len] = '\0';
    char *colon = strchr(text, ':');
    if (colon)
        *colon = '\0';
    bool is_known = colon && strlen(text) + strlen(colon + 1) + 1 == len &&
                    local_users_know(users, text, colon + 1);
    explicit_bzero(text, sizeof(text));
    return is_known;
}

static int judge_http(struct local_client *c, const struct http1_head *h)
{
    const char *credentials = http_header_get(h->fields, h->n_fields, "proxy-authorization");
    if (!local_users_know_header(&c->local->users, credentials))
        return ERR_UNAUTHENTICATED;
    return host_port_parse(h->target, false, &c->target, NULL);
}

static void hear_http(struct local_client *c, const char *data, size_t len)
{
    static const char connect[] = "CONNECT ";
    const char *end = memmem(data, len, "\r\n\r\n", 4);
    struct http1 p;
    if (len >= strlen(connect) && memcmp(data, connect, strlen(connect)) != 0) {
        local_web_take(c);
        return;
    }
    if (!end && len < LOCAL_HELLO_MAX)
        return;
    c->style = LOCAL_HTTP_CONNECT;
    if (!end) {
        local_client_fail(c, ERR_INVALID);
        return;
    }
    size_t head_len = (size_t)(end - data) + 4;
    http1_init_server(&p, &http1_ops, (struct http1_limits){LOCAL_HELLO_MAX, FIELDS_MAX});
    int rc = (int)MIN(http1_feed(&p, data, head_len), (int64_t)0);
    if (rc == 0)
        rc = judge_http(c, &p.head);
    else
        rc = ERR_INVALID;
    http1_done(&p);
    take(c, head_len);
    if (rc < 0)
        local_client_fail(c, rc);
    else
        local_client_connect(c);
}

/* ---- SOCKS ---- */

static void associate(struct local_client *c)
{
    uint8_t out[SOCKS_REPLY_MAX];
    struct addr bound;
    int rc = local_associate_new(c, &bound);
    if (rc < 0) {
        local_client_fail(c, rc);
        return;
    }
    timer_stop(&c->deadline);
    local_client_send(c, out, socks_reply(0, &bound, out));
}

static void obey(struct local_client *c, const struct socks_request *r, int rc)
{
    c->target = r->target;
    if (rc < 0)
        local_client_fail(c, rc);
    else if (r->command == SOCKS_ASSOCIATE && c->style == LOCAL_SOCKS5)
        associate(c);
    else if (r->command != SOCKS_CONNECT)
        local_client_fail(c, ERR_UNSUPPORTED);
    else if (!r->target.port)
        local_client_fail(c, ERR_INVALID);
    else
        local_client_connect(c);
}

static void choose_method(struct local_client *c, const struct socks_greeting *g)
{
    uint8_t out[SOCKS_METHOD_SIZE];
    bool wants_password = c->local->users.n > 0;
    enum socks_method m = wants_password && g->offers_password ? SOCKS_PASSWORD
                          : !wants_password && g->offers_none  ? SOCKS_NONE
                                                               : SOCKS_NO_METHOD;
    socks_method_write(m, out);
    local_client_send(c, out, sizeof(out));
    c->is_greeted = true;
    c->is_known = m == SOCKS_NONE;
}

static bool log_in(struct local_client *c, struct socks_login *login)
{
    uint8_t out[SOCKS_METHOD_SIZE];
    c->is_known = local_users_know(&c->local->users, login->user, login->password);
    explicit_bzero(login, sizeof(*login));
    socks_login_answer(c->is_known, out);
    local_client_send(c, out, sizeof(out));
    return c->is_known;
}

/* One message; the size that was used, 0: more is needed, or a failure. */
static int hear_socks5(struct local_client *c, const uint8_t *data, size_t len)
{
    struct socks_greeting greeting;
    struct socks_login login;
    int n;
    if (!c->is_greeted) {
        n = socks_greeting_parse(data, len, &greeting);
        if (n > 0)
            choose_method(c, &greeting);
        if (n > 0 && !c->is_known && !(c->local->users.n && greeting.offers_password))
            return ERR_DENIED;
        return n;
    }
    n = socks_login_parse(data, len, &login);
    return n > 0 && !log_in(c, &login) ? ERR_DENIED : n;
}

static void hear_socks_request(struct local_client *c, const uint8_t *data, size_t len)
{
    struct socks_request request = {0};
    bool is_v4 = c->style == LOCAL_SOCKS4;
    int n = is_v4 ? socks4_request_parse(data, len, &request)
                  : socks_request_parse(data, len, &request);
    if (n == ERR_PROTO) {
        local_client_close(c, true);
    } else if (n) {
        take(c, n > 0 ? (size_t)n : len);
        obey(c, &request, MIN(n, 0));
    }
}

static void hear_socks(struct local_client *c, uint8_t *data, size_t len)
{
    int n = 1;
    c->style = data[0] == 4                    ? LOCAL_SOCKS4
               : c->is_greeted || data[0] == 5 ? LOCAL_SOCKS5
                                               : c->style;
    if (c->style == LOCAL_SOCKS4 && c->local->users.n) {
        local_client_fail(c, ERR_DENIED); /* it has no passwords */
        return;
    }
    while (c->style == LOCAL_SOCKS5 && !c->is_known && (n = hear_socks5(c, data, len)) > 0) {
        take(c, (size_t)n);
        data += n;
        len -= (size_t)n;
    }
    if (n < 0)
        local_client_close(c, false);
    else if (n > 0 && len > 0)
        hear_socks_request(c, data, len);
}

/* ---- events ---- */

static void on_event(struct io *io)
{
    struct local_client *c = container_of(io, struct local_client, io);
    uint8_t data[LOCAL_HELLO_MAX];
    ssize_t n = recv(c->fd, data, sizeof(data), MSG_PEEK);
    if (c->associate) {
        if (n >= 0 || errno != EAGAIN)
            local_client_close(c, false);
        return;
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0)
        local_client_close(c, false);
    else if (c->is_greeted || data[0] == 5 || data[0] == 4)
        hear_socks(c, data, (size_t)n);
    else
        hear_http(c, (const char *)data, (size_t)n);
}

void local_hello_start(struct local_client *c)
{
    if (io_start(&c->io, c->local->loop, c->fd, on_event) < 0)
        local_client_close(c, true);
}
