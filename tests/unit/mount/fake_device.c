#include "fake_device.h"

#include "wire/snmp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define REPETITIONS 10

static const uint8_t root[] = {0x2b, 6, 1, 4, 1};

/* All lengths have three bytes, as some agents write them. */
static size_t put_head(uint8_t *out, uint8_t tag, size_t len)
{
    const uint8_t head[] = {tag, 0x82, (uint8_t)(len >> 8), (uint8_t)len};
    memcpy(out, head, sizeof(head));
    return sizeof(head);
}

static size_t wrap(uint8_t *out, uint8_t tag, const uint8_t *content, size_t len)
{
    size_t n = put_head(out, tag, len);
    if (len)
        memcpy(out + n, content, len);
    return n + len;
}

static size_t put_integer(uint8_t *out, int32_t v)
{
    const uint8_t bytes[] = {0x02,
                             4,
                             (uint8_t)((uint32_t)v >> 24),
                             (uint8_t)((uint32_t)v >> 16),
                             (uint8_t)((uint32_t)v >> 8),
                             (uint8_t)v};
    memcpy(out, bytes, sizeof(bytes));
    return sizeof(bytes);
}

static size_t put_name(uint8_t *out, int object)
{
    size_t n = sizeof(root);
    memcpy(out + 2, root, n);
    if (object) {
        out[2 + n++] = (uint8_t)(0x80 | object >> 7);
        out[2 + n++] = (uint8_t)(object & 0x7f);
    }
    out[0] = 0x06;
    out[1] = (uint8_t)n;
    return 2 + n;
}

static int object_of(struct snmp_bytes name)
{
    if (name.len < sizeof(root) + 2)
        return 0;
    return (name.data[sizeof(root)] & 0x7f) << 7 | name.data[sizeof(root) + 1];
}

static size_t put_binding(uint8_t *out, int object, int value, bool is_end)
{
    uint8_t content[32];
    size_t n = put_name(content, object);
    if (is_end) {
        content[n++] = SNMP_END_OF_MIB;
        content[n++] = 0;
    } else {
        n += put_integer(content + n, value);
    }
    return wrap(out, 0x30, content, n);
}

static size_t finish(uint8_t *out, const struct snmp *asked, int32_t error, const uint8_t *bindings,
                     size_t len)
{
    uint8_t pdu[FAKE_ANSWER_MAX], all[FAKE_ANSWER_MAX];
    size_t n = put_integer(pdu, asked->id);
    n += put_integer(pdu + n, error);
    n += put_integer(pdu + n, error != 0);
    n += wrap(pdu + n, 0x30, bindings, len);
    size_t head = asked->pdu_at - asked->version_at;
    memcpy(all, asked->whole.data + asked->version_at, head);
    size_t size = head + wrap(all + head, SNMP_RESPONSE, pdu, n);
    return wrap(out, 0x30, all, size);
}

size_t fake_device_answer(struct fake_device *d, const uint8_t *data, size_t len,
                          uint8_t out[FAKE_ANSWER_MAX])
{
    uint8_t bindings[FAKE_ANSWER_MAX];
    size_t n = 0;
    struct snmp asked;
    struct snmp_binding b;
    assert_int_equal(snmp_read(data, len, &asked), 0);
    d->asked++;
    if (d->mute_every && d->asked % d->mute_every == 0)
        return 0;
    struct snmp_bytes rest = asked.bindings;
    assert_true(snmp_next_binding(&rest, &b));
    int object = object_of(b.name), rows = asked.pdu == SNMP_GET_BULK ? REPETITIONS : 1;
    if (asked.pdu == SNMP_SET)
        d->sets++;
    if (asked.pdu == SNMP_SET || asked.pdu == SNMP_GET)
        object--;
    if (d->too_big_at && object + 1 >= d->too_big_at)
        return finish(out, &asked, 1, NULL, 0);
    for (int i = 0; i < rows; i++) {
        bool is_end = object >= d->n_objects;
        if (is_end && asked.version == SNMP_V1)
            return finish(out, &asked, 2, asked.bindings.data, asked.bindings.len);
        if (!is_end)
            object = d->loops_at && object == d->loops_at ? 1 : object + 1;
        n += put_binding(bindings + n, object, d->counts ? d->asked : object + 1000 * d->sets,
                         is_end);
    }
    return finish(out, &asked, 0, bindings, n);
}

size_t fake_request(uint8_t *out, int version, enum fake_ask ask, int32_t id, int object)
{
    uint8_t name[16], binding[32], bindings[64],
        all[64] = {0x02, 1, (uint8_t)version, 0x04, 2, 'i', 't'};
    size_t n = put_name(name, object);
    memcpy(binding, name, n);
    binding[n++] = SNMP_NULL;
    binding[n++] = 0;
    n = wrap(bindings, 0x30, binding, n);
    uint8_t pdu[128];
    size_t at = put_integer(pdu, id);
    at += put_integer(pdu + at, 0);
    at += put_integer(pdu + at, ask == FAKE_BULK ? REPETITIONS : 0);
    at += wrap(pdu + at, 0x30, bindings, n);
    uint8_t message[256];
    memcpy(message, all, 7);
    at = 7 + wrap(message + 7, (uint8_t)ask, pdu, at);
    return wrap(out, 0x30, message, at);
}

void fake_read(const uint8_t *data, size_t len, struct fake_reading *ret)
{
    struct snmp m;
    struct snmp_binding b;
    assert_int_equal(snmp_read(data, len, &m), 0);
    assert_int_equal(m.pdu, SNMP_RESPONSE);
    memset(ret, 0, sizeof(*ret));
    ret->id = m.id;
    ret->error = m.first;
    while (snmp_next_binding(&m.bindings, &b)) {
        bool is_end = b.type != 0x02;
        ret->object[ret->n] = is_end ? 0 : object_of(b.name);
        for (size_t i = 0; !is_end && i < b.value.len; i++)
            ret->value[ret->n] = ret->value[ret->n] << 8 | b.value.data[i];
        ret->n++;
    }
}
