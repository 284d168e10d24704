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

/* What follows `name`, which has its '=', in "name; a=b; error=token"; NULL: it is not there. */
static const char *find_parameter(const char *field, const char *name)
{
    const char *p = field;
    while ((p = strstr(p, name))) {
        bool is_start = p > field && (p[-1] == ';' || p[-1] == ' ');
        p += strlen(name);
        if (is_start)
            return p;
    }
    return NULL;
}

static const char *error_token(const char *field, size_t *len)
{
    const char *p = find_parameter(field, "error=");
    if (p)
        *len = strcspn(p, "; ,\t");
    return p;
}

void proxy_status_add_cause(char field[PROXY_STATUS_SIZE], const struct icmp_cause *c)
{
    char text[ICMP_CAUSE_SIZE];
    size_t len = strlen(field);
    if (!c->version)
        return;
    icmp_cause_format(c, text);
    snprintf(field + len, PROXY_STATUS_SIZE - len, "; icmp=\"%s\"", text);
}

void proxy_status_cause(const char *field, struct icmp_cause *ret)
{
    const char *p = field ? find_parameter(field, "icmp=\"") : NULL;
    *ret = (struct icmp_cause){0};
    if (p)
        (void)icmp_cause_parse(p, strcspn(p, "\""), ret);
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
