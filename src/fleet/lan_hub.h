/*
 * The hub's part of LAN discovery, shared by the files of this folder: evidence (lan_hub.c), what
 * follows from it (network_change.c), how it is shown (lan_json.c).
 */
#pragma once

#include "fleet/internal.h"
#include "fleet/lan_model.h"
#include "fleet/lan_peers.h"
#include "fleet/network_store.h"
#include "warren/v1/agent.pb-c.h"

#define LAN_KEY_LIFE_MS  INT64_C(86400000) /* then a new one seals; the last one still opens */
#define LAN_GATEWAY_SIZE 18
#define LAN_IFNAME_SIZE  16

struct fleet_lan_link {
    char interface[LAN_IFNAME_SIZE];
    char prefix[LAN_PREFIX_SIZE];
    char place[LAN_PLACE_SIZE];
};

struct fleet_lan_peer {
    char agent[ID_SIZE]; /* first: they are searched by it */
    char address[LAN_ADDRESS_SIZE];
    uint8_t link;  /* index */
    int64_t since; /* wall ms */
};

struct fleet_lan {
    struct fleet_agent *agent; /* whose it is */
    /* Of the live session: what it reported last. */
    struct fleet_lan_link *links;
    struct fleet_lan_peer *peers;
    size_t n_links, n_peers;
    uint64_t heard, foreign, replayed, elsewhere, dropped;
    bool is_enabled; /* it looks for others at all */
    bool is_dirty;   /* to be looked at: in the fleet's list */
    struct fleet_lan *dirty_prev, *dirty_next;
    char conflict[ID_SIZE];      /* another named network on its LAN */
    char conflict_told[ID_SIZE]; /* the one that was logged last */

    /* Lasting. */
    char *places;       /* where it is at home (lan_model.h); the table agent_place has it too */
    int64_t away_since; /* wall ms; 0: at home */
    char how[16];       /* what put it into its network; "": enrolment */
    int64_t placed_at;
    char *why;
    struct lan_lineage lineage;
    char *clone; /* what shows that a copy of it is about; NULL: nothing */
    int64_t clone_at, clone_told;
    char clone_from[64]; /* where the session before came from */
};

struct fleet_tenant {
    char id[ID_SIZE];
    struct lan_keys keys;
    UT_hash_handle hh;
};

/* Two networks that an operator keeps apart. */
struct fleet_apart {
    char pair[2 * ID_SIZE]; /* "smaller id larger id" */
    UT_hash_handle hh;
};

/* ---- lan_hub.c ---- */
void fleet_lan_start(struct fleet *f);
void fleet_lan_stop(struct fleet *f);
void fleet_lan_done(struct fleet *f);
struct fleet_lan *fleet_lan_of(struct fleet_agent *a); /* made when missing */
void fleet_lan_session_over(struct fleet_agent *a);
void fleet_lan_free(struct fleet_agent *a);
/* Soon: decides about the agents that are dirty, or about all of a network. */
void fleet_lan_look(struct fleet *f);
void fleet_lan_look_at(struct fleet *f, struct fleet_network *n);
/* The agent that `a` hears as `p`, if it is online and hears `a` too, as *ret_back. */
struct fleet_agent *fleet_lan_partner(struct fleet *f, const struct fleet_agent *a,
                                      const struct fleet_lan_peer *p,
                                      const struct fleet_lan_peer **ret_back);
char *fleet_lan_places_now(const struct fleet_agent *a); /* heap, or NULL */

struct fleet_lan_keys_text {
    Warren__V1__LanKeys message;
    ProtobufCBinaryData list[LAN_KEYS_MAX];
};
void fleet_lan_fill_keys(const struct lan_keys *keys, struct fleet_lan_keys_text *t);
/* As the database has them: those that are online get them unless they have. */
void fleet_lan_put_keys(struct fleet *f, const char *tenant, const struct lan_keys *keys);
/* Renews them if it is time; at once, and without the old ones, when an agent was revoked. */
void fleet_lan_change_keys(struct fleet *f, const char *tenant, bool is_revoked);

/* ---- network_change.c ---- */
void fleet_lan_merge(struct fleet *f, struct fleet_network *a, struct fleet_network *b,
                     const char *why);
void fleet_lan_move(struct fleet *f, struct fleet_agent *a, struct fleet_network *to,
                    const char *why);
bool fleet_is_apart(struct fleet *f, const char *a, const char *b);
void fleet_put_apart(struct fleet *f, const char *a, const char *b);

/* ---- lan_json.c ---- */
json_t *fleet_placement_json(const struct fleet_agent *a);
json_t *fleet_discovery_json(const struct fleet_agent *a);
json_t *fleet_aliases_json(const struct fleet *f, const struct fleet_network *n);
json_t *fleet_conflict_json(const struct fleet *f, const struct fleet_network *n); /* or null */

/* ---- lan_clone.c: copies of an agent ---- */
void fleet_clone_login(struct fleet *f, struct fleet_agent *a, const char *instance,
                       const char *address, bool is_taking);
void fleet_clone_on_lan(struct fleet *f, struct fleet_agent *a, const char *address);
const char *fleet_clone_reason(const struct fleet_agent *a); /* NULL: no sign of one lately */
