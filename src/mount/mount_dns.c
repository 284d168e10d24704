/*
 * The mount's own share of the name server at MOUNT_RESOLVER_4: names of the network's agents. All
 * others are the business of the agent's name server, unless there shall be none.
 */
#include "mount/internal.h"

#include "base/error.h"
#include "base/macro.h"
#include "wire/dns.h"

#include <netinet/in.h>
#include <string.h>

#define DOMAIN        ".agent"
#define TTL_S         10
#define ADDRESSES_MAX 8

bool mount_is_resolver(const struct packet_ends *e)
{
    static const uint8_t resolver[16] = {[10] = 0xff, 0xff, 198, 18, 0, 1};
    return e->far_port == 53 && memcmp(e->far, resolver, sizeof(resolver)) == 0;
}

/* Cuts the domain off a name that has it. */
static bool take_domain(char *name)
{
    size_t len = strlen(name), domain = strlen(DOMAIN);
    bool has = len > domain && strcmp(name + len - domain, DOMAIN) == 0;
    if (has)
        name[len - domain] = '\0';
    return has;
}

static void reply(struct mount *m, const struct packet *p, const struct dns_question *q, int found,
                  const uint8_t (*addresses)[16])
{
    uint8_t headers[PACKET_HEADER_MAX], answer[DNS_ANSWER_MAX];
    struct tun_offload o = {.sum_offset = 6};
    enum dns_code code = found == ERR_NOT_FOUND     ? DNS_NO_SUCH_NAME
                         : found == ERR_UNAVAILABLE ? DNS_SERVER_FAILED
                         : found < 0                ? DNS_REFUSED
                                                    : DNS_OK;
    size_t n = found > 0 ? (size_t)found : 0;
    size_t len = dns_answer(answer, p->payload, q, code, addresses, n, TTL_S);
    o.header_len = packet_put_udp(headers, &p->ends, 0, len, &o.sum_at);
    tun_write(&m->tun, &o, headers, &(struct iovec){answer, len}, 1);
}

bool mount_dns_input(struct mount *m, const struct packet *p)
{
    const struct mount_names *names = m->uplink.names;
    uint8_t addresses[ADDRESSES_MAX][16];
    struct dns_question q;
    if (!names || !mount_is_resolver(&p->ends))
        return false;
    if (p->protocol != IPPROTO_UDP || dns_question_parse(p->payload, p->payload_len, &q) < 0)
        return names->is_all;
    if (take_domain(q.name))
        reply(m, p, &q, names->find_agent(names->arg, q.name, addresses, ADDRESSES_MAX), addresses);
    else if (names->is_all)
        reply(m, p, &q, ERR_DENIED, NULL);
    else
        return false;
    return true;
}
