#include "cli/local.h"

#include "base/error.h"
#include "base/mem.h"
#include "net/listener.h"
#include "net/udp.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utlist.h>

#define STOP_TURNS 10000 /* of the loop, at most, for connections to end */

/* ---- users ---- */

int local_users_read(struct call *c, const char *path, struct local_users *ret)
{
    struct stat st;
    char *line = NULL;
    size_t size = 0;
    ssize_t len;
    FILE *f = fopen(path, "re");
    if (!f)
        return call_fail(c, error_from_errno(errno), NULL, "%s: %s", path, strerror(errno));
    if (fstat(fileno(f), &st) == 0 && (st.st_mode & 077)) {
        fclose(f);
        return call_fail(c, ERR_DENIED, "chmod 600 it", "%s: others may read this file", path);
    }
    while ((len = getline(&line, &size, f)) >= 0 && ret->n < LOCAL_USERS_MAX) {
        line[strcspn(line, "\r\n")] = '\0';
        if (!line[0] || line[0] == '#')
            continue;
        if (!strchr(line, ':'))
            break;
        ret->lines = mem_grow(ret->lines, (ret->n + 1) * sizeof(*ret->lines));
        ret->lines[ret->n++] = mem_strdup(line);
    }
    if (line)
        explicit_bzero(line, size);
    free(line);
    fclose(f);
    if (len >= 0 || !ret->n)
        return call_fail(c, ERR_INVALID, NULL, "%s: it must have lines USER:PASSWORD", path);
    return 0;
}

/* In a time that tells nothing about the bytes. */
static bool is_same(const char *a, const char *b)
{
    size_t len = strlen(a);
    unsigned char diff = len != strlen(b);
    for (size_t i = 0; i < len && !(diff && i >= strlen(b)); i++)
        diff |= (unsigned char)(a[i] ^ b[i]);
    return !diff;
}

bool local_users_know(const struct local_users *u, const char *user, const char *password)
{
    CLEANUP(mem_free) char *line = mem_printf("%s:%s", user, password);
    bool is_known = !u->n;
    for (size_t i = 0; i < u->n; i++)
        is_known |= is_same(u->lines[i], line);
    explicit_bzero(line, strlen(line));
    return is_known;
}

static void users_done(struct local_users *u)
{
    for (size_t i = 0; i < u->n; i++) {
        explicit_bzero(u->lines[i], strlen(u->lines[i]));
        mem_free(u->lines[i]);
    }
    mem_free(u->lines);
}

/* ---- doors ---- */

static bool is_loopback(const struct addr *a)
{
    if (a->sa.sa_family == AF_INET)
        return (ntohl(a->in4.sin_addr.s_addr) >> 24) == 127;
    return IN6_IS_ADDR_LOOPBACK(&a->in6.sin6_addr);
}

static void on_accept(void *arg, int fd, const struct addr *peer)
{
    local_client_new(arg, fd, peer);
}

static int bind_door(struct local_door *d, const struct addr *at, struct diag *diag)
{
    if (d->is_udp)
        return udp_bind(at, &d->fd, &d->at, diag);
    return listener_bind(at, false, &d->fd, &d->at, diag);
}

int local_open(struct local *l, const char *at, uint16_t port, bool is_udp,
               const struct host_port *target)
{
    struct addr a;
    struct diag diag = {0};
    const char *ip = strcmp(at, "localhost") == 0 ? "127.0.0.1" : at;
    if (addr_parse(ip, port, &a) < 0)
        return call_fail(l->call, ERR_USAGE, NULL, "'%.100s' is not an address of this machine",
                         at);
    struct local_door *d = NEW(struct local_door);
    d->local = l;
    d->fd = -1;
    d->is_udp = is_udp;
    d->is_proxy = !target;
    if (target)
        d->target = *target;
    DL_APPEND(l->doors, d);
    int rc = bind_door(d, &a, &diag);
    if (rc < 0)
        return call_fail(l->call, rc, NULL, "cannot listen: %s", diag_text(&diag));
    if (!is_loopback(&d->at) && !l->users.n)
        fprintf(l->call->err, "%s: warning: everyone who can reach %s can use it\n",
                l->call->program->name, at);
    return 0;
}

static int start_door(struct local_door *d)
{
    int rc = d->is_udp ? local_port_open(d)
                       : listener_start(d->local->loop, d->fd, on_accept, d, &d->listener);
    if (rc < 0)
        return call_fail(d->local->call, rc, NULL, "cannot listen: %s", error_text(rc));
    local_status_door(d->local, d);
    return 0;
}

static void close_door(struct local_door *d)
{
    if (d->port)
        local_port_close(d);
    if (d->listener)
        listener_stop(TAKE(d->listener));
    if (d->fd >= 0)
        close(d->fd);
    DL_DELETE(d->local->doors, d);
    mem_free(d);
}

/* ---- the session ---- */

static void stop(struct local *l)
{
    struct local_door *d;
    if (l->is_stopping)
        return;
    l->is_stopping = true;
    DL_FOREACH (l->doors, d) {
        if (d->listener)
            listener_stop(TAKE(d->listener));
    }
    local_clients_cut(l);
    local_web_end(l);
    flow_set_abort(&l->flows, ERR_CANCELED);
    uplink_close(l->uplink);
}

static void on_signal(void *arg, int signum)
{
    stop(arg);
}

static void on_state(void *arg)
{
    struct local *l = arg;
    if (uplink_state(l->uplink) == UPLINK_REFUSED) {
        l->diag = *uplink_reason(l->uplink);
        stop(l);
    } else {
        local_status_state(l);
    }
}

static bool is_over(const struct local *l)
{
    return l->is_stopping && uplink_is_idle(l->uplink) && !l->clients && !l->relays.open &&
           !l->flows.open;
}

static int run(struct local *l)
{
    struct local_door *d;
    loop_on_signal(l->loop, SIGINT, on_signal, l);
    loop_on_signal(l->loop, SIGTERM, on_signal, l);
    local_status_start(l);
    DL_FOREACH (l->doors, d)
        TRY(start_door(d));
    while (!is_over(l))
        loop_turn(l->loop, true);
    return 0;
}

static void tear_down(struct local *l)
{
    struct local_door *d, *next;
    if (l->uplink)
        stop(l);
    for (int i = 0; l->uplink && !is_over(l) && i < STOP_TURNS; i++)
        loop_turn(l->loop, false);
    DL_FOREACH_SAFE (l->doors, d, next)
        close_door(d);
    local_web_free(l);
    local_status_end(l);
    if (l->uplink)
        uplink_free(l->uplink);
    loop_settle(l->loop);
    loop_free(l->loop);
    users_done(&l->users);
}

int local_run(struct local *l, int rc)
{
    const struct uplink_config cfg = {
        .loop = l->loop, .http = l->http, .network = l->network, .on_state = on_state, .arg = l};
    struct diag d = {0};
    if (rc == 0 && (rc = uplink_new(&cfg, &l->uplink, &d)) < 0)
        call_fail(l->call, rc, NULL, "%s", diag_text(&d));
    if (rc == 0)
        rc = run(l);
    if (rc == 0 && l->diag.code)
        rc = call_fail(l->call, l->diag.code, NULL, "the hub refuses: %s", diag_text(&l->diag));
    tear_down(l);
    return rc;
}
