/* Texts that come from people and peers: numbers, durations, base64, addresses, ids, times. */
#include "base/addr.h"
#include "base/id.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/time.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void addresses(const char *s)
{
    struct host_port hp, again;
    char out[HOST_SIZE + 16];
    if (host_port_parse(s, true, &hp, NULL) == 0) {
        host_port_format(&hp, out, sizeof(out));
        assert(host_port_parse(out, true, &again, NULL) == 0);
        assert(again.port == hp.port && strcmp(again.host, hp.host) == 0);
    }
    struct addr a = {0}, b = {0};
    if (addr_parse(s, 443, &a) == 0) {
        addr_format_ip(&a, out, sizeof(out));
        assert(addr_parse(out, 443, &b) == 0 && addr_equal_ip(&a, &b));
    }
    struct addr_rule rule;
    if (addr_rule_parse(s, &rule, NULL) == 0 && a.len)
        addr_rule_match(&rule, &a);
}

static void encodings(const char *s, size_t len)
{
    unsigned char bytes[256];
    char text[BASE64_SIZE(sizeof(bytes))];
    size_t n = sizeof(bytes);
    if (text_unbase64(s, len, bytes, &n) == 0) {
        text_base64(bytes, n, text, sizeof(text));
        assert(strlen(text) == len && memcmp(text, s, len) == 0);
    }
    n = sizeof(bytes);
    if (text_unbase64url(s, len, bytes, &n) == 0) {
        text_base64url(bytes, n, text, sizeof(text));
        assert(strlen(text) == len && memcmp(text, s, len) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *s = mem_strndup((const char *)data, size);
    uint64_t u;
    int64_t ms;
    bool flag;
    char out[TIME_TEXT_SIZE];

    addresses(s);
    encodings(s, strlen(s));
    text_to_u64(s, UINT32_MAX, &u);
    text_to_bool(s, &flag);
    text_to_bytes(s, &u);
    if (text_to_duration_ms(s, &ms) == 0)
        text_from_duration_ms(ms, out, sizeof(out));
    if (time_parse(s, &ms) == 0)
        time_format(ms, out);
    text_is_name(s);
    id_is(s, "tun");
    mem_free(s);
    return 0;
}
