/*
 * A relay changes connections: its bytes go on in another stream, of another connection between the
 * same two ends. Why: a stream that fills a connection holds up all others on it, and many streams
 * that share one also share each loss.
 *
 *     hub:   CONNECT, :protocol warren-move, :path /CONNECTION/STREAM   ── new stream ─►  agent
 *     agent: 200; from now on sends on the new stream, after END_STREAM on the old
 *     hub:   has the 200: the same
 *
 * Each way therefore changes at one place in the bytes, and END_STREAM on the old stream says where
 * it is. What arrives in the new stream before is held, within that stream's first window. The old
 * stream is closed when both ways have ended; then the new one is the relay's stream.
 *
 * END_STREAM on the old stream may also be a FIN that was on its way when the hub asked. The agent
 * refuses then; so until the answer has come the hub neither takes one for the end of the bytes nor
 * sends one itself.
 */
#include "net/relay_internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MOVE_PROTOCOL "warren-move"

struct relay_move {
    struct relay *relay;
    struct h2_stream *to; /* NULL: closed already, properly */
    struct h2conn *hc;
    struct buf held;
    bool is_answered; /* 200 went or came */
    bool is_sending;  /* on the new stream */
    bool old_ended;   /* END_STREAM came on the old one */
    bool new_ended;   /* ... and on the new one */
};

struct h2_stream *relay_sender(const struct relay *r)
{
    return r->move && r->move->is_sending ? r->move->to : r->stream;
}

void relay_resume(struct relay *r)
{
    struct h2_stream *s = relay_sender(r);
    if (s)
        h2_resume(s);
}

bool relay_move_is_waiting(const struct relay *r)
{
    return r->move && !r->move->is_answered;
}

bool relay_move_is_due(struct relay *r)
{
    struct relay_move *m = r->move;
    if (!m || !m->is_answered)
        return false;
    m->is_sending = true;
    h2_resume(m->to);
    return true;
}

void relay_move_old_ended(struct relay *r)
{
    r->move->old_ended = true;
}

struct h2conn *relay_move_conn(const struct relay *r)
{
    return r->move->hc;
}

void relay_move_drop(struct relay *r)
{
    struct relay_move *m = TAKE(r->move);
    if (!m)
        return;
    if (m->to) {
        h2_stream_set(m->to, NULL, NULL);
        h2_reset(m->to, r->is_hub ? H2_CANCEL : H2_CONNECT_ERROR);
    }
    buf_done(&m->held);
    mem_free(m);
}

bool relay_move_finish(struct relay *r, struct h2_stream *old)
{
    struct relay_move *m = r->move;
    if (r->is_cut || !m->is_sending || !m->old_ended)
        return false;
    r->move = NULL;
    h2conn_batch_cancel(&r->at_end);
    r->hc = m->hc;
    r->stream = m->to;
    if (r->stream) {
        h2_stream_set(r->stream, &relay_stream_ops, r);
        h2_stream_inherit(r->stream, old);
    }
    r->old_bytes = (uint32_t)relay_count_kept(r);
    r->stream_ended = m->new_ended;
    relay_keep(r, m->held.data, m->held.len);
    buf_done(&m->held);
    mem_free(m);
    relay_write_kept(r);
    if (!r->is_cut)
        relay_shut_if_done(r);
    return true;
}

/* ---- the new stream, until it is the relay's ---- */

/* All stays as it was. */
static void give_up(struct relay *r)
{
    bool had_ended = r->move->old_ended;
    relay_move_drop(r);
    r->stream_ended = had_ended;
    relay_shut_if_done(r);
    if (r->stream)
        h2_resume(r->stream);
}

static void on_headers(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    struct relay_move *m = arg;
    int status = h2_headers_status(h);
    if (m->is_answered || status < 200)
        return;
    if (status >= 300) {
        give_up(m->relay);
        return;
    }
    m->is_answered = true;
    h2_resume(m->relay->stream);
}

static void on_data(void *arg, struct h2_stream *s, const uint8_t *data, size_t len)
{
    struct relay_move *m = arg;
    (void)buf_append(&m->held, data, len); /* within the stream's window */
}

static void on_end(void *arg, struct h2_stream *s)
{
    ((struct relay_move *)arg)->new_ended = true;
}

static int on_produce(void *arg, struct h2_stream *s, uint8_t *out, size_t cap, bool *eof)
{
    struct relay_move *m = arg;
    return m->is_sending ? relay_read(m->relay, out, cap, eof) : 0;
}

static void on_close(void *arg, struct h2_stream *s, uint32_t error)
{
    struct relay_move *m = arg;
    struct relay *r = m->relay;
    m->to = NULL;
    if (error == H2_NO_ERROR && m->new_ended && r->socket_ended)
        return; /* all went that way before the old stream was closed */
    if (!m->is_answered && error == H2_REFUSED_STREAM)
        give_up(r);
    else
        relay_cut_both(r, RELAY_END_LOST, ERR_CLOSED);
}

static const struct h2_stream_ops new_ops = {.on_headers = on_headers,
                                             .on_data = on_data,
                                             .on_end = on_end,
                                             .on_produce = on_produce,
                                             .on_close = on_close};

static struct relay_move *begin(struct relay *r, struct h2conn *hc)
{
    struct relay_move *m = NEW(struct relay_move);
    m->relay = r;
    m->hc = hc;
    r->move = m;
    return m;
}

static bool can_move(const struct relay *r)
{
    return r->is_open && !r->is_cut && r->stream && !r->move && !r->stream_ended &&
           !r->socket_ended && !r->old_bytes;
}

int relay_move(struct relay *r, struct h2conn *to, uint32_t from)
{
    char path[32];
    if (!can_move(r) || to == r->hc || h2conn_is_ending(to))
        return ERR_UNAVAILABLE;
    snprintf(path, sizeof(path), "/%" PRIu32 "/%" PRIu32, from, h2_stream_id(r->stream));
    struct relay_move *m = begin(r, to);
    int rc = h2_request(h2conn_session(to),
                        H2_HEADERS({":method", "CONNECT"}, {":protocol", MOVE_PROTOCOL},
                                   {":scheme", "https"}, {":authority", "agent"}, {":path", path}),
                        5, true, &new_ops, m, &m->to);
    if (rc < 0)
        relay_move_drop(r);
    return rc;
}

bool relay_is_move(const struct h2_headers *h, uint32_t *ret_from, uint32_t *ret_stream)
{
    const char *protocol = h2_headers_get(h, ":protocol"), *path = h2_headers_get(h, ":path");
    char rest;
    if (!protocol || strcmp(protocol, MOVE_PROTOCOL) != 0)
        return false;
    if (!path || sscanf(path, "/%10" SCNu32 "/%10" SCNu32 "%c", ret_from, ret_stream, &rest) != 2)
        *ret_from = *ret_stream = 0;
    return true;
}

int relay_accept_move(struct h2_stream *s, struct h2conn *from, uint32_t stream)
{
    struct h2_stream *old = h2_stream_find(h2conn_session(from), stream);
    struct relay *r = old && h2_stream_ops_of(old) == &relay_stream_ops ? h2_stream_arg(old) : NULL;
    if (!r || r->is_hub || !can_move(r) || h2conn_of(s) == from)
        return ERR_CONFLICT;
    struct relay_move *m = begin(r, h2conn_of(s));
    m->to = s;
    m->is_answered = true;
    h2_stream_set(s, &new_ops, m);
    h2_respond(s, H2_HEADERS({":status", "200"}), 1, true);
    h2_resume(old);
    return 0;
}
