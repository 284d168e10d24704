/* The interface of a space, its addresses and routes. */
#include "mount/space_internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "mount/tun.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if.h>
#include <linux/ipv6.h>
#include <linux/ipv6_route.h>
#include <linux/route.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define INTERFACE "warren0"
#define QUEUE_LEN 10000 /* of packets; 500 lose some with 64 busy flows */

static int set_interface(int s, const char *name, unsigned long what, struct ifreq *req)
{
    snprintf(req->ifr_name, sizeof(req->ifr_name), "%s", name);
    return ioctl(s, what, req);
}

/* By netlink: the ioctl for it is root's alone, whoever owns the namespace. */
static int set_queue(int index, uint32_t len)
{
    struct {
        struct nlmsghdr head;
        struct ifinfomsg link;
        struct rtattr attr;
        uint32_t len;
    } ask = {.head = {.nlmsg_len = sizeof(ask),
                      .nlmsg_type = RTM_NEWLINK,
                      .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
             .link = {.ifi_index = index},
             .attr = {.rta_len = RTA_LENGTH(sizeof(uint32_t)), .rta_type = IFLA_TXQLEN},
             .len = len};
    struct {
        struct nlmsghdr head;
        struct nlmsgerr err;
        char quoted[sizeof(ask)];
    } answer = {.err.error = -EIO};
    int s = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (s < 0)
        return -1;
    if (send(s, &ask, sizeof(ask), 0) == sizeof(ask))
        (void)!recv(s, &answer, sizeof(answer), 0);
    close(s);
    errno = -answer.err.error;
    return errno ? -1 : 0;
}

static int bring_up(int s, const char *name)
{
    struct ifreq req = {0};
    if (set_interface(s, name, SIOCGIFFLAGS, &req) < 0)
        return -1;
    req.ifr_flags |= IFF_UP | IFF_RUNNING;
    return set_interface(s, name, SIOCSIFFLAGS, &req);
}

static int add_route_4(int s, const struct in_addr *to, int bits)
{
    struct rtentry route = {.rt_flags = RTF_UP, .rt_dev = (char[]){INTERFACE}};
    struct sockaddr_in *dst = (struct sockaddr_in *)&route.rt_dst;
    struct sockaddr_in *mask = (struct sockaddr_in *)&route.rt_genmask;
    dst->sin_family = mask->sin_family = AF_INET;
    mask->sin_addr.s_addr = htonl(bits ? UINT32_MAX << (32 - bits) : 0);
    dst->sin_addr.s_addr = to->s_addr & mask->sin_addr.s_addr;
    return ioctl(s, SIOCADDRT, &route);
}

static int add_route_6(int s, int index, const struct in6_addr *to, int bits)
{
    struct in6_rtmsg route = {.rtmsg_dst = *to,
                              .rtmsg_dst_len = (uint16_t)bits,
                              .rtmsg_metric = 1,
                              .rtmsg_flags = RTF_UP,
                              .rtmsg_ifindex = index};
    return ioctl(s, SIOCADDRT, &route);
}

static int set_up_v4(int s, struct space_report *r)
{
    struct ifreq req = {0};
    struct sockaddr_in *a = (struct sockaddr_in *)&req.ifr_addr;
    a->sin_family = AF_INET;
    inet_pton(AF_INET, SPACE_ADDRESS_4, &a->sin_addr);
    if (set_interface(s, INTERFACE, SIOCSIFADDR, &req) < 0)
        return space_fail(r, ERR_IO, "cannot set the interface's address");
    inet_pton(AF_INET, "255.255.255.252", &a->sin_addr);
    if (set_interface(s, INTERFACE, SIOCSIFNETMASK, &req) < 0)
        return space_fail(r, ERR_IO, "cannot set the interface's netmask");
    return 0;
}

static int set_up_v6(int index, struct space_report *r)
{
    struct in6_ifreq req = {.ifr6_prefixlen = 128, .ifr6_ifindex = index};
    int s = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    inet_pton(AF_INET6, SPACE_ADDRESS_6, &req.ifr6_addr);
    int rc = ioctl(s, SIOCSIFADDR, &req);
    close(s);
    return rc < 0 ? space_fail(r, ERR_IO, "cannot set the interface's IPv6 address") : 0;
}

static int add_route(const char *cidr, int index, struct space_report *r)
{
    char host[INET6_ADDRSTRLEN];
    struct in6_addr a6;
    struct in_addr a4;
    int bits = -1, rc = -1;
    if (sscanf(cidr, "%45[^/]/%d", host, &bits) < 1)
        return space_fail(r, ERR_INVALID, cidr);
    bool is_v4 = inet_pton(AF_INET, host, &a4) == 1;
    int s = socket(is_v4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (is_v4)
        rc = add_route_4(s, &a4, bits < 0 ? 32 : bits);
    else if (inet_pton(AF_INET6, host, &a6) == 1)
        rc = add_route_6(s, index, &a6, bits < 0 ? 128 : bits);
    close(s);
    return rc < 0 && errno != EEXIST ? space_fail(r, ERR_IO, cidr) : 0;
}

int space_set_up_network(const struct space_config *cfg, int *ret_tun, struct space_report *r)
{
    /* The host's congestion control may pace, which the path in memory does not need. */
    space_write_file("/proc/sys/net/ipv4/tcp_congestion_control", "reno");
    /* Nor its time-outs: a round trip to us takes no time, and we never delay what we acknowledge.
     * Kernels before 6.11 have no such setting and wait 200 ms. */
    space_write_file("/proc/sys/net/ipv4/tcp_rto_min_us", "20000");
    space_write_file("/proc/sys/net/ipv6/conf/all/addr_gen_mode", "1");
    space_write_file("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1");
    /* Routers that send ICMP errors need not be in a network that is routed here. */
    space_write_file("/proc/sys/net/ipv4/conf/all/rp_filter", "0");
    space_write_file("/proc/sys/net/ipv4/conf/default/rp_filter", "0");
    space_write_file("/proc/sys/net/ipv4/ip_local_port_range", "10000 65535");
    space_write_file("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
    *ret_tun = tun_open(INTERFACE);
    if (*ret_tun < 0)
        return space_fail(
            r, *ret_tun,
            "cannot make a TUN interface (/dev/net/tun must exist and be open to you: "
            "modprobe tun; chmod 0666 /dev/net/tun)");
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq mtu = {.ifr_mtu = SPACE_MTU}, index = {0};
    int rc = bring_up(s, "lo");
    rc |= set_interface(s, INTERFACE, SIOCSIFMTU, &mtu);
    rc |= set_interface(s, INTERFACE, SIOCGIFINDEX, &index);
    rc |= set_queue(index.ifr_ifindex, QUEUE_LEN);
    rc = rc < 0 ? space_fail(r, ERR_IO, "cannot set up the interface") : set_up_v4(s, r);
    if (rc == 0 && bring_up(s, INTERFACE) < 0)
        rc = space_fail(r, ERR_IO, "cannot bring the interface up");
    close(s);
    if (rc == 0 && cfg->has_v6)
        rc = set_up_v6(index.ifr_ifindex, r);
    static const char *const everything[] = {"0.0.0.0/0", "::/0"};
    const char *const *routes = cfg->routes ? cfg->routes : everything;
    size_t n = cfg->routes ? cfg->n_routes : cfg->has_v6 ? 2 : 1;
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = add_route(routes[i], index.ifr_ifindex, r);
    return rc;
}
