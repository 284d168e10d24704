/*
 * This hub among others: the address by which they reach it, and who is told when they come and go.
 */
#include "hub/internal.h"

#include "base/error.h"
#include "base/mem.h"
#include "peer/peers.h"
#include "pki/ticket.h"

#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

static bool is_shared(const struct hub *h)
{
    return h->settings->db && store_is_shared(h->settings->db);
}

static void on_pool_up(void *arg, struct fleet_pool *p)
{
    tunnels_hub_up(((struct hub *)arg)->tunnels, p);
}

static void on_pool_down(void *arg, struct fleet_pool *p)
{
    tunnels_hub_down(((struct hub *)arg)->tunnels, p);
}

static void on_claims(void *arg)
{
    tunnels_may_claim(((struct hub *)arg)->tunnels);
}

static void on_lost(void *arg)
{
    hub_terminate(arg);
}

static void on_self(void *arg, const struct fleet_hub *self)
{
    hub_follow_order(arg, self);
}

static bool is_wildcard(const struct addr *a)
{
    return a->sa.sa_family == AF_INET ? a->in4.sin_addr.s_addr == INADDR_ANY
                                      : IN6_IS_ADDR_UNSPECIFIED(&a->in6.sin6_addr);
}

/* Where other hubs reach this one: as set, or the listening address, of which a wildcard becomes
 * this machine's name. */
static char *peer_address(const struct hub *h)
{
    const struct host_port *set = &h->settings->peer_address;
    struct host_port at = *set;
    char text[FLEET_HUB_ADDRESS_SIZE];
    if (!at.host[0]) {
        if (is_wildcard(&h->address))
            snprintf(at.host, sizeof(at.host), "%s", h->machine);
        else
            addr_format_ip(&h->address, at.host, sizeof(at.host));
    }
    if (!at.port)
        at.port = addr_port(&h->address);
    host_port_format(&at, text, sizeof(text));
    return mem_strdup(text);
}

bool hub_has_shared_ca(const struct hub *h)
{
    return h->settings->ca_key_file || h->settings->ca_passphrase_file || h->passphrase.len;
}

int hub_set_ticket_keys(struct hub *h)
{
    uint8_t keys[TICKET_KEYS_MAX][TICKET_KEY_SIZE];
    size_t n = 0;
    int rc = identity_derive_keys(h->identity, TICKET_LABEL, keys, TICKET_KEYS_MAX, &n);
    if (rc == 0)
        tunnels_set_ticket_keys(h->tunnels, (const uint8_t(*)[TICKET_KEY_SIZE])keys, n);
    explicit_bzero(keys, sizeof(keys));
    return rc;
}

/* Where agents reach it past a balancer: as set, or as other hubs do; "": nowhere. */
static char *agent_address(const struct hub *h, const char *peer)
{
    const char *set = h->settings->agent_address;
    if (!is_shared(h) || (set && strcmp(set, "none") == 0))
        return mem_strdup("");
    return mem_strdup(set ? set : peer);
}

int hub_join_cluster(struct hub *h, struct diag *d)
{
    CLEANUP(mem_free) char *address = peer_address(h);
    CLEANUP(mem_free) char *for_agents = agent_address(h, address);
    const struct peers_config cfg = {.loop = h->loop,
                                     .store = h->store,
                                     .fleet = h->fleet,
                                     .identity = h->identity,
                                     .is_shared = is_shared(h),
                                     .has_shared_ca = hub_has_shared_ca(h),
                                     .address = address,
                                     .agent_address = for_agents,
                                     .name = h->machine,
                                     .on_pool_up = on_pool_up,
                                     .on_pool_down = on_pool_down,
                                     .on_claims = on_claims,
                                     .on_lost = on_lost,
                                     .on_self = on_self,
                                     .arg = h};
    int rc = hub_set_ticket_keys(h);
    if (rc < 0)
        return diag_set(d, rc, "cannot derive the key of tickets");
    TRY(peers_new(&cfg, &h->peers, d));
    tunnels_join(h->tunnels, h->peers);
    tunnels_allow_shortcuts(h->tunnels, for_agents[0] && !h->settings->no_shortcuts);
    return 0;
}
