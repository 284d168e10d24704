/*
 * The members: each dials its hub, shakes hands with its own certificate, calls Connect, and holds
 * the session. When that ends it dials when and where an agent would (fleet/comeback.h,
 * hub_list.h), however many others do so.
 *
 * What differs from an agent, to let 100,000 share a machine: all have one TLS context per hub,
 * into whose connections each puts its certificate for the handshake; they share what they know of
 * the hubs; and until all have been up once at most `parallel` dial at a time. Each has a loopback
 * address of its own, so that the hub's limits of one address and the number of ports do not count.
 */
#include "swarm.h"

#include "base/diag.h"
#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "fleet/session.h"
#include "net/conn_internal.h"
#include "rpc/client.h"
#include "warren/v1/agent.pb-c.h"

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONNECT "/warren.v1.AgentService/Connect"
#define TICK_MS 1000
#define DIAL_MS 10000 /* where there is only one hub, or a load balancer */

static void dial_waiting(struct swarm *s);

static uint32_t now_ms(const struct swarm *s)
{
    return (uint32_t)(loop_now_ms(s->loop) - s->start_ms);
}

/* ---- reporting ---- */

void swarm_tell(const struct swarm *s)
{
    printf("{\"ms\": %u, \"up\": %d, \"dialling\": %d, \"logins\": %" PRIu64
           ", \"failed\": %" PRIu64 ", \"refused\": %" PRIu64 ", \"hubs\": [",
           now_ms(s), s->up, s->dialling, s->logins, s->failed, s->refused);
    for (size_t i = 0; i < s->n_hubs; i++)
        printf("%s%d", i ? ", " : "", s->alive[i]);
    printf("], \"lost\": [");
    for (size_t i = 0; i < s->n_hubs; i++)
        printf("%s%" PRIu64, i ? ", " : "", s->lost[i]);
    printf("]}\n");
    fflush(stdout);
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void count_dial(struct swarm *s)
{
    uint64_t bin = (loop_now_ms(s->loop) - s->storm.began_ms) / STORM_BIN_MS;
    if (s->storm.began_ms && bin < STORM_BINS)
        s->storm.dials[bin]++;
}

static void tell_dials(const struct swarm *s)
{
    size_t n = STORM_BINS;
    while (n && !s->storm.dials[n - 1])
        n--;
    printf("\"began_ms\": %" PRIu64 ", \"dials\": [", s->storm.began_ms);
    for (size_t i = 0; i < n; i++)
        printf("%s%u", i ? ", " : "", s->storm.dials[i]);
    printf("]");
}

/* All are there again. */
static void tell_back(struct swarm *s)
{
    uint32_t *away = s->away_ms;
    int n = s->n_away;
    qsort(away, (size_t)n, sizeof(*away), by_value);
    swarm_tell(s);
    printf("{\"back\": %d, \"p50_ms\": %u, \"p99_ms\": %u, \"max_ms\": %u, ", n, away[n / 2],
           away[(int64_t)n * 99 / 100], away[n - 1]);
    tell_dials(s);
    printf("}\n");
    fflush(stdout);
    s->n_away = 0;
    memset(&s->storm, 0, sizeof(s->storm));
}

static void on_tick(struct timer *t)
{
    struct swarm *s = container_of(t, struct swarm, tick);
    if (s->stays && (s->dialling || s->up < s->size))
        swarm_tell(s);
    timer_start(t, TICK_MS);
}

/* ---- the end of a session ---- */

static void enqueue(struct member *m)
{
    struct swarm *s = m->swarm;
    m->next = NULL;
    *s->queue_tail = m;
    s->queue_tail = &m->next;
}

static void attempt_over(struct member *m)
{
    m->swarm->dialling -= m->is_dialling;
    m->is_dialling = false;
}

static void session_over(struct member *m)
{
    struct swarm *s = m->swarm;
    uint8_t number = s->places[m->place].number;
    m->is_up = false;
    m->lost_ms = now_ms(s);
    s->up--;
    s->alive[number]--;
    s->lost[number]++;
    swarm_hubs_pass_over(m);
    if (s->has_connected && !s->storm.began_ms)
        s->storm.began_ms = loop_now_ms(s->loop);
}

static uint32_t delay_after(struct member *m, bool was_up, const struct diag *why)
{
    if (was_up)
        return comeback_after_session(&m->comeback);
    if (m->rpc)
        return comeback_after_login(&m->comeback);
    bool is_busy = why->code == ERR_RESET || why->code == ERR_CLOSED;
    m->swarm->refused += is_busy;
    return comeback_after_dial(&m->comeback, is_busy ? COMEBACK_BUSY : COMEBACK_REFUSED,
                               swarm_hubs_has_untried(m));
}

static void leave(struct member *m, const char *what, const struct diag *why)
{
    struct swarm *s = m->swarm;
    if (!m->is_up && !m->is_dialling)
        return; /* that is known */
    bool was_up = m->is_up;
    attempt_over(m);
    if (was_up) {
        session_over(m);
    } else {
        s->failed++;
        if (!s->stays)
            swarm_fail(what, why);
    }
    if (s->stays)
        timer_start(&m->timer, delay_after(m, was_up, why));
}

static void on_session_end(void *arg, const struct rpc_result *result)
{
    leave(arg, "Connect", &result->diag);
}

static void on_connection_lost(void *arg, int error)
{
    struct member *m = arg;
    struct diag d = {0};
    diag_set(&d, error ? error : ERR_CLOSED, "the connection was lost");
    leave(m, "connection", &d);
    m->rpc = NULL; /* frees itself */
}

/* ---- logging in ---- */

static void came_up(struct member *m)
{
    struct swarm *s = m->swarm;
    attempt_over(m);
    m->is_up = true;
    timer_stop(&m->timer);
    comeback_reset(&m->comeback);
    m->tried = 0;
    s->logins++;
    s->up++;
    s->alive[s->places[m->place].number]++;
    if (m->was_up)
        s->away_ms[s->n_away++] = now_ms(s) - m->lost_ms;
    m->was_up = true;
    if (s->up == s->size)
        malloc_trim(0); /* what the handshakes left */
    if (s->up == s->size && !s->has_connected) {
        s->has_connected = true;
        swarm_report("connected", s->up);
    } else if (s->up == s->size && s->n_away) {
        tell_back(s);
    }
    dial_waiting(s);
}

static void on_event(void *arg, const ProtobufCMessage *message)
{
    struct member *m = arg;
    const Warren__V1__HubEvent *event = (const Warren__V1__HubEvent *)message;
    if (event->event_case == WARREN__V1__HUB_EVENT__EVENT_SNAPSHOT_END && !m->is_up)
        came_up(m);
    if (event->event_case == WARREN__V1__HUB_EVENT__EVENT_HUBS) {
        m->comeback.return_ms = event->hubs->return_ms;
        swarm_hubs_told(m->swarm, event->hubs);
    }
}

static void call_connect(struct member *m)
{
    char name[32];
    Warren__V1__ConnectRequest request = WARREN__V1__CONNECT_REQUEST__INIT;
    snprintf(name, sizeof(name), "swarm-%d", m->swarm->first + (int)(m - m->swarm->members));
    request.version = (char *)WARREN_VERSION;
    request.hostname = name;
    timer_start(&m->timer, SESSION_WELCOME_MS);
    rpc_call_stream(m->rpc, CONNECT, &request.base, &warren__v1__hub_event__descriptor, 0, on_event,
                    on_session_end, m);
}

/* ---- dialling ---- */

/* The connection belongs to `m->rpc` afterwards. */
struct attempt {
    struct member *member;
    struct conn *conn;
};

static void on_open(void *arg)
{
    CLEANUP(mem_free) struct attempt *a = arg;
    struct member *m = a->member;
    SSL_certs_clear(a->conn->ssl); /* it is not needed again */
    const char *host = m->swarm->hubs.entries[m->place].at.host;
    if (rpc_client_new(a->conn, host, on_connection_lost, m, &m->rpc) < 0)
        swarm_fail("session", NULL);
    call_connect(m);
}

static void on_close(void *arg, int error)
{
    CLEANUP(mem_free) struct attempt *a = arg;
    struct diag d = *conn_diag(a->conn);
    if (!d.code)
        diag_set(&d, error ? error : ERR_CLOSED, "%s", error_text(error ? error : ERR_CLOSED));
    leave(a->member, "dial", &d);
}

static const struct conn_ops dial_ops = {.on_open = on_open, .on_close = on_close};

/* 127.1.0.0 and up; one for each member of all swarms of a run. */
static void own_address(const struct member *m, struct addr *ret)
{
    uint32_t number = (uint32_t)m->swarm->first + (uint32_t)(m - m->swarm->members);
    *ret = (struct addr){.len = sizeof(ret->in4)};
    ret->in4.sin_family = AF_INET;
    ret->in4.sin_addr.s_addr = htonl(0x7f010000u + number);
}

/* Connecting; the handshake begins when that is done. */
static int open_socket(const struct member *m)
{
    struct addr own;
    const struct addr *to = &m->swarm->places[m->place].at;
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    own_address(m, &own);
    if (fd < 0)
        return ERR_LIMIT;
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
    if (bind(fd, &own.sa, own.len) == 0 &&
        (connect(fd, &to->sa, to->len) == 0 || errno == EINPROGRESS))
        return fd;
    int rc = error_from_errno(errno);
    close(fd);
    return rc;
}

static int dial(struct member *m)
{
    struct swarm *s = m->swarm;
    int fd = TRY(open_socket(m));
    const struct place *to = &s->places[m->place];
    struct attempt *a = NEW(struct attempt);
    a->member = m;
    int rc = conn_new_client(s->loop, fd, &to->at, to->tls, &a->conn);
    if (rc < 0) {
        mem_free(a);
        return rc;
    }
    if (identity_der_use(m->identity, a->conn->ssl) < 0)
        swarm_fail("a certificate cannot be used", NULL);
    bool has_others = s->hubs.n > 1 && s->hubs.entries[m->place].id[0];
    conn_set_handshake_ms(a->conn, has_others ? comeback_dial_ms(&m->comeback) : DIAL_MS);
    conn_start(a->conn, &dial_ops, a);
    return 0;
}

static void dial_waiting(struct swarm *s)
{
    while (s->queue && (s->has_connected || s->dialling < s->parallel)) {
        struct member *m = s->queue;
        struct diag d = {0};
        s->queue = m->next;
        if (!s->queue)
            s->queue_tail = &s->queue;
        m->is_dialling = true;
        s->dialling++;
        count_dial(s);
        int rc = dial(m);
        if (rc < 0) {
            diag_set(&d, rc, "%s", error_text(rc));
            leave(m, "dial", &d);
        }
    }
}

static void on_timer(struct timer *t)
{
    struct member *m = container_of(t, struct member, timer);
    struct diag d = {0};
    if (m->is_dialling) {
        diag_set(&d, ERR_TIMEOUT, "the hub does not answer the login");
        leave(m, "login", &d);
        return;
    }
    if (m->rpc)
        rpc_client_free(TAKE(m->rpc));
    m->place = swarm_hubs_next(m);
    enqueue(m);
    dial_waiting(m->swarm);
}

void swarm_connect(struct swarm *s)
{
    s->queue_tail = &s->queue;
    s->away_ms = mem_new((size_t)s->size * sizeof(*s->away_ms));
    timer_init(&s->tick, s->loop, on_tick);
    timer_start(&s->tick, TICK_MS);
    for (int i = 0; i < s->size; i++) {
        struct member *m = &s->members[i];
        m->swarm = s;
        comeback_init(&m->comeback);
        m->place = (uint8_t)((size_t)(s->first + i) % s->n_hubs);
        m->tried = UINT64_C(1) << m->place;
        timer_init(&m->timer, s->loop, on_timer);
        enqueue(m);
    }
    dial_waiting(s);
}
