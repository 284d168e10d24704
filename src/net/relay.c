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
 * Under a bandwidth limit both go by turns: relay_pace.c. In place of the socket there may be
 * another relay of the same loop: relay_pair.c.
 *
 *     DIALLING ─► OPEN ─► finished when: stream ended and flushed (socket shut) and socket read
 *     (agent)       │     to its end (stream ended by us)
 *                   └───► cut: the socket is reset at once, the stream too; over when the stream is
 *                         closed
 *
 * Which stream carries the bytes may change on the way: relay_move.c.
 *
 * The socket may outlive the stream (both directions ended, stash not written yet), never the other
 * way: a relay whose socket is gone only waits for its stream's on_close.
 */
#include "net/relay_internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "net/dialer.h"
#include "wire/proxy_status.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>
#include <utlist.h>

#define CHUNKS_MAX     1024
#define IOV_MAX_A_CALL 64

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
    if (r->first_chunk == RELAY_NO_CHUNK)
        return;
    r->first_chunk = r->last_chunk = RELAY_NO_CHUNK;
    if (--pool.owners == 0)
        pool.used = 0;
}

void relay_close_socket(struct relay *r, bool is_reset)
{
    if (r->pair)
        relay_pair_leave(r);
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
void relay_release_socket(struct relay *r)
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
    dial_gate_leave(&r->dialling->ticket, ERR_CANCELED);
    mem_free(TAKE(r->dialling));
}

/* Reports and frees. From the loop only, and not before the stream is closed. */
static void finish(struct relay *r)
{
    assert(!r->stream);
    relay_close_socket(r, r->end != RELAY_END_FINISHED);
    stop_dialling(r);
    drop_chunks(r);
    relay_stop_pacing(r);
    h2conn_batch_cancel(&r->at_end);
    loop_defer_cancel(&r->over);
    relay_tag_drop(r);
    relay_drop_anchor(r);
    DL_DELETE(r->set->head, r);
    r->set->open--;
    struct relay_result res = {.end = r->end,
                               .err = r->err,
                               .cause = r->cause,
                               .bytes_read = r->bytes_read,
                               .bytes_written = r->bytes_written,
                               .duration_ms = loop_now_ms(r->loop) - r->started_ms,
                               .fd = r->kept_fd};
    relay_move_drop(r);
    if (r->ops && r->ops->on_end)
        r->ops->on_end(r->arg, r, &res);
    buf_done(&r->stash);
    buf_done(&r->more);
    mem_free(r->prefix);
    mem_free(r);
}

/* Decides how it ended and resets the socket; the first decision counts. */
void relay_cut(struct relay *r, enum relay_end end, int err)
{
    if (r->is_cut)
        return;
    r->is_cut = true;
    r->end = end;
    r->err = err;
    if (r->keeps_fd && end == RELAY_END_NOT_OPENED && r->io.fd >= 0)
        relay_release_socket(r);
    relay_close_socket(r, true);
    stop_dialling(r);
    relay_stop_pacing(r);
    drop_chunks(r);
    relay_tag_drop(r);
    relay_move_drop(r);
    buf_done(&r->stash);
    buf_done(&r->more);
    r->given = 0;
}

void relay_cut_both(struct relay *r, enum relay_end end, int err)
{
    relay_cut(r, end, err);
    if (r->stream)
        h2_reset(r->stream, r->is_hub ? H2_CANCEL : H2_CONNECT_ERROR);
    else
        loop_defer(r->loop, &r->over);
}

static void watch_pieces(struct relay *r)
{
    if (++r->n_pieces < RELAY_BUSY_PIECES)
        return;
    uint64_t now = loop_now_ms(r->loop), since = r->pieces_ms;
    r->n_pieces = 0;
    r->pieces_ms = now;
    if (now - since <= RELAY_BULK_MS && r->ops && r->ops->on_busy)
        r->ops->on_busy(r->arg, r);
}

/* Tells the owner of one that moves RELAY_BULK_BYTES within RELAY_BULK_MS, each time. */
static void watch_burst(struct relay *r, size_t n)
{
    if (n)
        watch_pieces(r);
    r->burst += (uint32_t)n;
    if (r->burst < RELAY_BULK_BYTES)
        return;
    uint64_t now = loop_now_ms(r->loop), since = r->burst_ms;
    r->burst = 0;
    r->burst_ms = now;
    if (now - since <= RELAY_BULK_MS && r->ops && r->ops->on_bulk)
        r->ops->on_bulk(r->arg, r);
}

/* Stream to socket */

static void count_written(struct relay *r, size_t n)
{
    size_t old = MIN(n, (size_t)r->old_bytes);
    r->bytes_written += n;
    atomic_fetch_add_explicit(&r->set->bytes_written, n, memory_order_relaxed);
    r->old_bytes -= (uint32_t)old;
    if (r->stream && n > old)
        h2_consume(r->stream, n - old);
    watch_burst(r, n);
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
    relay_cut_both(r, RELAY_END_SOCKET_RESET, err);
}

static bool has_socket(const struct relay *r)
{
    return r->io.fd >= 0 || r->pair;
}

void relay_shut_if_done(struct relay *r)
{
    if (!r->stream_ended || r->is_shut || r->stash.len || r->first_chunk != RELAY_NO_CHUNK ||
        !has_socket(r) || !r->is_open)
        return;
    r->is_shut = true;
    if (r->pair)
        relay_pair_shut(r);
    else
        shutdown(r->io.fd, SHUT_WR);
    if (!r->stream) { /* it was closed before its last bytes were written */
        r->end = RELAY_END_FINISHED;
        loop_defer(r->loop, &r->over);
    }
}

/* A large stash leaves in many small pieces, and is never moved. */
static void drop_kept(struct relay *r, size_t n)
{
    r->given += (uint32_t)n;
    if (r->given < r->stash.len)
        return;
    r->given -= (uint32_t)r->stash.len;
    buf_done(&r->stash);
    r->stash = r->more;
    r->more = (struct buf){0};
    if (r->given && r->given == r->stash.len)
        drop_kept(r, 0);
}

/* One send; false: no more now. */
static bool write_some(struct relay *r)
{
    size_t len = relay_may_write(r), first = MIN(len, r->stash.len - r->given);
    struct iovec iov[2] = {{r->stash.data + r->given, first}, {r->more.data, len - first}};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = len > first ? 2 : 1};
    if (!len)
        return false;
    ssize_t n = sendmsg(r->io.fd, &msg, MSG_NOSIGNAL);
    relay_did_write(r, n > 0 ? (size_t)n : 0);
    if (n < 0) {
        write_failed(r);
        return false;
    }
    if ((size_t)n < len)
        r->io.writable = false;
    drop_kept(r, (size_t)n);
    count_written(r, (size_t)n);
    return true;
}

void relay_write_kept(struct relay *r)
{
    if (r->pair) {
        relay_pair_write(r);
        return;
    }
    while (!r->is_cut && r->stash.len && r->io.writable)
        if (!write_some(r))
            return;
    if (!r->stash.len)
        buf_done(&r->stash);
}

/* The next chunks as an iovec; returns their bytes. */
static size_t take_chunks(struct relay *r, struct iovec *iov, int *n)
{
    size_t bytes = 0;
    for (*n = 0; *n < IOV_MAX_A_CALL && r->first_chunk != RELAY_NO_CHUNK; (*n)++) {
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
        (void)buf_append(r->given ? &r->more : &r->stash, (char *)iov[i].iov_base + written,
                         iov[i].iov_len - written);
        written = 0;
    }
}

size_t relay_count_kept(const struct relay *r)
{
    return r->stash.len - r->given + r->more.len;
}

void relay_keep(struct relay *r, const void *data, size_t len)
{
    stash_rest(r, &(struct iovec){(void *)data, len}, 1, 0);
}

void relay_keep_chunks(struct relay *r)
{
    struct iovec iov[IOV_MAX_A_CALL];
    while (r->first_chunk != RELAY_NO_CHUNK) {
        int n;
        take_chunks(r, iov, &n);
        stash_rest(r, iov, n, 0);
    }
}

static size_t give_chunks(struct relay *r, uint8_t *out, size_t cap)
{
    size_t n = 0;
    while (r->first_chunk != RELAY_NO_CHUNK && n < cap) {
        struct chunk *c = &pool.items[r->first_chunk];
        uint32_t part = (uint32_t)MIN(cap - n, (size_t)c->len);
        memcpy(out + n, c->data, part);
        n += part;
        c->data += part;
        c->len -= part;
        if (c->len)
            break;
        if (r->first_chunk == r->last_chunk)
            drop_chunks(r);
        else
            r->first_chunk = c->next;
    }
    return n;
}

static size_t give_kept(struct relay *r, uint8_t *out, size_t cap)
{
    size_t kept = r->stash.len - r->given, may = relay_may_write(r);
    size_t n = MIN(cap, kept);
    n = MIN(n, may);
    memcpy(out, r->stash.data + r->given, n);
    relay_did_write(r, n);
    drop_kept(r, n);
    return n;
}

size_t relay_give(struct relay *r, uint8_t *out, size_t cap)
{
    size_t n = r->stash.len ? give_kept(r, out, cap) : 0;
    if (!r->stash.len)
        n += give_chunks(r, out + n, cap - n);
    if (n)
        count_written(r, n);
    relay_shut_if_done(r);
    return n;
}

static void write_chunks(struct relay *r)
{
    struct iovec iov[IOV_MAX_A_CALL];
    if (r->pair)
        relay_keep_chunks(r);
    while (r->first_chunk != RELAY_NO_CHUNK) {
        int n;
        ssize_t written = 0;
        size_t bytes = take_chunks(r, iov, &n);
        if (!r->stash.len && r->io.writable && !relay_is_write_paced(r)) {
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
    if (r->stash.len)
        relay_write_kept(r);
}

void relay_on_batch_end(struct h2conn_batch *b)
{
    struct relay *r = container_of(b, struct relay, at_end);
    if (r->pair) {
        relay_pair_offer(r);
        return;
    }
    write_chunks(r);
    if (!r->is_cut)
        relay_shut_if_done(r);
}

static void on_data(void *arg, struct h2_stream *s, const uint8_t *data, size_t len)
{
    struct relay *r = arg;
    if (r->is_cut) {
        h2_consume(s, len);
        return;
    }
    r->received += len;
    relay_move_received(r);
    if (pool.used == CHUNKS_MAX)
        write_chunks(r);
    if (r->is_cut)
        return;
    if (pool.used == CHUNKS_MAX) { /* all are others'; theirs is the turn to be written */
        relay_keep(r, data, len);
        h2conn_at_batch_end(r->hc, &r->at_end);
        return;
    }
    uint16_t at = pool.used++;
    pool.items[at] = (struct chunk){data, (uint32_t)len, RELAY_NO_CHUNK};
    if (r->first_chunk == RELAY_NO_CHUNK) {
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
    if (r->move) {
        relay_move_old_ended(r);
        return;
    }
    r->stream_ended = true;
    if (!r->is_cut)
        relay_shut_if_done(r);
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

static int count_read(struct relay *r, size_t n)
{
    r->bytes_read += n;
    atomic_fetch_add_explicit(&r->set->bytes_read, n, memory_order_relaxed);
    watch_burst(r, n);
    return (int)n;
}

static int read_pair(struct relay *r, uint8_t *out, size_t cap, bool *eof)
{
    size_t n = 0;
    cap = relay_may_read(r, cap);
    if (!cap)
        return 0;
    bool has_ended = !relay_pair_read(r, out, cap, &n);
    relay_did_read(r, n);
    if (n)
        return count_read(r, n);
    if (has_ended && r->socket_err) {
        relay_cut_both(r, RELAY_END_SOCKET_RESET, r->socket_err);
    } else if (has_ended && !relay_move_is_waiting(r)) {
        r->socket_ended = true;
        *eof = true;
    }
    return 0;
}

int relay_read(struct relay *r, uint8_t *out, size_t cap, bool *eof)
{
    if (r->prefix && has_socket(r))
        return send_prefix(r, out, cap);
    *eof = r->is_cut && r->end == RELAY_END_NOT_OPENED; /* politer than a reset */
    if (r->pair)
        return read_pair(r, out, cap, eof);
    if (r->io.fd < 0 || !r->io.readable)
        return 0;
    ssize_t n;
    cap = relay_may_read(r, cap);
    if (!cap)
        return 0;
    do {
        n = recv(r->io.fd, out, cap, 0);
    } while (n < 0 && errno == EINTR);
    relay_did_read(r, n > 0 ? (size_t)n : 0);
    if (n < 0 && !r->socket_err && (errno == EAGAIN || is_to_be_told(r))) {
        r->io.readable = false;
        return 0;
    }
    if (n < 0 || (n == 0 && r->socket_err)) {
        relay_cut_both(r, RELAY_END_SOCKET_RESET, n < 0 ? error_from_errno(errno) : r->socket_err);
        return 0;
    }
    if (n == 0 && is_doubtful_end(r)) {
        r->io.readable = false;
        return 0;
    }
    if (n == 0 && relay_move_is_waiting(r))
        return 0; /* asked again when it is known which stream it ends */
    if (n == 0) {
        r->socket_ended = true;
        *eof = true;
        return 0;
    }
    if ((size_t)n < cap && !r->io.hup)
        r->io.readable = false;
    return count_read(r, (size_t)n);
}

static int on_produce(void *arg, struct h2_stream *s, uint8_t *out, size_t cap, bool *eof)
{
    struct relay *r = arg;
    (void)s;
    if (relay_move_is_due(r, eof))
        return 0;
    if (r->waits && !r->is_open)
        return 0;
    return relay_read(r, out, cap, eof);
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
    relay_cut_both(r, RELAY_END_SOCKET_RESET, error_from_errno(err));
    return true;
}

void relay_on_event(struct io *io)
{
    struct relay *r = container_of(io, struct relay, io);
    if (io->error && !is_to_be_told(r) && check_reset(r))
        return;
    if (io->writable && r->stash.len) {
        relay_write_kept(r);
        if (!r->is_cut)
            relay_shut_if_done(r);
    }
    if (io->readable && !r->socket_ended && !r->is_cut)
        relay_resume(r);
}

/* The stream's end */

static void on_close(void *arg, struct h2_stream *s, uint32_t error)
{
    struct relay *r = arg;
    r->stream = NULL;
    if (!r->is_cut && r->first_chunk != RELAY_NO_CHUNK && has_socket(r))
        write_chunks(r); /* before a reset throws them away */
    if (r->move && error == H2_NO_ERROR && relay_move_finish(r, s))
        return;
    if (!r->is_cut && error == H2_NO_ERROR && r->stream_ended && r->socket_ended) {
        relay_shut_if_done(r);
        if (r->is_shut)
            finish(r);
        return;
    }
    if (h2conn_is_ending(r->hc))
        relay_cut(r, r->is_open ? RELAY_END_LOST : RELAY_END_NOT_OPENED, ERR_CLOSED);
    else
        relay_cut(r, r->is_open ? RELAY_END_STREAM_RESET : RELAY_END_NOT_OPENED,
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
        r->far_worker = relay_read_worker(h);
        if (r->waits)
            h2_resume(s);
        if (r->ops && r->ops->on_open)
            r->ops->on_open(r->arg, r);
        return;
    }
    const char *field = h2_headers_get(h, "proxy-status");
    proxy_status_cause(field, &r->cause);
    relay_cut(r, RELAY_END_NOT_OPENED, proxy_status_parse(status, field));
    h2_resume(s);
}

const struct h2_stream_ops relay_stream_ops = {.on_headers = on_headers,
                                               .on_data = on_data,
                                               .on_end = on_end,
                                               .on_produce = on_produce,
                                               .on_close = on_close};

void relay_on_over(struct defer *d)
{
    finish(container_of(d, struct relay, over));
}

void relay_abort(struct relay *r, int err)
{
    if (!r->is_cut)
        relay_cut_both(r, RELAY_END_ABORTED, err);
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

struct h2conn *relay_conn(const struct relay *r)
{
    return r->move ? relay_move_conn(r) : r->hc;
}

struct relay_worker relay_far_worker(const struct relay *r)
{
    return r->far_worker;
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
