/* Shared by the files of a mount: mount.c (device, table of flows), mount_tcp.c, mount_udp.c,
 * mount_icmp.c, mount_dns.c. */
#pragma once

#include "mount/ahead.h"
#include "mount/mount.h"
#include "mount/reassembly.h"
#include "mount/syn_queue.h"
#include "mount/tcp.h"
#include "mount/tun.h"
#include "net/dial_gate.h"
#include "net/flow.h"

#include <uthash.h>

#define QUOTE_SIZE 80 /* bytes of a packet: what an ICMP error about it must quote */

struct mount_dial {
    struct dial_ticket ticket;
    struct mount_tcp *flow;
    uint64_t first_syn_ms, last_syn_ms;
    uint8_t ttl;               /* with which the agent dials; SMALL_TTL: as usual */
    uint8_t quote[QUOTE_SIZE]; /* of the SYN */
};

struct mount_tcp {
    struct packet_ends ends; /* key */
    struct mount *mount;
    struct h2_stream *stream; /* NULL: none, or no more */
    struct tcp tcp;
    struct timer timer;
    struct mount_dial *dial; /* NULL: the target has answered, or will not */
    struct mount_tcp *dirty_prev, *dirty_next;
    struct mount_tcp *half_prev, *half_next;
    uint64_t half_open_ms; /* since when it is half-open */
    uint8_t cork_turns;    /* so long less than a segment waits for more */
    bool is_dirty, is_half_open;
    bool has_waited; /* with an acknowledgement for the stream to take what came */
    bool is_cut;     /* the stream was lost: what is left is delivered, then a reset */
    UT_hash_handle hh;
};

struct mount_udp {
    struct packet_ends ends; /* key */
    struct mount *mount;
    struct flow *flow;
    uint64_t used_ms;
    uint32_t sent;
    uint8_t quote[QUOTE_SIZE]; /* of the last datagram */
    struct ahead *ahead;       /* NULL: it is no SNMP */
    struct mount_device *device;
    struct mount_udp *device_prev, *device_next; /* of the same device */
    bool is_listed;
    struct mount_udp *prev, *next; /* by use */
    UT_hash_handle hh;
};

struct echo_asked;

/* The program's echo requests: all go in one stream. */
struct mount_echo {
    struct flow *flow;        /* NULL: none was asked for lately */
    struct echo_asked *asked; /* ring; NULL as the flow */
    uint32_t next;            /* the next request's number; its place is the remainder */
    uint64_t used_ms, retry_ms;
    struct timer timer;
};

struct mount {
    struct loop *loop;
    struct tun tun;
    bool takes_large; /* TCP_LARGE_MAX */
    struct mount_uplink uplink;
    struct mount_tcp *tcp;               /* by ends */
    struct mount_tcp *dirty, *half_open; /* the latter longest first */
    size_t n_half_open;
    struct syn_queue syns; /* to be dialled */
    unsigned flood_turns;
    uint64_t strays_ms; /* when `strays` of them were answered */
    unsigned strays;
    struct defer flush;
    struct dial_gate *gate;           /* bounds the dials */
    struct mount_udp *udp, *udp_idle; /* by ends; the same, longest idle first */
    struct flow_set udp_set;
    struct timer udp_timer;
    struct mount_device *devices; /* by address */
    struct ahead_stats ahead_stats;
    struct mount_echo echo;
    struct reassembly fragments;
    struct mount_stats stats;
    bool is_stopped; /* freed with its last stream */
};

/* mount.c */
#define AUTHORITY_SIZE 64
void mount_format_target(const struct packet_ends *e, char out[AUTHORITY_SIZE]);
void mount_quote(uint8_t quote[QUOTE_SIZE], const struct packet *p);
/* The ICMP error for a failure to reach the target of a quoted packet: the one behind it, else one
 * that says the same, if there is one. */
void mount_tell_error(struct mount *m, const uint8_t quote[QUOTE_SIZE], int err,
                      const struct icmp_cause *cause);
/* Tells exactly this one. */
void mount_tell_cause(struct mount *m, const uint8_t quote[QUOTE_SIZE],
                      const struct icmp_cause *cause);

void mount_free_if_over(struct mount *m);

/* mount_dns.c */
bool mount_is_resolver(const struct packet_ends *e);
/* Whether the packet was for the mount itself, which has done with it what is to be done. */
bool mount_dns_input(struct mount *m, const struct packet *p);

/* mount_tcp.c */
void mount_tcp_input(struct mount *m, const struct packet *p);
void mount_tcp_flush(struct mount *m);
void mount_tcp_drop(struct mount_tcp *f); /* at once, without a word to the program */

/* mount_udp.c */
void mount_udp_init(struct mount *m);
void mount_udp_input(struct mount *m, const struct packet *p);
void mount_udp_stop(struct mount *m);
void mount_udp_give(struct mount_udp *u, const uint8_t *data, size_t len); /* to the program */

/* mount_ahead.c */
/* A datagram of the program. true: it is answered; else it is to be sent. */
bool mount_ahead_request(struct mount_udp *u, const uint8_t *data, size_t len);
/* A datagram of the program that goes to the device as it is, whatever it asks. */
void mount_ahead_bypass(struct mount_udp *u);
/* One of the device, before the program gets it. */
void mount_ahead_response(struct mount_udp *u, const uint8_t *data, size_t len);
void mount_ahead_push(struct mount_udp *u, const uint8_t *value, size_t len); /* an AHEAD capsule */
void mount_ahead_expire(struct mount_udp *u);
void mount_ahead_end(struct mount_udp *u);

/* mount_icmp.c */
void mount_icmp_init(struct mount *m);
void mount_icmp_input(struct mount *m, const struct packet *p);
void mount_icmp_stop(struct mount *m);
