/*
 * One question to one address, and what came of it. Each has a socket of its own, but for echoes
 * and ARP.
 *
 *     TCP   a connection: accepted, refused, or neither; reset as soon as it is accepted
 *     UDP   an empty datagram to a port that nobody uses: a host that is there refuses it
 *     ECHO  an ICMP echo request, where the system lets us make one
 *     SNMP  v2c: who are you (sysDescr, sysName)
 *     ARP   who has the address, where the system lets us ask (net/arp.h)
 *
 * All but TCP, where the kernel does, ask a second time after half of the time.
 */
#pragma once

#include "base/addr.h"
#include "loop/io.h"

#define PROBE_TEXT_SIZE 256
#define PROBE_UDP_PORT  40125 /* not registered, and seldom an ephemeral one */
#define PROBE_SNMP_PORT 161

enum probe_kind { PROBE_TCP, PROBE_UDP, PROBE_ECHO, PROBE_SNMP, PROBE_ARP, PROBE_KIND_COUNT };

/* SILENT: nothing came, or only that the address cannot be reached. */
enum probe_end { PROBE_OPEN, PROBE_REFUSED, PROBE_SILENT };

struct probe_result {
    enum probe_end end;
    /* The host itself has spoken, be it by an ICMP error: it is there. */
    bool is_alive;
    uint32_t rtt_us;                                    /* of an answer */
    uint8_t mac[6];                                     /* ARP, OPEN */
    char descr[PROBE_TEXT_SIZE], name[PROBE_TEXT_SIZE]; /* SNMP, OPEN; text as the device gave it */
};

struct probe_params {
    enum probe_kind kind;
    struct addr target;    /* the port counts for TCP only */
    const char *community; /* SNMP */
    uint32_t timeout_ms;
    void (*on_end)(void *arg, const struct probe_result *r); /* once, later; then it is freed */
    void *arg;
};

struct prober;
struct probe;

struct prober *prober_new(struct loop *l);
void prober_free(struct prober *r); /* its probes have ended; NULL is fine */
bool prober_has_arp(const struct prober *r, const struct addr *a); /* for this address */

/* ERR_LIMIT: out of descriptors, or of the kernel's room; not now. Else the probe cannot be made
 * here: ERR_DENIED (no echo), ERR_UNREACHABLE (no route)… */
int probe_start(struct prober *r, const struct probe_params *p, struct probe **ret);
void probe_cancel(struct probe *p); /* NULL is fine; not after on_end */
