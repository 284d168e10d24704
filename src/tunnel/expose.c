#include "tunnel/expose_internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"
#include "peer/peers.h"
#include "wire/proxy_status.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#define RECORDS_BATCH    256
#define RECORDS_DELAY_MS 200
#define TICKET_MS        30000
#define REFUSED_SHOWN    20 /* clients over a limit, recorded and logged in a second */

/* ---- worker to main ---- */

struct record_batch {
    struct exposure *exposure;
    struct exposure_record *records;
    size_t n;
};

static void records_on_main(void *arg)
{
    CLEANUP(mem_free) struct record_batch *b = arg;
    b->exposure->ops->on_records(b->exposure->arg, b->records, b->n);
    mem_free(b->records);
}

static void flush_records(struct exposure *e)
{
    timer_stop(&e->flush_timer);
    if (!e->n_records)
        return;
    struct record_batch *b = NEW(struct record_batch);
    *b = (struct record_batch){e, e->records, e->n_records};
    e->records = NULL;
    e->n_records = 0;
    loop_post(e->main, records_on_main, b);
}

static void on_flush_timer(struct timer *t)
{
    flush_records(container_of(t, struct exposure, flush_timer));
}

struct target_news {
    struct exposure *exposure;
    int err;
};

static void target_on_main(void *arg)
{
    CLEANUP(mem_free) struct target_news *n = arg;
    n->exposure->ops->on_target(n->exposure->arg, n->exposure->tunnel, n->exposure->lease_epoch,
                                n->err);
}

bool exposure_tell_target(struct exposure *e, int err)
{
    if (e->target_err == err)
        return false;
    e->target_err = err;
    struct target_news *n = NEW(struct target_news);
    *n = (struct target_news){e, err};
    loop_post(e->main, target_on_main, n);
    return true;
}

void exposure_flow_opened(struct exposure *e)
{
    if (e->was_not_opened)
        exposure_tell_target(e, 0);
    e->was_not_opened = false;
}

void exposure_flow_refused(struct exposure *e, int err)
{
    e->was_not_opened = true;
    exposure_tell_target(e, err);
}

static void stopped_on_main(void *arg)
{
    struct exposure *e = arg;
    e->ops->on_stopped(e->arg, e);
    exposure_udp_free(e->udp);
    mem_free(e);
}

static void close_listener(struct exposure *e)
{
    if (e->listener)
        listener_stop(TAKE(e->listener));
    if (e->listen_fd >= 0)
        close(e->listen_fd);
    e->listen_fd = -1;
}

/* Deferred, so that the relay whose end brought us here is done with its set. */
static void on_last_gone(struct defer *d)
{
    struct exposure *e = container_of(d, struct exposure, last_gone);
    if (e->udp)
        exposure_udp_done(e->udp);
    close_listener(e);
    flush_records(e);
    pacer_done(&e->read_pace);
    pacer_done(&e->write_pace);
    loop_post(e->main, stopped_on_main, e);
}

static void drained_on_main(void *arg)
{
    struct exposure *e = arg;
    if (!e->is_stopping)
        e->ops->on_drained(e->arg, e);
}

static void check_stopped(struct exposure *e)
{
    if (e->n_clients)
        return;
    if (e->is_stopped)
        loop_defer(e->worker, &e->last_gone);
    else if (e->is_closed)
        loop_post(e->main, drained_on_main, e);
}

void exposure_hold(struct exposure *e)
{
    e->n_clients++;
}

void exposure_release(struct exposure *e)
{
    e->n_clients--;
    check_stopped(e);
}

/* ---- what those who serve clients need ---- */

int exposure_stop_reason(const struct exposure *e)
{
    return atomic_load_explicit(&e->stop_err, memory_order_acquire);
}

const char *exposure_cut_text(int err)
{
    return err == ERR_REVOKED ? "revoked" : err == ERR_EXPIRED ? "expired" : "lost";
}

void exposure_name_record(const struct exposure *e, struct exposure_record *r)
{
    snprintf(r->tunnel, sizeof(r->tunnel), "%s", e->tunnel);
    snprintf(r->agent, sizeof(r->agent), "%s", e->agent);
}

void exposure_record(struct exposure *e, const struct exposure_record *r)
{
    if (!e->records)
        e->records = mem_new(RECORDS_BATCH * sizeof(*e->records));
    struct exposure_record *added = &e->records[e->n_records++];
    *added = *r;
    exposure_name_record(e, added);
    added->closed = time_wall_ms();
    if (e->n_records == RECORDS_BATCH)
        flush_records(e);
    else if (!timer_is_running(&e->flush_timer))
        timer_start(&e->flush_timer, RECORDS_DELAY_MS);
}

void exposure_leave(struct exposure *e)
{
    for (int i = 0; i < PACER_METERS; i++)
        if (e->meters[i])
            meter_leave(e->meters[i]);
}

int exposure_enter(struct exposure *e, const struct addr *client)
{
    for (int i = 0; i < PACER_METERS; i++) {
        enum meter_refusal why =
            e->meters[i] ? meter_enter(e->meters[i], client, loop_now_ms(e->worker)) : METER_OK;
        if (why == METER_OK)
            continue;
        while (i-- > 0) {
            if (!e->meters[i])
                continue;
            meter_leave(e->meters[i]);
            atomic_fetch_add(&e->meters[i]->refused[why], 1);
        }
        return meter_refusal_error(why);
    }
    return 0;
}

bool exposure_shows_refusal(struct exposure *e, const struct addr *client, int err)
{
    char text[ADDR_TEXT_SIZE];
    uint64_t now = loop_now_ms(e->worker);
    if (now - e->refused_since_ms >= 1000) {
        e->refused_since_ms = now;
        e->n_refused = 0;
    }
    if (e->n_refused++ >= REFUSED_SHOWN)
        return false;
    addr_format(client, text, sizeof(text));
    LOG_INFO("client refused", LOG_STR("tunnel", e->tunnel), LOG_STR("client", text),
             LOG_STR("error", proxy_status_token(err)));
    return true;
}

void exposure_log_not_reached(const struct exposure *e, const struct addr *peer, int err)
{
    char client[ADDR_TEXT_SIZE];
    addr_format(peer, client, sizeof(client));
    LOG_INFO("target not reached", LOG_STR("tunnel", e->tunnel), LOG_STR("client", client),
             LOG_STR("target", e->authority), LOG_STR("error", proxy_status_token(err)));
}

bool exposure_admits(const struct exposure *e, const struct addr *client)
{
    return tunnel_access_admits(&e->who, client);
}

/* ---- the worker's side of starting and stopping ---- */

/* The socket too: while it is open the kernel takes clients that nobody would accept. Not that of
 * flows: they answer from it until they have ended. */
static void stop_listening(struct exposure *e)
{
    if (e->udp)
        exposure_udp_stop(e->udp, 0);
    else
        close_listener(e);
}

static void on_pool_gone(struct pool_user *u)
{
    stop_listening(container_of(u, struct exposure, pool_user));
}

static void start_listening(struct exposure *e)
{
    int err = e->udp ? exposure_udp_start(e->udp, e->listen_fd)
                     : listener_start(e->worker, e->listen_fd, exposure_accept, e, &e->listener);
    if (err < 0)
        LOG_ERROR("cannot accept clients", LOG_STR("tunnel", e->tunnel), LOG_ERR(err));
    else if (!e->udp)
        listener_trust(e->listener, e->trust);
}

static void start_on_worker(void *arg)
{
    struct exposure *e = arg;
    timer_init(&e->flush_timer, e->worker, on_flush_timer);
    pacer_init(&e->read_pace, e->worker, e->meters, false);
    pacer_init(&e->write_pace, e->worker, e->meters, true);
    e->relays.read_pace = &e->read_pace;
    e->relays.write_pace = &e->write_pace;
    if (!fleet_pool_is_usable(e->pool))
        return; /* gone meanwhile; main will stop this exposure */
    e->pool_user.on_gone = on_pool_gone;
    fleet_pool_use(e->pool, &e->pool_user);
    exposure_index_add(e);
    if (e->listen_fd >= 0)
        start_listening(e);
}

struct late_socket {
    struct exposure *exposure;
    int fd;
};

static void listen_on_worker(void *arg)
{
    CLEANUP(mem_free) struct late_socket *l = arg;
    struct exposure *e = l->exposure;
    if (e->listen_fd >= 0 || e->is_closed || !fleet_pool_is_usable(e->pool)) {
        close(l->fd);
        return;
    }
    e->listen_fd = l->fd;
    start_listening(e);
}

static void stop_on_worker(void *arg)
{
    struct exposure *e = arg;
    stop_listening(e);
    exposure_index_remove(e);
    fleet_pool_unuse(e->pool, &e->pool_user);
    e->is_stopped = true;
    relay_set_abort(&e->relays, exposure_stop_reason(e));
    relay_set_abort(&e->passing, exposure_stop_reason(e));
    if (e->udp)
        exposure_udp_stop(e->udp, exposure_stop_reason(e));
    exposure_cut_proxied(e);
    check_stopped(e);
}

static void stop_accepting_on_worker(void *arg)
{
    struct exposure *e = arg;
    if (e->udp)
        exposure_udp_refuse_new(e->udp);
    else
        stop_listening(e);
}

static void linger_on_worker(void *arg)
{
    struct exposure *e = arg;
    stop_listening(e);
    exposure_index_remove(e);
    if (e->udp)
        exposure_udp_linger(e->udp);
    e->is_closed = true;
    exposure_end_watches(e);
    check_stopped(e);
}

struct retarget {
    struct exposure *exposure;
    char authority[EXPOSURE_AUTHORITY_SIZE];
    enum proxy_version proxy;
};

struct admission {
    struct exposure *exposure;
    struct tunnel_access who;
};

static void admit_on_worker(void *arg)
{
    CLEANUP(mem_free) struct admission *a = arg;
    a->exposure->who = a->who;
}

static void retarget_on_worker(void *arg)
{
    CLEANUP(mem_free) struct retarget *r = arg;
    snprintf(r->exposure->authority, sizeof(r->exposure->authority), "%s", r->authority);
    r->exposure->proxy = r->proxy;
    if (r->exposure->udp)
        exposure_udp_set_proxy(r->exposure->udp, r->proxy);
    r->exposure->target_err = 0;
}

static void learn_on_worker(void *arg)
{
    CLEANUP(mem_free) struct target_news *n = arg;
    n->exposure->target_err = n->err;
}

/* ---- main: after exposure_stop nothing is posted to the worker any more, for the answer that
 * frees the exposure may be on its way ---- */

static int duplicate(int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return copy < 0 ? error_from_errno(errno) : copy;
}

int exposure_start(const struct exposure_config *cfg, struct exposure **ret)
{
    int fd = cfg->listen_fd < 0 ? -1 : duplicate(cfg->listen_fd);
    if (fd < 0 && cfg->listen_fd >= 0)
        return fd;
    struct exposure *e = NEW(struct exposure);
    e->main = cfg->main;
    e->pool = cfg->pool;
    e->worker = cfg->pool->worker;
    e->ops = cfg->ops;
    e->arg = cfg->arg;
    e->owner = cfg->owner;
    e->last_gone.fn = on_last_gone;
    e->listen_fd = fd;
    e->lease_epoch = cfg->lease_epoch;
    e->proxy = cfg->proxy;
    e->target_err = cfg->target_err;
    e->index = cfg->index;
    e->trust = cfg->trust;
    memcpy(e->meters, cfg->meters, sizeof(e->meters));
    snprintf(e->tunnel, sizeof(e->tunnel), "%s", cfg->tunnel);
    snprintf(e->agent, sizeof(e->agent), "%s", cfg->agent);
    snprintf(e->authority, sizeof(e->authority), "%s", cfg->authority);
    e->who = *cfg->who;
    snprintf(e->lease_text, sizeof(e->lease_text), "%" PRIu64, cfg->lease_epoch);
    e->headers[0] = (struct h2_header){"warren-tunnel", e->tunnel};
    e->headers[1] = (struct h2_header){"warren-lease", e->lease_text};
    e->headers[2] = (struct h2_header){EXPOSURE_TICKET, e->ticket};
    e->forward = cfg->forward;
    random_bytes(&e->next_tag, sizeof(e->next_tag));
    e->n_headers = cfg->forward ? 3 : 2;
    e->is_any = cfg->protocol == TUNNEL_ANY;
    if (cfg->protocol == TUNNEL_UDP)
        e->udp = exposure_udp_new(e, cfg->flow_idle_ms);
    loop_post(e->worker, start_on_worker, e);
    *ret = e;
    return 0;
}

void exposure_stop(struct exposure *e, int err)
{
    if (e->is_stopping)
        return;
    e->is_stopping = true;
    atomic_store_explicit(&e->stop_err, err, memory_order_release);
    loop_post(e->worker, stop_on_worker, e);
}

void exposure_linger(struct exposure *e)
{
    if (e->is_stopping || e->is_lingering)
        return;
    e->is_lingering = true;
    loop_post(e->worker, linger_on_worker, e);
}

int exposure_listen(struct exposure *e, int fd)
{
    if (e->is_stopping || e->is_lingering)
        return 0;
    int copy = duplicate(fd);
    if (copy < 0)
        return copy;
    struct late_socket *l = NEW(struct late_socket);
    *l = (struct late_socket){e, copy};
    loop_post(e->worker, listen_on_worker, l);
    return 0;
}

void exposure_retarget(struct exposure *e, const char *authority, enum proxy_version proxy)
{
    if (e->is_stopping)
        return;
    struct retarget *r = NEW(struct retarget);
    r->exposure = e;
    r->proxy = proxy;
    snprintf(r->authority, sizeof(r->authority), "%s", authority);
    loop_post(e->worker, retarget_on_worker, r);
}

void exposure_learn_target(struct exposure *e, int err)
{
    if (e->is_stopping)
        return;
    struct target_news *n = NEW(struct target_news);
    *n = (struct target_news){e, err};
    loop_post(e->worker, learn_on_worker, n);
}

void exposure_set_sources(struct exposure *e, const struct tunnel_access *who)
{
    if (e->is_stopping)
        return;
    struct admission *a = NEW(struct admission);
    *a = (struct admission){e, *who};
    loop_post(e->worker, admit_on_worker, a);
}

uint64_t exposure_load(const struct exposure *e)
{
    uint64_t arrived = atomic_load_explicit(&e->n_arrived, memory_order_acquire);
    return atomic_load_explicit(&e->relays.open, memory_order_relaxed) +
           atomic_load_explicit(&e->passing.open, memory_order_relaxed) + (e->n_given - arrived);
}

void exposure_stop_accepting(struct exposure *e)
{
    if (!e->is_stopping)
        loop_post(e->worker, stop_accepting_on_worker, e);
}

void exposure_traffic(const struct exposure *e, struct tunnel_traffic *sum)
{
    const struct relay_set *s = &e->relays;
    sum->streams_open += atomic_load_explicit(&s->open, memory_order_relaxed) +
                         atomic_load_explicit(&e->passing.open, memory_order_relaxed);
    sum->streams_total += atomic_load_explicit(&s->total, memory_order_relaxed);
    sum->bytes_in += atomic_load_explicit(&s->bytes_read, memory_order_relaxed);
    sum->bytes_out += atomic_load_explicit(&s->bytes_written, memory_order_relaxed);
    if (e->udp)
        exposure_udp_traffic(e->udp, sum);
}

/* A ticket is made anew when half of its life is over. */
const struct h2_header *exposure_headers(struct exposure *e, size_t *ret_n)
{
    int64_t now = e->forward ? peer_clock_now(e->forward->clock) : 0;
    *ret_n = e->n_headers;
    if (!e->forward || e->ticket_ends_ms - now > TICKET_MS / 2)
        return e->headers;
    struct ticket t = {.hub_epoch = e->forward->hub_epoch,
                       .lease_epoch = e->lease_epoch,
                       .ends_ms = now + TICKET_MS};
    snprintf(t.hub, sizeof(t.hub), "%s", e->forward->hub);
    snprintf(t.tunnel, sizeof(t.tunnel), "%s", e->tunnel);
    ticket_format(&t, e->forward->keys->keys[0], e->ticket);
    e->ticket_ends_ms = t.ends_ms;
    return e->headers;
}

const struct loop *exposure_loop(const struct exposure *e)
{
    return e->worker;
}

bool exposure_is_forwarding(const struct exposure *e)
{
    return e->forward != NULL;
}

void *exposure_owner(const struct exposure *e)
{
    return e->owner;
}

struct fleet_pool *exposure_pool(const struct exposure *e)
{
    return e->pool;
}

bool exposure_is_stopping(const struct exposure *e)
{
    return e->is_stopping;
}

bool exposure_is_serving(const struct exposure *e)
{
    return !e->is_stopping && !e->is_lingering;
}

uint64_t exposure_epoch(const struct exposure *e)
{
    return e->lease_epoch;
}

const char *exposure_agent(const struct exposure *e)
{
    return e->agent;
}

struct exposure *exposure_next(const struct exposure *e)
{
    return e->next;
}

void exposure_list_add(struct exposure **head, struct exposure *e)
{
    DL_APPEND(*head, e);
}

void exposure_list_remove(struct exposure **head, struct exposure *e)
{
    DL_DELETE(*head, e);
}
