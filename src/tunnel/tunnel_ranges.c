#include "tunnel/tunnel_ranges.h"

#include "base/error.h"

#include <stdio.h>
#include <string.h>

#define FIELD "spec.target.allow"

static int add(struct tunnel_ranges *r, const char *text)
{
    if (r->n == TUNNEL_RANGES_MAX)
        return ERR_LIMIT;
    TRY(addr_range_parse(text, &r->list[r->n]));
    r->n++;
    return 0;
}

int tunnel_ranges_parse(const json_t *allow, struct tunnel_ranges *ret, struct diag *d)
{
    struct tunnel_ranges r = {0};
    size_t i;
    json_t *item;
    if (allow && !json_is_null(allow) && (!json_is_array(allow) || !json_array_size(allow)))
        return diag_set_field(d, ERR_INVALID, FIELD, "must be a list of address ranges, or null");
    json_array_foreach ((json_t *)allow, i, item) {
        int rc = json_is_string(item) ? add(&r, json_string_value(item)) : ERR_INVALID;
        if (rc == ERR_LIMIT)
            return diag_set_field(d, ERR_INVALID, FIELD, "has more than %d ranges",
                                  TUNNEL_RANGES_MAX);
        if (rc < 0)
            return diag_set_field(d, ERR_INVALID, FIELD,
                                  "must have address ranges such as \"10.0.0.0/24\"");
    }
    *ret = r;
    return 0;
}

json_t *tunnel_ranges_json(const struct tunnel_ranges *r)
{
    char text[ADDR_TEXT_SIZE];
    if (!r->n)
        return NULL;
    json_t *list = json_array();
    for (size_t i = 0; i < r->n; i++) {
        addr_range_format(&r->list[i], text);
        json_array_append_new(list, json_string(text));
    }
    return list;
}

int tunnel_ranges_read(const char *text, struct tunnel_ranges *ret)
{
    struct tunnel_ranges r = {0};
    char one[ADDR_TEXT_SIZE];
    for (;;) {
        size_t n = strcspn(text, ",");
        if (n >= sizeof(one))
            return ERR_INVALID;
        memcpy(one, text, n);
        one[n] = '\0';
        TRY(add(&r, one));
        if (!text[n])
            break;
        text += n + 1;
    }
    *ret = r;
    return 0;
}

void tunnel_ranges_write(const struct tunnel_ranges *r, char out[TUNNEL_RANGES_TEXT])
{
    size_t at = 0;
    out[0] = '\0';
    for (size_t i = 0; i < r->n; i++) {
        char text[ADDR_TEXT_SIZE];
        addr_range_format(&r->list[i], text);
        at += (size_t)snprintf(out + at, TUNNEL_RANGES_TEXT - at, "%s%s", i ? "," : "", text);
    }
}

bool tunnel_ranges_equal(const struct tunnel_ranges *a, const struct tunnel_ranges *b)
{
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++) {
        if (a->list[i].prefix != b->list[i].prefix ||
            memcmp(a->list[i].ip, b->list[i].ip, sizeof(a->list[i].ip)) != 0)
            return false;
    }
    return true;
}

bool tunnel_ranges_permit_addr(const struct tunnel_ranges *r, const struct addr *a)
{
    for (size_t i = 0; i < r->n; i++) {
        if (addr_range_match(&r->list[i], a))
            return true;
    }
    return r->n == 0;
}

bool tunnel_ranges_permit(const struct tunnel_ranges *r, const struct host_port *target)
{
    struct addr a;
    if (!r->n || strcmp(target->host, TUNNEL_LEASE) == 0 ||
        strcmp(target->host, TUNNEL_ECHO) == 0 ||
        (strcmp(target->host, TUNNEL_RESOLVER) == 0 && target->port == 53))
        return true;
    return addr_parse(target->host, target->port, &a) == 0 && tunnel_ranges_permit_addr(r, &a);
}
