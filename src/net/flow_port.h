/*
 * A listening UDP socket whose clients, told apart by their addresses, each have a flow.
 *
 * A client is anyone who can put an address into a packet, so clients are many and cheap to make
 * up. A new one costs an entry and a stream for at most FRESH_MS, until the target has answered and
 * the client gone on; then it is kept like a NAT's mapping, until it was idle for `idle_ms`. When
 * there are too many, the fresh one that was silent longest makes way; a flood of new ones is
 * slowed down. After a failure to open its flow, a client's datagrams are dropped for RETRY_MS.
 *
 * What failed is told to the client as an ICMP error where the process may (net/icmp.h). Answers
 * leave from the address that the client has sent to. Thread: one loop.
 *
 * Under a bandwidth limit datagrams that are too many are dropped. With `proxy` each datagram to
 * the target begins with a PROXY header of version 2, as dnsdist and PowerDNS have it: none can be
 * the first one where any may be lost.
 */
#pragma once

#include "net/flow.h"
#include "net/pacer.h"
#include "wire/proxy_header.h"

struct flow_port;

#define FLOW_PORT_FRESH_MS  30000  /* the same as Linux's connection tracking */
#define FLOW_PORT_IDLE_MS   120000 /* RFC 9298 section 3.1, RFC 4787 REQ-5: two minutes or more */
#define FLOW_PORT_FLOWS_MAX 4096

struct flow_port_ops {
    /* A new client has sent a datagram: flow_open with these ops and this argument, or an error. */
    int (*open)(void *arg, const struct addr *client, const struct flow_ops *ops, void *flow_arg,
                struct flow **ret);
    void (*on_open)(void *arg, const struct addr *client); /* its flow is; may be NULL */
    /* The first datagram from the target to this client, or the first after an error; may be NULL.
     */
    void (*on_answer)(void *arg, const struct addr *client);
    /* The target's answer to a datagram was an error; may be NULL. */
    void (*on_error)(void *arg, const struct addr *client, int err);
    void (*on_end)(void *arg, const struct addr *client, const struct flow *f,
                   const struct flow_result *res);
};

struct flow_port_config {
    struct loop *loop;
    int fd;                      /* of udp_bind; the owner closes it after flow_port_free */
    uint32_t idle_ms, flows_max; /* 0: as above */
    struct flow_set *set;
    struct meter *meters[PACER_METERS]; /* NULL: none */
    enum proxy_version proxy;           /* PROXY_NONE or PROXY_V2 */
    const struct flow_port_ops *ops;
    void *arg;
};

int flow_port_new(const struct flow_port_config *cfg, struct flow_port **ret);
void flow_port_refuse_new(struct flow_port *p); /* clients it knows go on */
void flow_port_set_proxy(struct flow_port *p, enum proxy_version proxy); /* of new flows */
void flow_port_set_idle(struct flow_port *p, uint32_t idle_ms);
void flow_port_stop(struct flow_port *p); /* takes nothing more from the socket */
void flow_port_free(struct flow_port *p); /* after the last flow's on_end */

const struct addr *flow_port_client(const struct flow *f); /* of a flow of a port */
