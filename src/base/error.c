#include "base/error.h"

#include <errno.h>
#include <stddef.h>

static const struct {
    const char *name;
    enum error_category category;
    const char *text;
} error_table[ERROR_INDEX_COUNT] = {
#define X(code, name, category, text) [code##_INDEX] = {name, category, text},
    ERROR_LIST(X)
#undef X
};

static size_t index_of(int code)
{
    return code < 0 && code >= -ERROR_INDEX_COUNT ? (size_t)(-1 - code) : (size_t)ERR_BUG_INDEX;
}

const char *error_name(int code)
{
    return code >= 0 ? "ok" : error_table[index_of(code)].name;
}

const char *error_text(int code)
{
    return code >= 0 ? "success" : error_table[index_of(code)].text;
}

enum error_category error_category(int code)
{
    return error_table[index_of(code)].category;
}

int error_from_errno(int errnum)
{
    switch (errnum) {
    case ECONNREFUSED:
        return ERR_REFUSED;
    case ECONNRESET:
    case EPIPE:
    case ECONNABORTED:
        return ERR_RESET;
    case ETIMEDOUT:
        return ERR_TIMEOUT;
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ENETDOWN:
    case EHOSTDOWN:
    case EADDRNOTAVAIL:
        return ERR_UNREACHABLE;
    case EACCES:
    case EPERM:
        return ERR_DENIED;
    case EADDRINUSE:
    case EEXIST:
        return ERR_EXISTS;
    case ENOENT:
        return ERR_NOT_FOUND;
    case ENOSPC:
    case EDQUOT:
        return ERR_NO_SPACE;
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOBUFS:
        return ERR_LIMIT;
    case EINVAL:
        return ERR_INVALID;
    case ECANCELED:
        return ERR_CANCELED;
    default:
        return ERR_IO;
    }
}
