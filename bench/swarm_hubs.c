/*
 * Which hub a member dials: the agents' own list (fleet/hub_list.h), once for all members. They
 * differ only in which entries they have tried, which each keeps as bits. A hub stays in the list
 * when it is gone: who lost it does not know that yet.
 */
#include "swarm.h"

#include "base/diag.h"
#include "base/macro.h"
#include "fleet/hub_probe.h"
#include "net/tls.h"
#include "warren/v1/agent.pb-c.h"

#include <stdio.h>
#include <string.h>

#define TOLD_MAX (SWARM_PLACES_MAX - SWARM_HUBS_MAX)

void swarm_hubs_add(struct swarm *s, const char *url)
{
    struct host_port at;
    struct place *p = &s->places[s->n_hubs];
    const char *host = strstr(url, "://");
    if (host_port_parse(host ? host + 3 : url, false, &at, NULL) < 0 ||
        hub_list_configure(&s->hubs, &at) < 0 || addr_parse(at.host, at.port, &p->at) < 0)
        swarm_fail("--hub takes https://ADDRESS:PORT, and not more than a few", NULL);
    p->number = (uint8_t)s->n_hubs++;
}

static void make_tls(struct swarm *s, size_t i)
{
    struct diag d = {0};
    const struct hub_entry *e = &s->hubs.entries[i];
    const struct tls_client_config cfg = {.ca_pem = s->ca_pem,
                                          .server_name = e->id[0] ? e->id : e->at.host,
                                          .alpn = {"warren-agent/1"}};
    if (tls_client_new(&cfg, &s->places[i].tls, &d) < 0)
        swarm_fail("TLS", &d);
}

static void on_measured(void *arg)
{
}

void swarm_hubs_start(struct swarm *s)
{
    for (size_t i = 0; i < s->n_hubs; i++)
        make_tls(s, i);
    s->probe = hub_probe_new(s->loop, &s->hubs, on_measured, NULL);
}

/* The number of the --hub with that address; -1: none. */
static int number_of(const struct swarm *s, const struct addr *at)
{
    for (size_t i = 0; i < s->n_hubs; i++) {
        if (addr_equal_ip(&s->places[i].at, at) && addr_port(&s->places[i].at) == addr_port(at))
            return (int)i;
    }
    return -1;
}

static struct hub_entry *find_told(struct swarm *s, const Warren__V1__Hub *hub)
{
    struct host_port at;
    return host_port_parse(hub->address, false, &at, NULL) < 0
               ? NULL
               : hub_list_find(&s->hubs, hub->id, &at);
}

/* Of --hub, so that it can be counted. */
static bool is_ours(const struct swarm *s, const Warren__V1__Hub *hub)
{
    struct host_port hp;
    struct addr at;
    return host_port_parse(hub->address, false, &hp, NULL) == 0 &&
           addr_parse(hp.host, hp.port, &at) == 0 && number_of(s, &at) >= 0;
}

/* The entries that there are, and one more. */
static void add(struct swarm *s, const Warren__V1__Hub *hub)
{
    struct hub_told told[TOLD_MAX];
    char texts[TOLD_MAX][HOST_SIZE + 8], ids[TOLD_MAX][ID_SIZE];
    size_t n = 0, i = s->hubs.n;
    for (size_t k = s->n_hubs; k < s->hubs.n; k++, n++) {
        const struct hub_entry *e = &s->hubs.entries[k];
        host_port_format(&e->at, texts[n], sizeof(texts[n]));
        memcpy(ids[n], e->id, sizeof(ids[n]));
        told[n] = (struct hub_told){ids[n], texts[n], e->is_leaving};
    }
    told[n++] = (struct hub_told){hub->id, hub->address, hub->leaving};
    hub_list_replace(&s->hubs, told, n);
    if (s->hubs.n != i + 1)
        swarm_fail("the list of hubs is not as it was told", NULL);
    const struct host_port *at = &s->hubs.entries[i].at;
    addr_parse(at->host, at->port, &s->places[i].at);
    s->places[i].number = (uint8_t)number_of(s, &s->places[i].at);
    make_tls(s, i);
}

void swarm_hubs_told(struct swarm *s, const Warren__V1__Hubs *m)
{
    for (size_t i = 0; i < m->n_hubs; i++) {
        struct hub_entry *e = find_told(s, m->hubs[i]);
        if (e) {
            e->is_leaving = m->hubs[i]->leaving;
        } else if (s->hubs.n - s->n_hubs < TOLD_MAX && is_ours(s, m->hubs[i])) {
            add(s, m->hubs[i]);
            hub_probe_soon(s->probe, 0);
        }
    }
}

/* ---- a member's view ---- */

static void load_tried(struct member *m)
{
    struct hub_list *l = &m->swarm->hubs;
    for (size_t i = 0; i < l->n; i++)
        l->entries[i].was_tried = m->tried >> i & 1;
}

void swarm_hubs_pass_over(struct member *m)
{
    const struct swarm *s = m->swarm;
    uint8_t number = s->places[m->place].number;
    m->tried |= UINT64_C(1) << m->place;
    for (size_t i = s->n_hubs; i < s->hubs.n; i++) {
        if (s->places[i].number == number)
            m->tried |= UINT64_C(1) << i;
    }
}

uint8_t swarm_hubs_next(struct member *m)
{
    struct hub_list *l = &m->swarm->hubs;
    load_tried(m);
    const struct hub_entry *e = hub_list_next(l, "", random_below(UINT32_MAX));
    m->tried = 0;
    for (size_t i = 0; i < l->n; i++)
        m->tried |= (uint64_t)l->entries[i].was_tried << i;
    return (uint8_t)(e - l->entries);
}

bool swarm_hubs_has_untried(struct member *m)
{
    load_tried(m);
    return hub_list_has_untried(&m->swarm->hubs, "");
}
