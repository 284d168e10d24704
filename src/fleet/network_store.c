#include "fleet/network_store.h"

#include "base/error.h"
#include "base/macro.h"
#include "fleet/lan_model.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

static int audit(struct tx *tx, const struct network_actor *actor, const char *tenant, int64_t now,
                 const char *action, const char *object, const char *detail)
{
    if (!actor->is_hub)
        return identity_audit_act(tx, &actor->by, action, object, detail);
    return identity_audit(tx, now,
                          &(struct audit_entry){.tenant = tenant,
                                                .actor = "hub",
                                                .action = action,
                                                .object = object,
                                                .detail = detail});
}

/* ---- merging ---- */

static int read_network(struct tx *tx, const struct network_merge *m, const char *id,
                        char name[FLEET_NAME_SIZE], struct lan_network *ret)
{
    struct rows rows = tx_query(tx,
                                "SELECT name, automatic, created FROM network "
                                "WHERE id = $1 AND tenant = $2",
                                STORE_TEXT(id), STORE_TEXT(m->tenant));
    struct fleet_observer *o;
    int rc = TRY(row_next(&rows));
    if (!rc)
        return ERR_NOT_FOUND;
    *ret = (struct lan_network){
        .id = id, .is_named = row_int(&rows, 1) == 0, .created = row_int(&rows, 2)};
    snprintf(name, FLEET_NAME_SIZE, "%s", row_text(&rows, 0));
    rows_done(&rows);
    LL_FOREACH (m->observers, o) {
        int64_t n = 0;
        TRY(o->count_stored(tx, id, &n));
        ret->objects += n;
    }
    return 0;
}

static void order(const char *a, const char *b, const char **ret_first, const char **ret_second)
{
    bool is_ordered = strcmp(a, b) < 0;
    *ret_first = is_ordered ? a : b;
    *ret_second = is_ordered ? b : a;
}

static int choose(struct tx *tx, struct network_merge *m)
{
    struct lan_network a, b;
    char a_name[FLEET_NAME_SIZE], b_name[FLEET_NAME_SIZE];
    const char *first, *second;
    int64_t apart;
    TRY(read_network(tx, m, m->a, a_name, &a));
    TRY(read_network(tx, m, m->b, b_name, &b));
    order(m->a, m->b, &first, &second);
    TRY(tx_query_int(tx, &apart, "SELECT COUNT(*) FROM network_apart WHERE a = $1 AND b = $2",
                     STORE_TEXT(first), STORE_TEXT(second)));
    if (!m->is_given && (apart || (a.is_named && b.is_named)))
        return ERR_CONFLICT;
    bool a_survives = !m->is_given && lan_network_prevails(&a, &b);
    snprintf(m->to, sizeof(m->to), "%s", a_survives ? m->a : m->b);
    snprintf(m->from, sizeof(m->from), "%s", a_survives ? m->b : m->a);
    snprintf(m->to_name, sizeof(m->to_name), "%s", a_survives ? a_name : b_name);
    snprintf(m->from_name, sizeof(m->from_name), "%s", a_survives ? b_name : a_name);
    return 0;
}

static int place_why(struct tx *tx, const char *agent, const char *how, int64_t now,
                     const char *why)
{
    return tx_exec(tx,
                   "INSERT INTO agent_place (agent, places, how, at, why) VALUES ($1, '', $2, $3, "
                   "$4) ON CONFLICT (agent) DO UPDATE SET how = $2, at = $3, why = $4",
                   STORE_TEXT(agent), STORE_TEXT(how), STORE_INT(now), STORE_TEXT(why));
}

static int move_agents(struct tx *tx, const struct network_merge *m)
{
    struct rows rows = tx_query(
        tx, "UPDATE agent SET network = $2, version = version + 1 WHERE network = $1 RETURNING id",
        STORE_TEXT(m->from), STORE_TEXT(m->to));
    int rc;
    while ((rc = row_next(&rows)) > 0) {
        TRY(place_why(tx, row_text(&rows, 0), "merge", m->now, m->why));
        TRY(store_publish(tx, m->tenant, "agent", row_text(&rows, 0), STORE_PUT));
    }
    return rc;
}

static int move_tokens(struct tx *tx, const struct network_merge *m)
{
    return tx_exec(tx, "UPDATE token SET network = $2 WHERE network = $1", STORE_TEXT(m->from),
                   STORE_TEXT(m->to));
}

static int keep_alias(struct tx *tx, const struct network_merge *m)
{
    TRY(tx_exec(tx, "UPDATE network_alias SET network = $2 WHERE network = $1", STORE_TEXT(m->from),
                STORE_TEXT(m->to)));
    TRY(tx_exec(tx,
                "INSERT INTO network_alias (id, tenant, name, network, at, why) "
                "VALUES ($1, $2, $3, $4, $5, $6)",
                STORE_TEXT(m->from), STORE_TEXT(m->tenant), STORE_TEXT(m->from_name),
                STORE_TEXT(m->to), STORE_INT(m->now), STORE_TEXT(m->why)));
    return tx_exec(tx, "DELETE FROM network_apart WHERE a = $1 OR b = $1", STORE_TEXT(m->from));
}

int network_merge_write(struct tx *tx, struct network_merge *m)
{
    struct fleet_observer *o;
    char detail[NETWORK_WHY_SIZE + 180];
    TRY(choose(tx, m));
    LL_FOREACH (m->observers, o)
        TRY(o->write_merge(tx, m->tenant, m->from, m->to));
    TRY(move_agents(tx, m));
    TRY(move_tokens(tx, m));
    TRY(keep_alias(tx, m));
    TRY(identity_applied_forget(tx, m->from));
    TRY(tx_exec(tx, "DELETE FROM network WHERE id = $1", STORE_TEXT(m->from)));
    TRY(tx_exec(tx, "UPDATE network SET version = version + 1 WHERE id = $1", STORE_TEXT(m->to)));
    snprintf(detail, sizeof(detail), "%.63s (%.31s) into %.63s: %.319s", m->from_name, m->from,
             m->to_name, m->why);
    TRY(audit(tx, &m->actor, m->tenant, m->now, "network.merge", m->to, detail));
    TRY(store_publish(tx, m->tenant, "network", m->from, STORE_DELETE));
    return store_publish(tx, m->tenant, "network", m->to, STORE_PUT);
}

/* ---- moving ---- */

static int keep_apart(struct tx *tx, const struct network_move *m)
{
    const char *first, *second;
    order(m->from, m->to, &first, &second);
    return tx_exec(tx,
                   "INSERT INTO network_apart (tenant, a, b) VALUES ($1, $2, $3) "
                   "ON CONFLICT (a, b) DO NOTHING",
                   STORE_TEXT(m->tenant), STORE_TEXT(first), STORE_TEXT(second));
}

int network_move_write(struct tx *tx, const struct network_move *m)
{
    char detail[NETWORK_WHY_SIZE + 80];
    int64_t known;
    TRY(tx_query_int(tx, &known, "SELECT COUNT(*) FROM network WHERE id = $1 AND tenant = $2",
                     STORE_TEXT(m->to), STORE_TEXT(m->tenant)));
    if (!known)
        return ERR_NOT_FOUND;
    TRY(tx_exec(tx,
                "UPDATE agent SET network = $3, version = version + 1 "
                "WHERE id = $1 AND network = $2 AND tenant = $4",
                STORE_TEXT(m->agent), STORE_TEXT(m->from), STORE_TEXT(m->to),
                STORE_TEXT(m->tenant)));
    if (tx_changed(tx) == 0)
        return ERR_STALE;
    TRY(place_why(tx, m->agent, m->actor.is_hub ? "move" : "operator", m->now, m->why));
    TRY(network_places_write(tx, m->agent, m->places));
    if (!m->actor.is_hub)
        TRY(keep_apart(tx, m));
    snprintf(detail, sizeof(detail), "from %.31s to %.31s: %.319s", m->from, m->to, m->why);
    TRY(audit(tx, &m->actor, m->tenant, m->now, "agent.move", m->agent, detail));
    TRY(store_publish(tx, m->tenant, "network", m->from, STORE_PUT));
    TRY(store_publish(tx, m->tenant, "network", m->to, STORE_PUT));
    return store_publish(tx, m->tenant, "agent", m->agent, STORE_PUT);
}

int network_places_write(struct tx *tx, const char *agent, const char *places)
{
    return tx_exec(tx,
                   "INSERT INTO agent_place (agent, places) VALUES ($1, $2) "
                   "ON CONFLICT (agent) DO UPDATE SET places = $2",
                   STORE_TEXT(agent), STORE_TEXT(places ? places : ""));
}

/* ---- keys ---- */

static int read_keys(struct tx *tx, const char *tenant, struct lan_keys *ret, int64_t *ret_made)
{
    struct rows rows = tx_query(tx, "SELECT lan_keys, lan_keys_made FROM tenant WHERE id = $1",
                                STORE_TEXT(tenant));
    size_t len = 0;
    int rc = TRY(row_next(&rows));
    if (!rc)
        return ERR_NOT_FOUND;
    const uint8_t *keys = row_blob(&rows, 0, &len);
    *ret = (struct lan_keys){0};
    for (; keys && ret->n < 2 && len >= (ret->n + 1) * LAN_KEY_SIZE; ret->n++)
        memcpy(ret->key[ret->n], keys + ret->n * LAN_KEY_SIZE, LAN_KEY_SIZE);
    *ret_made = row_int(&rows, 1);
    rows_done(&rows);
    return 0;
}

int network_keys_write(struct tx *tx, const char *tenant, int64_t now, int64_t at_most_ms,
                       bool is_revoked, struct lan_keys *ret)
{
    struct lan_keys keys;
    int64_t made;
    TRY(read_keys(tx, tenant, &keys, &made));
    if (!keys.n || is_revoked || now - made >= at_most_ms) {
        memcpy(keys.key[1], keys.key[0], LAN_KEY_SIZE);
        keys.n = keys.n && !is_revoked ? 2 : 1;
        random_bytes(keys.key[0], LAN_KEY_SIZE);
        TRY(tx_exec(tx, "UPDATE tenant SET lan_keys = $2, lan_keys_made = $3 WHERE id = $1",
                    STORE_TEXT(tenant), STORE_BLOB(keys.key, keys.n * LAN_KEY_SIZE),
                    STORE_INT(now)));
    }
    *ret = keys;
    return 0;
}
