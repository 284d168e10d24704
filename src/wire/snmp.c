#include "wire/snmp.h"

#include "base/error.h"
#include "base/macro.h"

#include <string.h>

enum { INTEGER = 0x02, STRING = 0x04, OID = 0x06, SEQUENCE = 0x30 };

/* ---- reading ---- */

/* Takes a tag and its length; the content must be there as a whole. */
static int take(struct snmp_bytes *in, uint8_t *ret_tag, struct snmp_bytes *ret)
{
    if (in->len < 2)
        return ERR_PROTO;
    size_t len = in->data[1], at = 2;
    if (len & 0x80) {
        size_t n = len & 0x7f;
        if (n == 0 || n > 4 || in->len < 2 + n)
            return ERR_PROTO;
        for (len = 0; n > 0; n--)
            len = len << 8 | in->data[at++];
    }
    if (len > in->len - at)
        return ERR_PROTO;
    *ret_tag = in->data[0];
    *ret = (struct snmp_bytes){in->data + at, len};
    in->data += at + len;
    in->len -= at + len;
    return 0;
}

static int take_tagged(struct snmp_bytes *in, uint8_t tag, struct snmp_bytes *ret)
{
    uint8_t found;
    TRY(take(in, &found, ret));
    return found == tag ? 0 : ERR_PROTO;
}

static int take_integer(struct snmp_bytes *in, int32_t *ret)
{
    struct snmp_bytes b;
    TRY(take_tagged(in, INTEGER, &b));
    if (b.len == 0 || b.len > 4)
        return ERR_PROTO;
    uint32_t v = b.data[0] & 0x80 ? UINT32_MAX : 0;
    for (size_t i = 0; i < b.len; i++)
        v = v << 8 | b.data[i];
    *ret = (int32_t)v;
    return 0;
}

static int take_binding(struct snmp_bytes *in, struct snmp_binding *ret)
{
    struct snmp_bytes b;
    TRY(take_tagged(in, SEQUENCE, &b));
    TRY(take_tagged(&b, OID, &ret->name));
    TRY(take(&b, &ret->type, &ret->value));
    return b.len == 0 ? 0 : ERR_PROTO;
}

static int count_bindings(struct snmp_bytes rest, size_t *ret)
{
    struct snmp_binding b;
    size_t n = 0;
    for (; rest.len; n++)
        TRY(take_binding(&rest, &b));
    *ret = n;
    return 0;
}

static int read_pdu(struct snmp *m, struct snmp_bytes pdu)
{
    const uint8_t *start = m->whole.data;
    m->id_at = (size_t)(pdu.data - start);
    TRY(take_integer(&pdu, &m->id));
    m->id_end = (size_t)(pdu.data - start);
    TRY(take_integer(&pdu, &m->first));
    TRY(take_integer(&pdu, &m->second));
    TRY(take_tagged(&pdu, SEQUENCE, &m->bindings));
    return pdu.len == 0 ? count_bindings(m->bindings, &m->n_bindings) : ERR_PROTO;
}

static bool is_known(const struct snmp *m)
{
    switch (m->pdu) {
    case SNMP_GET:
    case SNMP_GET_NEXT:
    case SNMP_RESPONSE:
    case SNMP_SET:
        return true;
    case SNMP_GET_BULK:
        return m->version == SNMP_V2;
    default:
        return false;
    }
}

int snmp_read(const uint8_t *data, size_t len, struct snmp *ret)
{
    struct snmp m = {.whole = {data, len}};
    struct snmp_bytes in = m.whole, all, pdu;
    int32_t version;
    TRY(take_tagged(&in, SEQUENCE, &all));
    if (in.len)
        return ERR_PROTO;
    m.version_at = (size_t)(all.data - data);
    TRY(take_integer(&all, &version));
    if (version != SNMP_V1 && version != SNMP_V2)
        return ERR_PROTO;
    m.version = (uint8_t)version;
    TRY(take_tagged(&all, STRING, &m.community));
    m.pdu_at = (size_t)(all.data - data);
    TRY(take(&all, &m.pdu, &pdu));
    if (all.len || !is_known(&m))
        return ERR_PROTO;
    TRY(read_pdu(&m, pdu));
    *ret = m;
    return 0;
}

bool snmp_next_binding(struct snmp_bytes *rest, struct snmp_binding *ret)
{
    return rest->len && take_binding(rest, ret) == 0;
}

/* ---- comparing ---- */

static bool is_equal(struct snmp_bytes a, struct snmp_bytes b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

bool snmp_is_step(const struct snmp *m)
{
    return m->pdu == SNMP_GET_NEXT || m->pdu == SNMP_GET_BULK;
}

static bool is_header_same(const struct snmp *a, const struct snmp *b)
{
    return a->version == b->version && a->pdu == b->pdu && is_equal(a->community, b->community);
}

bool snmp_is_same(const struct snmp *a, const struct snmp *b)
{
    struct snmp_bytes x = a->bindings, y = b->bindings;
    struct snmp_binding p, q;
    if (!is_header_same(a, b) || a->first != b->first || a->second != b->second ||
        a->n_bindings != b->n_bindings)
        return false;
    while (snmp_next_binding(&x, &p) && snmp_next_binding(&y, &q)) {
        if (!is_equal(p.name, q.name) || p.type != SNMP_NULL || q.type != SNMP_NULL)
            return false;
    }
    return true;
}

/* FNV-1a. What is found by it is compared. */
static uint64_t hash_number(uint64_t h, uint64_t v)
{
    return (h ^ v) * UINT64_C(0x100000001b3);
}

static uint64_t hash_bytes(uint64_t h, struct snmp_bytes b)
{
    h = hash_number(h, b.len);
    for (size_t i = 0; i < b.len; i++)
        h = hash_number(h, b.data[i]);
    return h;
}

uint64_t snmp_hash(const struct snmp *m)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    struct snmp_bytes rest = m->bindings;
    struct snmp_binding b;
    h = hash_number(h, m->version);
    h = hash_number(h, m->pdu);
    h = hash_number(h, (uint32_t)m->first);
    h = hash_number(h, (uint32_t)m->second);
    h = hash_bytes(h, m->community);
    while (snmp_next_binding(&rest, &b))
        h = hash_bytes(h, b.name);
    return h;
}

/* Takes a number of a name (base 128, X.690 section 8.19). Too long to be one: as far as it fits.
 */
static uint64_t take_arc(struct snmp_bytes *name)
{
    uint64_t v = 0;
    while (name->len) {
        uint8_t c = *name->data++;
        name->len--;
        v = v << 7 | (c & 0x7f);
        if (!(c & 0x80))
            break;
    }
    return v;
}

int snmp_compare(struct snmp_bytes a, struct snmp_bytes b)
{
    while (a.len && b.len) {
        uint64_t x = take_arc(&a), y = take_arc(&b);
        if (x != y)
            return x < y ? -1 : 1;
    }
    return a.len ? 1 : b.len ? -1 : 0;
}

bool snmp_is_below(struct snmp_bytes root, struct snmp_bytes name)
{
    if (root.len <= 1) /* "." and ".1" are sent as 0.0 and 1.0 */
        return true;
    return name.len >= root.len && memcmp(name.data, root.data, root.len) == 0;
}

/* ---- writing: from the end, so that lengths are known ---- */

struct out {
    uint8_t *start, *at;
    bool is_full;
};

static void put(struct out *o, const void *data, size_t len)
{
    if (o->is_full || len > (size_t)(o->at - o->start)) {
        o->is_full = true;
        return;
    }
    o->at -= len;
    if (len)
        memcpy(o->at, data, len);
}

/* The head of a value whose content is between here and `end`. */
static void put_head(struct out *o, uint8_t tag, const uint8_t *end)
{
    uint8_t head[6] = {tag};
    size_t len = (size_t)(end - o->at), n = 0;
    if (len < 0x80) {
        head[1] = (uint8_t)len;
        put(o, head, 2);
        return;
    }
    while (len >> 8 * n)
        n++;
    head[1] = (uint8_t)(0x80 | n);
    for (size_t i = 0; i < n; i++)
        head[2 + i] = (uint8_t)(len >> 8 * (n - 1 - i));
    put(o, head, 2 + n);
}

static void put_integer(struct out *o, int32_t v)
{
    const uint8_t *end = o->at;
    size_t n = 1;
    while (n < 4 && v >> (8 * n - 1) != 0 && v >> (8 * n - 1) != -1)
        n++;
    for (size_t i = 0; i < n; i++) {
        uint8_t byte = (uint8_t)((uint32_t)v >> 8 * i);
        put(o, &byte, 1);
    }
    put_head(o, INTEGER, end);
}

/* What was written moves to the front. */
static int finish(struct out *o, size_t cap)
{
    if (o->is_full)
        return ERR_TOO_LARGE;
    size_t len = cap - (size_t)(o->at - o->start);
    memmove(o->start, o->at, len);
    return (int)len;
}

int snmp_with_id(const struct snmp *m, int32_t id, uint8_t *out, size_t cap)
{
    struct out o = {out, out + cap, false};
    const uint8_t *end = o.at, *data = m->whole.data;
    uint8_t value[6];
    struct out as_value = {value, value + sizeof(value), false};
    put_integer(&as_value, id);
    size_t size = (size_t)(value + sizeof(value) - as_value.at);
    if (m->whole.len <= cap && size == m->id_end - m->id_at) { /* lengths stay as they were */
        memcpy(out, data, m->whole.len);
        memcpy(out + m->id_at, as_value.at, size);
        return (int)m->whole.len;
    }
    put(&o, data + m->id_end, m->whole.len - m->id_end);
    put(&o, as_value.at, size);
    put_head(&o, m->pdu, end);
    put(&o, data + m->version_at, m->pdu_at - m->version_at);
    put_head(&o, SEQUENCE, end);
    return finish(&o, cap);
}

int snmp_request(const struct snmp *like, int32_t id, const struct snmp_bytes *names, size_t n,
                 uint8_t *out, size_t cap)
{
    struct out o = {out, out + cap, false};
    const uint8_t *end = o.at;
    for (size_t i = n; i > 0; i--) {
        const uint8_t *binding_end = o.at;
        put_head(&o, SNMP_NULL, o.at);
        const uint8_t *name_end = o.at;
        put(&o, names[i - 1].data, names[i - 1].len);
        put_head(&o, OID, name_end);
        put_head(&o, SEQUENCE, binding_end);
    }
    put_head(&o, SEQUENCE, end);
    put_integer(&o, like->second);
    put_integer(&o, like->first);
    put_integer(&o, id);
    put_head(&o, like->pdu, end);
    put(&o, like->whole.data + like->version_at, like->pdu_at - like->version_at);
    put_head(&o, SEQUENCE, end);
    return finish(&o, cap);
}

/* ---- walking ---- */

/* The names of an answer's last row in the order of the columns; false: there is none to go on
 * from. */
static bool find_last_row(const struct snmp *answer, size_t columns,
                          struct snmp_bytes ret[SNMP_COLUMNS_MAX])
{
    struct snmp_bytes rest = answer->bindings;
    struct snmp_binding b;
    for (size_t i = 0; snmp_next_binding(&rest, &b); i++) {
        if (b.type >= SNMP_NO_OBJECT && b.type <= SNMP_END_OF_MIB)
            return false;
        ret[i % columns] = b.name;
    }
    return true;
}

int snmp_follow(const struct snmp *request, const struct snmp *answer, uint8_t *out, size_t cap)
{
    struct snmp_bytes names[SNMP_COLUMNS_MAX], rest = request->bindings;
    struct snmp_binding asked;
    size_t n = request->n_bindings, rows = n ? answer->n_bindings / n : 0;
    bool is_bulk = request->pdu == SNMP_GET_BULK;
    if (!snmp_is_step(request) || n == 0 || n > SNMP_COLUMNS_MAX || answer->first != 0)
        return 0;
    if (rows * n != answer->n_bindings || rows == 0 || (rows > 1 && !is_bulk) ||
        (is_bulk && request->first != 0))
        return 0;
    if (!find_last_row(answer, n, names))
        return 0;
    for (size_t i = 0; snmp_next_binding(&rest, &asked); i++) {
        if (asked.type != SNMP_NULL || snmp_compare(asked.name, names[i]) >= 0)
            return 0;
    }
    return snmp_request(request, 0, names, n, out, cap);
}

bool snmp_is_within(const struct snmp *root, const struct snmp *request)
{
    struct snmp_bytes x = root->bindings, y = request->bindings;
    struct snmp_binding top, b;
    if (root->n_bindings != request->n_bindings)
        return false;
    while (snmp_next_binding(&x, &top) && snmp_next_binding(&y, &b)) {
        if (!snmp_is_below(top.name, b.name))
            return false;
    }
    return true;
}

bool snmp_is_before(const struct snmp *a, const struct snmp *b)
{
    struct snmp_bytes x = a->bindings, y = b->bindings;
    struct snmp_binding p, q;
    return snmp_next_binding(&x, &p) && snmp_next_binding(&y, &q) &&
           snmp_compare(p.name, q.name) < 0;
}
