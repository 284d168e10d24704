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
 *
 * A shortcut (relay.h) is the same but for the old stream, which passes through another hub and
 * stays: the hub's way of it ends with END_STREAM, the agent's goes on without bytes, and the
 * answer says after how many of all bytes it changed.
 *
 *     hub:   CONNECT, :protocol warren-shortcut, :path /TAG   ── new stream ─► agent
 *     agent: 200, warren-at: N; from now on sends on the new stream
 *     hub:   has the 200: END_STREAM on the old, sends on the new
 *     both:  all of the old has come: it is the anchor. At the end of all the agent ends it too
 */
#include "net/relay_internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MOVE_PROTOCOL     "warren-move"
#define SHORTCUT_PROTOCOL RELAY_SHORTCUT
#define SHORTCUT_AT       "warren-at"

struct relay_move {
    struct relay *relay;
    struct h2_stream *to; /* NULL: closed already, properly */
    struct h2conn *hc;
    struct buf held;
    bool is_answered;   /* 200 went or came */
    bool is_sending;    /* on the new stream */
    bool old_ended;     /* END_STREAM came on the old one */
    bool new_ended;     /* ... and on the new one */
    bool keeps_old;     /* a shortcut */
    uint64_t old_total; /* of a shortcut, hub: the relay has received what comes by the old one */
    struct defer take_over; /* of a shortcut */
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

/* Whether all has come that the old stream, which stays as an anchor, had to bring. */
static bool has_all_of_old(const struct relay *r)
{
    const struct relay_move *m = r->move;
    return m->keeps_old && m->is_sending &&
           (r->is_hub ? r->received == m->old_total : m->old_ended);
}

/* Not in the midst of a batch, whose bytes come first. */
static void look_at_old(struct relay *r)
{
    if (has_all_of_old(r))
        loop_defer(r->loop, &r->move->take_over);
}

bool relay_move_is_due(struct relay *r, bool *eof)
{
    struct relay_move *m = r->move;
    if (!m || !m->is_answered)
        return false;
    *eof = r->is_hub || !m->keeps_old;
    if (!m->is_sending) {
        m->is_sending = true;
        look_at_old(r);
    }
    if (m->to)
        h2_resume(m->to);
    return true;
}

void relay_move_old_ended(struct relay *r)
{
    r->move->old_ended = true;
    look_at_old(r);
}

void relay_move_received(struct relay *r)
{
    if (r->move)
        look_at_old(r);
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
    loop_defer_cancel(&m->take_over);
    if (m->to) {
        h2_stream_set(m->to, NULL, NULL);
        h2_reset(m->to, r->is_hub ? H2_CANCEL : H2_CONNECT_ERROR);
    }
    buf_done(&m->held);
    mem_free(m);
}

static void take_over(struct relay *r, struct h2_stream *old)
{
    struct relay_move *m = TAKE(r->move);
    loop_defer_cancel(&m->take_over);
    h2conn_batch_cancel(&r->at_end);
    r->hc = m->hc;
    r->stream = m->to;
    if (r->stream) {
        h2_stream_set(r->stream, &relay_stream_ops, r);
        h2_stream_inherit(r->stream, old);
    }
    r->old_bytes = (uint32_t)relay_count_kept(r);
    r->stream_ended = m->new_ended;
    r->received += m->held.len;
    relay_keep(r, m->held.data, m->held.len);
    buf_done(&m->held);
    mem_free(m);
    relay_write_kept(r);
    if (!r->is_cut)
        relay_shut_if_done(r);
}

bool relay_move_finish(struct relay *r, struct h2_stream *old)
{
    if (r->is_cut || !r->move->is_sending || !r->move->old_ended)
        return false;
    take_over(r, old);
    return true;
}

/* ---- the anchor ---- */

static void on_anchor_data(void *arg, struct h2_stream *s, const uint8_t *data, size_t len)
{
    h2_consume(s, len);
    relay_abort(arg, ERR_PROTO);
}

static int keep_silent(void *arg, struct h2_stream *s, uint8_t *out, size_t cap, bool *eof)
{
    return 0;
}

/* Properly: the agent is done, and its last bytes are on their way to us. */
static void on_anchor_close(void *arg, struct h2_stream *s, uint32_t error)
{
    struct relay *r = arg;
    bool is_lost = h2conn_is_ending(h2conn_of(s));
    r->anchor = NULL;
    if (error != H2_NO_ERROR && !r->is_cut)
        relay_cut_both(r, is_lost ? RELAY_END_LOST : RELAY_END_STREAM_RESET,
                       is_lost ? ERR_CLOSED : ERR_RESET);
}

static const struct h2_stream_ops anchor_ops = {
    .on_data = on_anchor_data, .on_produce = keep_silent, .on_close = on_anchor_close};

void relay_drop_anchor(struct relay *r)
{
    struct h2_stream *s = TAKE(r->anchor);
    if (!s)
        return;
    h2_stream_set(s, NULL, NULL);
    if (r->end == RELAY_END_FINISHED)
        h2_resume(s); /* ends: nobody has anything to say on it */
    else
        h2_reset(s, r->is_hub ? H2_CANCEL : H2_CONNECT_ERROR);
}

static void on_take_over(struct defer *d)
{
    struct relay *r = container_of(d, struct relay_move, take_over)->relay;
    struct h2_stream *old = r->anchor = r->stream;
    h2_stream_set(old, &anchor_ops, r);
    take_over(r, old);
}

bool relay_is_on_shortcut(const struct relay *r)
{
    return r->anchor || (r->move && r->move->keeps_old);
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
    const char *at = h2_headers_get(h, SHORTCUT_AT);
    if (m->keeps_old && (!at || text_to_u64(at, UINT64_MAX, &m->old_total) < 0 ||
                         m->old_total < m->relay->received)) {
        relay_abort(m->relay, ERR_PROTO);
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
    m->take_over.fn = on_take_over;
    r->move = m;
    return m;
}

static bool can_move(const struct relay *r)
{
    return r->is_open && !r->is_cut && r->stream && !r->move && !r->anchor && !r->stream_ended &&
           !r->socket_ended && !r->old_bytes;
}

static int ask(struct relay *r, struct h2conn *to, const char *protocol, const char *path)
{
    if (!can_move(r) || to == r->hc || h2conn_is_ending(to))
        return ERR_UNAVAILABLE;
    struct relay_move *m = begin(r, to);
    int rc = h2_request(h2conn_session(to),
                        H2_HEADERS({":method", "CONNECT"}, {":protocol", protocol},
                                   {":scheme", "https"}, {":authority", "agent"}, {":path", path}),
                        5, true, &new_ops, m, &m->to);
    if (rc < 0)
        relay_move_drop(r);
    return rc;
}

int relay_move(struct relay *r, struct h2conn *to, uint32_t from)
{
    char path[32];
    if (!r->stream)
        return ERR_UNAVAILABLE;
    snprintf(path, sizeof(path), "/%" PRIu32 "/%" PRIu32, from, h2_stream_id(r->stream));
    return ask(r, to, MOVE_PROTOCOL, path);
}

int relay_take_shortcut(struct relay *r, struct h2conn *to, const char *tag)
{
    char path[RELAY_TAG_SIZE + 1];
    snprintf(path, sizeof(path), "/%s", tag);
    TRY(ask(r, to, SHORTCUT_PROTOCOL, path));
    r->move->keeps_old = true;
    return 0;
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

int relay_accept_shortcut(struct h2_stream *s, const struct relay_tags *tags,
                          const struct h2_headers *h)
{
    const char *protocol = h2_headers_get(h, ":protocol"), *path = h2_headers_get(h, ":path");
    char at[24];
    if (!protocol || strcmp(protocol, SHORTCUT_PROTOCOL) != 0 || !path || path[0] != '/')
        return ERR_PROTO;
    struct relay *r = relay_tag_find(tags, path + 1);
    if (!r || !can_move(r))
        return ERR_CONFLICT;
    struct relay_move *m = begin(r, h2conn_of(s));
    m->to = s;
    m->keeps_old = m->is_answered = m->is_sending = true;
    relay_tag_drop(r);
    snprintf(at, sizeof(at), "%" PRIu64, r->bytes_read);
    h2_stream_set(s, &new_ops, m);
    h2_respond(s, H2_HEADERS({":status", "200"}, {SHORTCUT_AT, at}), 2, true);
    h2_resume(s);
    return 0;
}
