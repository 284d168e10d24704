/* A request as a client sends it, through the gateway's rules: what the target gets must be read by
 * any parser as one request with the same body length, whatever went in. */
#include "base/error.h"
#include "base/macro.h"
#include "http/gateway_rules.h"
#include "wire/http1.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct http1_limits limits = {65536, 200};

static int nothing(struct http1 *p, const void *data, size_t len)
{
    return 0;
}

static int ended(struct http1 *p)
{
    return 0;
}

static bool had_head;
static int64_t length_sent;

static int on_forwarded(struct http1 *p, const struct http1_head *h)
{
    had_head = true;
    if (h->content_length != length_sent)
        abort();
    return 0;
}

static void check_forwarded(const struct buf *out)
{
    static const struct http1_ops ops = {on_forwarded, nothing, ended};
    struct http1 p;
    had_head = false;
    http1_init_server(&p, &ops, limits);
    if (http1_feed(&p, out->data, out->len) != (int64_t)out->len || !had_head)
        abort();
    http1_done(&p);
}

static int on_head(struct http1 *p, const struct http1_head *h)
{
    const char *authority = http_header_get(h->fields, h->n_fields, "host"), *target;
    char host[HOST_SIZE];
    struct addr peer;
    CLEANUP(buf_done) struct buf out = {0};
    if (!authority || gateway_host(authority, host) < 0 ||
        gateway_target(h->method, h->target, host, &target) < 0)
        return ERR_INVALID;
    if (strcasecmp(h->method, "CONNECT") == 0 || addr_parse("192.0.2.1", 1, &peer) < 0)
        return ERR_INVALID;
    const struct gateway_head head = {.method = h->method,
                                      .target = target,
                                      .host = authority,
                                      .fields = h->fields,
                                      .n_fields = h->n_fields,
                                      .peer = &peer,
                                      .drop_cookie = "__Host-warren",
                                      .has_body = h->has_body,
                                      .content_length = h->content_length};
    length_sent = h->has_body ? h->content_length : -1;
    gateway_put_head(&out, &head);
    check_forwarded(&out);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct http1_ops ops = {on_head, nothing, ended};
    struct http1 p;
    http1_init_server(&p, &ops, (struct http1_limits){16384, 100});
    (void)http1_feed(&p, data, size);
    http1_done(&p);
    return 0;
}
