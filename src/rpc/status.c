#include "rpc/status.h"

#include "base/error.h"
#include "base/macro.h"

#include <assert.h>

static const char *const names[] = {
    [RPC_OK] = "OK",
    [RPC_CANCELLED] = "CANCELLED",
    [RPC_UNKNOWN] = "UNKNOWN",
    [RPC_INVALID_ARGUMENT] = "INVALID_ARGUMENT",
    [RPC_DEADLINE_EXCEEDED] = "DEADLINE_EXCEEDED",
    [RPC_NOT_FOUND] = "NOT_FOUND",
    [RPC_ALREADY_EXISTS] = "ALREADY_EXISTS",
    [RPC_PERMISSION_DENIED] = "PERMISSION_DENIED",
    [RPC_RESOURCE_EXHAUSTED] = "RESOURCE_EXHAUSTED",
    [RPC_FAILED_PRECONDITION] = "FAILED_PRECONDITION",
    [RPC_ABORTED] = "ABORTED",
    [RPC_OUT_OF_RANGE] = "OUT_OF_RANGE",
    [RPC_UNIMPLEMENTED] = "UNIMPLEMENTED",
    [RPC_INTERNAL] = "INTERNAL",
    [RPC_UNAVAILABLE] = "UNAVAILABLE",
    [RPC_DATA_LOSS] = "DATA_LOSS",
    [RPC_UNAUTHENTICATED] = "UNAUTHENTICATED",
};
static_assert(ARRAY_SIZE(names) == RPC_STATUS_COUNT, "a name for each status");

/* The first row with a status is what that status becomes again. */
static const struct {
    int code;
    enum rpc_status status;
} table[] = {
    {0, RPC_OK},
    {ERR_CANCELED, RPC_CANCELLED},
    {ERR_PROTO, RPC_UNKNOWN},
    {ERR_INVALID, RPC_INVALID_ARGUMENT},
    {ERR_USAGE, RPC_INVALID_ARGUMENT},
    {ERR_TIMEOUT, RPC_DEADLINE_EXCEEDED},
    {ERR_NOT_FOUND, RPC_NOT_FOUND},
    {ERR_EXISTS, RPC_ALREADY_EXISTS},
    {ERR_DENIED, RPC_PERMISSION_DENIED},
    {ERR_REVOKED, RPC_PERMISSION_DENIED},
    {ERR_EXPIRED, RPC_PERMISSION_DENIED},
    {ERR_LIMIT, RPC_RESOURCE_EXHAUSTED},
    {ERR_RATE, RPC_RESOURCE_EXHAUSTED},
    {ERR_TOO_LARGE, RPC_RESOURCE_EXHAUSTED},
    {ERR_CONFLICT, RPC_FAILED_PRECONDITION},
    {ERR_PRECONDITION, RPC_FAILED_PRECONDITION},
    {ERR_STALE, RPC_ABORTED},
    {ERR_INVALID, RPC_OUT_OF_RANGE},
    {ERR_UNSUPPORTED, RPC_UNIMPLEMENTED},
    {ERR_BUG, RPC_INTERNAL},
    {ERR_UNAVAILABLE, RPC_UNAVAILABLE},
    {ERR_IO, RPC_DATA_LOSS},
    {ERR_UNAUTHENTICATED, RPC_UNAUTHENTICATED},
};

enum rpc_status rpc_status_of(int code)
{
    if (code == ERR_IO)
        return RPC_INTERNAL; /* ours, not the data's */
    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        if (table[i].code == code)
            return table[i].status;
    return error_category(code) == ERROR_CLOSED ? RPC_UNAVAILABLE : RPC_INTERNAL;
}

int rpc_error_of(enum rpc_status status)
{
    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        if (table[i].status == status)
            return table[i].code;
    return ERR_PROTO;
}

const char *rpc_status_name(unsigned status)
{
    return status < RPC_STATUS_COUNT ? names[status] : "UNKNOWN";
}
