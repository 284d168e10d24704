#include "net/icmp.h"

#include "base/error.h"
#include "base/macro.h"

#include <arpa/inet.h>
#include <netinet/icmp6.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>
#include <pthread.h>
#include <string.h>

static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff}; /* ::ffff:0:0/96 */

/* ---- messages ---- */

static bool is_v4(const struct udp_path *path)
{
    return path->peer.sa.sa_family == AF_INET ||
           memcmp(&path->peer.in6.sin6_addr, mapped, sizeof(mapped)) == 0;
}

static const void *peer_ip4(const struct udp_path *path)
{
    return path->peer.sa.sa_family == AF_INET
               ? (const void *)&path->peer.in4.sin_addr
               : (const void *)(path->peer.in6.sin6_addr.s6_addr + sizeof(mapped));
}

/* RFC 1071. */
static uint16_t checksum(const void *data, size_t len)
{
    uint32_t sum = 0;
    for (size_t i = 0; i + 1 < len; i += 2) {
        uint16_t word;
        memcpy(&word, (const uint8_t *)data + i, sizeof(word));
        sum += ntohs(word);
    }
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return htons((uint16_t)~sum);
}

static uint8_t code_v4(int err)
{
    return err == ERR_REFUSED  ? ICMP_PORT_UNREACH
           : err == ERR_DENIED ? ICMP_PKT_FILTERED
                               : ICMP_HOST_UNREACH;
}

static uint8_t code_v6(int err)
{
    return err == ERR_REFUSED  ? ICMP6_DST_UNREACH_NOPORT
           : err == ERR_DENIED ? ICMP6_DST_UNREACH_ADMIN
                               : ICMP6_DST_UNREACH_ADDR;
}

static size_t write_v4(const struct udp_path *path, const struct udphdr *udp, int err, uint8_t *out)
{
    struct icmphdr icmp = {.type = ICMP_DEST_UNREACH, .code = code_v4(err)};
    struct iphdr ip = {.version = 4,
                       .ihl = 5,
                       .tot_len = htons(sizeof(ip) + sizeof(*udp)),
                       .ttl = 64,
                       .protocol = IPPROTO_UDP};
    size_t len = sizeof(icmp) + sizeof(ip) + sizeof(*udp);
    memcpy(&ip.saddr, peer_ip4(path), sizeof(ip.saddr));
    memcpy(&ip.daddr, path->local.ip + sizeof(mapped), sizeof(ip.daddr));
    ip.check = checksum(&ip, sizeof(ip));
    memcpy(out, &icmp, sizeof(icmp));
    memcpy(out + sizeof(icmp), &ip, sizeof(ip));
    memcpy(out + sizeof(icmp) + sizeof(ip), udp, sizeof(*udp));
    icmp.checksum = checksum(out, len);
    memcpy(out, &icmp, sizeof(icmp));
    return len;
}

static size_t write_v6(const struct udp_path *path, const struct udphdr *udp, int err, uint8_t *out)
{
    struct icmp6_hdr icmp = {.icmp6_type = ICMP6_DST_UNREACH, .icmp6_code = code_v6(err)};
    struct ip6_hdr ip = {.ip6_src = path->peer.in6.sin6_addr};
    ip.ip6_flow = htonl(6u << 28);
    ip.ip6_plen = htons(sizeof(*udp));
    ip.ip6_nxt = IPPROTO_UDP;
    ip.ip6_hlim = 64;
    memcpy(&ip.ip6_dst, path->local.ip, sizeof(ip.ip6_dst));
    memcpy(out, &icmp, sizeof(icmp));
    memcpy(out + sizeof(icmp), &ip, sizeof(ip));
    memcpy(out + sizeof(icmp) + sizeof(ip), udp, sizeof(*udp));
    return sizeof(icmp) + sizeof(ip) + sizeof(*udp);
}

size_t icmp_error_write(const struct udp_path *path, uint16_t port, int err,
                        uint8_t out[ICMP_ERROR_MAX])
{
    const struct udphdr udp = {.uh_sport = htons(addr_port(&path->peer)),
                               .uh_dport = htons(port),
                               .uh_ulen = htons(sizeof(udp))};
    return is_v4(path) ? write_v4(path, &udp, err, out) : write_v6(path, &udp, err, out);
}

/* ---- sending ---- */

static int sockets[2] = {-1, -1}; /* IPv4, IPv6; for the life of the process */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void open_sockets(void)
{
    int type = SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC;
    struct icmp6_filter nothing;
    const uint32_t none = UINT32_MAX;
    sockets[0] = socket(AF_INET, type, IPPROTO_ICMP);
    sockets[1] = socket(AF_INET6, type, IPPROTO_ICMPV6);
    ICMP6_FILTER_SETBLOCKALL(&nothing);
    if (sockets[0] >= 0) /* nothing is ever read: nothing shall arrive */
        setsockopt(sockets[0], SOL_RAW, 1 /* ICMP_FILTER */, &none, sizeof(none));
    if (sockets[1] >= 0)
        setsockopt(sockets[1], IPPROTO_ICMPV6, ICMP6_FILTER, &nothing, sizeof(nothing));
}

static bool may_send(uint64_t now_ms)
{
    static _Thread_local uint64_t since_ms;
    static _Thread_local uint32_t n;
    if (now_ms - since_ms >= 1000) {
        since_ms = now_ms;
        n = 0;
    }
    return n++ < ICMP_PER_SECOND;
}

void icmp_unreachable(const struct udp_path *path, uint16_t port, int err, uint64_t now_ms)
{
    uint8_t message[ICMP_ERROR_MAX] = {0};
    struct addr to = path->peer;
    pthread_once(&once, open_sockets);
    bool v4 = is_v4(path);
    int fd = sockets[v4 ? 0 : 1];
    if (fd < 0 || !may_send(now_ms))
        return;
    if (v4) {
        to = (struct addr){.in4 = {.sin_family = AF_INET}, .len = sizeof(to.in4)};
        memcpy(&to.in4.sin_addr, peer_ip4(path), sizeof(to.in4.sin_addr));
    } else {
        addr_set_port(&to, 0); /* a raw socket takes it for the protocol */
    }
    size_t len = icmp_error_write(path, port, err, message);
    (void)sendto(fd, message, len, MSG_NOSIGNAL, &to.sa, to.len);
}
