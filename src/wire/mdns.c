/*
 * libmdnsd's codec and not its daemon: that knows IPv4 only, keeps every answer that anybody on the
 * link sends, and has one socket. Its parser is given no length; it reads zeros behind the message,
 * in memory of the size it assumes, that is mapped for the message alone.
 */
#include "wire/mdns.h"

#include "base/error.h"
#include "base/macro.h"

#include <libmdnsd/1035.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>

#define SERVICE    "_warren._udp.local."
#define TYPES      "_services._dns-sd._udp.local."
#define CLASS_IN   1
#define CLASS_OWN  (CLASS_IN | 0x8000) /* only we have such records: caches drop others */
#define PORT_NONE  9                   /* discard: a beacon is all there is */
#define HEADER_LEN 12
#define BEACON_KEY "b="

/* Room for one message, zeroed; pages are touched only as far as it reaches. */
struct scratch {
    struct message message;
    unsigned char packet[MAX_PACKET_LEN + 4096];
};

static struct scratch *scratch_new(void)
{
    void *p = mmap(NULL, sizeof(struct scratch), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void scratch_free(struct scratch *s)
{
    if (s)
        munmap(s, sizeof(*s));
}

static void scratch_free_cleanup(struct scratch **s)
{
    scratch_free(*s);
}

/* ---- reading ---- */

static bool is_instance(const char *name)
{
    size_t n = strlen(name), m = strlen(SERVICE);
    return n > m && name[n - m - 1] == '.' && strcasecmp(name + n - m, SERVICE) == 0;
}

/* RFC 6763, 6: strings of one length byte each. */
static void take_txt(const struct resource *rr, struct mdns_message *ret)
{
    const unsigned char *p = rr->rdata, *end = p + rr->rdlength;
    while (p < end && ret->n_blobs < MDNS_BLOBS_MAX) {
        size_t len = *p++;
        if (len > (size_t)(end - p))
            return;
        if (len > 2 && len - 2 <= MDNS_BLOB_MAX && memcmp(p, BEACON_KEY, 2) == 0) {
            memcpy(ret->blobs[ret->n_blobs].data, p + 2, len - 2);
            ret->blobs[ret->n_blobs++].len = len - 2;
            return;
        }
        p += len;
    }
}

static void take_records(const struct resource *rr, size_t n, struct mdns_message *ret)
{
    for (size_t i = 0; i < n; i++) {
        if (rr[i].type == QTYPE_TXT && rr[i].name && rr[i].rdata && is_instance(rr[i].name))
            take_txt(&rr[i], ret);
    }
}

static void take_questions(const struct message *m, struct mdns_message *ret)
{
    for (size_t i = 0; i < m->qdcount; i++) {
        const struct question *q = &m->qd[i];
        if (!q->name || (q->type != QTYPE_PTR && q->type != QTYPE_ANY))
            continue;
        ret->asks_service = ret->asks_service || strcasecmp(q->name, SERVICE) == 0;
        ret->asks_types = ret->asks_types || strcasecmp(q->name, TYPES) == 0;
    }
}

/* Most of what a LAN says by multicast DNS is about others; that is not worth parsing. */
static bool may_concern_us(const uint8_t *data, size_t len)
{
    return memmem(data, len, "\x07_warren", 8) || memmem(data, len, "\x07_dns-sd", 8);
}

int mdns_read(const uint8_t *data, size_t len, struct mdns_message *ret)
{
    ret->asks_service = ret->asks_types = false;
    ret->n_blobs = 0;
    if (len < HEADER_LEN || len > MDNS_PACKET_MAX)
        return ERR_PROTO;
    if (!may_concern_us(data, len))
        return 0;
    CLEANUP(scratch_free) struct scratch *s = scratch_new();
    if (!s)
        return ERR_LIMIT;
    memcpy(s->packet, data, len);
    if (message_parse(&s->message, s->packet))
        return ERR_PROTO;
    if (s->message.header.opcode || s->message.header.rcode)
        return 0; /* RFC 6762, 18.3 and 18.11 */
    if (s->message.header.qr) {
        take_records(s->message.an, s->message.ancount, ret);
        take_records(s->message.ar, s->message.arcount, ret);
    } else {
        take_questions(&s->message, ret);
    }
    return 0;
}

/* ---- writing ---- */

/* libmdnsd takes names it does not change as `char *`. */
#define NAME(s) ((char[]){s})

static size_t finish(struct scratch *s, uint8_t *out)
{
    const unsigned char *packet = message_packet(&s->message);
    size_t len = (size_t)message_packet_len(&s->message);
    memcpy(out, packet, len);
    return len;
}

size_t mdns_write_query(uint8_t out[MDNS_PACKET_MAX])
{
    CLEANUP(scratch_free) struct scratch *s = scratch_new();
    if (!s)
        return 0;
    message_qd(&s->message, NAME(SERVICE), QTYPE_PTR, CLASS_IN);
    return finish(s, out);
}

static void write_txt(struct message *m, const struct mdns_instance *i, char *name)
{
    unsigned char txt[5 + 3 + MDNS_BLOB_MAX] = {3, 'v', '=', '1'};
    size_t n = 4;
    txt[n++] = (unsigned char)(2 + i->blob_len);
    memcpy(txt + n, BEACON_KEY, 2);
    memcpy(txt + n + 2, i->blob, i->blob_len);
    message_an(m, name, QTYPE_TXT, CLASS_OWN, i->ttl_s);
    message_rdata_raw(m, txt, (unsigned short)(n + 2 + i->blob_len));
}

size_t mdns_write_instance(const struct mdns_instance *i, uint8_t out[MDNS_PACKET_MAX])
{
    CLEANUP(scratch_free) struct scratch *s = scratch_new();
    char name[MDNS_LABEL_SIZE + sizeof(SERVICE)], host[MDNS_LABEL_SIZE + 8];
    if (!s || i->blob_len > MDNS_BLOB_MAX)
        return 0;
    struct message *m = &s->message;
    snprintf(name, sizeof(name), "%s." SERVICE, i->label);
    snprintf(host, sizeof(host), "%s.local.", i->label);
    m->header.qr = 1;
    m->header.aa = 1;
    if (i->with_types) {
        message_an(m, NAME(TYPES), QTYPE_PTR, CLASS_IN, i->ttl_s);
        message_rdata_name(m, NAME(SERVICE));
    }
    message_an(m, NAME(SERVICE), QTYPE_PTR, CLASS_IN, i->ttl_s);
    message_rdata_name(m, name);
    write_txt(m, i, name);
    message_an(m, name, QTYPE_SRV, CLASS_OWN, i->ttl_s);
    message_rdata_srv(m, 0, 0, PORT_NONE, host);
    message_an(m, host, i->family == AF_INET ? QTYPE_A : QTYPE_AAAA, CLASS_OWN, i->ttl_s);
    uint8_t address[16];
    memcpy(address, i->address, sizeof(address));
    message_rdata_raw(m, address, i->family == AF_INET ? 4 : 16);
    return finish(s, out);
}
