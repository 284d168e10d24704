/*
 * Streams: header blocks, bodies by pull, and the receive windows.
 *
 * Windows. `granted` is what the peer may still send, `buffered` what arrived and is not consumed;
 * their sum is kept at the target, and credit is sent once it is a quarter of it (half of a deep
 * one). The target is
 * `window`; four times that while no other stream is busy, because on a short path one stream needs
 * the depth to keep both ends' pipelines full; and less than that beside streams of small messages,
 * for which every byte in flight before theirs is delay. A surplus is not taken back, only not
 * granted again.
 *
 * Between hubs many streams of bulk share a connection; there each gets `bulk_window`
 * (maybe_deepen).
 *
 * `window` itself doubles when it was consumed within two round trips: then the window, not the
 * reader, is the limit.
 */
#include "wire/h2_internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"

#include <assert.h>
#include <string.h>
#include <utlist.h>

#define TLS_RECORD       16384
#define SINGLE_FACTOR    4
#define LONG_PATH_US     5000
#define MIXED_WINDOW     (64u << 10)
#define MIXED_BYTES_A_US 1024u /* of round trip: 8 Gbit/s */
#define NV_ON_STACK      32

struct h2_stream *h2_stream_new(struct h2 *h, int32_t id)
{
    struct h2_stream *s = NEW(struct h2_stream);
    s->h = h;
    s->id = id;
    s->window = s->granted = h->stream_window;
    DL_APPEND(h->streams, s);
    h->n_streams++;
    h->budget->n_streams++;
    return s;
}

void h2_stream_free(struct h2_stream *s)
{
    struct h2 *h = s->h;
    DL_DELETE(h->streams, s);
    h->n_streams--;
    h->budget->n_streams--;
    h->budget->window_used -= s->grown;
    h->budget->buffered -= s->buffered;
    if (h->busy == s)
        h->busy = NULL;
    h2_block_free(s->block);
    mem_free(s->trailers);
    mem_free(s);
}

void h2_block_free(struct h2_block *b)
{
    if (!b)
        return;
    mem_free(b->text);
    mem_free(b->items);
    mem_free(b);
}

static uint32_t block_put(struct h2_block *b, const uint8_t *text, size_t len)
{
    size_t at = b->len;
    if (at + len + 1 > b->cap) {
        b->cap = MAX(2 * b->cap, at + len + 256);
        b->text = mem_grow(b->text, b->cap);
    }
    memcpy(b->text + at, text, len);
    b->text[at + len] = '\0';
    b->len += len + 1;
    return (uint32_t)at;
}

int h2_block_add(struct h2_stream *s, const uint8_t *name, size_t name_len, const uint8_t *value,
                 size_t value_len, size_t limit)
{
    struct h2_block *b = s->block;
    if (!b)
        b = s->block = NEW(struct h2_block);
    size_t cost = b->len + name_len + value_len + 2 + 32 * (b->n_items + 1);
    if (b->is_too_large || cost > limit) {
        b->is_too_large = true;
        return ERR_TOO_LARGE;
    }
    if (b->n_items == b->cap_items) {
        b->cap_items = b->cap_items ? 2 * b->cap_items : 16;
        b->items = mem_grow(b->items, b->cap_items * sizeof(b->items[0]));
    }
    b->items[b->n_items].name = block_put(b, name, name_len);
    b->items[b->n_items].value = block_put(b, value, value_len);
    b->n_items++;
    return 0;
}

void h2_block_deliver(struct h2_stream *s,
                      void (*fn)(struct h2_stream *s, const struct h2_headers *h))
{
    struct h2_block *b = TAKE(s->block);
    size_t n = b ? b->n_items : 0;
    struct h2_header *items = mem_new((n + 1) * sizeof(*items));
    for (size_t i = 0; i < n; i++) {
        items[i].name = b->text + b->items[i].name;
        items[i].value = b->text + b->items[i].value;
    }
    fn(s, &(struct h2_headers){items, n});
    mem_free(items);
    h2_block_free(b);
}

const char *h2_headers_get(const struct h2_headers *h, const char *name)
{
    for (size_t i = 0; i < h->count; i++) {
        if (strcmp(h->items[i].name, name) == 0)
            return h->items[i].value;
    }
    return NULL;
}

int h2_headers_status(const struct h2_headers *h)
{
    const char *s = h2_headers_get(h, ":status");
    if (!s || strlen(s) != 3)
        return 0;
    return (s[0] - '0') * 100 + (s[1] - '0') * 10 + (s[2] - '0');
}

/* Receiving */

void h2_batch_begin(struct h2 *h)
{
    h->in_batch = true;
    h->now_us = h->ops->now_us ? h->ops->now_us(h->arg) : 0;
}

void h2_batch_end(struct h2 *h)
{
    h->in_batch = false;
}

void h2_stream_moved(struct h2_stream *s, size_t len)
{
    struct h2 *h = s->h;
    s->mean_piece = (3 * s->mean_piece + (uint32_t)len) / 4;
    if (s->mean_piece < H2_SMALL_BYTES)
        h->small_us = h->budget->small_us = h->now_us;
    if (h->busy == s)
        return;
    if (h->busy)
        h->other_busy_us = h->now_us;
    h->busy = s;
}

/* Small messages on another connection that shares the budget, and thus the thread: on a short path
 * what they wait for is our turns, not what we have on our way. On a long one each connection has
 * its own queue. */
static bool is_beside_small_ones(const struct h2 *h)
{
    uint64_t small = h->budget->small_us;
    return small && small != h->small_us && h2_round_trip_us(h) < LONG_PATH_US &&
           (small > h->now_us || h->now_us - small <= H2_SMALL_OF_LATE_US);
}

enum h2_traffic h2_traffic(const struct h2 *h)
{
    uint64_t now = h->now_us;
    if (is_beside_small_ones(h))
        return H2_TRAFFIC_MIXED;
    if (!h->other_busy_us || now - h->other_busy_us > H2_OF_LATE_US)
        return H2_TRAFFIC_SINGLE;
    if (!h->small_us || now - h->small_us > MAX(H2_SMALL_OF_LATE_US, 4 * h2_round_trip_us(h)))
        return H2_TRAFFIC_BULK;
    return H2_TRAFFIC_MIXED;
}

/* On a short path the answer to a ping is late by what the two ends were busy with; the transport
 * knows better. */
uint32_t h2_round_trip_us(const struct h2 *h)
{
    return h->ping_rtt_us >= LONG_PATH_US || !h->rtt_us ? h->ping_rtt_us : h->rtt_us;
}

static uint32_t target_of(const struct h2_stream *s)
{
    const struct h2 *h = s->h;
    if (!h->now_us || is_beside_small_ones(h))
        return s->window;
    switch (h2_traffic(h)) {
    case H2_TRAFFIC_SINGLE:
        return MIN(s->window * SINGLE_FACTOR, h->stream_window_max);
    case H2_TRAFFIC_MIXED:
        return MIN(s->window, MIXED_WINDOW + h2_round_trip_us(h) * MIXED_BYTES_A_US);
    default:
        return s->is_deep ? MAX(s->window, h->bulk_window) : s->window;
    }
}

/* With windows of one batch many streams on one connection would go forward in quarters of it: in
 * pieces as large as the credits, each a message of its own wherever the streams part. */
static void maybe_deepen(struct h2_stream *s)
{
    struct h2 *h = s->h;
    if (s->is_deep || h->bulk_window <= h->stream_window || s->mean_piece < H2_DATA_MAX ||
        h2_round_trip_us(h) >= LONG_PATH_US || h2_traffic(h) != H2_TRAFFIC_BULK)
        return;
    uint32_t more = h->bulk_window - h->stream_window;
    if (h->budget->window_used + more > h->budget->window_limit)
        return;
    s->is_deep = true;
    s->grown += more;
    h->budget->window_used += more;
}

static void maybe_grow(struct h2_stream *s, size_t consumed)
{
    struct h2 *h = s->h;
    if (!h2_round_trip_us(h) || !h->now_us || s->window >= h->stream_window_max)
        return;
    s->since_mark += (uint32_t)consumed;
    if (s->mark_us && s->since_mark < s->window)
        return;
    uint64_t now = h->now_us;
    bool is_limit = s->mark_us && now - s->mark_us < 2 * (uint64_t)h2_round_trip_us(h);
    uint32_t more = MIN(s->window, h->stream_window_max - s->window);
    if (is_limit && s->buffered <= s->window / 4 &&
        h->budget->window_used + more <= h->budget->window_limit) {
        s->window += more;
        s->grown += more;
        h->budget->window_used += more;
    }
    s->mark_us = now;
    s->since_mark = 0;
}

void h2_stream_received(struct h2_stream *s, size_t len)
{
    assert(len <= s->granted); /* nghttp2 enforces it */
    s->granted -= (uint32_t)len;
    s->buffered += (uint32_t)len;
    s->h->budget->buffered += len;
    h2_stream_moved(s, len);
}

static void give_credit(struct h2_stream *s)
{
    struct h2 *h = s->h;
    uint32_t target = target_of(s);
    if (s->granted + s->buffered >= target)
        return;
    uint32_t credit = target - s->granted - s->buffered;
    if (credit < target / (s->is_deep ? 2 : 4))
        return;
    s->granted += credit;
    nghttp2_submit_window_update(h->ng, NGHTTP2_FLAG_NONE, s->id, (int32_t)credit);
    h2_wake(h);
}

void h2_consume(struct h2_stream *s, size_t len)
{
    struct h2 *h = s->h;
    assert(len <= s->buffered);
    s->buffered -= (uint32_t)len;
    h->budget->buffered -= len;
    if (s->remote_ended || s->is_reset)
        return;
    if (!h->in_batch && h->ops->now_us)
        h->now_us = h->ops->now_us(h->arg);
    maybe_grow(s, len);
    maybe_deepen(s);
    give_credit(s);
}

void h2_stream_inherit(struct h2_stream *to, struct h2_stream *from)
{
    if (from->h->budget != to->h->budget || from->window <= to->window || to->remote_ended)
        return;
    to->grown += from->window - to->window;
    to->h->budget->window_used += from->window - to->window;
    to->window = from->window;
    give_credit(to);
}

/* Sending */

static void fill_nv(nghttp2_nv *nv, const struct h2_header *headers, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const char *name = headers[i].name;
        bool is_secret = strcmp(name, "authorization") == 0 ||
                         strcmp(name, "proxy-authorization") == 0 || strcmp(name, "cookie") == 0;
        nv[i] = (nghttp2_nv){(uint8_t *)name, (uint8_t *)headers[i].value, strlen(name),
                             strlen(headers[i].value),
                             is_secret ? NGHTTP2_NV_FLAG_NO_INDEX : NGHTTP2_NV_FLAG_NONE};
    }
}

/* Calls submit(nv) with the headers in nghttp2's form. */
#define WITH_NV(headers, n, nv, statement)                                            \
    do {                                                                              \
        nghttp2_nv on_stack_[NV_ON_STACK];                                            \
        nghttp2_nv *nv = (n) <= NV_ON_STACK ? on_stack_ : mem_new((n) * sizeof(*nv)); \
        fill_nv(nv, headers, n);                                                      \
        statement;                                                                    \
        if (nv != on_stack_)                                                          \
            mem_free(nv);                                                             \
    } while (0)

nghttp2_data_provider h2_stream_provider(struct h2_stream *s)
{
    return (nghttp2_data_provider){.source.ptr = s, .read_callback = h2_on_read};
}

static int code_of(int ng_error)
{
    switch (ng_error) {
    case NGHTTP2_ERR_NOMEM:
        return ERR_LIMIT;
    case NGHTTP2_ERR_STREAM_ID_NOT_AVAILABLE:
    case NGHTTP2_ERR_START_STREAM_NOT_ALLOWED:
        return ERR_UNAVAILABLE;
    case NGHTTP2_ERR_DATA_EXIST:
        return ERR_EXISTS;
    default:
        return ERR_INVALID;
    }
}

int h2_request(struct h2 *h, const struct h2_header *headers, size_t n, bool has_body,
               const struct h2_stream_ops *ops, void *arg, struct h2_stream **ret)
{
    assert(!h->is_server);
    if (h->got_goaway || h->sent_goaway || h->is_broken)
        return ERR_UNAVAILABLE;
    if (h->n_streams >= h->peer_max_streams)
        return ERR_LIMIT;
    struct h2_stream *s = h2_stream_new(h, -1);
    s->ops = ops;
    s->arg = arg;
    s->local_ended = !has_body;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(headers[i].name, ":method") == 0)
            s->is_connect = strcmp(headers[i].value, "CONNECT") == 0;
    }
    nghttp2_data_provider body = h2_stream_provider(s);
    int id;
    WITH_NV(headers, n, nv,
            id = nghttp2_submit_request(h->ng, NULL, nv, n, has_body ? &body : NULL, s));
    if (id < 0) {
        h2_stream_free(s);
        return code_of(id);
    }
    s->id = id;
    h2_wake(h);
    *ret = s;
    return 0;
}

int h2_respond(struct h2_stream *s, const struct h2_header *headers, size_t n, bool has_body)
{
    struct h2 *h = s->h;
    assert(h->is_server && !s->is_answered);
    nghttp2_data_provider body = h2_stream_provider(s);
    struct h2_headers all = {headers, n};
    s->is_answered = true;
    s->is_success = h2_headers_status(&all) / 100 == 2;
    int rc;
    WITH_NV(headers, n, nv,
            rc = nghttp2_submit_response(h->ng, s->id, nv, n, has_body ? &body : NULL));
    h2_wake(h);
    return rc < 0 ? code_of(rc) : 0;
}

int h2_inform(struct h2_stream *s, const struct h2_header *headers, size_t n)
{
    int rc;
    WITH_NV(headers, n, nv,
            rc = nghttp2_submit_headers(s->h->ng, NGHTTP2_FLAG_NONE, s->id, NULL, nv, n, NULL));
    h2_wake(s->h);
    return rc < 0 ? code_of(rc) : 0;
}

int h2_trailers(struct h2_stream *s, const struct h2_header *headers, size_t n)
{
    if (s->trailers || s->local_ended)
        return ERR_EXISTS;
    size_t bytes = sizeof(*s->trailers) + n * sizeof(struct h2_header), texts = 0;
    for (size_t i = 0; i < n; i++)
        texts += strlen(headers[i].name) + strlen(headers[i].value) + 2;
    struct h2_trailer_list *t = mem_new(bytes + texts);
    char *text = (char *)t + bytes;
    t->n = n;
    for (size_t i = 0; i < n; i++) {
        t->items[i].name = text;
        text = stpcpy(text, headers[i].name) + 1;
        t->items[i].value = text;
        text = stpcpy(text, headers[i].value) + 1;
    }
    s->trailers = t;
    return 0;
}

void h2_resume(struct h2_stream *s)
{
    if (!s->is_deferred)
        return;
    s->is_deferred = false;
    nghttp2_session_resume_data(s->h->ng, s->id);
    h2_wake(s->h);
}

void h2_reset(struct h2_stream *s, uint32_t error)
{
    if (s->is_reset)
        return;
    s->is_reset = true;
    nghttp2_submit_rst_stream(s->h->ng, NGHTTP2_FLAG_NONE, s->id, error);
    h2_wake(s->h);
}

static void end_body(struct h2_stream *s, uint32_t *flags)
{
    *flags |= NGHTTP2_DATA_FLAG_EOF;
    s->local_ended = true;
    struct h2_trailer_list *t = TAKE(s->trailers);
    if (!t)
        return;
    *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
    WITH_NV(t->items, t->n, nv, nghttp2_submit_trailer(s->h->ng, s->id, nv, t->n));
    mem_free(t);
}

/* The body is read to where it will be sent from: behind the frame header that h2_on_send_data,
 * called next by nghttp2 and with nothing in between, puts in front of it. */
ssize_t h2_on_read(nghttp2_session *ng, int32_t id, uint8_t *buf, size_t length, uint32_t *flags,
                   nghttp2_data_source *source, void *user_data)
{
    struct h2 *h = user_data;
    struct h2_stream *s = source->ptr;
    bool eof = false;
    (void)ng;
    (void)id;
    (void)buf;
    uint8_t *out = h->out + h->out_len + H2_FRAME_HEADER_BYTES;
    int n = s->ops && s->ops->on_produce ? s->ops->on_produce(s->arg, s, out, length, &eof)
                                         : (eof = true, 0);
    if (n < 0)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    if (n == 0 && !eof) {
        s->is_deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    if (n > 0)
        h2_stream_moved(s, (size_t)n);
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (eof)
        end_body(s, flags);
    return n;
}

int h2_on_send_data(nghttp2_session *ng, nghttp2_frame *frame, const uint8_t *framehd,
                    size_t length, nghttp2_data_source *source, void *user_data)
{
    struct h2 *h = user_data;
    (void)ng;
    (void)source;
    assert(frame->data.padlen == 0);
    memcpy(h->out + h->out_len, framehd, H2_FRAME_HEADER_BYTES);
    h->out_len += H2_FRAME_HEADER_BYTES + length;
    return h->out_cap - h->out_len < H2_OUTPUT_MIN ? NGHTTP2_ERR_PAUSE : 0;
}

/* How many bytes the next frame may have: as many TLS records as there is room for in `out`. */
static int32_t whole_records(const struct h2 *h)
{
    size_t room = h->out_cap - h->out_len;
    if (h2_traffic(h) == H2_TRAFFIC_MIXED)
        return TLS_RECORD;
    return (int32_t)(MIN(room, (size_t)H2_DATA_LARGE + H2_FRAME_HEADER_BYTES) / TLS_RECORD) *
           TLS_RECORD;
}

ssize_t h2_on_read_length(nghttp2_session *ng, uint8_t frame_type, int32_t stream_id,
                          int32_t session_window, int32_t stream_window, uint32_t max_frame,
                          void *user_data)
{
    (void)ng;
    (void)frame_type;
    (void)stream_id;
    int32_t frame = MIN((int32_t)max_frame, whole_records(user_data) - H2_FRAME_HEADER_BYTES);
    int32_t window = MIN(session_window, stream_window);
    return MIN(window, frame);
}

void h2_stream_set(struct h2_stream *s, const struct h2_stream_ops *ops, void *arg)
{
    s->ops = ops;
    s->arg = arg;
}

void *h2_stream_arg(const struct h2_stream *s)
{
    return s->arg;
}

struct h2 *h2_stream_session(const struct h2_stream *s)
{
    return s->h;
}

uint32_t h2_stream_id(const struct h2_stream *s)
{
    return (uint32_t)s->id;
}

const struct h2_stream_ops *h2_stream_ops_of(const struct h2_stream *s)
{
    return s->ops;
}
