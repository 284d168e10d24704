/* Multicast DNS from anybody on the LAN, and what a beacon of our own tenant may hold. */
#include "fleet/lan_beacon.h"
#include "wire/mdns.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct lan_keys keys = {.n = 1};

static void read_message(const uint8_t *data, size_t size)
{
    struct mdns_message m;
    struct lan_beacon b;
    mdns_read(data, size, &m);
    assert(m.n_blobs <= MDNS_BLOBS_MAX);
    for (size_t i = 0; i < m.n_blobs; i++)
        assert(lan_beacon_open(&keys, m.blobs[i].data, m.blobs[i].len, &b) < 0);
}

/* As a rogue agent that has the key could seal it. */
static void read_text(const uint8_t *data, size_t size)
{
    __attribute__((cleanup(buf_done_cleanup))) struct buf sealed = {0};
    uint8_t text[LAN_BEACON_SIZE - 28] = {0};
    struct lan_beacon b;
    char out[LAN_PREFIX_SIZE];
    memcpy(text, data, size < sizeof(text) ? size : sizeof(text));
    assert(seal(keys.key[0], text, sizeof(text), &sealed) == 0);
    if (lan_beacon_open(&keys, sealed.data, sealed.len, &b) < 0)
        return;
    assert(memchr(b.agent, '\0', sizeof(b.agent)));
    lan_prefix_format(&b.from, out);
    lan_beacon_judge(&b, "agt_0000000000000000", 1, &b.from, &b.from, b.time_ms);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    read_message(data, size);
    read_text(data, size);
    return 0;
}
