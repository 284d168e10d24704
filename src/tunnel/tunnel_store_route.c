/* Routes in the database: which hub holds a tunnel's lease, by which agent. On the store's thread.
 */
#include "tunnel/internal.h"

#include "base/buf.h"
#include "base/error.h"
#include "base/macro.h"
#include "peer/hub_lease.h"

#include <string.h>

/* A hub takes what is its own, and what it has seen to be free: another hub's lease stands while
 * that hub's own does, and its agent's session. What it has not seen may be of a hub that is only
 * cut from the database, and still serves. Of what it has seen the database may have lost some. A
 * lease that runs for longer than any does ($4) was given by a clock that was ahead of this one. */
#define ROUTE_IS_FREE                                                                             \
    "(lease_hub = $1 OR lease_epoch < claim.column4 OR (lease_epoch = claim.column4 AND "         \
    "(lease_hub IS NULL OR NOT EXISTS (SELECT 1 FROM hub_lease h WHERE h.hub = tunnel.lease_hub " \
    "AND h.epoch = tunnel.lease_hub_epoch AND h.expires > $3 AND h.expires <= $4) OR "            \
    "(lease_session <> 0 AND NOT EXISTS (SELECT 1 FROM agent_session s WHERE "                    \
    "s.agent = tunnel.lease_agent AND s.epoch = tunnel.lease_session AND s.disconnected IS "      \
    "NULL)))))"

/* A start of a hub claims nothing once there is a later one, which may have taken the same tunnels,
 * nor when its lease is over: it may have slept since it asked. */
#define HUB_MAY_CLAIM                                                                            \
    "NOT EXISTS (SELECT 1 FROM hub_lease l WHERE l.hub = $1 AND (l.epoch > $2 OR (l.epoch = $2 " \
    "AND l.expires <= $3)))"

#define CLAIM                                                                                 \
    "UPDATE tunnel SET lease_agent = claim.column2, lease_session = claim.column3, "          \
    "lease_hub = $1, lease_hub_epoch = $2, lease_epoch = next_epoch(CASE WHEN lease_epoch < " \
    "claim.column4 THEN claim.column4 ELSE lease_epoch END) FROM (VALUES "
#define CLAIM_COMMON  4
#define CLAIM_COLUMNS 4

static struct tunnel_claim *find(struct tunnel_claim *claims, size_t n, const char *tunnel)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(claims[i].tunnel, tunnel) == 0)
            return &claims[i];
    }
    return NULL;
}

static int claim_some(struct tx *tx, struct tunnel_claim *claims, size_t n, int64_t now)
{
    struct store_value values[CLAIM_COMMON + STORE_ROWS_MAX * CLAIM_COLUMNS], *v = values;
    CLEANUP(buf_done) struct buf sql = {0};
    int rc;
    *v++ = STORE_TEXT(claims->route.hub);
    *v++ = STORE_INT(claims->route.hub_epoch);
    *v++ = STORE_INT(now);
    *v++ = STORE_INT(now + HUB_LEASE_LIFE_MS);
    for (size_t i = 0; i < n; i++) {
        *v++ = STORE_TEXT(claims[i].tunnel);
        *v++ = STORE_TEXT(claims[i].route.agent);
        *v++ = STORE_INT(claims[i].route.session);
        *v++ = STORE_INT(claims[i].seen);
    }
    TRY(store_rows_sql(&sql, CLAIM, CLAIM_COMMON + 1, n, CLAIM_COLUMNS,
                       ") AS claim WHERE id = claim.column1 AND " HUB_MAY_CLAIM
                       " AND " ROUTE_IS_FREE " RETURNING id, lease_epoch"));
    struct rows rows = tx_query_values(tx, buf_text(&sql), values, (size_t)(v - values));
    while ((rc = row_next(&rows)) > 0) {
        struct tunnel_claim *c = find(claims, n, row_text(&rows, 0));
        if (!c)
            return ERR_BUG;
        c->route.epoch = (uint64_t)row_int(&rows, 1);
        TRY(store_publish(tx, c->tenant, "tunnel", c->tunnel, STORE_PUT));
    }
    return rc;
}

/* How many are of different tunnels: a statement changes a row once, and a tunnel that is spread
 * gives each of its agents an epoch. */
static size_t count_distinct(struct tunnel_claim *claims, size_t n)
{
    size_t i = 1;
    while (i < n && !find(claims, i, claims[i].tunnel))
        i++;
    return i;
}

int tunnel_store_claim(struct tx *tx, struct tunnel_claim *claims, size_t n)
{
    int64_t now;
    TRY(tx_now_ms(tx, &now));
    for (size_t i = 0; i < n; i++)
        claims[i].route.epoch = 0;
    for (size_t i = 0, some; i < n; i += some) {
        some = store_rows_at_once(count_distinct(claims + i, MIN(n - i, (size_t)STORE_ROWS_MAX)));
        TRY(claim_some(tx, claims + i, some, now));
    }
    return 0;
}

#define RELEASE_COLUMNS 2

static int release_some(struct tx *tx, struct tunnel_claim *claims, size_t n)
{
    struct store_value values[1 + STORE_ROWS_MAX * RELEASE_COLUMNS], *v = values;
    CLEANUP(buf_done) struct buf sql = {0};
    int rc;
    *v++ = STORE_TEXT(claims->route.hub);
    for (size_t i = 0; i < n; i++) {
        *v++ = STORE_TEXT(claims[i].tunnel);
        *v++ = STORE_INT(claims[i].route.epoch);
    }
    TRY(store_rows_sql(&sql, "UPDATE tunnel SET lease_hub = NULL FROM (VALUES ", 2, n,
                       RELEASE_COLUMNS,
                       ") AS given WHERE id = given.column1 AND lease_hub = $1 AND "
                       "lease_epoch = given.column2 RETURNING id"));
    struct rows rows = tx_query_values(tx, buf_text(&sql), values, (size_t)(v - values));
    while ((rc = row_next(&rows)) > 0) {
        const struct tunnel_claim *c = find(claims, n, row_text(&rows, 0));
        if (!c)
            return ERR_BUG;
        TRY(store_publish(tx, c->tenant, "tunnel", c->tunnel, STORE_PUT));
    }
    return rc;
}

int tunnel_store_release(struct tx *tx, struct tunnel_claim *claims, size_t n)
{
    for (size_t i = 0, some; i < n; i += some) {
        some = store_rows_at_once(n - i);
        TRY(release_some(tx, claims + i, some));
    }
    return 0;
}

int tunnel_store_restore(struct tx *tx, const struct tunnel_claim *c)
{
    const struct tunnel_route *route = &c->route;
    TRY(tx_exec(tx,
                "UPDATE tunnel SET lease_agent = $1, lease_session = $2, lease_hub = $3, "
                "lease_hub_epoch = $4, lease_epoch = $5 WHERE id = $6 AND lease_epoch < $5",
                STORE_TEXT(route->agent), STORE_INT(route->session),
                STORE_TEXT(route->hub[0] ? route->hub : NULL), STORE_INT(route->hub_epoch),
                STORE_INT(route->epoch), STORE_TEXT(c->tunnel)));
    if (tx_changed(tx) == 0)
        return 0;
    return store_publish(tx, c->tenant, "tunnel", c->tunnel, STORE_PUT);
}
