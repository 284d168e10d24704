#include "scan/snmp_get.h"

#include "base/error.h"
#include "base/macro.h"
#include "wire/snmp.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#define COMMUNITY_MAX 64
#define STRING        0x04
#define REQUEST_ID    1 /* a socket of its own asks nothing else */

/* What follows the community: GetRequest, request-id, error-status, error-index, two bindings. */
static const uint8_t pdu[] = {0xa0, 39, 0x02, 1,    REQUEST_ID, 0x02, 1,    0,    0x02, 1,    0,
                              0x30, 28, 0x30, 12,   0x06,       8,    0x2b, 6,    1,    2,    1,
                              1,    1,  0,    0x05, 0,          0x30, 12,   0x06, 8,    0x2b, 6,
                              1,    2,  1,    1,    5,          0,    0x05, 0};
static const uint8_t sys_descr[] = {0x2b, 6, 1, 2, 1, 1, 1, 0}; /* 1.3.6.1.2.1.1.1.0 */
static const uint8_t sys_name[] = {0x2b, 6, 1, 2, 1, 1, 5, 0};

size_t snmp_get_write(const char *community, uint8_t out[SNMP_GET_MAX])
{
    size_t n = strlen(community), at = 0;
    assert(n <= COMMUNITY_MAX);
    out[at++] = 0x30;
    out[at++] = (uint8_t)(3 + 2 + n + sizeof(pdu));
    out[at++] = 0x02;
    out[at++] = 1;
    out[at++] = SNMP_V2;
    out[at++] = STRING;
    out[at++] = (uint8_t)n;
    memcpy(out + at, community, n);
    memcpy(out + at + n, pdu, sizeof(pdu));
    return at + n + sizeof(pdu);
}

/* Devices say what they like, often in Latin-1: what is not printable ASCII becomes '?'. */
static void copy_text(const struct snmp_binding *b, char *out, size_t size)
{
    size_t n = b->type == STRING ? MIN(b->value.len, size - 1) : 0;
    for (size_t i = 0; i < n; i++) {
        uint8_t c = b->value.data[i];
        out[i] = c >= ' ' && c <= '~' ? (char)c : c == '\n' || c == '\r' || c == '\t' ? ' ' : '?';
    }
    out[n] = '\0';
}

static bool is_name(const struct snmp_binding *b, const uint8_t *name)
{
    return b->name.len == sizeof(sys_name) && memcmp(b->name.data, name, sizeof(sys_name)) == 0;
}

int snmp_get_read(const uint8_t *data, size_t len, char *descr, char *name, size_t size)
{
    struct snmp m;
    struct snmp_binding b;
    TRY(snmp_read(data, len, &m));
    if (m.pdu != SNMP_RESPONSE || m.id != REQUEST_ID)
        return ERR_PROTO;
    descr[0] = name[0] = '\0';
    while (snmp_next_binding(&m.bindings, &b)) {
        if (is_name(&b, sys_descr))
            copy_text(&b, descr, size);
        else if (is_name(&b, sys_name))
            copy_text(&b, name, size);
    }
    return 0;
}
