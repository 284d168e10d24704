/*
 * Logins that a fail-over of the database has lost. An agent that is connected here is so whatever
 * the database remembers: its session is written again, with its epoch, and nobody's streams end.
 */
#include "fleet/internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"

struct restoring {
    struct fleet_agent was; /* its own fields; no pointer is followed */
    char *allow, *addresses;
};

static int write_session(struct tx *tx, void *arg)
{
    const struct restoring *r = arg;
    const struct fleet_agent *a = &r->was;
    TRY(tx_exec(tx,
                "INSERT INTO agent_session (agent, epoch, connected, disconnected, address, "
                "hostname, version, allow, addresses, hub, hub_epoch) "
                "VALUES ($1, $2, $3, NULL, $4, $5, $6, $7, $8, $9, $10) "
                "ON CONFLICT (agent) DO UPDATE SET epoch = excluded.epoch, "
                "connected = excluded.connected, disconnected = NULL, "
                "address = excluded.address, hostname = excluded.hostname, "
                "version = excluded.version, allow = excluded.allow, "
                "addresses = excluded.addresses, hub = excluded.hub, "
                "hub_epoch = excluded.hub_epoch WHERE agent_session.epoch < excluded.epoch",
                STORE_TEXT(a->id), STORE_INT(a->epoch), STORE_INT(a->connected),
                STORE_TEXT(a->address), STORE_TEXT(a->hostname), STORE_TEXT(a->software),
                STORE_TEXT(r->allow), STORE_TEXT(r->addresses), STORE_TEXT(a->hub),
                STORE_INT(a->hub_epoch)));
    return tx_changed(tx) ? store_publish(tx, a->tenant, "agent", a->id, STORE_PUT) : 0;
}

static void written(void *arg, int err)
{
    struct restoring *r = arg;
    if (err < 0)
        LOG_WARN("an agent's login could not be written again", LOG_STR("agent", r->was.id),
                 LOG_ERR(err));
    mem_free(r->allow);
    mem_free(r->addresses);
    mem_free(r);
}

void fleet_session_restore(struct fleet *f, const struct fleet_agent *a)
{
    struct restoring *r = NEW(struct restoring);
    LOG_INFO("the database has lost an agent's login: written again", LOG_STR("agent", a->id),
             LOG_INT("epoch", a->epoch));
    r->was = *a;
    r->allow = mem_strdup(a->allow);
    r->addresses = mem_strdup(a->addresses);
    store_run_patient(f->cfg.store, write_session, written, r);
}
