/*
 * What a connection and a stream of HTTP/2 need whoever answers: the server (h2_server.c) and the
 * gateway (gateway_h2.c). Shared by those only.
 */
#pragma once

#include "base/buf.h"
#include "http/internal.h"
#include "wire/h2.h"

/* A connection: the first member of its owner, which is freed by http_h2_link_closed. */
struct http_h2_link {
    struct http_link link;
    struct h2conn *hc;
    struct timer idle; /* its function is the owner's */
    uint32_t streams;  /* the owner's, see http_h2_link_joined */
    bool is_ending;
};

void http_h2_link_init(struct http_h2_link *l, struct http_server *s, struct conn *c,
                       void (*on_idle)(struct timer *t));
void http_h2_link_joined(struct http_h2_link *l); /* a stream more */
void http_h2_link_left(struct http_h2_link *l);
void http_h2_link_close_idle(struct http_h2_link *l);         /* for on_idle */
void http_h2_link_closed(void *arg, int err);                 /* h2conn_ops.on_close */
void http_h2_refuse(struct h2_stream *s, const char *status); /* by a status and nothing else */

/* An answer's bytes, which wait until the windows take them. What nobody takes for HTTP_STALL_MS
 * runs into the deadline. An answer that came before the request's body was read lingers: its end
 * is held back while a little more of the body is read over, because what ends the stream then is a
 * reset, after which some clients (curl 7.88) throw the answer away. */
struct http_h2_out {
    struct h2_stream *stream;
    struct buf data;
    size_t at;     /* sent of it */
    bool is_ended; /* no more will be added */
    bool lingers;
    size_t lingered;       /* bytes read over */
    struct timer deadline; /* its function is the owner's */
};

void http_h2_out_done(struct http_h2_out *o);
size_t http_h2_out_add(struct http_h2_out *o, const void *data, size_t len); /* what waits then */
void http_h2_out_end(struct http_h2_out *o, bool lingers);
void http_h2_out_stop_lingering(struct http_h2_out *o);
/* Bytes of the body after the answer's end. */
void http_h2_out_read_over(struct http_h2_out *o, size_t len);
/* For on_produce; true: all that there was has been taken. */
bool http_h2_out_produce(struct http_h2_out *o, uint8_t *out, size_t cap, size_t *ret_n, bool *eof);
