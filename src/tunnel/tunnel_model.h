/*
 * The tunnel object: what it may say and how it reads as JSON. Pure functions, no I/O.
 */
#pragma once

#include "base/addr.h"
#include "base/diag.h"
#include "base/id.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define TUNNEL_NAME_SIZE   64
#define TUNNEL_REASON_SIZE 256
#define TUNNEL_TTL_MIN_MS  1000
#define TUNNEL_TTL_MAX_MS  (INT64_C(366) * 86400 * 1000)

enum tunnel_protocol { TUNNEL_TCP, TUNNEL_PROTOCOL_COUNT };

/*
 *            agent serves            delete
 *   pending ------------> active ------------> closed
 *      ^  \ <------------   |  ttl ran out
 *      |   \  agent gone    +----------------> expired
 *      |    \ address cannot be listened on
 *      |     +----> failed (back to pending: it can be listened on, or the spec changed)
 */
enum tunnel_phase {
    TUNNEL_PENDING,
    TUNNEL_ACTIVE,
    TUNNEL_CLOSED,
    TUNNEL_EXPIRED,
    TUNNEL_FAILED,
    TUNNEL_PHASE_COUNT
};

struct tunnel_spec {
    char network[ID_SIZE];
    struct host_port target;
    enum tunnel_protocol protocol;
    bool has_endpoint;
    struct host_port listen; /* valid if has_endpoint; port 0: the hub chooses */
    bool internal;
    int64_t ttl_ms; /* 0: no end */
};

struct tunnel_traffic {
    uint64_t streams_open, streams_total;
    uint64_t bytes_in;  /* client to target */
    uint64_t bytes_out; /* target to client */
};

struct tunnel_holder {
    char id[ID_SIZE]; /* empty: nobody */
    uint64_t epoch;
    int64_t expires; /* wall ms */
};

struct tunnel {
    char id[ID_SIZE], tenant[ID_SIZE];
    char name[TUNNEL_NAME_SIZE];
    uint64_t version;
    struct tunnel_spec spec;
    enum tunnel_phase phase;
    char reason[TUNNEL_REASON_SIZE];
    char endpoint[ADDR_TEXT_SIZE]; /* empty: does not listen */
    struct tunnel_holder server, agent;
    int64_t created, started, closed; /* wall ms; 0: not yet */
    int64_t idle_ms; /* made on demand: deleted when unused for so long; 0: by somebody */
};

const char *tunnel_phase_name(enum tunnel_phase phase);
int tunnel_phase_parse(const char *s, enum tunnel_phase *ret);
const char *tunnel_protocol_name(enum tunnel_protocol protocol);
int tunnel_protocol_parse(const char *s, enum tunnel_protocol *ret);

/* Whether the phase can still serve (pending, active or failed) or has ended for good. */
bool tunnel_phase_is_over(enum tunnel_phase phase);

/* Reads {"name", "spec"} of a create or replace request. Every member is checked, unknown ones are
 * errors; `d->field` is the JSON path at fault. The network is a name or an id: the caller resolves
 * it.  */
int tunnel_parse(const json_t *object, char name[TUNNEL_NAME_SIZE], struct tunnel_spec *ret,
                 char network_ref[TUNNEL_NAME_SIZE], struct diag *d);

/* New references. tunnel_spec_json is what a merge patch (RFC 7396) is applied to. */
json_t *tunnel_spec_json(const struct tunnel_spec *spec);
json_t *tunnel_json(const struct tunnel *t, const struct tunnel_traffic *traffic);

/* RFC 7396: a new object, `target` with `patch` applied. */
json_t *tunnel_merge_patch(const json_t *target, const json_t *patch);
