/* An SNMP message of anybody's: what is accepted is written anew and read back; as the request and
 * the answer of a walk it is followed. The first byte says where the request ends. */
#include "base/macro.h"
#include "wire/snmp.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t out[70000];

static void write_anew(const struct snmp *m)
{
    static const int32_t ids[] = {0, -1, 127, 128, INT32_MAX, INT32_MIN};
    struct snmp back;
    for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
        int n = snmp_with_id(m, ids[i], out, sizeof(out));
        assert(n > 0 && snmp_read(out, (size_t)n, &back) == 0);
        assert(back.id == ids[i] && back.first == m->first && back.n_bindings == m->n_bindings);
        assert(snmp_is_same(m, &back) == snmp_is_same(m, m));
        assert(snmp_hash(m) == snmp_hash(&back));
    }
}

static void compare_names(const struct snmp *m)
{
    struct snmp_bytes rest = m->bindings;
    struct snmp_binding a, b = {0};
    size_t n = 0;
    for (; snmp_next_binding(&rest, &a); n++) {
        assert(snmp_compare(a.name, b.name) == -snmp_compare(b.name, a.name));
        assert(snmp_compare(a.name, a.name) == 0 && snmp_is_below(a.name, a.name));
        b = a;
    }
    assert(n == m->n_bindings);
}

static void follow(const struct snmp *request, const struct snmp *answer)
{
    struct snmp next;
    int n = snmp_follow(request, answer, out, sizeof(out));
    if (n <= 0)
        return;
    assert(snmp_read(out, (size_t)n, &next) == 0 && snmp_is_step(&next));
    assert(next.n_bindings == request->n_bindings && !snmp_is_same(&next, request));
    snmp_is_within(request, &next);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct snmp request, answer;
    if (size < 1 || size > 65536)
        return 0;
    size_t n = MIN(size - 1, (size_t)data[0]);
    bool has_request = snmp_read(data + 1, n, &request) == 0;
    bool has_answer = snmp_read(data + 1 + n, size - 1 - n, &answer) == 0;
    if (has_request) {
        write_anew(&request);
        compare_names(&request);
    }
    if (has_answer) {
        write_anew(&answer);
        compare_names(&answer);
    }
    if (has_request && has_answer)
        follow(&request, &answer);
    return 0;
}
