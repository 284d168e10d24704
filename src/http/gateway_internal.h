/* Shared by http/gateway*.c only. */
#pragma once

#include "base/arena.h"
#include "base/buf.h"
#include "http/gateway.h"
#include "http/internal.h"
#include "wire/http1.h"

#define GATEWAY_BODY_MAX                                                                         \
    65536                      /* bytes of a request that wait for its target: then none is read \
                                */
#define GATEWAY_OUT_MAX 131072 /* bytes of an answer that wait for its client: the same */
#define GATEWAY_OWN_MAX 8192   /* the body of a request to GATEWAY_OWN_PATH */
#define GATEWAY_HEADERS 220    /* fields of an answer, ours included */

/* What HTTP/1.1 and HTTP/2 do differently for one exchange; x->side is theirs, and NULL once the
 * client is gone or has its answer. */
struct gateway_side_ops {
    /* 100 Continue, if the client waits for it. */
    void (*go_on)(struct gateway_exchange *x);
    /* The head of the answer. `length` negative: not known. A 101 is told as that, to both. */
    void (*begin)(struct gateway_exchange *x, int status, const struct http_header *fields,
                  size_t n, bool has_body, int64_t length);
    size_t (*send)(struct gateway_exchange *x, const void *data, size_t len); /* what waits */
    void (*taken)(struct gateway_exchange *x, size_t len); /* bytes of the request's body */
    /* Both end the side's interest in the exchange. */
    void (*finish)(struct gateway_exchange *x);
    void (*cut)(struct gateway_exchange *x, int err);
};

enum exchange_step {
    EXCHANGE_READING, /* the body of a request to GATEWAY_OWN_PATH */
    EXCHANGE_ASKED,   /* gateway_decide is to come */
    EXCHANGE_SENT,    /* it has a stream, whose answer has not begun */
    EXCHANGE_ANSWERED /* the answer's head is out */
};

struct gateway_exchange {
    struct gateway *gateway; /* NULL: it is gone; only with EXCHANGE_ASKED */
    const struct gateway_side_ops *ops;
    void *side;
    struct arena arena;
    enum exchange_step step;
    const char *method, *target, *authority;
    const char *forward_to; /* host:port; forward proxy only */
    char host[HOST_SIZE];
    const struct http_header *fields;
    size_t n_fields;
    struct addr peer, own; /* own: forward proxy only */
    bool is_head, is_websocket, is_h2, is_raw, has_body, body_ended;
    int64_t content_length;
    struct buf body; /* arrived, not sent to the target yet */
    size_t body_at;
    struct gateway_stream *stream;
    char key[GATEWAY_KEY_SIZE];
    struct tls_client *tls;
    bool drop_authorization, was_retried;
    const char *drop_cookie;
    struct defer refuse; /* of a request that is wrong by itself: */
    int refuse_status;
    const char *refuse_reason;
    struct timer timer;
    uint64_t moved_ms; /* when bytes moved last */
    struct http_source *source;
    struct gateway_exchange *prev, *next;
};

struct gateway_stream {
    struct gateway *gateway;
    struct conn *conn;
    void *dialled;
    char key[GATEWAY_KEY_SIZE];
    struct gateway_exchange *x; /* NULL: idle, or dying */
    struct http1 parser;
    struct buf out; /* the request's head */
    size_t out_at;
    bool is_idle, is_chunked, sent_end, has_answered, is_dying, was_used;
    bool waits_for_end; /* for gateway_dialled, to know why it ended */
    bool is_told;       /* gateway_dialled came */
    int told_err;
    char told_reason[128];
    struct timer patience;
    uint64_t idle_since_ms;
    struct gateway_stream *prev, *next;
};

struct gateway {
    bool is_forward;
    struct http_server *server; /* its connections and their caps */
    struct loop *loop;
    const struct gateway_ops *ops;
    void *arg;
    struct gateway_limits limits;
    struct gateway_exchange *exchanges;
    struct gateway_stream *idle, *busy; /* idle: the longest unused first */
    struct timer sweep;
    struct gateway_stats stats;
};

/* gateway.c. Takes the arena, in which the strings that follow live; the caller fills them in. */
struct gateway_exchange *gateway_exchange_new(struct gateway *g, struct http_link *link,
                                              const struct gateway_side_ops *ops, void *side,
                                              struct arena arena);
/* Looks at the request and asks. Nothing is answered from within this call. */
void gateway_exchange_begin(struct gateway_exchange *x, struct conn *c);
void gateway_exchange_body(struct gateway_exchange *x, const void *data, size_t len);
void gateway_exchange_body_end(struct gateway_exchange *x);
bool gateway_exchange_is_full(const struct gateway_exchange *x);   /* read no more of the body */
size_t gateway_exchange_waiting(const struct gateway_exchange *x); /* bytes of the body */
void gateway_exchange_room(struct gateway_exchange *x);            /* the client has taken all */
void gateway_exchange_gone(struct gateway_exchange *x);            /* the client is */
/* The side has nothing more to do with it; returns the side. */
void *gateway_exchange_leave(struct gateway_exchange *x);

bool gateway_is_own(const struct gateway_exchange *x); /* asks for one of GATEWAY_OWN_PATH */

/* For gateway_stream.c. */
void gateway_exchange_moved(struct gateway_exchange *x);
/* An error as the answer; if one has begun, it is cut. Ends the exchange. */
void gateway_exchange_fail(struct gateway_exchange *x, int err, const char *reason);
void gateway_exchange_end(struct gateway_exchange *x); /* frees it; the side has left */

/* gateway_page.c: what we answer ourselves. All end the exchange. */
void gateway_page_answer(struct gateway_exchange *x, int status, const char *content_type,
                         const char *body, const struct http_header *headers);
void gateway_page_error(struct gateway_exchange *x, int err, const char *reason);
void gateway_page_refuse(struct gateway_exchange *x, int status, const char *reason,
                         const struct http_header *headers);

/* gateway_stream.c */
void gateway_stream_begin(struct gateway_exchange *x); /* finds or dials one, sends the request */
void gateway_stream_wake(struct gateway_stream *s);    /* more of the body is there */
void gateway_stream_resume(struct gateway_stream *s);  /* the client takes more */
void gateway_stream_drop(struct gateway_stream *s, int err); /* its exchange has left */
void gateway_stream_sweep(struct timer *t);
/* Idle ones: all, or those to the target of `key` that are of another generation. */
void gateway_stream_close_idle(struct gateway *g, const char *key);
void gateway_stream_abandon_all(struct gateway *g); /* those without an exchange */

/* gateway_h1.c, gateway_h2.c */
void gateway_h1_take(struct gateway *g, struct conn *c);
void gateway_h2_take(struct gateway *g, struct conn *c);
