/* Shared by wire/h2*.c only. */
#pragma once

#include "wire/h2.h"

#include <nghttp2/nghttp2.h>

#define H2_PEER_SETTINGS_MAX  16
#define H2_CONTROL_ALLOWANCE  2000 /* control frames between two h2_tick */
#define H2_OF_LATE_US         1000000
#define H2_SMALL_OF_LATE_US   50000u /* every new stream begins with something small */
#define H2_SMALL_BYTES        2048   /* pieces of a bulk stream are larger on average */
#define H2_FRAME_HEADER_BYTES 9

/* A header block while it arrives: texts packed behind each other, items by offset. */
struct h2_block {
    char *text;
    size_t len, cap;
    struct {
        uint32_t name, value;
    } * items;
    size_t n_items, cap_items;
    bool is_too_large;
};

/* A NULL-terminated copy of trailers, kept until the body has ended. */
struct h2_trailer_list {
    size_t n;
    struct h2_header items[];
};

struct h2_stream {
    struct h2 *h;
    const struct h2_stream_ops *ops;
    void *arg;
    struct h2_stream *prev, *next;
    struct h2_block *block;           /* only while headers arrive */
    struct h2_trailer_list *trailers; /* only until they are sent */
    int32_t id;
    /* Receiving: granted (the peer may send) + buffered (not consumed yet) is at most window. */
    uint32_t window, granted, buffered;
    uint32_t grown;       /* of `window`, charged to the budget */
    uint32_t mean_piece;  /* a moving average of the pieces of data that moved, bytes */
    uint32_t since_mark;  /* bytes consumed since mark_us */
    uint64_t mark_us;     /* 0: not measuring */
    bool is_connect;      /* request method */
    bool is_answered : 1; /* final response headers went or came */
    bool is_success : 1;  /* ... with 2xx */
    bool remote_ended : 1, local_ended : 1;
    bool is_deferred : 1; /* on_produce had nothing */
    bool is_reset : 1;    /* by us */
    bool is_deep : 1;     /* has bulk_window, charged to the budget as growth */
};

struct h2 {
    nghttp2_session *ng;
    const struct h2_ops *ops;
    void *arg;
    struct h2_stream *streams;
    size_t n_streams;
    uint32_t max_header_bytes, stream_window, stream_window_max, bulk_window;
    struct h2_budget *budget, own_budget;
    uint32_t rtt_us, ping_rtt_us; /* the least so far; 0: unknown */

    uint8_t *out; /* only inside h2_output */
    size_t out_len, out_cap;
    size_t frame_left; /* see h2_frame_left */

    uint32_t control_left, control_allowance; /* frames until h2_tick, and after it */
    uint32_t peer_max_streams;
    struct {
        uint16_t id;
        uint32_t value;
    } peer_settings[H2_PEER_SETTINGS_MAX];
    uint8_t n_peer_settings;
    bool is_server, peer_is_trusted, preface_pending, got_settings, got_goaway, sent_goaway;
    bool is_flooded, is_broken;

    /* Of late: times of now_us, 0 if never. */
    uint64_t now_us;        /* taken once a batch */
    uint64_t other_busy_us; /* another stream than before moved data */
    uint64_t small_us;      /* a stream of small pieces moved data */
    struct h2_stream *busy; /* the stream that moved data last */
    bool in_batch;

    struct h2_memory {
        bool is_known; /* the version of nghttp2 */
        bool has_frame;
        bool in_send;
    } memory;
};

/* nghttp2's allocator with the thread's shared frame buffer; see h2_memory.c. */
void h2_memory_init(struct h2_memory *m, nghttp2_mem *ret);

struct h2_stream *h2_stream_new(struct h2 *h, int32_t id);
void h2_stream_free(struct h2_stream *s); /* unlinks; no callback */
void h2_stream_received(struct h2_stream *s, size_t len);
void h2_stream_moved(struct h2_stream *s, size_t len);
void h2_batch_begin(struct h2 *h);
void h2_batch_end(struct h2 *h);
nghttp2_data_provider h2_stream_provider(struct h2_stream *s);

int h2_block_add(struct h2_stream *s, const uint8_t *name, size_t name_len, const uint8_t *value,
                 size_t value_len, size_t limit);
/* Calls `fn` with the finished block and frees it. */
void h2_block_deliver(struct h2_stream *s,
                      void (*fn)(struct h2_stream *s, const struct h2_headers *h));
void h2_block_free(struct h2_block *b);

/* Output callbacks of nghttp2. */
ssize_t h2_on_read(nghttp2_session *ng, int32_t id, uint8_t *buf, size_t length, uint32_t *flags,
                   nghttp2_data_source *source, void *user_data);
int h2_on_send_data(nghttp2_session *ng, nghttp2_frame *frame, const uint8_t *framehd,
                    size_t length, nghttp2_data_source *source, void *user_data);
ssize_t h2_on_read_length(nghttp2_session *ng, uint8_t frame_type, int32_t stream_id,
                          int32_t session_window, int32_t stream_window, uint32_t max_frame,
                          void *user_data);
void h2_wake(struct h2 *h);
