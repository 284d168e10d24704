/*
 * A hub's REST API as the commands use it: which hub and as whom (flags, environment, context),
 * calls that give JSON or a diagnosis, whole lists over all pages, and watching.
 *
 * A token is sent only to the hub it was given for: that of a context never goes to another
 * address.
 */
#pragma once

#include "cli/command.h"
#include "http/client.h"

#include <jansson.h>

struct remote;

/* The flags every command that talks to a hub has. */
extern const struct flag_set remote_flags;

/* By the call's flags. Failures are in the call's diagnosis. */
int remote_open(struct call *c, struct remote **ret);
void remote_free(struct remote *r);
DEFINE_CLEANUP(struct remote *, remote_free)

/* For login: this address, token and CA (PEM; NULL: the system's). */
struct remote *remote_new(struct call *c, const char *hub, const char *token, const char *ca);

const char *remote_hub(const struct remote *r);
/* Borrowed: for what is no call of the API. */
const struct http_client_config *remote_http(const struct remote *r);

/* "/api/v1/<collection>/<name><suffix>", the name escaped; a heap string. `name` and `suffix` may
 * be NULL. */
char *remote_path(const char *collection, const char *name, const char *suffix);
/* Appends "?key=value" or "&key=value" to a heap string, escaped; nothing if value is NULL. */
void remote_query(char **path, const char *key, const char *value);

/* All take what is being done, for the message "cannot <doing>: <why>"; the result is a new
 * reference. */
int remote_get(struct remote *r, const char *path, const char *doing, json_t **ret);
/* All pages up to `limit` items (0: all of them), as one array. */
int remote_list(struct remote *r, const char *path, size_t limit, const char *doing, json_t **ret);
/* POST, PATCH, DELETE. `body` is stolen and may be NULL; `if_version` 0: whatever it is. POSTs
 * carry an Idempotency-Key and are repeated when the connection breaks. `ret` may be NULL. */
int remote_send(struct remote *r, const char *method, const char *path, json_t *body,
                uint64_t if_version, const char *doing, json_t **ret);
/* Any call: the diagnosis is the caller's. `ret` may be NULL. */
int remote_exchange(struct remote *r, const struct http_ask *ask, json_t **ret, struct diag *d);
/* One stream of events, until it breaks or `on_event` ends it. `resume`: Last-Event-ID, or NULL.
 * `silence_ms` 0: the usual. Does not touch the call's diagnosis: `d` is for the caller. */
int remote_watch(struct remote *r, const char *path, const char *resume, uint32_t silence_ms,
                 int (*on_event)(void *arg, const struct http_event *e), void *arg, struct diag *d);
/* The same for what is asked for by POST. `body` is stolen. */
int remote_stream(struct remote *r, const char *path, json_t *body,
                  int (*on_event)(void *arg, const struct http_event *e), void *arg,
                  struct diag *d);
/* A plain GET for status pages: 0 and the HTTP status, or why the hub does not answer. */
int remote_probe(struct remote *r, const char *path, int *ret_status, struct diag *d);

/* Turns a failed call into the call's diagnosis: "cannot <doing>: <why>". */
int remote_fail(struct remote *r, const char *doing, const struct diag *why);

/* The name of an object, from a list that is fetched once; NULL: unknown. For output.name_of. */
const char *remote_name_of(void *remote, const char *collection, const char *id);

/* "https://HOST[:PORT]" from what a user types, which may lack the scheme; heap. NULL if bad. */
char *remote_url(const char *typed);
/* 64 hexadecimal digits, with or without colons and "sha256:". */
int remote_parse_fingerprint(const char *text, uint8_t out[32]);
