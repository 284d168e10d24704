#include "wire/proxy_status.h"

#include "base/error.h"
#include "base/macro.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const struct {
    int error;
    int status;
    const char *token;
} rows[] = {
#define X(error, status, token) {error, status, token},
    PROXY_STATUS_LIST(X)
#undef X
};

size_t proxy_status_index(int error)
{
    size_t i = 0;
    while (i < ARRAY_SIZE(rows) - 1 && rows[i].error != error)
        i++;
    return i;
}

const char *proxy_status_token(int error)
{
    return rows[proxy_status_index(error)].token;
}

int proxy_status_format(int error, char field[PROXY_STATUS_SIZE])
{
    size_t i = proxy_status_index(error);
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

static int error_of(const char *token, size_t len, int fallback)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        if (strlen(rows[i].token) == len && memcmp(rows[i].token, token, len) == 0)
            return rows[i].error;
    }
    return fallback;
}

int proxy_status_error(const char *token)
{
    return error_of(token, strlen(token), ERR_IO);
}

int proxy_status_parse(int status, const char *field)
{
    size_t len = 0;
    if (status / 100 == 2)
        return 0;
    const char *token = field ? error_token(field, &len) : NULL;
    int error = token ? error_of(token, len, 0) : 0;
    if (error)
        return error;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        if (rows[i].status == status && status != 502)
            return rows[i].error;
    }
    return status == 502 ? ERR_IO : ERR_PROTO;
}
