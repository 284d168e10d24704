/*
 * One HTTP/2 connection's protocol state (RFC 9113), client or server, without I/O: bytes go in by
 * h2_input, come out by h2_output, everything between is callbacks. nghttp2 underneath.
 *
 * Sending is by pull: a stream's `on_produce` writes its body straight into the output buffer, only
 * when both flow-control windows and the buffer have room, so a stream owns no send buffer.
 *
 * Receiving: the connection's window is given back on receipt, a stream's only by h2_consume. A
 * reader that stops therefore stalls its own stream and nobody else, and costs at most its window.
 * That starts at `stream_window`. It doubles while the round trip is what limits a reader that
 * keeps up (h2_set_rtt), is four times as large while no other stream is busy, and shrinks beside
 * small messages of the same connection, because each byte in flight before theirs is delay.
 *
 * Lifetime: a stream is valid from on_request / h2_request until its `on_close` returned. No
 * callback comes from within h2_request, h2_respond, h2_reset, h2_resume, h2_consume; they come
 * from h2_input, h2_output and h2_free only. h2_free must not be called from a callback.
 *
 * Abuse limits (each ends the connection with GOAWAY ENHANCE_YOUR_CALM): rapid reset, floods of
 * control frames, header blocks above max_header_bytes, and see nghttp2's own.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct h2;
struct h2_stream;

/* A DATA frame's payload: with its 9-byte header it fills exactly one TLS record, or fifteen where
 * no small messages wait and the peer allows it. Larger reads are cheaper: each one opens the
 * sender's TCP window, and wakes it. (Fifteen, not a batch's sixteen: four segments of 64 KiB at a
 * mount.) */
#define H2_DATA_MAX   16375
#define H2_DATA_LARGE 245751
/* Least room h2_output needs to make progress. */
#define H2_OUTPUT_MIN (16384 + 16)

/* RFC 9113 section 7; what h2_reset takes and on_close reports. */
enum h2_error {
    H2_NO_ERROR = 0,
    H2_PROTOCOL_ERROR = 1,
    H2_INTERNAL_ERROR = 2,
    H2_FLOW_CONTROL_ERROR = 3,
    H2_STREAM_CLOSED = 5,
    H2_REFUSED_STREAM = 7,
    H2_CANCEL = 8,
    H2_CONNECT_ERROR = 10,
    H2_ENHANCE_YOUR_CALM = 11,
};

struct h2_header {
    const char *name; /* lower case; pseudo-headers first */
    const char *value;
};
#define H2_HEADERS(...) ((const struct h2_header[]){__VA_ARGS__})

/* A received block. Names and values are NUL-terminated and valid during the callback only. */
struct h2_headers {
    const struct h2_header *items;
    size_t count;
};
const char *h2_headers_get(const struct h2_headers *h, const char *name); /* first, or NULL */
int h2_headers_status(const struct h2_headers *h); /* of a response; 0 if there is none */

#define H2_EXTRA_SETTINGS 2

/* What several sessions of one thread may use together. */
struct h2_budget {
    uint64_t window_limit, window_used; /* growth of streams' windows, bytes */
    uint64_t buffer_limit, buffered;    /* received and not consumed, bytes */
    size_t n_streams;
    uint64_t small_us; /* when one of the sessions last moved data in small pieces */
};

struct h2_config {
    bool is_server;
    uint32_t max_streams;       /* open at once, opened by the peer; 0: 128 (client: none) */
    uint32_t stream_window;     /* bytes, at open; 0: 256 KiB */
    uint32_t stream_window_max; /* growth ends here; 0: 4 MiB, never below stream_window */
    /* What a stream of bulk beside others of bulk is granted on a short path, bytes, as long as
     * window_budget has room: deep enough that one piece fills a batch. 0: no more than alone. */
    uint32_t bulk_window;
    uint32_t connection_window; /* bytes; 0: 8 MiB */
    uint32_t window_budget;     /* all growth of all streams together, bytes; 0: 32 MiB */
    /* Received and not consumed, of all streams together, bytes; 0: 64 MiB. Beyond it a stream that
     * has more than its equal part is reset. */
    uint32_t buffer_budget;
    struct h2_budget *budget;  /* instead of these two, outlives the session; NULL: its own */
    uint32_t max_header_bytes; /* one block, names and values; 0: 16 KiB */
    bool enable_connect;       /* server: announce RFC 8441 extended CONNECT */
    uint32_t resets_a_second;  /* of streams that were never open, beside the usual allowance */
    bool peer_is_trusted;      /* no limits on resets and control frames: our own hub */
    /* Sent in the first SETTINGS; id 0: none. */
    struct h2_setting {
        uint16_t id;
        uint32_t value;
    } extra[H2_EXTRA_SETTINGS];
};

/* Of the connection. All but on_wants_output may be NULL. */
struct h2_ops {
    /* h2_output has something to give. */
    void (*on_wants_output)(void *arg);
    /* Server: a request's headers are complete. Answer now or later; call h2_stream_set to follow
     * the stream, else its body is discarded and nobody hears of its end. */
    void (*on_request)(void *arg, struct h2_stream *s, const struct h2_headers *h);
    void (*on_settings)(void *arg); /* the peer's first SETTINGS; see h2_peer_setting */
    void (*on_goaway)(void *arg, uint32_t error);
    /* The end of one h2_input: everything of this batch was delivered. */
    void (*on_input_end)(void *arg);
    /* A monotonic clock in microseconds; NULL: windows do not adapt. */
    uint64_t (*now_us)(void *arg);
};

/* Of a stream. Any may be NULL. */
struct h2_stream_ops {
    /* Client: the response, interim (1xx) ones too. Both: trailers (without :status). */
    void (*on_headers)(void *arg, struct h2_stream *s, const struct h2_headers *h);
    /* The bytes stay valid until on_input_end. Credit them by h2_consume once they are dealt with.
     * If NULL, data is discarded and credited. */
    void (*on_data)(void *arg, struct h2_stream *s, const uint8_t *data, size_t len);
    void (*on_end)(void *arg, struct h2_stream *s); /* the peer will send no more */
    /* Up to `cap` bytes of body to `out`. Returns the count; sets *eof with or after the last.
     * 0 without eof: nothing now, asked again after h2_resume. Negative: the stream is reset
     * (INTERNAL_ERROR). */
    int (*on_produce)(void *arg, struct h2_stream *s, uint8_t *out, size_t cap, bool *eof);
    /* Last call, exactly once. `error` is an h2_error; NO_ERROR if both sides ended properly.
     * When the connection died: CANCEL. */
    void (*on_close)(void *arg, struct h2_stream *s, uint32_t error);
};

int h2_new(const struct h2_config *cfg, const struct h2_ops *ops, void *arg, struct h2 **ret);
void h2_free(struct h2 *h); /* closes every stream first */

/* 0, or ERR_PROTO / ERR_LIMIT: send what h2_output still has (a GOAWAY) and close. Many violations
 * are told by GOAWAY only: ask h2_is_done after output. */
int h2_input(struct h2 *h, const uint8_t *data, size_t len);
/* How much of the DATA frame that is arriving has not: to read to its end keeps its bytes in one
 * batch. 0: none is. */
size_t h2_frame_left(const struct h2 *h);
/* Writes frames to `out` until it is full or nothing is left; returns the bytes written. */
size_t h2_output(struct h2 *h, uint8_t *out, size_t cap);
/* Whether the connection came to its end (GOAWAY both ways, no streams). */
bool h2_is_done(const struct h2 *h);

/* Client: ERR_LIMIT when the peer's stream limit is reached, ERR_UNAVAILABLE after GOAWAY.
 * `has_body`: on_produce is asked for it; otherwise the request ends with its headers. */
int h2_request(struct h2 *h, const struct h2_header *headers, size_t n, bool has_body,
               const struct h2_stream_ops *ops, void *arg, struct h2_stream **ret);
/* Server: once a stream. */
int h2_respond(struct h2_stream *s, const struct h2_header *headers, size_t n, bool has_body);
/* A 1xx before the response, such as 100. */
int h2_inform(struct h2_stream *s, const struct h2_header *headers, size_t n);
/* Sent when on_produce has set *eof; call it before that, or from there. */
int h2_trailers(struct h2_stream *s, const struct h2_header *headers, size_t n);

void h2_resume(struct h2_stream *s); /* on_produce has something again */
/* `len` received bytes were dealt with: opens the stream's window for as many. */
void h2_consume(struct h2_stream *s, size_t len);
void h2_reset(struct h2_stream *s, uint32_t error); /* on_close follows, later */

/* The window that `from`, which is about to be closed, has earned goes on to `to`. */
void h2_stream_inherit(struct h2_stream *to, struct h2_stream *from);
void h2_stream_set(struct h2_stream *s, const struct h2_stream_ops *ops, void *arg);
void *h2_stream_arg(const struct h2_stream *s);
struct h2 *h2_stream_session(const struct h2_stream *s);
uint32_t h2_stream_id(const struct h2_stream *s);
struct h2_stream *h2_stream_find(struct h2 *h, uint32_t id); /* NULL: not open */
const struct h2_stream_ops *h2_stream_ops_of(const struct h2_stream *s);

void h2_ping(struct h2 *h);
void h2_goaway(struct h2 *h, uint32_t error); /* graceful: open streams go on, new are refused */
/* Once a second or so while there is input: refills the allowance of control frames. */
void h2_tick(struct h2 *h);

/* The least round trip of the transport so far, for the growth of windows. h2_ping's answers count
 * instead where they show a long path, which a proxy in between hides from the transport. */
void h2_set_rtt(struct h2 *h, uint32_t rtt_us);
uint32_t h2_round_trip_us(const struct h2 *h); /* 0: unknown */
/* What moved in the last second: at most one stream; several; some of them, a moment ago, in
 * small pieces, as where someone waits for each answer. */
enum h2_traffic { H2_TRAFFIC_SINGLE, H2_TRAFFIC_BULK, H2_TRAFFIC_MIXED };
enum h2_traffic h2_traffic(const struct h2 *h);

void *h2_arg(const struct h2 *h);
size_t h2_stream_count(const struct h2 *h);
uint32_t h2_peer_max_streams(const struct h2 *h);
/* The last value the peer sent for a setting, standard or not (at most 16 are kept); false if it
 * never did. */
bool h2_peer_setting(const struct h2 *h, uint16_t id, uint32_t *ret);
