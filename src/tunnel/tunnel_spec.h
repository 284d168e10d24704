/*
 * What a tunnel shall be: the member "spec" of the object. Stored, shown and patched as JSON, so
 * that a new member is one field here and its lines in tunnel_spec.c. Pure functions, no I/O.
 */
#pragma once

#include "base/addr.h"
#include "base/diag.h"
#include "base/id.h"
#include "net/meter.h"
#include "wire/proxy_header.h"
#include "tunnel/tunnel_access.h"
#include "tunnel/tunnel_ranges.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define TUNNEL_NAME_SIZE   64
#define TUNNEL_TTL_MIN_MS  1000
#define TUNNEL_TTL_MAX_MS  (INT64_C(366) * 86400 * 1000)
#define TUNNEL_IDLE_MIN_MS 1000
#define TUNNEL_IDLE_MAX_MS (24 * 3600 * 1000)
#define TUNNEL_HUBS_MAX    8

enum tunnel_protocol {
    TUNNEL_TCP,
    TUNNEL_UDP,
    TUNNEL_HTTP,
    TUNNEL_HTTPS,
    TUNNEL_ANY,
    TUNNEL_PROTOCOL_COUNT
};
const char *tunnel_protocol_name(enum tunnel_protocol protocol);

/* Who serves: one agent of the network at a time, or all of them, each connection its own. */
enum tunnel_spread { TUNNEL_SPREAD_AGENT, TUNNEL_SPREAD_CONNECTION, TUNNEL_SPREAD_COUNT };

/* How an agent finds out whether it reaches the target. The TCP check is a handshake that is broken
 * off before it is complete: the target's kernel answers, its program never hears of it. */
enum tunnel_check_type {
    TUNNEL_CHECK_NONE,
    TUNNEL_CHECK_TCP,
    TUNNEL_CHECK_HTTP,
    TUNNEL_CHECK_COUNT
};
const char *tunnel_check_name(enum tunnel_check_type type);

#define TUNNEL_CHECK_INTERVAL_MS 2000
#define TUNNEL_CHECK_PATH_SIZE   256

struct tunnel_check {
    enum tunnel_check_type type;
    int64_t interval_ms; /* of the agent that holds the tunnel; others check five times as rarely */
    uint32_t rise, fall; /* checks in a row after which it counts as reached, or not */
    char path[TUNNEL_CHECK_PATH_SIZE]; /* HTTP: to be got; 2xx or 3xx */
};

struct tunnel_spec {
    char network[ID_SIZE];
    struct host_port target;    /* none for TUNNEL_ANY: whatever is asked for */
    struct tunnel_ranges allow; /* ... in these */
    enum tunnel_protocol protocol;
    enum proxy_version proxy; /* told to the target before each connection's first byte */
    bool has_endpoint;
    struct host_port listen; /* valid if has_endpoint; port 0: the hub chooses */
    char host[HOST_SIZE];    /* the public name by which it is reached; "" if none */
    bool is_sni;             /* ... as TLS that passes untouched, not as HTTP */
    uint8_t n_hubs;          /* at which it is reached from outside; 0: at each */
    char hubs[TUNNEL_HUBS_MAX][TUNNEL_NAME_SIZE]; /* ids or names */
    bool internal;
    enum tunnel_spread spread;
    struct tunnel_check check;
    struct tunnel_access who;
    uint32_t idle_timeout_ms;   /* of a UDP client; 0: the default */
    struct meter_limits limits; /* 0: none */
    int64_t ttl_ms;             /* 0: no end */
};

/* "host:port", or "*". */
void tunnel_target_format(const struct tunnel_spec *spec, char *out, size_t size);

/* Whether it is reached from outside at the hub of this id and name. */
bool tunnel_spec_selects(const struct tunnel_spec *spec, const char *hub, const char *name);

/* Whether `is` is not reached as `was` is: who listens does so anew, and a port that was chosen is
 * forgotten. */
bool tunnel_spec_moves(const struct tunnel_spec *was, const struct tunnel_spec *is);

/* Every member is checked, unknown ones are errors; `d->field` is the JSON path at fault. The
 * network is a name or an id: the caller resolves it. */
int tunnel_spec_parse(const json_t *spec, struct tunnel_spec *ret,
                      char network_ref[TUNNEL_NAME_SIZE], struct diag *d);
/* A new reference. What is shown: parsed again it gives the same spec, but for the passwords. */
json_t *tunnel_spec_json(const struct tunnel_spec *spec);
/* Complete: for the database. */
json_t *tunnel_spec_stored(const struct tunnel_spec *spec);

/* An object whose members are all in `allowed` (ends with NULL). `path` prefixes the field named.
 */
int tunnel_check_members(const json_t *object, const char *path, const char *const *allowed,
                         struct diag *d);
/* The string at `key`, or `fallback` (NULL: the member is required). */
int tunnel_get_string(const json_t *object, const char *key, const char *field,
                      const char *fallback, const char **ret, struct diag *d);
