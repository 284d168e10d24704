/*
 * The load generator of `make bench`: `load serve` is the service at the far end of a tunnel, the
 * other modes are its clients. A client's first byte says what the server shall do with the
 * connection, so that one tunnel to one port is enough for every kind of measurement.
 */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LOAD_BLOCK      (128 * 1024) /* bytes of one bulk read or write, as iperf3 has it */
#define LOAD_REQUEST    64           /* bytes of a LOAD_REPLY request, operation included */
#define LOAD_RESPONSE   128          /* bytes of its answer */
#define LOAD_SIZE       64           /* bytes of a datagram, if not told otherwise */
#define LOAD_EVENTS_MAX 256

enum load_op {
    LOAD_ECHO = 'e',    /* send back what follows */
    LOAD_SINK = 's',    /* read and count what follows */
    LOAD_SOURCE = 'S',  /* send without end */
    LOAD_STALL = 'x',   /* read nothing more */
    LOAD_REPLY = 'c',   /* read a request, answer it, close: an HTTP/1.0 exchange in shape */
    LOAD_COUNTER = 'n', /* answer with one struct load_counter, close */
};

/* What the server has sunk so far, and when that was; both in the server's byte order, as this
 * never leaves the machine. */
struct load_counter {
    uint64_t bytes;     /* of streams */
    uint64_t datagrams; /* LOAD_SINK, too */
    uint64_t at_ns;
};

struct load_options {
    struct sockaddr_in to;      /* where clients connect: the tunnel's entrance */
    struct sockaddr_in counter; /* the server itself, for LOAD_COUNTER */
    int streams;                /* or UDP sockets, each of them a flow */
    int size;                   /* of a datagram */
    double seconds, warmup_seconds;
    bool from_target; /* direction of bulk and stalled streams */
    bool one_byte;    /* conn: one byte each way in place of request and response */
    bool abandon;     /* bulk: reset the streams at the end; what is on its way isn't waited for */
};

/* Each mode prints one JSON object (hold and stall: two) and returns the exit status. */
int load_serve(const struct load_options *o);
int load_bulk(const struct load_options *o);
int load_rr(const struct load_options *o);
int load_conn(const struct load_options *o);
int load_scan(const struct load_options *o);
int load_hold(const struct load_options *o);
int load_stall(const struct load_options *o);

int load_udp_rr(const struct load_options *o);
int load_udp_flood(const struct load_options *o);

struct histogram;
void load_print_latency(const struct histogram *h, double seconds, uint64_t errors, uint64_t lost);

/* load_udp.c: the far end for datagrams, on a thread of its own */
int load_udp_bind(const struct sockaddr_in *address);
__attribute__((noreturn)) void load_udp_serve(int fd, _Atomic uint64_t *sunk);

/* load_socket.c: helpers of both sides. They end the program, with a message, on failure. */
uint64_t load_now_ns(void);
int load_connect(const struct sockaddr_in *to, enum load_op op); /* non-blocking, op already sent */
int load_connect_start(const struct sockaddr_in *to);            /* non-blocking, in progress */
void load_connect_finish(int fd, enum load_op op);               /* waits for what was started */
int load_epoll(void);
void load_watch(int epoll, int fd, uint32_t events, uint32_t index);
struct load_counter load_counter_get(const struct sockaddr_in *server);
__attribute__((noreturn, format(printf, 1, 2))) void load_fail(const char *format, ...);
