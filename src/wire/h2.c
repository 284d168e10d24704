/*
 * The session: set-up, what arrives, and turning nghttp2's callbacks into those of wire/h2.h.
 * Streams are in h2_stream.c, the shared frame buffer in h2_memory.c.
 */
#include "wire/h2_internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"

#include <assert.h>
#include <pthread.h>
#include <string.h>
#include <utlist.h>

#define DEFAULT(value, otherwise) ((value) ? (value) : (otherwise))
#define FRAME_BYTES               (256 << 10) /* received ones are not buffered: length costs nothing */
#define PING_RTT_MAX_US           2000000
#define PEER_STREAMS_AT_FIRST     1000 /* until its SETTINGS arrive */

static nghttp2_session_callbacks *callbacks;
static pthread_once_t callbacks_once = PTHREAD_ONCE_INIT;

void h2_wake(struct h2 *h)
{
    if (nghttp2_session_want_write(h->ng))
        h->ops->on_wants_output(h->arg);
}

/* A peer that sends nothing but small frames that cost us work. */
static int spend(struct h2 *h)
{
    if (h->peer_is_trusted || h->is_flooded)
        return 0;
    if (h->control_left-- > 0)
        return 0;
    h->is_flooded = true;
    nghttp2_session_terminate_session(h->ng, NGHTTP2_ENHANCE_YOUR_CALM);
    return 0;
}

void h2_tick(struct h2 *h)
{
    h->control_left = h->control_allowance;
}

static struct h2_stream *stream_of(struct h2 *h, int32_t id)
{
    return nghttp2_session_get_stream_user_data(h->ng, id);
}

static int on_begin_headers(nghttp2_session *ng, const nghttp2_frame *frame, void *user_data)
{
    struct h2 *h = user_data;
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    struct h2_stream *s = h2_stream_new(h, frame->hd.stream_id);
    nghttp2_session_set_stream_user_data(ng, s->id, s);
    return 0;
}

static int on_header(nghttp2_session *ng, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                     void *user_data)
{
    struct h2 *h = user_data;
    struct h2_stream *s = stream_of(h, frame->hd.stream_id);
    (void)ng;
    (void)flags;
    if (!s)
        return 0;
    if (h->is_server && name_len == 7 && memcmp(name, ":method", 7) == 0)
        s->is_connect = value_len == 7 && memcmp(value, "CONNECT", 7) == 0;
    (void)h2_block_add(s, name, name_len, value, value_len, h->max_header_bytes);
    return 0;
}

static void deliver_request(struct h2_stream *s, const struct h2_headers *headers)
{
    struct h2 *h = s->h;
    if (h->ops->on_request)
        h->ops->on_request(h->arg, s, headers);
    else
        h2_reset(s, H2_REFUSED_STREAM);
}

static void deliver_headers(struct h2_stream *s, const struct h2_headers *headers)
{
    int status = h2_headers_status(headers);
    if (status >= 200) {
        s->is_answered = true;
        s->is_success = status / 100 == 2;
    }
    if (s->ops && s->ops->on_headers)
        s->ops->on_headers(s->arg, s, headers);
}

static void on_headers_done(struct h2_stream *s, const nghttp2_frame *frame)
{
    if (s->block && s->block->is_too_large) {
        h2_reset(s, H2_ENHANCE_YOUR_CALM);
        h2_block_free(TAKE(s->block));
    }
    if (s->is_reset)
        return;
    h2_block_deliver(s, frame->headers.cat == NGHTTP2_HCAT_REQUEST ? deliver_request
                                                                   : deliver_headers);
}

static void on_end_stream(struct h2_stream *s)
{
    s->remote_ended = true;
    if (!s->is_reset && s->ops && s->ops->on_end)
        s->ops->on_end(s->arg, s);
}

static void on_settings(struct h2 *h, const nghttp2_settings *settings)
{
    for (size_t i = 0; i < settings->niv; i++) {
        const nghttp2_settings_entry *e = &settings->iv[i];
        uint8_t at = 0;
        if (e->settings_id == NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS)
            h->peer_max_streams = e->value;
        while (at < h->n_peer_settings && h->peer_settings[at].id != e->settings_id)
            at++;
        if (at == H2_PEER_SETTINGS_MAX)
            continue;
        h->peer_settings[at].id = (uint16_t)e->settings_id;
        h->peer_settings[at].value = e->value;
        h->n_peer_settings = MAX(h->n_peer_settings, (uint8_t)(at + 1));
    }
    if (h->got_settings)
        return;
    h->got_settings = true;
    if (h->ops->on_settings)
        h->ops->on_settings(h->arg);
}

static void on_pong(struct h2 *h, const uint8_t sent[8])
{
    uint64_t sent_us;
    memcpy(&sent_us, sent, sizeof(sent_us));
    if (!sent_us || sent_us > h->now_us) /* the clock stands, or the peer made it up */
        return;
    uint64_t rtt = MAX(h->now_us - sent_us, (uint64_t)1);
    if (!h->ping_rtt_us || rtt < h->ping_rtt_us)
        h->ping_rtt_us = (uint32_t)MIN(rtt, (uint64_t)PING_RTT_MAX_US);
}

/* Of a stream that we opened, or of a tunnel that was open: as many as there were tunnels. Only to
 * open and to reset at once is cheaper for the peer than for us. */
static bool is_ordinary_reset(const struct h2 *h, const struct h2_stream *s, int32_t id)
{
    bool is_theirs = (id % 2 == 1) == h->is_server;
    return !is_theirs || (s && s->is_connect && s->is_answered);
}

static int on_frame_recv(nghttp2_session *ng, const nghttp2_frame *frame, void *user_data)
{
    struct h2 *h = user_data;
    const nghttp2_frame_hd *hd = &frame->hd;
    struct h2_stream *s = hd->stream_id ? stream_of(h, hd->stream_id) : NULL;
    (void)ng;
    switch (hd->type) {
    case NGHTTP2_HEADERS:
        if (s)
            on_headers_done(s, frame);
        break;
    case NGHTTP2_DATA:
        if (hd->length == 0 && !(hd->flags & NGHTTP2_FLAG_END_STREAM))
            return spend(h);
        break;
    case NGHTTP2_SETTINGS:
        if (hd->flags & NGHTTP2_FLAG_ACK)
            break;
        on_settings(h, &frame->settings);
        return spend(h);
    case NGHTTP2_GOAWAY:
        h->got_goaway = true;
        if (h->ops->on_goaway)
            h->ops->on_goaway(h->arg, frame->goaway.error_code);
        break;
    case NGHTTP2_PING:
        if (hd->flags & NGHTTP2_FLAG_ACK) {
            on_pong(h, frame->ping.opaque_data);
            break;
        }
        return spend(h);
    case NGHTTP2_RST_STREAM:
        return is_ordinary_reset(h, s, hd->stream_id) ? 0 : spend(h);
    case NGHTTP2_PRIORITY:
        return spend(h);
    default:
        break;
    }
    bool can_end = hd->type == NGHTTP2_HEADERS || hd->type == NGHTTP2_DATA;
    if (s && can_end && hd->flags & NGHTTP2_FLAG_END_STREAM)
        on_end_stream(s);
    return 0;
}

static int on_begin_frame(nghttp2_session *ng, const nghttp2_frame_hd *hd, void *user_data)
{
    struct h2 *h = user_data;
    (void)ng;
    h->frame_left = hd->type == NGHTTP2_DATA ? hd->length : 0;
    return 0;
}

static int on_data_chunk(nghttp2_session *ng, uint8_t flags, int32_t id, const uint8_t *data,
                         size_t len, void *user_data)
{
    struct h2 *h = user_data;
    struct h2_stream *s = stream_of(h, id);
    const struct h2_budget *b = h->budget;
    (void)flags;
    h->frame_left -= MIN(h->frame_left, len);
    nghttp2_session_consume_connection(ng, len);
    if (!s)
        return 0;
    h2_stream_received(s, len);
    if (b->buffered > b->buffer_limit && s->buffered > b->buffer_limit / b->n_streams)
        h2_reset(s, H2_ENHANCE_YOUR_CALM);
    if (s->ops && s->ops->on_data && !s->is_reset)
        s->ops->on_data(s->arg, s, data, len);
    else
        h2_consume(s, len);
    return 0;
}

static void close_stream(struct h2_stream *s, uint32_t error)
{
    if (s->ops && s->ops->on_close)
        s->ops->on_close(s->arg, s, error);
    h2_stream_free(s);
}

static int on_stream_close(nghttp2_session *ng, int32_t id, uint32_t error, void *user_data)
{
    struct h2_stream *s = stream_of(user_data, id);
    (void)ng;
    if (s)
        close_stream(s, error);
    return 0;
}

/* A server's answer may be complete before the request is; then the rest of the request is not
 * wanted (RFC 9113 section 8.1). Not so for a tunnel: its other half lives on. */
static int on_frame_send(nghttp2_session *ng, const nghttp2_frame *frame, void *user_data)
{
    struct h2 *h = user_data;
    bool can_end = frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA;
    if (frame->hd.type == NGHTTP2_GOAWAY)
        h->sent_goaway = true;
    if (!h->is_server || !can_end || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
        return 0;
    struct h2_stream *s = stream_of(h, frame->hd.stream_id);
    if (s && !s->remote_ended && !s->is_reset && !(s->is_connect && s->is_success))
        nghttp2_submit_rst_stream(ng, NGHTTP2_FLAG_NONE, s->id, NGHTTP2_NO_ERROR);
    return 0;
}

/* A request that was reset, or overtaken by GOAWAY, before its headers were sent: nghttp2 has no
 * stream for it and so reports no close. */
static int on_frame_not_send(nghttp2_session *ng, const nghttp2_frame *frame, int error,
                             void *user_data)
{
    struct h2 *h = user_data;
    struct h2_stream *s;
    (void)error;
    if (h->is_server || frame->hd.type != NGHTTP2_HEADERS ||
        frame->headers.cat != NGHTTP2_HCAT_REQUEST || stream_of(h, frame->hd.stream_id))
        return 0;
    DL_FOREACH (h->streams, s) {
        if (s->id == frame->hd.stream_id) {
            close_stream(s, s->is_reset ? NGHTTP2_CANCEL : NGHTTP2_REFUSED_STREAM);
            break;
        }
    }
    return 0;
}

static void make_callbacks(void)
{
    int rc = nghttp2_session_callbacks_new(&callbacks);
    assert(rc == 0);
    (void)rc;
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, on_begin_frame);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_send);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks, on_frame_not_send);
    nghttp2_session_callbacks_set_send_data_callback(callbacks, h2_on_send_data);
    nghttp2_session_callbacks_set_data_source_read_length_callback(callbacks, h2_on_read_length);
}

static nghttp2_option *make_options(void)
{
    nghttp2_option *o;
    int rc = nghttp2_option_new(&o);
    assert(rc == 0);
    (void)rc;
    nghttp2_option_set_no_auto_window_update(o, 1);
    nghttp2_option_set_no_closed_streams(o, 1);
    nghttp2_option_set_peer_max_concurrent_streams(o, PEER_STREAMS_AT_FIRST);
    /* on_frame_recv counts resets, and knows which are ordinary. */
    nghttp2_option_set_stream_reset_rate_limit(o, UINT64_MAX, UINT64_MAX);
    return o;
}

static void submit_settings(struct h2 *h, const struct h2_config *cfg)
{
    nghttp2_settings_entry iv[6 + H2_EXTRA_SETTINGS];
    size_t n = 0;
    iv[n++] = (nghttp2_settings_entry){NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS,
                                       cfg->is_server ? DEFAULT(cfg->max_streams, 128) : 0};
    iv[n++] = (nghttp2_settings_entry){NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, h->stream_window};
    iv[n++] = (nghttp2_settings_entry){NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, h->max_header_bytes};
    iv[n++] = (nghttp2_settings_entry){NGHTTP2_SETTINGS_MAX_FRAME_SIZE, FRAME_BYTES};
    if (!cfg->is_server)
        iv[n++] = (nghttp2_settings_entry){NGHTTP2_SETTINGS_ENABLE_PUSH, 0};
    if (cfg->is_server && cfg->enable_connect)
        iv[n++] = (nghttp2_settings_entry){NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, 1};
    for (size_t i = 0; i < H2_EXTRA_SETTINGS; i++) {
        if (cfg->extra[i].id)
            iv[n++] = (nghttp2_settings_entry){cfg->extra[i].id, cfg->extra[i].value};
    }
    int rc = nghttp2_submit_settings(h->ng, NGHTTP2_FLAG_NONE, iv, n);
    assert(rc == 0);
    rc = nghttp2_session_set_local_window_size(h->ng, NGHTTP2_FLAG_NONE, 0,
                                               (int32_t)DEFAULT(cfg->connection_window, 8u << 20));
    assert(rc == 0);
    (void)rc;
}

int h2_new(const struct h2_config *cfg, const struct h2_ops *ops, void *arg, struct h2 **ret)
{
    pthread_once(&callbacks_once, make_callbacks);
    struct h2 *h = NEW(struct h2);
    nghttp2_mem mem;
    h->ops = ops;
    h->arg = arg;
    h->is_server = cfg->is_server;
    h->peer_is_trusted = cfg->peer_is_trusted;
    h->max_header_bytes = DEFAULT(cfg->max_header_bytes, 16u << 10);
    h->stream_window = DEFAULT(cfg->stream_window, 256u << 10);
    h->stream_window_max = MAX(DEFAULT(cfg->stream_window_max, 4u << 20), h->stream_window);
    h->bulk_window = MIN(cfg->bulk_window, h->stream_window_max);
    h->own_budget.window_limit = DEFAULT(cfg->window_budget, 32u << 20);
    h->own_budget.buffer_limit = DEFAULT(cfg->buffer_budget, 64u << 20);
    h->budget = cfg->budget ? cfg->budget : &h->own_budget;
    h->control_left = h->control_allowance = H2_CONTROL_ALLOWANCE + cfg->resets_a_second;
    h->peer_max_streams = PEER_STREAMS_AT_FIRST;
    h2_memory_init(&h->memory, &mem);
    nghttp2_option *options = make_options();
    int rc = cfg->is_server ? nghttp2_session_server_new3(&h->ng, callbacks, h, options, &mem)
                            : nghttp2_session_client_new3(&h->ng, callbacks, h, options, &mem);
    nghttp2_option_del(options);
    if (rc < 0) {
        mem_free(h);
        return ERR_LIMIT;
    }
    if (!cfg->is_server) {
        const uint8_t *preface; /* out of the shared frame buffer before anyone else uses it */
        ssize_t n = nghttp2_session_mem_send(h->ng, &preface);
        assert(n == NGHTTP2_CLIENT_MAGIC_LEN);
        (void)n;
        h->preface_pending = true;
    }
    submit_settings(h, cfg);
    *ret = h;
    return 0;
}

void h2_free(struct h2 *h)
{
    if (!h)
        return;
    while (h->streams)
        close_stream(h->streams, NGHTTP2_CANCEL);
    nghttp2_session_del(h->ng);
    mem_free(h);
}

int h2_input(struct h2 *h, const uint8_t *data, size_t len)
{
    if (h->is_broken)
        return ERR_PROTO;
    h2_batch_begin(h);
    ssize_t n = nghttp2_session_mem_recv(h->ng, data, len);
    if (h->ops->on_input_end)
        h->ops->on_input_end(h->arg);
    h2_batch_end(h);
    if (n < 0) {
        h->is_broken = true;
        return n == NGHTTP2_ERR_FLOODED || n == NGHTTP2_ERR_NOMEM ? ERR_LIMIT : ERR_PROTO;
    }
    h2_wake(h);
    return h->is_flooded ? ERR_LIMIT : 0;
}

size_t h2_frame_left(const struct h2 *h)
{
    return h->frame_left;
}

size_t h2_output(struct h2 *h, uint8_t *out, size_t cap)
{
    h2_batch_begin(h);
    h->out = out;
    h->out_cap = cap;
    h->out_len = 0;
    if (h->preface_pending && cap >= H2_OUTPUT_MIN) {
        memcpy(out, NGHTTP2_CLIENT_MAGIC, NGHTTP2_CLIENT_MAGIC_LEN);
        h->out_len = NGHTTP2_CLIENT_MAGIC_LEN;
        h->preface_pending = false;
    }
    while (h->out_cap - h->out_len >= H2_OUTPUT_MIN) {
        const uint8_t *frame;
        h->memory.in_send = true;
        ssize_t n = nghttp2_session_mem_send(h->ng, &frame);
        h->memory.in_send = false;
        if (n < 0)
            h->is_broken = true;
        if (n <= 0)
            break;
        memcpy(h->out + h->out_len, frame, (size_t)n);
        h->out_len += (size_t)n;
    }
    h->out = NULL;
    h2_batch_end(h);
    return h->out_len;
}

bool h2_is_done(const struct h2 *h)
{
    return h->is_broken ||
           (!nghttp2_session_want_read(h->ng) && !nghttp2_session_want_write(h->ng));
}

void h2_ping(struct h2 *h)
{
    uint64_t now = h->ops->now_us ? h->ops->now_us(h->arg) : 0;
    nghttp2_submit_ping(h->ng, NGHTTP2_FLAG_NONE, (const uint8_t *)&now);
    h2_wake(h);
}

void h2_goaway(struct h2 *h, uint32_t error)
{
    if (h->sent_goaway)
        return;
    h->sent_goaway = true;
    int32_t last = nghttp2_session_get_last_proc_stream_id(h->ng);
    nghttp2_submit_goaway(h->ng, NGHTTP2_FLAG_NONE, last, error, NULL, 0);
    h2_wake(h);
}

void h2_set_rtt(struct h2 *h, uint32_t rtt_us)
{
    h->rtt_us = rtt_us;
}

void *h2_arg(const struct h2 *h)
{
    return h->arg;
}

struct h2_stream *h2_stream_find(struct h2 *h, uint32_t id)
{
    return id <= INT32_MAX ? stream_of(h, (int32_t)id) : NULL;
}

size_t h2_stream_count(const struct h2 *h)
{
    return h->n_streams;
}

uint32_t h2_peer_max_streams(const struct h2 *h)
{
    return h->peer_max_streams;
}

bool h2_peer_setting(const struct h2 *h, uint16_t id, uint32_t *ret)
{
    for (uint8_t i = 0; i < h->n_peer_settings; i++) {
        if (h->peer_settings[i].id == id) {
            *ret = h->peer_settings[i].value;
            return true;
        }
    }
    return false;
}
