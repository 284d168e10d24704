/*
 * Theory of operation.
 *
 * Socket to stream: nothing is buffered. Readiness of the socket resumes the stream; HTTP/2 then
 * asks on_produce for exactly what its windows and the output buffer take, and that is what is
 * read.
 *
 * Stream to socket: on_data only notes where the bytes are (`struct chunk`); at the end of the
 * input batch one sendmsg() takes all chunks of a relay. What the socket refuses is copied to
 * `stash`, which the stream's window bounds, because only written bytes are credited.
 *
 *     DIALLING ─► OPEN ─► finished when: stream ended and flushed (socket shut) and socket read
 *     (agent)       │     to its end (stream ended by us)
 *                   └───► cut: the socket is reset at once, the stream too; over when the stream is
 *                         closed
 *
 * The socket may outlive the stream (both directions ended, stash not written yet), never the other
 * way: a relay whose socket is gone only waits for its stream's on_close.
 */
#include "net/relay.h"

#include "base/buf.h"
#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "loop/io.h"
#include "net/dialer.h"
#include "wire/proxy_status.h"

#include <assert.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>
#include <utlist.h>

#define CHUNKS_MAX     1024
#define IOV_MAX_A_CALL 64
#define NO_CHUNK       UINT16_MAX
#define KEEPALIVE_S    60

struct relay {
    struct io io;
    struct h2_stream *stream; /* NULL once closed */
    struct h2conn *hc;        /* gone perhaps once the stream is closed */
    struct loop *loop;
    struct relay_set *set;
    struct relay *prev, *next; /* in the set */
    const struct relay_ops *ops;
    void *arg;
    struct h2conn_batch at_end;
    struct buf stash;
    uint16_t first_chunk, last_chunk;
    bool is_hub, is_local;
    bool other_ended;      /* local: told so */
    bool keeps_fd;         /* for whoever is told that the target was not reached */
    int kept_fd;           /* -1: none */
    bool is_open : 1;      /* the target is reached */
    bool is_cut : 1;       /* `end` and `err` are decided, the socket is gone */
    bool socket_ended : 1; /* read to its end */
    bool stream_ended : 1; /* END_STREAM came */
    bool is_shut : 1;      /* ... and went on as FIN */
    int err;
    int socket_err; /* pending error of the socket, told once its last bytes are read */
    enum relay_end end;
    uint64_t bytes_read, bytes_written, started_ms;
    struct addr peer;
    struct dialling *dialling; /* agent, until the target answers */
    struct defer over;         /* for an end that no stream reports */
    struct prefix *prefix;     /* hub, until it is sent */
};

struct prefix {
    uint16_t len, sent;
    uint8_t data[];
};

struct dialling {
    struct dial *dial;
    int (*check)(void *arg, const struct addr *a);
    void *check_arg;
    struct relay *relay;
};

/* Received bytes on their way through one batch. Shared by all relays of the thread, because only
 * one batch is taken apart at a time. */
struct chunk {
    const uint8_t *data;
    uint32_t len;
    uint16_t next;
};
static _Thread_local struct {
    struct chunk items[CHUNKS_MAX];
    uint16_t used;
    uint32_t owners; /* relays that have chunks; at 0 all items are free again */
} pool;

static const char *const end_names[] = {"finished",     "not_opened", "socket_reset",
                                        "stream_reset", "lost",       "aborted"};
static_assert(ARRAY_SIZE(end_names) == RELAY_END_COUNT, "one name each");

const char *relay_end_name(enum relay_end e)
{
    return end_names[e];
}

static void drop_chunks(struct relay *r)
{
    if (r->first_chunk == NO_CHUNK)
        return;
    r->first_chunk = r->last_chunk = NO_CHUNK;
    if (--pool.owners == 0)
        pool.used = 0;
}

static void close_socket(struct relay *r, bool is_reset)
{
    if (r->io.fd < 0)
        return;
    if (is_reset) {
        struct linger zero = {.l_onoff = 1, .l_linger = 0};
        setsockopt(r->io.fd, SOL_SOCKET, SO_LINGER, &zero, sizeof(zero));
    }
    int fd = r->io.fd;
    io_stop(&r->io);
    close(fd);
    r->io.fd = -1;
}

/* ... unless its owner has something to say on it. */
static void release_socket(struct relay *r)
{
    r->kept_fd = r->io.fd;
    io_stop(&r->io);
    r->io.fd = -1;
}

static void stop_dialling(struct relay *r)
{
    if (!r->dialling)
        return;
    dial_cancel(r->dialling->dial);
    mem_free(TAKE(r->dialling));
}

/* Reports and frees. From the loop only, and not before the stream is closed. */
static void finish(struct relay *r)
{
    assert(!r->stream);
    close_socket(r, r->end != RELAY_END_FINISHED);
    stop_dialling(r);
    drop_chunks(r);
    h2conn_batch_cancel(&r->at_end);
    loop_defer_cancel(&r->over);
    DL_DELETE(r->set->head, r);
    r->set->open--;
    struct relay_result res = {.end = r->end,
                               .err = r->err,
                               .bytes_read = r->bytes_read,
                               .bytes_written = r->bytes_written,
                               .duration_ms = loop_now_ms(r->loop) - r->started_ms,
                               .fd = r->kept_fd};
    if (r->ops && r->ops->on_end)
        r->ops->on_end(r->arg, r, &res);
    buf_done(&r->stash);
    mem_free(r->prefix);
    mem_free(r);
}

/* Decides how it ended and resets the socket; the first decision counts. */
static void cut(struct relay *r, enum relay_end end, int err)
{
    if (r->is_cut)
        return;
    r->is_cut = true;
    r->end = end;
    r->err = err;
    if (r->keeps_fd && end == RELAY_END_NOT_OPENED && r->io.fd >= 0)
        release_socket(r);
    close_socket(r, true);
    stop_dialling(r);
    drop_chunks(r);
    buf_done(&r->stash);
}

static void cut_both(struct relay *r, enum relay_end end, int err)
{
    cut(r, end, err);
    if (r->stream)
        h2_reset(r->stream, r->is_hub ? H2_CANCEL : H2_CONNECT_ERROR);
    else
        loop_defer(r->loop, &r->over);
}

/* Stream to socket */

static void count_written(struct relay *r, size_t n)
{
    r->bytes_written += n;
    atomic_fetch_add_explicit(&r->set->bytes_written, n, memory_order_relaxed);
    if (r->stream && n)
        h2_consume(r->stream, n);
}

/* Why a local socket has no other end any more, relay_other_ended will tell. */
static bool is_to_be_told(const struct relay *r)
{
    return r->is_local && !r->other_ended;
}

static void write_failed(struct relay *r)
{
    if (errno == EAGAIN || errno == EINTR || is_to_be_told(r)) {
        r->io.writable = false;
        return;
    }
    int err = errno == EPIPE ? ERR_RESET : error_from_errno(errno);
    cut_both(r, RELAY_END_SOCKET_RESET, err);
}

static void shut_if_done(struct relay *r)
{
    if (!r->stream_ended || r->is_shut || r->stash.len || r->first_chunk != NO_CHUNK ||
        r->io.fd < 0 || !r->is_open)
        return;
    r->is_shut = true;
    shutdown(r->io.fd, SHUT_WR);
    if (!r->stream) { /* it was closed before its last bytes were written */
        r->end = RELAY_END_FINISHED;
        loop_defer(r->loop, &r->over);
    }
}

static void write_stash(struct relay *r)
{
    if (!r->stash.len || !r->io.writable)
        return;
    ssize_t n = send(r->io.fd, r->stash.data, r->stash.len, MSG_NOSIGNAL);
    if (n < 0) {
        write_failed(r);
        return;
    }
    if ((size_t)n < r->stash.len)
        r->io.writable = false;
    buf_consume(&r->stash, (size_t)n);
    if (!r->stash.len)
        buf_done(&r->stash);
    count_written(r, (size_t)n);
}

/* The next chunks as an iovec; returns their bytes. */
static size_t take_chunks(struct relay *r, struct iovec *iov, int *n)
{
    size_t bytes = 0;
    for (*n = 0; *n < IOV_MAX_A_CALL && r->first_chunk != NO_CHUNK; (*n)++) {
        const struct chunk *c = &pool.items[r->first_chunk];
        iov[*n] = (struct iovec){(void *)c->data, c->len};
        bytes += c->len;
        if (r->first_chunk == r->last_chunk)
            drop_chunks(r);
        else
            r->first_chunk = c->next;
    }
    return bytes;
}

static void stash_rest(struct relay *r, const struct iovec *iov, int n, size_t written)
{
    for (int i = 0; i < n; i++) {
        if (written >= iov[i].iov_len) {
            written -= iov[i].iov_len;
            continue;
        }
        /* no limit needed: the stream's window is one */
        (void)buf_append(&r->stash, (char *)iov[i].iov_base + written, iov[i].iov_len - written);
        written = 0;
    }
}

static void write_chunks(struct relay *r)
{
    struct iovec iov[IOV_MAX_A_CALL];
    while (r->first_chunk != NO_CHUNK) {
        int n;
        ssize_t written = 0;
        size_t bytes = take_chunks(r, iov, &n);
        if (!r->stash.len && r->io.writable) {
            struct msghdr msg = {.msg_iov = iov, .msg_iovlen = (size_t)n};
            written = n == 1 ? send(r->io.fd, iov[0].iov_base, iov[0].iov_len, MSG_NOSIGNAL)
                             : sendmsg(r->io.fd, &msg, MSG_NOSIGNAL);
            if (written < 0)
                write_failed(r);
            if (r->is_cut)
                return;
            written = written < 0 ? 0 : written;
            if ((size_t)written < bytes)
                r->io.writable = false;
        }
        stash_rest(r, iov, n, (size_t)written);
        count_written(r, (size_t)written);
    }
}

static void on_batch_end(struct h2conn_batch *b)
{
    struct relay *r = container_of(b, struct relay, at_end);
    write_chunks(r);
    if (!r->is_cut)
        shut_if_done(r);
}

static void on_data(void *arg, struct h2_stream *s, const uint8_t *data, size_t len)
{
    struct relay *r = arg;
    if (r->is_cut) {
        h2_consume(s, len);
        return;
    }
    if (pool.used == CHUNKS_MAX)
        write_chunks(r);
    if (r->is_cut)
        return;
    if (pool.used == CHUNKS_MAX) { /* all are others'; theirs is the turn to be written */
        stash_rest(r, &(struct iovec){(void *)data, len}, 1, 0);
        return;
    }
    uint16_t at = pool.used++;
    pool.items[at] = (struct chunk){data, (uint32_t)len, NO_CHUNK};
    if (r->first_chunk == NO_CHUNK) {
        r->first_chunk = at;
        pool.owners++;
        h2conn_at_batch_end(r->hc, &r->at_end);
    } else {
        pool.items[r->last_chunk].next = at;
    }
    r->last_chunk = at;
}

static void on_end(void *arg, struct h2_stream *s)
{
    struct relay *r = arg;
    (void)s;
    r->stream_ended = true;
    if (!r->is_cut)
        shut_if_done(r);
}

/* Socket to stream */

/* The end may just as well be a reset: relay_other_ended will say. */
static bool is_doubtful_end(const struct relay *r)
{
    struct pollfd p = {.fd = r->io.fd};
    return is_to_be_told(r) && poll(&p, 1, 0) == 1 && (p.revents & POLLHUP);
}

static int send_prefix(struct relay *r, uint8_t *out, size_t cap)
{
    struct prefix *p = r->prefix;
    size_t n = MIN(cap, (size_t)(p->len - p->sent));
    memcpy(out, p->data + p->sent, n);
    p->sent += (uint16_t)n;
    if (p->sent == p->len)
        mem_free(TAKE(r->prefix));
    return (int)n;
}

static int on_produce(void *arg, struct h2_stream *s, uint8_t *out, size_t cap, bool *eof)
{
    struct relay *r = arg;
    (void)s;
    if (r->prefix && r->io.fd >= 0)
        return send_prefix(r, out, cap);
    *eof = r->is_cut && r->end == RELAY_END_NOT_OPENED; /* politer than a reset */
    if (r->io.fd < 0 || !r->io.readable)
        return 0;
    ssize_t n;
    do {
        n = recv(r->io.fd, out, cap, 0);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && !r->socket_err && (errno == EAGAIN || is_to_be_told(r))) {
        r->io.readable = false;
        return 0;
    }
    if (n < 0 || (n == 0 && r->socket_err)) {
        cut_both(r, RELAY_END_SOCKET_RESET, n < 0 ? error_from_errno(errno) : r->socket_err);
        return 0;
    }
    if (n == 0 && is_doubtful_end(r)) {
        r->io.readable = false;
        return 0;
    }
    if (n == 0) {
        r->socket_ended = true;
        *eof = true;
        return 0;
    }
    if ((size_t)n < cap && !r->io.hup)
        r->io.readable = false;
    r->bytes_read += (uint64_t)n;
    atomic_fetch_add_explicit(&r->set->bytes_read, (uint64_t)n, memory_order_relaxed);
    return (int)n;
}

/* A reset must be seen even while nobody reads. What a target sent before its reset still goes on;
 * a client's reset means nobody is there to care. */
static bool check_reset(struct relay *r)
{
    int err = 0, unread = 0;
    socklen_t len = sizeof(err);
    if (getsockopt(r->io.fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0 || !err)
        return false;
    if (!r->is_hub && !r->socket_ended && ioctl(r->io.fd, FIONREAD, &unread) == 0 && unread) {
        r->socket_err = error_from_errno(err);
        return false;
    }
    cut_both(r, RELAY_END_SOCKET_RESET, error_from_errno(err));
    return true;
}

static void on_event(struct io *io)
{
    struct relay *r = container_of(io, struct relay, io);
    if (io->error && !is_to_be_told(r) && check_reset(r))
        return;
    if (io->writable && r->stash.len) {
        write_stash(r);
        if (!r->is_cut)
            shut_if_done(r);
    }
    if (io->readable && r->stream && !r->socket_ended && !r->is_cut)
        h2_resume(r->stream);
}

/* The stream's end */

static void on_close(void *arg, struct h2_stream *s, uint32_t error)
{
    struct relay *r = arg;
    (void)s;
    r->stream = NULL;
    if (!r->is_cut && r->first_chunk != NO_CHUNK && r->io.fd >= 0)
        write_chunks(r); /* before a reset throws them away */
    if (!r->is_cut && error == H2_NO_ERROR && r->stream_ended && r->socket_ended) {
        shut_if_done(r);
        if (r->is_shut)
            finish(r);
        return;
    }
    if (h2conn_is_ending(r->hc))
        cut(r, r->is_open ? RELAY_END_LOST : RELAY_END_NOT_OPENED, ERR_CLOSED);
    else
        cut(r, r->is_open ? RELAY_END_STREAM_RESET : RELAY_END_NOT_OPENED,
            r->is_open ? ERR_RESET : ERR_CANCELED);
    finish(r);
}

static void on_headers(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    struct relay *r = arg;
    int status = h2_headers_status(h);
    if (!r->is_hub || r->is_open || r->is_cut || status < 200)
        return;
    if (status < 300) {
        r->is_open = true;
        if (r->ops && r->ops->on_open)
            r->ops->on_open(r->arg, r);
        return;
    }
    cut(r, RELAY_END_NOT_OPENED, proxy_status_parse(status, h2_headers_get(h, "proxy-status")));
    h2_resume(s);
}

static const struct h2_stream_ops stream_ops = {.on_headers = on_headers,
                                                .on_data = on_data,
                                                .on_end = on_end,
                                                .on_produce = on_produce,
                                                .on_close = on_close};

static void on_over(struct defer *d)
{
    finish(container_of(d, struct relay, over));
}

/* Beginnings */

static struct relay *make(struct h2conn *hc, struct relay_set *set, const struct relay_ops *ops,
                          void *arg)
{
    struct relay *r = NEW(struct relay);
    r->hc = hc;
    r->loop = h2conn_loop(hc);
    r->set = set;
    r->ops = ops;
    r->arg = arg;
    r->io.fd = r->kept_fd = -1;
    r->first_chunk = r->last_chunk = NO_CHUNK;
    r->at_end.fn = on_batch_end;
    r->over.fn = on_over;
    r->started_ms = loop_now_ms(r->loop);
    DL_APPEND(set->head, r);
    set->open++;
    set->total++;
    return r;
}

/* Targets that vanish without a word are found by the kernel. */
static void watch_target(int fd)
{
    int one = 1, idle = KEEPALIVE_S;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
}

static void forget(struct relay *r)
{
    DL_DELETE(r->set->head, r);
    r->set->open--;
    r->set->total--;
    if (r->keeps_fd)
        release_socket(r);
    close_socket(r, true);
    mem_free(r->prefix);
    mem_free(r);
}

static struct prefix *copy_prefix(const struct relay_open_params *p)
{
    if (!p->prefix_len)
        return NULL;
    struct prefix *prefix = mem_new(sizeof(*prefix) + p->prefix_len);
    prefix->len = p->prefix_len;
    memcpy(prefix->data, p->prefix, p->prefix_len);
    return prefix;
}

int relay_open(struct h2conn *hc, int fd, const struct relay_open_params *p, struct relay **ret)
{
    struct h2_header headers[16] = {{":method", "CONNECT"}, {":authority", p->authority}};
    assert(p->n_headers <= ARRAY_SIZE(headers) - 2);
    for (size_t i = 0; i < p->n_headers; i++)
        headers[i + 2] = p->headers[i];
    struct relay *r = make(hc, p->set, p->ops, p->arg);
    r->is_hub = true;
    r->is_local = p->is_local;
    r->keeps_fd = p->keeps_fd;
    r->peer = p->peer;
    r->prefix = copy_prefix(p);
    int rc = io_start(&r->io, h2conn_loop(hc), fd, on_event);
    if (rc == 0 && h2conn_is_ending(hc))
        rc = ERR_UNAVAILABLE;
    if (rc == 0)
        rc = h2_request(h2conn_session(hc), headers, p->n_headers + 2, true, &stream_ops, r,
                        &r->stream);
    if (rc < 0) {
        r->io.fd = fd;
        forget(r);
        return rc;
    }
    if (r->prefix)
        h2_resume(r->stream);
    *ret = r;
    return 0;
}

void relay_other_ended(struct relay *r, int err)
{
    r->other_ended = true;
    if (r->is_cut)
        return;
    if ((err < 0 && r->is_hub) || (err == 0 && r->stash.len)) {
        cut_both(r, RELAY_END_SOCKET_RESET, err ? err : ERR_RESET);
        return;
    }
    r->socket_err = err; /* of a target: told after its last bytes */
    r->io.readable = true;
    if (r->stream && !r->socket_ended)
        h2_resume(r->stream);
}

static void answer_failure(struct h2_stream *s, int err)
{
    char status[4] = "502", field[PROXY_STATUS_SIZE];
    int code = proxy_status_format(err, field);
    status[0] = (char)('0' + code / 100);
    status[1] = (char)('0' + code / 10 % 10);
    status[2] = (char)('0' + code % 10);
    h2_respond(s, H2_HEADERS({":status", status}, {"proxy-status", field}), 2, false);
}

void relay_refuse(struct h2_stream *s, int err)
{
    answer_failure(s, err);
}

struct relay *relay_await(struct h2_stream *s, struct relay_set *set, const struct relay_ops *ops,
                          void *arg)
{
    struct relay *r = make(h2conn_of(s), set, ops, arg);
    r->stream = s;
    h2_stream_set(s, &stream_ops, r);
    return r;
}

int relay_begin(struct relay *r, int fd)
{
    int rc = r->is_cut ? ERR_CLOSED : io_start(&r->io, r->loop, fd, on_event);
    if (rc < 0)
        close(fd);
    else
        r->is_local = true;
    return rc;
}

void relay_confirm(struct relay *r)
{
    if (r->is_cut || !r->stream)
        return;
    r->is_open = true;
    h2_respond(r->stream, H2_HEADERS({":status", "200"}), 1, true);
    if (r->ops && r->ops->on_open)
        r->ops->on_open(r->arg, r);
    shut_if_done(r);
}

void relay_fail(struct relay *r, int err, const struct h2_header *headers, size_t n)
{
    if (r->is_cut || !r->stream)
        return;
    if (headers)
        h2_respond(r->stream, headers, n, false);
    else
        answer_failure(r->stream, err);
    cut(r, RELAY_END_NOT_OPENED, err);
}

static void on_dialled(void *arg, const struct dial_result *res)
{
    struct dialling *d = arg;
    struct relay *r = d->relay;
    r->dialling = NULL;
    mem_free(d);
    int err = res->err;
    if (err == 0) {
        err = io_start(&r->io, r->loop, res->fd, on_event);
        if (err < 0)
            close(res->fd);
    }
    if (err < 0) {
        r->io.fd = -1;
        relay_fail(r, err, NULL, 0);
        return;
    }
    r->peer = res->peer;
    watch_target(res->fd);
    relay_confirm(r);
}

static int check_target(void *arg, const struct addr *a)
{
    const struct dialling *d = arg;
    return d->check ? d->check(d->check_arg, a) : 0;
}

struct relay *relay_accept(struct h2_stream *s, const struct relay_accept_params *p)
{
    struct relay *r = relay_await(s, p->set, p->ops, p->arg);
    struct dialling *d = NEW(struct dialling);
    r->dialling = d;
    d->relay = r;
    d->check = p->check;
    d->check_arg = p->check_arg;
    d->dial = dial_start(r->loop, &(struct dial_params){.target = p->target,
                                                        .deadline_ms = p->deadline_ms,
                                                        .check = check_target,
                                                        .on_done = on_dialled,
                                                        .arg = d});
    return r;
}

void relay_abort(struct relay *r, int err)
{
    if (!r->is_cut)
        cut_both(r, RELAY_END_ABORTED, err);
}

void relay_set_abort(struct relay_set *set, int err)
{
    struct relay *r;
    DL_FOREACH (set->head, r) {
        relay_abort(r, err);
    }
}

uint64_t relay_bytes_read(const struct relay *r)
{
    return r->bytes_read;
}

uint64_t relay_bytes_written(const struct relay *r)
{
    return r->bytes_written;
}

const struct addr *relay_peer(const struct relay *r)
{
    return &r->peer;
}

int relay_fd(const struct relay *r)
{
    return r->io.fd;
}

void *relay_arg(const struct relay *r)
{
    return r->arg;
}

struct relay *relay_next(const struct relay *r)
{
    return r->next;
}
