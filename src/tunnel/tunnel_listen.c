/*
 * A tunnel's listening socket: bound by the main loop, kept through fail-overs, accepted from by
 * the workers' exposures, or by the main loop for all of them (spread by connection). While nobody
 * serves, clients wait in its queue; after TUNNEL_HOLD_MS the refuser, a listener of the main loop,
 * resets them, or the sink throws their datagrams away. An address that cannot be bound is tried
 * again.
 */
#include "tunnel/internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "net/udp.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LISTEN_RETRY_MS 2000

static void on_refuse(void *arg, int fd, const struct addr *peer)
{
    const struct linger reset = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    close(fd);
}

void tunnel_stop_refusing(struct tunnel_object *o)
{
    timer_stop(&o->hold_timer);
    if (o->refuser)
        listener_stop(TAKE(o->refuser));
    flow_port_free(TAKE(o->sink));
}

static void sink(struct tunnel_object *o)
{
    const struct flow_port_config cfg = {
        .loop = o->owner->loop, .fd = o->listen_fd, .set = &o->sunk};
    if (!o->sink && flow_port_new(&cfg, &o->sink) == 0)
        flow_port_refuse_new(o->sink);
}

static void on_hold_over(struct timer *t)
{
    struct tunnel_object *o = container_of(t, struct tunnel_object, hold_timer);
    if (o->listen_fd < 0 || tunnel_is_served(o))
        return;
    if (o->t.spec.protocol == TUNNEL_UDP)
        sink(o);
    else
        listener_start(o->owner->loop, o->listen_fd, on_refuse, o, &o->refuser);
}

static void on_share(void *arg, int fd, const struct addr *peer)
{
    struct exposure *e = tunnel_pick_exposure(arg);
    if (e)
        exposure_give(e, fd, peer);
    else
        on_refuse(arg, fd, peer);
}

void tunnel_share_clients(struct tunnel_object *o)
{
    bool shares = o->t.spec.spread == TUNNEL_SPREAD_CONNECTION && o->listen_fd >= 0 &&
                  !o->owner->is_draining && tunnel_is_served(o);
    if (!shares && o->sharer)
        listener_stop(TAKE(o->sharer));
    if (!shares || o->sharer)
        return;
    if (listener_start(o->owner->loop, o->listen_fd, on_share, o, &o->sharer) < 0)
        timer_start(&o->owner->serve_timer, TUNNEL_RETRY_MS);
    else
        listener_trust(o->sharer, o->owner->trust);
}

void tunnel_hold_clients(struct tunnel_object *o)
{
    tunnel_share_clients(o);
    if (o->listen_fd >= 0 && !o->refuser && !o->sink && !timer_is_running(&o->hold_timer))
        timer_start(&o->hold_timer, TUNNEL_HOLD_MS);
}

/* shutdown: the workers' duplicates of the socket do not listen any more either, and the address is
 * free for the next. */
void tunnel_stop_listening(struct tunnel_object *o)
{
    tunnel_stop_refusing(o);
    if (o->sharer)
        listener_stop(TAKE(o->sharer));
    timer_stop(&o->listen_timer);
    if (o->listen_fd >= 0) {
        if (o->t.spec.protocol != TUNNEL_UDP)
            shutdown(o->listen_fd, SHUT_RD);
        close(o->listen_fd);
    }
    o->listen_fd = -1;
    if (o->claimed)
        tunnel_names_release(o->owner->names, o->claimed, o->t.id);
    mem_free(TAKE(o->claimed));
}

/* A public name takes the place of a socket. */
static void claim_name(struct tunnel_object *o)
{
    const struct tunnel_spec *spec = &o->t.spec;
    int rc = tunnel_names_claim(o->owner->names, spec->host,
                                spec->is_sni ? TUNNEL_NAME_SNI : TUNNEL_NAME_HOST, o->t.id);
    o->t.endpoint[0] = '\0';
    if (rc == 0) {
        mem_free(o->claimed);
        o->claimed = mem_strdup(spec->host);
        return;
    }
    tunnel_set_phase(o, TUNNEL_FAILED, "the name %.180s %s", spec->host,
                     rc == ERR_EXISTS ? "belongs to another tunnel" : "is one of the hub itself");
    timer_start(&o->listen_timer, LISTEN_RETRY_MS);
}

/* A port chosen by the hub is kept through restarts, so that clients find the tunnel again. */
static uint16_t earlier_port(const struct tunnel_object *o)
{
    struct host_port was;
    if (o->t.spec.listen.port || host_port_parse(o->t.endpoint, false, &was, NULL) < 0)
        return o->t.spec.listen.port;
    return was.port;
}

static int bind_to(struct tunnel_object *o, const struct addr *at, struct addr *bound,
                   struct diag *d)
{
    if (o->t.spec.protocol == TUNNEL_UDP)
        return udp_bind(at, &o->listen_fd, bound, d);
    return listener_bind(at, false, &o->listen_fd, bound, d);
}

static int listen_on(struct tunnel_object *o, struct diag *d)
{
    struct addr at, bound;
    TRY(addr_parse(o->t.spec.listen.host, earlier_port(o), &at));
    int rc = bind_to(o, &at, &bound, d);
    if (rc < 0 && o->t.spec.listen.port == 0 && addr_port(&at) != 0) {
        addr_set_port(&at, 0);
        rc = bind_to(o, &at, &bound, d);
    }
    if (rc < 0)
        return rc;
    addr_format(&bound, o->t.endpoint, sizeof(o->t.endpoint));
    return 0;
}

/* A free port that one hub chooses for all. */
static bool lacks_port(const struct tunnel_object *o)
{
    return o->t.spec.has_endpoint && !o->t.spec.listen.port && !o->t.endpoint[0] &&
           o->listen_fd < 0 && tunnel_listens_here(o) && !tunnel_phase_is_over(o->t.phase);
}

bool tunnel_awaits_port(const struct tunnel_object *o)
{
    return lacks_port(o) && tunnel_follows_port(o);
}

/* What other hubs do is shown only. */
static void show_endpoint(struct tunnel_object *o)
{
    if (o->t.spec.has_endpoint && o->t.spec.listen.port)
        host_port_format(&o->t.spec.listen, o->t.endpoint, sizeof(o->t.endpoint));
}

void tunnel_start_listening(struct tunnel_object *o)
{
    struct diag d = {0};
    if (!tunnel_listens_here(o)) {
        show_endpoint(o);
        return;
    }
    if (tunnel_awaits_port(o)) {
        timer_start(&o->listen_timer, LISTEN_RETRY_MS);
        return;
    }
    if (o->t.spec.host[0] && !o->claimed)
        claim_name(o);
    if (!o->t.spec.has_endpoint || o->listen_fd >= 0) {
        if (!o->t.spec.has_endpoint)
            o->t.endpoint[0] = '\0';
        return;
    }
    int rc = listen_on(o, &d);
    if (rc < 0) {
        o->listen_fd = -1;
        tunnel_set_phase(o, TUNNEL_FAILED, "cannot listen on %s:%u: %.180s", o->t.spec.listen.host,
                         o->t.spec.listen.port, d.text[0] ? d.text : error_text(rc));
        o->t.endpoint[0] = '\0';
        timer_start(&o->listen_timer, LISTEN_RETRY_MS);
        return;
    }
    LOG_INFO("tunnel listens", LOG_STR("tunnel", o->t.id), LOG_STR("name", o->t.name),
             LOG_STR("address", o->t.endpoint));
}

static int give_socket(struct tunnel_object *o)
{
    if (o->listen_fd < 0 || o->t.spec.spread == TUNNEL_SPREAD_CONNECTION)
        return 0;
    for (struct exposure *e = o->exposures; e; e = exposure_next(e))
        TRY(exposure_listen(e, o->listen_fd));
    return 0;
}

void tunnel_listen_late(struct tunnel_object *o)
{
    tunnel_start_listening(o);
    int rc = o->t.phase == TUNNEL_FAILED ? ERR_UNAVAILABLE : give_socket(o);
    if (rc < 0)
        tunnel_stop_exposures(o, rc); /* those that begin anew have it */
    tunnel_save_status(o);
    tunnel_serve(o);
}

/* An address that was taken or not there may have become free. */
static void on_listen_timer(struct timer *t)
{
    struct tunnel_object *o = container_of(t, struct tunnel_object, listen_timer);
    if (lacks_port(o) && o->t.phase != TUNNEL_FAILED) { /* nobody has told of it, or we missed it */
        o->is_followed = !tunnel_is_ours_to_tell(o);
        tunnel_reread(o->owner, o->t.id);
        timer_start(&o->listen_timer, LISTEN_RETRY_MS);
        return;
    }
    if (o->t.phase != TUNNEL_FAILED || o->rebind || o->owner->is_draining)
        return;
    tunnel_start_listening(o);
    if (o->listen_fd < 0 && !o->claimed)
        return;
    tunnel_set_phase(o, TUNNEL_PENDING, "%s", tunnel_pending_reason(o));
    tunnel_serve(o);
}

void tunnel_listen_init(struct tunnel_object *o)
{
    o->listen_fd = -1;
    timer_init(&o->hold_timer, o->owner->loop, on_hold_over);
    timer_init(&o->listen_timer, o->owner->loop, on_listen_timer);
}
