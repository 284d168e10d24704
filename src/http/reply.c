#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "http/client.h"
#include "http/server.h"

#include <jansson.h>
#include <string.h>
#include <strings.h>

const char *http_reply_header(const struct http_reply *r, const char *name)
{
    for (const struct http_header *h = r->headers; h && h->name; h++)
        if (strcasecmp(h->name, name) == 0)
            return h->value;
    return NULL;
}

void http_reply_done(struct http_reply *r)
{
    buf_done(&r->body);
    mem_free(TAKE(r->headers));
}

static int code_of_name(const char *name)
{
    for (int i = 0; i < ERROR_INDEX_COUNT; i++)
        if (strcmp(error_name(-1 - i), name) == 0)
            return -1 - i;
    return 0;
}

static int code_of_status(int status)
{
    for (int i = 0; i < ERROR_INDEX_COUNT; i++)
        if (http_status_of(-1 - i) == status && -1 - i != ERR_USAGE)
            return -1 - i;
    return status >= 500 ? ERR_UNAVAILABLE : ERR_PROTO;
}

/* 0: the body is not a problem. */
static int from_problem(const struct http_reply *r, struct diag *d)
{
    static const char urn[] = "urn:warren:error:";
    const char *type = NULL, *detail = "", *field = "";
    const char *content_type = http_reply_header(r, "Content-Type");
    if (!content_type || strncasecmp(content_type, "application/problem+json", 24) != 0)
        return 0;
    json_t *o = json_loadb(buf_text(&r->body), r->body.len, 0, NULL);
    int code = 0;
    if (o &&
        json_unpack(o, "{s:s, s?s, s?s}", "type", &type, "detail", &detail, "field", &field) == 0) {
        if (strncmp(type, urn, sizeof(urn) - 1) == 0)
            code = code_of_name(type + sizeof(urn) - 1);
        code = code ? code : code_of_status(r->status);
        diag_set_field(d, code, field, "%s", detail);
    }
    json_decref(o);
    return code;
}

int http_reply_diag(const struct http_reply *r, struct diag *d)
{
    if (r->status < 400)
        return diag_set(d, ERR_PROTO, "unexpected answer: %d %s", r->status,
                        http_reason(r->status));
    int code = from_problem(r, d);
    if (code)
        return code;
    return diag_set(d, code_of_status(r->status), "the server answered %d %s", r->status,
                    http_reason(r->status));
}
