/* Two networks become one: their tunnels too. No lease changes hands and no stream is cut. */
#include "tunnel/internal.h"

#include "base/error.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

static int count_stored(struct tx *tx, const char *network, int64_t *ret)
{
    return tx_query_int(tx, ret, "SELECT COUNT(*) FROM tunnel WHERE network = $1",
                        STORE_TEXT(network));
}

static int write_merge(struct tx *tx, const char *tenant, const char *from, const char *to)
{
    int64_t total;
    TRY(tx_query_int(tx, &total, "SELECT COUNT(*) FROM tunnel WHERE network = $1 OR network = $2",
                     STORE_TEXT(from), STORE_TEXT(to)));
    if (total > TUNNELS_PER_NETWORK)
        return ERR_LIMIT;
    struct rows rows =
        tx_query(tx, "UPDATE tunnel SET network = $2 WHERE network = $1 RETURNING id",
                 STORE_TEXT(from), STORE_TEXT(to));
    int rc;
    while ((rc = row_next(&rows)) > 0)
        TRY(store_publish(tx, tenant, "tunnel", row_text(&rows, 0), STORE_PUT));
    return rc;
}

/* Each agent has been told its own network's tunnels; now it learns the other's. */
static void tell_those(struct tunnel_object *o, const struct fleet_network *n, bool moved)
{
    struct fleet_agent *a;
    DL_FOREACH2 (n->agents, a, next_in_network) {
        if (a->was_moved == moved)
            tunnel_tell_one(o, a);
    }
}

static void on_network_merged(struct fleet_observer *ob, const char *from, struct fleet_network *to)
{
    struct tunnels *ts = container_of(ob, struct tunnels, observer);
    struct tunnel_network *gone = tunnel_network_of(ts, from), *n = tunnel_network_of(ts, to->id);
    struct tunnel_object *o;
    if (n) {
        DL_FOREACH (n->objects, o)
            tell_those(o, to, true);
    }
    if (gone) {
        DL_FOREACH (gone->objects, o) {
            snprintf(o->t.spec.network, sizeof(o->t.spec.network), "%s", to->id);
            tell_those(o, to, false);
        }
        if (n) {
            DL_CONCAT(n->objects, gone->objects);
            DL_CONCAT2(n->internal, gone->internal, internal_prev, internal_next);
            n->count += gone->count;
            tunnel_network_free(gone);
        } else {
            n = gone;
            HASH_DEL(ts->networks, n);
            snprintf(n->id, sizeof(n->id), "%s", to->id);
            HASH_ADD_STR(ts->networks, id, n);
        }
    }
    if (n) {
        DL_FOREACH (n->objects, o)
            tunnel_refresh_phase(o);
        tunnel_plan_later(n); /* more agents for more tunnels */
    }
}

void tunnel_network_init(struct tunnels *ts)
{
    ts->observer.count_stored = count_stored;
    ts->observer.write_merge = write_merge;
    ts->observer.on_network_merged = on_network_merged;
}
