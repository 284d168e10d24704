#include "net/interface.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <string.h>

static bool read_address(const struct ifaddrs *i, struct addr *ret)
{
    if (!i->ifa_addr)
        return false;
    int family = i->ifa_addr->sa_family;
    ret->len = family == AF_INET ? sizeof(ret->in4) : family == AF_INET6 ? sizeof(ret->in6) : 0;
    memcpy(&ret->sa, i->ifa_addr, ret->len);
    bool is_link_local = family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&ret->in6.sin6_addr);
    return ret->len && !is_link_local && !(i->ifa_flags & IFF_LOOPBACK);
}

size_t interface_addresses(const struct addr *own, char (*ret)[ADDR_TEXT_SIZE], size_t max)
{
    const struct ifaddrs *found = NULL;
    struct ifaddrs *all = NULL;
    struct addr a;
    size_t n = 0;
    if (max == 0 || getifaddrs(&all) < 0)
        return 0;
    for (const struct ifaddrs *i = all; i && !found; i = i->ifa_next) {
        if (!read_address(i, &a) || !addr_equal_ip(&a, own))
            continue;
        found = i;
        addr_format_ip(&a, ret[n++], ADDR_TEXT_SIZE);
    }
    for (const struct ifaddrs *i = all; i && found; i = i->ifa_next) {
        if (n < max && strcmp(i->ifa_name, found->ifa_name) == 0 && read_address(i, &a) &&
            !addr_equal_ip(&a, own))
            addr_format_ip(&a, ret[n++], ADDR_TEXT_SIZE);
    }
    freeifaddrs(all);
    return n;
}
