#include "tunnel/tunnel_check.h"

#include "base/error.h"
#include "base/id.h"
#include "base/macro.h"
#include "base/mem.h"
#include "net/conn.h"
#include "net/dialer.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uthash.h>
#include <utlist.h>

#define HOLDER_FACTOR   5
#define AGAIN_MS        250  /* until an outcome that contradicts is checked again */
#define TCP_TIMEOUT_MS  1000 /* a handshake; a lost packet is repeated after 1 s */
#define NAME_TIMEOUT_MS 3000 /* with a name to be resolved */
#define HTTP_TIMEOUT_MS 3000
#define CHECKS_AT_ONCE  64
#define PER_CHECK_MS    5 /* of interval: at most 200 checks a second */
#define ANSWER_MAX      16
#define KEY_SIZE        (HOST_SIZE + CHECK_PATH_SIZE + 64)

struct check {
    struct checker *owner;
    char key[KEY_SIZE];
    struct check_params p;
    struct check_state state;
    struct check_user *users;
    struct timer timer; /* until it is due */
    struct dial *dial;
    struct tls_client *tls; /* of HTTPS */
    struct conn *conn;      /* of HTTP */
    struct timer deadline;  /* for its answer */
    char answer[ANSWER_MAX];
    size_t n_answer;
    bool is_said;
    bool is_running, is_waiting;
    struct check *prev, *next; /* in the owner's `waiting` */
    UT_hash_handle hh;
};

struct checker {
    struct checker_config cfg;
    struct check *checks, *waiting;
    size_t n_running;
};

/* ---- rules ---- */

bool check_state_note(struct check_state *s, uint32_t rise, uint32_t fall, int outcome)
{
    if ((outcome < 0) == (s->err < 0)) {
        s->streak = 0;
        bool changed = s->err != outcome;
        s->err = outcome;
        return changed;
    }
    if (++s->streak < (outcome < 0 ? fall : rise))
        return false;
    s->streak = 0;
    s->err = outcome;
    return true;
}

int check_http_answer(const char *data, size_t len)
{
    static const char start[] = "HTTP/1.";
    for (size_t i = 0; i < sizeof(start) - 1 && i < len; i++) {
        if (data[i] != start[i])
            return ERR_PROTO;
    }
    if (len < sizeof("HTTP/1.1 200") - 1)
        return 1;
    return data[8] == ' ' && (data[9] == '2' || data[9] == '3') ? 0 : ERR_UNAVAILABLE;
}

/* ---- when ---- */

static void start(struct check *c);

static void start_or_wait(struct check *c)
{
    timer_stop(&c->timer);
    if (c->is_running || c->is_waiting)
        return;
    if (c->owner->n_running < CHECKS_AT_ONCE) {
        start(c);
        return;
    }
    c->is_waiting = true;
    DL_APPEND(c->owner->waiting, c);
}

static void on_due(struct timer *t)
{
    start_or_wait(container_of(t, struct check, timer));
}

static bool is_held(const struct check *c)
{
    const struct check_user *u;
    DL_FOREACH (c->users, u) {
        if (u->is_holder)
            return true;
    }
    return false;
}

static uint32_t interval_of(const struct check *c)
{
    uint32_t interval = c->p.interval_ms * (is_held(c) ? 1 : HOLDER_FACTOR);
    return MAX(interval, (uint32_t)HASH_COUNT(c->owner->checks) * PER_CHECK_MS);
}

/* Up to a fifth sooner, so that not all are due together. */
static void schedule(struct check *c)
{
    uint32_t interval = c->state.streak ? AGAIN_MS : interval_of(c);
    timer_start(&c->timer, interval - random_below(interval / 5));
}

static void hurry(struct check *c, uint32_t within_ms)
{
    uint64_t due = loop_now_ms(c->owner->cfg.loop) + within_ms;
    if (timer_is_running(&c->timer) && c->timer.due_ms > due)
        timer_start(&c->timer, random_below(within_ms));
}

/* ---- one check ---- */

static void close_with_reset(int fd)
{
    const struct linger reset = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    close(fd);
}

static void ignore_close(void *arg, int err)
{
}

static const struct conn_ops nobody = {.on_close = ignore_close};

static void stop(struct check *c)
{
    timer_stop(&c->deadline);
    if (c->dial)
        dial_cancel(TAKE(c->dial));
    if (c->conn) {
        conn_start(c->conn, &nobody, NULL);
        conn_abort(TAKE(c->conn), ERR_CANCELED);
    }
    if (c->is_waiting)
        DL_DELETE(c->owner->waiting, c); /* NOLINT(clang-analyzer-core.NullDereference): linked */
    if (c->is_running)
        c->owner->n_running--;
    c->is_waiting = c->is_running = false;
}

static void start_waiting(struct checker *owner)
{
    while (owner->waiting && owner->n_running < CHECKS_AT_ONCE) {
        struct check *c = owner->waiting;
        DL_DELETE(owner->waiting, c);
        c->is_waiting = false;
        start(c);
    }
}

/* Who asked is answered when the outcome agrees with what is known by now. */
static void tell(struct check *c, bool has_changed, int outcome)
{
    struct check_user *u, *next;
    DL_FOREACH_SAFE (c->users, u, next) {
        if (has_changed)
            u->on_change(u, c->state.err);
        if (u->is_asking && (outcome == 0 || c->state.err)) {
            u->is_asking = false;
            u->on_answer(u, outcome);
        }
    }
}

/* Where nobody holds it, one failure is enough for who asks. */
static bool is_decisive(const struct check *c, int outcome)
{
    const struct check_user *u;
    bool is_asked = false;
    DL_FOREACH (c->users, u)
        is_asked |= u->is_asking;
    return outcome < 0 && !c->state.err && is_asked && !is_held(c);
}

static void end(struct check *c, int outcome)
{
    struct checker *owner = c->owner;
    stop(c);
    uint32_t fall = is_decisive(c, outcome) ? 1 : c->p.fall;
    bool has_changed = check_state_note(&c->state, c->p.rise, fall, outcome);
    schedule(c);
    start_waiting(owner);
    tell(c, has_changed, outcome);
}

static void on_deadline(struct timer *t)
{
    end(container_of(t, struct check, deadline), ERR_TIMEOUT);
}

static size_t on_http_fill(void *arg, uint8_t *out, size_t cap)
{
    struct check *c = arg;
    char host[HOST_SIZE + 8];
    if (c->is_said)
        return 0;
    c->is_said = true;
    host_port_format(&c->p.target, host, sizeof(host));
    int n = snprintf((char *)out, cap,
                     "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: warren-check\r\n"
                     "Connection: close\r\n\r\n",
                     c->p.path, host);
    return (size_t)n < cap ? (size_t)n : 0;
}

static size_t on_http_data(void *arg, const uint8_t *data, size_t len)
{
    struct check *c = arg;
    size_t n = MIN(len, sizeof(c->answer) - c->n_answer);
    memcpy(c->answer + c->n_answer, data, n);
    c->n_answer += n;
    int rc = check_http_answer(c->answer, c->n_answer);
    if (rc <= 0)
        end(c, rc);
    return len;
}

static void on_http_close(void *arg, int err)
{
    struct check *c = arg;
    c->conn = NULL;
    end(c, err < 0 && err != ERR_CLOSED ? err : ERR_PROTO);
}

static const struct conn_ops http_ops = {
    .on_data = on_http_data, .on_fill = on_http_fill, .on_close = on_http_close};

static void on_dialled(void *arg, const struct dial_result *r)
{
    struct check *c = arg;
    c->dial = NULL;
    if (r->err < 0) {
        end(c, r->err);
        return;
    }
    if (!c->p.is_http) {
        close_with_reset(r->fd);
        end(c, 0);
        return;
    }
    c->n_answer = 0;
    c->is_said = false;
    int rc = c->tls ? conn_new_client(c->owner->cfg.loop, r->fd, &r->peer, c->tls, &c->conn)
                    : conn_new_plain(c->owner->cfg.loop, r->fd, &r->peer, &c->conn);
    if (rc < 0) {
        end(c, rc);
        return;
    }
    timer_start(&c->deadline, HTTP_TIMEOUT_MS);
    conn_start(c->conn, &http_ops, c);
}

static int check_address(void *arg, const struct addr *a)
{
    const struct check *c = arg;
    return c->owner->cfg.allowed(c->owner->cfg.arg, a);
}

static void start(struct check *c)
{
    struct addr literal;
    bool is_name = addr_parse(c->p.target.host, c->p.target.port, &literal) < 0;
    const struct dial_params p = {.target = c->p.target,
                                  .deadline_ms = is_name ? NAME_TIMEOUT_MS : TCP_TIMEOUT_MS,
                                  .check = check_address,
                                  .is_probe = !c->p.is_http,
                                  .on_done = on_dialled,
                                  .arg = c};
    c->is_running = true;
    c->owner->n_running++;
    c->dial = dial_start(c->owner->cfg.loop, &p);
}

/* ---- users ---- */

static void format_key(const struct check_params *p, char key[KEY_SIZE])
{
    snprintf(key, KEY_SIZE, "%d %d %s %u %u %u %u %s", p->is_http, p->is_tls, p->target.host,
             p->target.port, p->interval_ms, p->rise, p->fall, p->is_http ? p->path : "");
}

static struct check *check_new(struct checker *owner, const struct check_params *p, const char *key)
{
    struct check *c = NEW(struct check);
    c->owner = owner;
    c->p = *p;
    snprintf(c->key, sizeof(c->key), "%s", key);
    timer_init(&c->timer, owner->cfg.loop, on_due);
    timer_init(&c->deadline, owner->cfg.loop, on_deadline);
    if (p->is_http && p->is_tls) { /* whose certificate it is, is not what is asked here */
        const struct tls_client_config tls = {
            .server_name = p->target.host, .old_is_allowed = true, .insecure = true};
        tls_client_new(&tls, &c->tls, &(struct diag){0});
    }
    HASH_ADD_STR(owner->checks, key, c);
    timer_start(&c->timer, random_below(p->interval_ms));
    return c;
}

void check_use(struct checker *owner, const struct check_params *p, struct check_user *u)
{
    char key[KEY_SIZE];
    struct check *c;
    format_key(p, key);
    if (u->check && strcmp(u->check->key, key) == 0)
        return;
    check_unuse(u);
    HASH_FIND_STR(owner->checks, key, c);
    u->check = c ? c : check_new(owner, p, key);
    DL_APPEND(u->check->users, u);
}

void check_unuse(struct check_user *u)
{
    struct check *c = TAKE(u->check);
    u->is_asking = false;
    if (!c)
        return;
    DL_DELETE(c->users, u);
    if (c->users)
        return;
    struct checker *owner = c->owner;
    stop(c);
    timer_stop(&c->timer);
    HASH_DEL(owner->checks, c);
    tls_client_unref(c->tls);
    mem_free(c);
    start_waiting(owner);
}

void check_hold(struct check_user *u, bool is_holder)
{
    if (u->is_holder == is_holder)
        return;
    u->is_holder = is_holder;
    if (u->check && is_holder)
        hurry(u->check, u->check->p.interval_ms / 4);
}

void check_ask(struct check_user *u)
{
    u->is_asking = true;
    start_or_wait(u->check);
}

void check_note(struct check_user *u, int outcome)
{
    struct check *c = u->check;
    if (!c)
        return;
    if (outcome < 0 && !c->state.err)
        hurry(c, AGAIN_MS);
    if (outcome == 0 && c->state.err) { /* it is proven */
        c->state = (struct check_state){0};
        tell(c, true, 0);
    }
}

int check_err(const struct check_user *u)
{
    return u->check ? u->check->state.err : 0;
}

struct checker *checker_new(const struct checker_config *cfg)
{
    struct checker *c = NEW(struct checker);
    c->cfg = *cfg;
    return c;
}

void checker_free(struct checker *c)
{
    mem_free(c);
}
