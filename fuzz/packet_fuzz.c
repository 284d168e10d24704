/* Packets of a program: each record is a length and its bytes. What parses goes through reassembly,
 * and what is TCP into a terminator, whose answers must stay within their bounds. */
#include "base/macro.h"
#include "mount/reassembly.h"
#include "mount/tcp.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#define MTU 1500

static void answer(struct tcp *t, uint64_t now_ms)
{
    struct tcp_segment s;
    uint8_t in[600], headers[PACKET_HEADER_MAX];
    bool end;
    size_t sum_at;
    if (t->state == TCP_DIALLING)
        tcp_accept(t);
    if (t->state == TCP_OPEN && !t->out_ended)
        tcp_write(t, (const uint8_t *)"some bytes for the program", 26);
    if (t->state != TCP_DEAD)
        tcp_read(t, in, sizeof(in), &end);
    for (int i = 0; i < 100 && tcp_next(t, now_ms, 60000, &s); i++) {
        struct packet_ends e = {.near = {[10] = 0xff, 0xff}, .far = {[10] = 0xff, 0xff}};
        if (s.len > RING_SIZE ||
            packet_put_tcp(headers, &e, &s.header, s.len, &sum_at) > sizeof(headers))
            abort();
    }
    if (now_ms >= t->due_ms)
        tcp_timeout(t, now_ms);
}

static void take(struct tcp *t, struct reassembly *r, const uint8_t *data, size_t len,
                 uint64_t now_ms)
{
    struct packet p;
    uint8_t error[PACKET_ERROR_MAX];
    const uint8_t *whole;
    size_t whole_len;
    if (packet_parse(data, len, true, &p) < 0)
        return;
    if (p.ip_len > len || p.payload < data || p.payload + p.payload_len > data + len)
        abort();
    if (packet_put_error(error, p.ip, p.ip_len, 3, 1, NULL) > sizeof(error))
        abort();
    if (p.is_fragment && (reassembly_add(r, &p, now_ms, &whole, &whole_len) <= 0 ||
                          packet_parse(whole, whole_len, true, &p) < 0))
        return;
    if (p.protocol != IPPROTO_TCP)
        return;
    bool is_first = (p.tcp.flags & (PACKET_SYN | PACKET_ACK | PACKET_RST)) == PACKET_SYN;
    if (is_first && tcp_is_replaced_by(t, &p)) {
        tcp_done(t);
        tcp_syn(t, &p, 77, MTU);
    } else {
        tcp_input(t, &p, now_ms);
    }
    answer(t, now_ms);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tcp t = {.state = TCP_DEAD, .due_ms = TCP_NEVER};
    struct reassembly r = {0};
    uint64_t now_ms = 0;
    while (size >= 2) {
        size_t len = MIN((size_t)(data[0] << 8 | data[1]), size - 2);
        uint8_t *exact = malloc(len ? len : 1); /* so that a byte too far is seen */
        memcpy(exact, data + 2, len);
        take(&t, &r, exact, len, now_ms);
        free(exact);
        data += 2 + len;
        size -= 2 + len;
        now_ms += 150;
    }
    tcp_done(&t);
    reassembly_done(&r);
    ring_free_spare();
    return 0;
}
