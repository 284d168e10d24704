#include "mount/internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"

#include <arpa/inet.h>
#include <assert.h>
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SPARE_MS 1000 /* the longest round trip to a target that a full mount still waits for */

void mount_format_target(const struct packet_ends *e, char out[AUTHORITY_SIZE])
{
    char host[INET6_ADDRSTRLEN];
    if (mount_is_resolver(e)) {
        snprintf(out, AUTHORITY_SIZE, "%s", MOUNT_RESOLVER_TARGET);
        return;
    }
    bool is_v4 = packet_is_v4(e->far);
    inet_ntop(is_v4 ? AF_INET : AF_INET6, is_v4 ? e->far + 12 : e->far, host, sizeof(host));
    snprintf(out, AUTHORITY_SIZE, is_v4 ? "%s:%u" : "[%s]:%u", host, e->far_port);
}

/* ---- errors ---- */

void mount_quote(uint8_t quote[QUOTE_SIZE], const struct packet *p)
{
    memset(quote, 0, QUOTE_SIZE);
    memcpy(quote, p->ip, MIN(p->ip_len, (size_t)QUOTE_SIZE));
}

/* Where the answers of nobody in particular come from: the program's way out. */
static const uint8_t gateway_4[16] = {[10] = 0xff, 0xff, 198, 18, 0, 1};
static const uint8_t gateway_6[16] = {0xfd, 0x57, 'a', 'r', 'r', 'e', 0, 'n', [15] = 1};

void mount_tell_cause(struct mount *m, const uint8_t quote[QUOTE_SIZE],
                      const struct icmp_cause *cause)
{
    uint8_t out[PACKET_ERROR_MAX];
    const uint8_t *gateway = cause->version == 4 ? gateway_4 : gateway_6;
    if (quote[0] >> 4 != cause->version)
        return;
    size_t n = packet_put_error(out, quote, QUOTE_SIZE, cause->type, cause->code,
                                icmp_cause_has_sender(cause) ? cause->from : gateway);
    tun_write(&m->tun, &(struct tun_offload){.header_len = n}, out, NULL, 0);
}

void mount_tell_error(struct mount *m, const uint8_t quote[QUOTE_SIZE], int err,
                      const struct icmp_cause *cause)
{
    static const struct {
        int err;
        uint8_t code, code6;
    } rows[] = {
        {ERR_REFUSED, ICMP_PORT_UNREACH, ICMP6_DST_UNREACH_NOPORT},
        {ERR_UNREACHABLE, ICMP_HOST_UNREACH, ICMP6_DST_UNREACH_ADDR},
        {ERR_DENIED, ICMP_PKT_FILTERED, ICMP6_DST_UNREACH_ADMIN},
    };
    bool is_v6 = quote[0] >> 4 == 6;
    if (cause->version) {
        mount_tell_cause(m, quote, cause);
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        if (rows[i].err != err)
            continue;
        struct icmp_cause c = {.version = is_v6 ? 6 : 4,
                               .type = is_v6 ? ICMP6_DST_UNREACH : ICMP_DEST_UNREACH,
                               .code = is_v6 ? rows[i].code6 : rows[i].code};
        if (err == ERR_REFUSED) /* that is the target's own word */
            packet_quoted_target(quote, c.from);
        mount_tell_cause(m, quote, &c);
    }
}

static_assert(MOUNT_STREAM_WINDOW_MAX <= RING_MAX, "what may come has a place");

/* ---- the device ---- */

/* Whether there is a whole packet in *p. */
static bool join(struct mount *m, struct packet *p)
{
    const uint8_t *whole;
    size_t len;
    return reassembly_add(&m->fragments, p, loop_now_ms(m->loop), &whole, &len) > 0 &&
           packet_parse(whole, len, false, p) == 0;
}

static void on_packet(void *arg, struct ring_block **block, const uint8_t *data, size_t len,
                      bool sum_is_partial)
{
    struct mount *m = arg;
    struct packet p;
    if (packet_parse(data, len, sum_is_partial, &p) < 0) {
        m->stats.packets_ignored++;
        return;
    }
    if (p.is_fragment && !join(m, &p))
        return;
    if (p.ip == data)
        p.block = block;
    if (packet_is_of_no_network(p.ends.far))
        m->stats.packets_ignored++;
    else if (mount_dns_input(m, &p))
        return;
    else if (p.protocol == IPPROTO_TCP)
        mount_tcp_input(m, &p);
    else if (p.protocol == IPPROTO_UDP)
        mount_udp_input(m, &p);
    else if (p.protocol == IPPROTO_ICMP || p.protocol == IPPROTO_ICMPV6)
        mount_icmp_input(m, &p);
    else
        m->stats.packets_ignored++;
}

static void on_batch_end(void *arg)
{
    mount_tcp_flush(arg);
}

static void on_gone(void *arg)
{
    struct mount *m = arg;
    tun_stop(&m->tun);
}

static const struct tun_ops device_ops = {on_packet, on_batch_end, on_gone};

/* ---- start and end ---- */

static void on_flush(struct defer *d)
{
    mount_tcp_flush(container_of(d, struct mount, flush));
}

int mount_start(struct loop *l, int tun, const struct mount_uplink *uplink, struct mount **ret)
{
    struct mount *m = NEW(struct mount);
    m->loop = l;
    m->uplink = *uplink;
    m->takes_large = tun_takes_large();
    m->flush.fn = on_flush;
    mount_udp_init(m);
    mount_icmp_init(m);
    int rc = tun_start(&m->tun, l, tun, &device_ops, m);
    if (rc < 0) {
        close(tun);
        mem_free(m);
        return rc;
    }
    m->gate = dial_gate_new(&(struct dial_gate_config){.loop = l,
                                                       .max = MOUNT_DIALS_MAX,
                                                       .per_target = MOUNT_DIALS_MAX / 2,
                                                       .spare_ms = SPARE_MS});
    *ret = m;
    return 0;
}

void mount_free_if_over(struct mount *m)
{
    if (m->is_stopped && !m->udp_set.head)
        mem_free(m);
}

void mount_stop(struct mount *m)
{
    struct mount_tcp *f, *next;
    if (!m)
        return;
    HASH_ITER (hh, m->tcp, f, next)
        mount_tcp_drop(f);
    syn_queue_done(&m->syns);
    mount_icmp_stop(m);
    dial_gate_free(TAKE(m->gate));
    mount_udp_stop(m);
    tun_stop(&m->tun);
    loop_defer_cancel(&m->flush);
    reassembly_done(&m->fragments);
    ring_free_spare();
    m->is_stopped = true;
    mount_free_if_over(m);
}

void mount_get_stats(const struct mount *m, struct mount_stats *ret)
{
    *ret = m->stats;
    ret->tcp_open = HASH_COUNT(m->tcp);
    ret->udp_open = HASH_COUNT(m->udp);
    dial_gate_get_stats(m->gate, &ret->dials);
    ret->ahead_hits = m->ahead_stats.hits;
    ret->ahead_wasted = m->ahead_stats.wasted;
    ret->bytes_up += m->udp_set.bytes_read;
    ret->bytes_down += m->udp_set.bytes_written;
}
