/* Shared by net/relay*.c only. The theory of operation is in relay.c, that of moving in
 * relay_move.c. */
#pragma once

#include "base/buf.h"
#include "loop/io.h"
#include "net/dial_gate.h"
#include "net/relay.h"

#define RELAY_NO_CHUNK UINT16_MAX

struct relay_move;
struct relay_paced;

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
    struct buf more; /* what is kept while some of the stash has left */
    uint16_t first_chunk, last_chunk;
    struct relay_move *move;  /* while it changes connections */
    struct h2_stream *anchor; /* of one that took a shortcut: the stream that it had before */
    struct relay_tag *tag;
    uint64_t received;  /* by its streams */
    uint64_t pieces_ms; /* since when ... */
    uint16_t n_pieces;  /* ... so many were moved */
    uint32_t old_bytes; /* first ones of the stash: of a stream that is gone */
    uint32_t burst;     /* bytes moved since burst_ms */
    bool is_hub, is_local;
    bool other_ended;        /* local: told so */
    bool keeps_fd;           /* for whoever is told that the target was not reached */
    bool waits;              /* until then nothing is read from it */
    struct relay_pair *pair; /* in place of a socket */
    uint8_t side;            /* of the pair */
    uint32_t given;          /* first ones of the stash that have left */
    bool was_offered;        /* to the other of the pair: what this batch has brought */
    int kept_fd;             /* -1: none */
    struct relay_worker far_worker;
    bool is_open : 1;      /* the target is reached */
    bool is_cut : 1;       /* `end` and `err` are decided, the socket is gone */
    bool socket_ended : 1; /* read to its end */
    bool stream_ended : 1; /* END_STREAM came */
    bool is_shut : 1;      /* ... and went on as FIN */
    int err;
    int socket_err;          /* pending error of the socket, told once its last bytes are read */
    struct icmp_cause cause; /* of a target that was not reached */
    enum relay_end end;
    uint64_t bytes_read, bytes_written, started_ms, burst_ms;
    struct addr peer;
    struct dialling *dialling; /* agent, until the target answers */
    struct defer over;         /* for an end that no stream reports */
    struct prefix *prefix;     /* hub, until it is sent */
    struct relay_paced *paced; /* NULL: has met no bandwidth limit */
};

struct prefix {
    uint16_t len, sent;
    uint8_t data[];
};

struct dialling {
    struct dial *dial; /* NULL: waits for its turn */
    struct dial_ticket ticket;
    struct host_port target;
    uint32_t deadline_ms;
    uint8_t ttl;
    bool wants_cause;
    int (*check)(void *arg, const struct addr *a);
    void *check_arg;
    struct relay *relay;
};

extern const struct h2_stream_ops relay_stream_ops;

/* relay.c */
void relay_on_event(struct io *io);
void relay_on_batch_end(struct h2conn_batch *b);
void relay_on_over(struct defer *d);
void relay_cut(struct relay *r, enum relay_end end, int err);
void relay_cut_both(struct relay *r, enum relay_end end, int err);
void relay_release_socket(struct relay *r); /* ... left as it is */
void relay_close_socket(struct relay *r, bool is_reset);
void relay_shut_if_done(struct relay *r);
void relay_keep(struct relay *r, const void *data, size_t len); /* bytes for the socket */
void relay_write_kept(struct relay *r);
size_t relay_count_kept(const struct relay *r);
void relay_keep_chunks(struct relay *r); /* what this batch has brought, beyond its end */
/* For the other of a pair: bytes that are kept, then those of this batch. */
size_t relay_give(struct relay *r, uint8_t *out, size_t cap);
/* Reads from the socket: on_produce of whichever stream carries that direction. */
int relay_read(struct relay *r, uint8_t *out, size_t cap, bool *eof);

/* relay_pace.c: how much may move now; 0: its turn comes. Then, how much did. */
size_t relay_may_read(struct relay *r, size_t cap);
void relay_did_read(struct relay *r, size_t n);
size_t relay_may_write(struct relay *r); /* of what is kept */
void relay_did_write(struct relay *r, size_t n);
bool relay_is_write_paced(struct relay *r);
void relay_stop_pacing(struct relay *r);

/* relay_open.c */
struct relay_worker relay_read_worker(const struct h2_headers *h);

/* relay_pair.c. As of a socket: */
int relay_pair_join(struct relay *r, struct relay_pair *p);                 /* takes the end */
bool relay_pair_read(struct relay *r, uint8_t *out, size_t cap, size_t *n); /* false: the end */
void relay_pair_write(struct relay *r); /* the other may read what is kept */
void relay_pair_offer(struct relay *r); /* ... or what this batch has brought */
void relay_pair_shut(struct relay *r);
void relay_pair_leave(struct relay *r);

/* relay_move.c */
struct h2_stream *relay_sender(const struct relay *r); /* by which the socket's bytes go */
void relay_resume(struct relay *r);                    /* the socket has something to read */
/* Whether the old stream sends nothing more: the new one goes on, the old one ends (`eof`), or is
 * an anchor. */
bool relay_move_is_due(struct relay *r, bool *eof);
void relay_move_received(struct relay *r);         /* more, on the old stream */
bool relay_move_is_waiting(const struct relay *r); /* for the answer */
void relay_move_old_ended(struct relay *r);        /* END_STREAM came on the old stream */
/* The old stream is closed, properly: the new one takes its place. False: it cannot. */
bool relay_move_finish(struct relay *r, struct h2_stream *old);
void relay_move_drop(struct relay *r); /* resets the new stream, if there is one */
struct h2conn *relay_move_conn(const struct relay *r);
void relay_drop_anchor(struct relay *r); /* when it has ended */

/* relay_tag.c */
void relay_tag_set(struct relay *r, struct relay_tags *tags, const char *text);
void relay_tag_drop(struct relay *r);
struct relay *relay_tag_find(const struct relay_tags *tags, const char *text);
