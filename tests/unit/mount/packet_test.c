#include "mount/packet.h"

#include "base/error.h"

#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct packet_ends ends_v4 = {
    .near = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 18, 0, 2},
    .far = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 17},
    .near_port = 40000,
    .far_port = 80};
static const struct packet_ends ends_v6 = {.near = {0xfd, [15] = 2},
                                           .far = {0x20, 1, 0xd, 0xb8, [15] = 7},
                                           .near_port = 1,
                                           .far_port = 53};

static uint16_t sum16(const uint8_t *p, size_t len)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < len; i++)
        sum += (uint32_t)p[i] << (i % 2 ? 0 : 8);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

/* What the device does with VIRTIO_NET_HDR_F_NEEDS_CSUM. */
static void complete(uint8_t *packet, size_t len, size_t sum_at, size_t field)
{
    uint16_t sum = (uint16_t)~sum16(packet + sum_at, len - sum_at);
    packet[sum_at + field] = (uint8_t)(sum >> 8);
    packet[sum_at + field + 1] = (uint8_t)sum;
}

/* Packets that are written go the other way than those that are read. */
static void assert_crossed(const struct packet_ends *read, const struct packet_ends *written)
{
    assert_memory_equal(read->near, written->far, 16);
    assert_memory_equal(read->far, written->near, 16);
    assert_int_equal(read->near_port, written->far_port);
    assert_int_equal(read->far_port, written->near_port);
}

static void check_tcp(const struct packet_ends *e)
{
    const struct packet_tcp t = {.seq = 0x01020304,
                                 .ack = 0xfffefdfc,
                                 .flags = PACKET_SYN | PACKET_ACK,
                                 .window = 4660,
                                 .mss = 1460,
                                 .wscale = 7};
    uint8_t out[PACKET_HEADER_MAX + 3];
    struct packet p;
    size_t sum_at, n = packet_put_tcp(out, e, &t, 3, &sum_at);
    memcpy(out + n, "abc", 3);
    assert_int_equal(packet_parse(out, n + 3, true, &p), 0);
    assert_int_equal(packet_parse(out, n + 3, false, &p), ERR_PROTO);
    complete(out, n + 3, sum_at, 16);
    assert_int_equal(packet_parse(out, n + 3, false, &p), 0);
    assert_crossed(&p.ends, e);
    assert_int_equal(p.protocol, IPPROTO_TCP);
    assert_int_equal(p.tcp.seq, t.seq);
    assert_int_equal(p.tcp.ack, t.ack);
    assert_int_equal(p.tcp.flags, t.flags);
    assert_int_equal(p.tcp.window, t.window);
    assert_int_equal(p.tcp.mss, 1460);
    assert_int_equal(p.tcp.wscale, 7);
    assert_int_equal(p.payload_len, 3);
    assert_memory_equal(p.payload, "abc", 3);
}

static void ranges_are_read_as_they_are_written(void **state)
{
    const struct packet_tcp t = {
        .flags = PACKET_ACK, .wscale = -1, .n_sacks = 2, .sacks = {{0xfffffff0, 10}, {20, 30}}};
    const struct packet_tcp syn = {.flags = PACKET_SYN, .wscale = 3, .sack_permitted = true};
    uint8_t out[PACKET_HEADER_MAX];
    struct packet p;
    size_t sum_at, n = packet_put_tcp(out, &ends_v4, &t, 0, &sum_at);
    assert_int_equal(packet_parse(out, n, true, &p), 0);
    assert_int_equal(p.tcp.n_sacks, 2);
    assert_memory_equal(p.tcp.sacks, t.sacks, 2 * sizeof(t.sacks[0]));
    out[43] = 255; /* an option beyond the header: what else it says stands */
    assert_int_equal(packet_parse(out, n, true, &p), 0);
    assert_int_equal(p.tcp.n_sacks, 0);
    n = packet_put_tcp(out, &ends_v6, &syn, 0, &sum_at);
    assert_int_equal(packet_parse(out, n, true, &p), 0);
    assert_true(p.tcp.sack_permitted);
    assert_int_equal(p.tcp.wscale, 3);
}

static void tcp_headers_are_read_as_they_are_written(void **state)
{
    check_tcp(&ends_v4);
    check_tcp(&ends_v6);
}

static void the_length_of_what_is_larger_than_ip_has_is_zero(void **state)
{
    const struct packet_tcp t = {.flags = PACKET_ACK, .wscale = -1};
    uint8_t out[PACKET_HEADER_MAX];
    size_t sum_at;
    packet_put_tcp(out, &ends_v4, &t, PACKET_MAX - 40, &sum_at);
    assert_memory_equal(out + 2, "\xff\xff", 2);
    packet_put_tcp(out, &ends_v4, &t, PACKET_MAX - 39, &sum_at);
    assert_memory_equal(out + 2, "\0\0", 2);
}

static void udp_headers_are_read_as_they_are_written(void **state)
{
    const struct packet_ends *both[] = {&ends_v4, &ends_v6};
    for (size_t i = 0; i < 2; i++) {
        uint8_t out[PACKET_HEADER_MAX + 5];
        struct packet p;
        size_t sum_at, n = packet_put_udp(out, both[i], 0xb8, 5, &sum_at);
        memcpy(out + n, "hello", 5);
        complete(out, n + 5, sum_at, 6);
        assert_int_equal(packet_parse(out, n + 5, false, &p), 0);
        assert_crossed(&p.ends, both[i]);
        assert_int_equal(p.tos, 0xb8);
        assert_int_equal(p.payload_len, 5);
        assert_memory_equal(p.payload, "hello", 5);
        out[n] ^= 1;
        assert_int_equal(packet_parse(out, n + 5, false, &p), ERR_PROTO);
    }
}

static void echo_replies_carry_their_checksum(void **state)
{
    const struct packet_ends *both[] = {&ends_v4, &ends_v6};
    for (size_t i = 0; i < 2; i++) {
        uint8_t out[PACKET_HEADER_MAX + 7];
        struct packet p;
        size_t n =
            packet_put_echo_reply(out, both[i], 61, 0x1234, 9, (const uint8_t *)"1234567", 7);
        memcpy(out + n, "1234567", 7);
        assert_int_equal(packet_parse(out, n + 7, false, &p), 0);
        assert_int_equal(p.icmp.type, i ? 129 : 0);
        assert_int_equal(p.icmp.id, 0x1234);
        assert_int_equal(p.icmp.seq, 9);
        assert_int_equal(p.ttl, 61);
        assert_int_equal(p.payload_len, 7);
    }
}

static void an_error_quotes_the_packet_it_is_about(void **state)
{
    const struct packet_ends *both[] = {&ends_v4, &ends_v6};
    for (size_t i = 0; i < 2; i++) {
        uint8_t sent[PACKET_HEADER_MAX + 2000] = {0}, out[PACKET_ERROR_MAX];
        struct packet about, p;
        size_t sum_at, n = packet_put_udp(sent, both[i], 0, 2000, &sum_at);
        assert_int_equal(packet_parse(sent, n + 2000, true, &about), 0);
        n = packet_put_error(out, about.ip, about.ip_len, i ? 1 : 3, i ? 4 : 3, NULL);
        assert_true(n <= (i ? 1280 : 576));
        assert_int_equal(packet_parse(out, n, false, &p), 0);
        assert_int_equal(p.protocol, i ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
        assert_memory_equal(p.ends.near, about.ends.far, 16);
        assert_memory_equal(p.payload, sent, p.payload_len);
        uint8_t router[16];
        memcpy(router, about.ends.far, 16);
        router[15] ^= 77;
        n = packet_put_error(out, about.ip, about.ip_len, i ? 3 : 11, 0, router);
        assert_int_equal(packet_parse(out, n, false, &p), 0);
        assert_memory_equal(p.ends.near, router, 16);
        assert_memory_equal(p.payload, sent, p.payload_len);
    }
}

static void fragments_are_told_apart(void **state)
{
    uint8_t v4[] = {0x45, 0, 0,  28, 0xab, 0xcd, 0x20, 0x02, 64, 17, 0, 0, 198, 18,
                    0,    2, 10, 0,  0,    17,   1,    2,    3,  4,  5, 6, 7,   8};
    struct packet p;
    complete(v4, 20, 0, 10);
    assert_int_equal(packet_parse(v4, sizeof(v4), false, &p), 0);
    assert_true(p.is_fragment && p.more_fragments);
    assert_int_equal(p.fragment_at, 16);
    assert_int_equal(p.fragment_id, 0xabcd);
    assert_int_equal(p.payload_len, 8);

    uint8_t v6[56] = {0x60, [5] = 16, [6] = IPPROTO_FRAGMENT, [7] = 64};
    memcpy(v6 + 8, ends_v6.near, 16);
    memcpy(v6 + 24, ends_v6.far, 16);
    memcpy(v6 + 40, (uint8_t[]){IPPROTO_UDP, 0, 0, 0x11, 0, 0, 0, 9}, 8);
    assert_int_equal(packet_parse(v6, sizeof(v6), false, &p), 0);
    assert_true(p.is_fragment && p.more_fragments);
    assert_int_equal(p.fragment_at, 16);
    assert_int_equal(p.fragment_id, 9);
    assert_int_equal(p.protocol, IPPROTO_UDP);
    assert_int_equal(p.payload_len, 8);
}

/* Whatever is cut off or changed: refused, or read within its bounds (the sanitizers look on). */
static void no_packet_leads_outside_itself(void **state)
{
    const struct packet_ends *both[] = {&ends_v4, &ends_v6};
    srand(7);
    for (int round = 0; round < 20000; round++) {
        uint8_t out[PACKET_HEADER_MAX + 64] = {0};
        const struct packet_tcp t = {.flags = PACKET_SYN, .mss = 1460, .wscale = 3};
        size_t sum_at, n = packet_put_tcp(out, both[round % 2], &t, 40, &sum_at) + 40;
        for (int i = rand() % 4; i > 0; i--)
            out[rand() % n] = (uint8_t)rand();
        size_t len = (size_t)rand() % (n + 1);
        uint8_t *exact = malloc(len ? len : 1);
        struct packet p;
        memcpy(exact, out, len);
        if (packet_parse(exact, len, true, &p) == 0) {
            assert_true(p.payload >= exact && p.payload + p.payload_len <= exact + len);
            assert_true(p.ip_len <= len);
        }
        free(exact);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tcp_headers_are_read_as_they_are_written),
        cmocka_unit_test(ranges_are_read_as_they_are_written),
        cmocka_unit_test(the_length_of_what_is_larger_than_ip_has_is_zero),
        cmocka_unit_test(udp_headers_are_read_as_they_are_written),
        cmocka_unit_test(echo_replies_carry_their_checksum),
        cmocka_unit_test(an_error_quotes_the_packet_it_is_about),
        cmocka_unit_test(fragments_are_told_apart),
        cmocka_unit_test(no_packet_leads_outside_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
