/*
 * The tunnel object: what it may say and how it reads as JSON. Pure functions, no I/O.
 */
#pragma once

#include "tunnel/tunnel_spec.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define TUNNEL_REASON_SIZE 256

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

struct tunnel_traffic {
    uint64_t streams_open, streams_total;
    uint64_t bytes_in;  /* client to target */
    uint64_t bytes_out; /* target to client */
    struct {
        uint64_t in, out, dropped;
    } datagrams;                             /* UDP */
    uint64_t streams_refused, bytes_delayed; /* by limits, since the hub started */
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

/* Whether the phase can still serve (pending, active or failed) or has ended for good. */
bool tunnel_phase_is_over(enum tunnel_phase phase);

/* Reads {"name", "spec"} of a create or replace request. Every member is checked, unknown ones are
 * errors; `d->field` is the JSON path at fault. The network is a name or an id: the caller resolves
 * it.  */
int tunnel_parse(const json_t *object, char name[TUNNEL_NAME_SIZE], struct tunnel_spec *ret,
                 char network_ref[TUNNEL_NAME_SIZE], struct diag *d);

/* A new reference. */
json_t *tunnel_json(const struct tunnel *t, const struct tunnel_traffic *traffic);

/* RFC 7396: a new object, `target` with `patch` applied. */
json_t *tunnel_merge_patch(const json_t *target, const json_t *patch);
