#include "wire/proxy_status.h"

#include "base/error.h"
#include "base/macro.h"

#include <stdio.h>
#include <stdbool.h>
#include <string.h>

/* The first row of an error or token is the one used to translate it. */
static const struct {
    int error;
    int status;
    const char *token; /* RFC 9209 section 2.3 */
} rows[] = {
    {ERR_REFUSED, 502, "connection_refused"},
    {ERR_TIMEOUT, 504, "connection_timeout"},
    {ERR_UNREACHABLE, 502, "destination_ip_unroutable"},
    {ERR_DNS, 502, "dns_error"},
    {ERR_DENIED, 403, "destination_ip_prohibited"},
    {ERR_LIMIT, 503, "connection_limit_reached"},
    {ERR_STALE, 409, "http_request_denied"},
    {ERR_RESET, 502, "connection_terminated"},
    {ERR_UNAVAILABLE, 503, "destination_unavailable"},
    {ERR_NOT_FOUND, 404, "destination_not_found"},
    {ERR_IO, 502, "proxy_internal_error"},
};

int proxy_status_format(int error, char field[PROXY_STATUS_SIZE])
{
    size_t i = 0;
    while (i < ARRAY_SIZE(rows) - 1 && rows[i].error != error)
        i++;
    snprintf(field, PROXY_STATUS_SIZE, "warren; error=%s", rows[i].token);
    return rows[i].status;
}

/* The token of the parameter "error" in "name; a=b; error=token". */
static const char *error_token(const char *field, size_t *len)
{
    const char *p = field;
    while ((p = strstr(p, "error="))) {
        bool is_start = p > field && (p[-1] == ';' || p[-1] == ' ');
        p += strlen("error=");
        if (is_start) {
            *len = strcspn(p, "; ,\t");
            return p;
        }
    }
    return NULL;
}

int proxy_status_parse(int status, const char *field)
{
    size_t len = 0;
    if (status / 100 == 2)
        return 0;
    const char *token = field ? error_token(field, &len) : NULL;
    for (size_t i = 0; token && i < ARRAY_SIZE(rows); i++) {
        if (strlen(rows[i].token) == len && memcmp(rows[i].token, token, len) == 0)
            return rows[i].error;
    }
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        if (rows[i].status == status && status != 502)
            return rows[i].error;
    }
    return status == 502 ? ERR_IO : ERR_PROTO;
}
