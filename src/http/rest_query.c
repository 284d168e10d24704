/*
 * What comes beside the body: pages, versions, switches of a watch.
 */
#include "http/rest.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/text.h"

#include <inttypes.h>
#include <string.h>

int rest_query_int(struct http_request *req, const char *name, int64_t min, int64_t max,
                   int64_t *ret, struct diag *d)
{
    const char *text = http_query(req, name);
    uint64_t value;
    if (!text)
        return 0;
    if (text_to_u64(text, (uint64_t)max, &value) < 0 || (int64_t)value < min)
        return diag_set_field(d, ERR_INVALID, name,
                              "must be a whole number from %" PRId64 " to %" PRId64, min, max);
    *ret = (int64_t)value;
    return 0;
}

int rest_query_bool(struct http_request *req, const char *name, bool *ret, struct diag *d)
{
    const char *text = http_query(req, name);
    if (text && text_to_bool(*text ? text : "1", ret) < 0)
        return diag_set_field(d, ERR_INVALID, name, "must be 0 or 1");
    return 0;
}

int rest_page(struct http_request *req, struct rest_page *ret, struct diag *d)
{
    int64_t size = REST_PAGE_DEFAULT;
    char after[REST_POSITION_SIZE] = "";
    const char *token = http_query(req, "page_token");
    TRY(rest_query_int(req, "page_size", 1, REST_PAGE_MAX, &size, d));
    if (token && *token) {
        size_t len = sizeof(after) - 1;
        if (text_unbase64url(token, strlen(token), after, &len) < 0)
            return diag_set_field(d, ERR_INVALID, "page_token", "is not one that was given out");
        after[len] = '\0';
        if (strlen(after) != len)
            return diag_set_field(d, ERR_INVALID, "page_token", "is not one that was given out");
    }
    ret->size = (uint32_t)size;
    memcpy(ret->after, after, sizeof(after));
    return 0;
}

int rest_if_match(struct http_request *req, bool required, uint64_t *ret, struct diag *d)
{
    const char *text = http_header(req, "If-Match");
    if (!text && required)
        return diag_set_field(d, ERR_PRECONDITION, "If-Match",
                              "say which version is meant: If-Match: \"VERSION\", or *");
    *ret = 0;
    if (!text || strcmp(text, "*") == 0)
        return 0;
    char digits[24] = "";
    size_t len = strlen(text);
    if (len > 2 && len < sizeof(digits) && text[0] == '"' && text[len - 1] == '"')
        memcpy(digits, text + 1, len - 2);
    uint64_t version;
    if (text_to_u64(digits, UINT64_MAX, &version) < 0 || version == 0)
        return diag_set_field(d, ERR_INVALID, "If-Match", "must be one ETag, such as \"7\", or *");
    *ret = version;
    return 0;
}

int rest_watch(struct http_request *req, bool *ret_watch, int64_t *ret_after, struct diag *d)
{
    bool watch = false;
    int64_t after = -1;
    const char *last = http_header(req, "Last-Event-ID");
    uint64_t position;
    TRY(rest_query_bool(req, "watch", &watch, d));
    TRY(rest_query_int(req, "after", 0, INT64_MAX, &after, d));
    if (last && *last) {
        if (text_to_u64(last, INT64_MAX, &position) < 0)
            return diag_set_field(d, ERR_INVALID, "Last-Event-ID", "is not one that was given out");
        after = (int64_t)position;
    }
    *ret_watch = watch;
    *ret_after = after;
    return 0;
}

int rest_put(struct http_request *req, struct rest_put *ret, struct diag *d)
{
    struct rest_put put = {.set = http_query(req, "set")};
    const char *none = http_header(req, "If-None-Match");
    TRY(rest_query_bool(req, "dry_run", &put.is_dry_run, d));
    TRY(rest_if_match(req, false, &put.if_version, d));
    if (put.set && !text_is_name(put.set))
        return diag_set_field(d, ERR_INVALID, "set",
                              "must be 1 to 63 of a-z, 0-9 and -, with no - at either end");
    put.is_new = none && strcmp(none, "*") == 0;
    if (none && !put.is_new)
        return diag_set_field(d, ERR_INVALID, "If-None-Match", "must be *");
    if (put.is_new && put.if_version)
        return diag_set_field(d, ERR_INVALID, "If-None-Match", "contradicts If-Match");
    if (!put.is_dry_run && !put.is_new && !put.if_version)
        return diag_set_field(d, ERR_PRECONDITION, "If-Match",
                              "say which version is replaced (If-Match: \"VERSION\"), or that it "
                              "is to be new (If-None-Match: *)");
    *ret = put;
    return 0;
}

int rest_put_check(const struct rest_put *put, uint64_t version, struct diag *d)
{
    if (put->is_new && version)
        return diag_set(d, ERR_STALE, "it exists already, at version %" PRIu64, version);
    if (put->if_version && !version)
        return diag_set(d, ERR_STALE, "it was deleted meanwhile");
    if (put->if_version && put->if_version != version)
        return diag_set(d, ERR_STALE,
                        "it is at version %" PRIu64 ", not %" PRIu64 "; read it again", version,
                        put->if_version);
    return 0;
}
