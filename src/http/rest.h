/*
 * What every REST handler needs: JSON bodies with the field at fault, paging, versions, answers.
 * Readers return 0 or a negative code with a diag ready for http_respond_diag().
 */
#pragma once

#include "http/server.h"

#include <jansson.h>

#define REST_BODY_MAX      (64 * 1024) /* a good body_max for objects */
#define REST_DEPTH_MAX     32
#define REST_PAGE_DEFAULT  100
#define REST_PAGE_MAX      1000
#define REST_POSITION_SIZE 128

/* The body as a JSON object, owned by the request. Refuses other content types, duplicate members,
 * nesting deeper than REST_DEPTH_MAX, and anything that isn't an object. An empty body is {}. */
int rest_body(struct http_request *req, json_t **ret, struct diag *d);

/* Members by dotted path ("spec.target.address"); the path is the diag's field. A member that is
 * absent or null leaves `*ret` untouched: that is an error only if `required`. */
int rest_text(json_t *obj, const char *path, bool required, const char **ret, struct diag *d);
int rest_name(json_t *obj, const char *path, bool required, const char **ret, struct diag *d);
int rest_int(json_t *obj, const char *path, int64_t min, int64_t max, bool required, int64_t *ret,
             struct diag *d);
int rest_bool(json_t *obj, const char *path, bool required, bool *ret, struct diag *d);
int rest_duration_ms(json_t *obj, const char *path, bool required, int64_t *ret, struct diag *d);
int rest_object(json_t *obj, const char *path, bool required, json_t **ret, struct diag *d);
int rest_array(json_t *obj, const char *path, size_t max, bool required, json_t **ret,
               struct diag *d);
/* Present and null (as `"endpoint": null` asks for something else than leaving it out). */
bool rest_is_null(json_t *obj, const char *path);
/* Refuses members of the object at `path` ("" for obj itself) that are not in the NULL-ended list.
 */
int rest_only(json_t *obj, const char *path, const char *const *names, struct diag *d);

/* ?page_size= and ?page_token=. `after` is what the previous page's answer gave as position: ""
 * for the first page. */
struct rest_page {
    uint32_t size;
    char after[REST_POSITION_SIZE];
};
int rest_page(struct http_request *req, struct rest_page *ret, struct diag *d);

/* Query values. Absent: `*ret` untouched. */
int rest_query_int(struct http_request *req, const char *name, int64_t min, int64_t max,
                   int64_t *ret, struct diag *d);
int rest_query_bool(struct http_request *req, const char *name, bool *ret, struct diag *d);

/* If-Match: `*ret` is the version asked for; 0 means any ("*", or absent and not required). Missing
 * and required: ERR_PRECONDITION (428). Compare it where the object is changed and return
 * ERR_STALE (412). */
int rest_if_match(struct http_request *req, bool required, uint64_t *ret, struct diag *d);

/* PUT of a declared object: `If-Match: "7"` replaces that version and `If-None-Match: *` makes it
 * new; one of them is required unless ?dry_run=1 asks what would come of it. */
struct rest_put {
    const char *set; /* ?set=: the set that the object is to belong to; NULL: not said */
    uint64_t if_version;
    bool is_new, is_dry_run;
};
int rest_put(struct http_request *req, struct rest_put *ret, struct diag *d);
/* Whether the preconditions fit an object of this version (0: there is none). */
int rest_put_check(const struct rest_put *put, uint64_t version, struct diag *d);

/* Answers. `body` is stolen. `version` (0: none) becomes the ETag "\"7\"". A GET or HEAD whose
 * If-None-Match fits is answered 304. */
void http_respond_json(struct http_request *req, int status, json_t *body, uint64_t version);
/* A member of an answer: wall clock as RFC 3339, null for 0. */
json_t *rest_time(int64_t wall_ms);

/* A list of objects in memory: one page of it, in the order of their creation. Takes `entries`;
 * `render` gives a new reference. A bad page query is answered too. */
struct rest_entry {
    int64_t created;
    const char *id;
    void *object;
};
void rest_respond_list(struct http_request *req, struct rest_entry *entries, size_t n,
                       json_t *(*render)(void *ctx, void *object), void *ctx);
/* {"items": […], "next_page_token": …}; `next_after` NULL: this was the last page. */
void rest_respond_page(struct http_request *req, json_t *items, const char *next_after);

/* Whether `?watch=1` was asked for; and the feed position to resume after: Last-Event-ID, or
 * ?after=, or -1. */
int rest_watch(struct http_request *req, bool *ret_watch, int64_t *ret_after, struct diag *d);
/* http_sse_send of a JSON object (stolen). */
int rest_sse_send(struct http_sse *sse, uint64_t id, const char *event, json_t *data);
