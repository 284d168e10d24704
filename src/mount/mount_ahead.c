/*
 * Reading ahead for the UDP flows of a mount: which flows take part, what they are told, and that a
 * change of a device by one flow makes void what others have read of it.
 */
#include "mount/internal.h"

#include "base/macro.h"
#include "base/mem.h"
#include "wire/snmp.h"

#include <string.h>
#include <utlist.h>

#define SNMP_PORT 161

/* All flows with one far address that take part. */
struct mount_device {
    uint8_t far[16]; /* key */
    struct mount_udp *flows;
    bool is_read; /* something may be read ahead since it was last made void */
    UT_hash_handle hh;
};

static uint64_t now_of(const struct mount_udp *u)
{
    return loop_now_ms(u->mount->loop);
}

static void tell(struct mount_udp *u)
{
    uint8_t value[READ_AHEAD_NOTE_SIZE];
    struct read_ahead_note note;
    if (!ahead_has_news(u->ahead))
        return;
    ahead_note(u->ahead, now_of(u), &note);
    flow_send_ahead(u->flow, CAPSULE_NOTE, value, read_ahead_note_write(&note, value));
}

/* Requests whose answer will not come by itself. */
static void forward_waiting(struct mount_udp *u)
{
    const struct buf *request;
    while ((request = ahead_take_waiting(u->ahead))) {
        tell(u);
        flow_send(u->flow, (const uint8_t *)request->data, request->len);
    }
}

static void make_void(struct mount_device *d)
{
    struct mount_udp *other;
    if (!d->is_read)
        return;
    d->is_read = false;
    DL_FOREACH2 (d->flows, other, device_next) {
        ahead_reset(other->ahead);
        tell(other);
        forward_waiting(other);
    }
}

/* Everything that is SNMP takes part, for it may change what others read. */
static bool takes_part(const struct mount_udp *u, const uint8_t *data, size_t len)
{
    struct snmp m;
    return len && data[0] == 0x30 &&
           (u->ends.far_port == SNMP_PORT || snmp_read(data, len, &m) == 0);
}

static void join(struct mount_udp *u)
{
    struct mount *m = u->mount;
    struct mount_device *d;
    HASH_FIND(hh, m->devices, u->ends.far, sizeof(u->ends.far), d);
    if (!d) {
        d = NEW(struct mount_device);
        memcpy(d->far, u->ends.far, sizeof(d->far));
        HASH_ADD(hh, m->devices, far, sizeof(d->far), d);
    }
    DL_APPEND2(d->flows, u, device_prev, device_next);
    u->device = d;
    u->ahead = ahead_new(m->uplink.read_ahead_ttl_ms, &m->ahead_stats);
}

bool mount_ahead_request(struct mount_udp *u, const uint8_t *data, size_t len)
{
    __attribute__((cleanup(buf_done_cleanup))) struct buf answer = {0};
    if (!u->mount->uplink.read_ahead_ttl_ms || (!u->ahead && !takes_part(u, data, len)))
        return false;
    if (!u->ahead)
        join(u);
    enum ahead_verdict v = ahead_request(u->ahead, data, len, now_of(u), &answer);
    if (v == AHEAD_VOID)
        make_void(u->device);
    else if (ahead_has_news(u->ahead))
        u->device->is_read = true;
    tell(u);
    if (v == AHEAD_GIVE)
        mount_udp_give(u, (const uint8_t *)answer.data, answer.len);
    return v == AHEAD_GIVE;
}

void mount_ahead_bypass(struct mount_udp *u)
{
    struct mount_device *d;
    HASH_FIND(hh, u->mount->devices, u->ends.far, sizeof(u->ends.far), d);
    if (d)
        make_void(d);
}

void mount_ahead_response(struct mount_udp *u, const uint8_t *data, size_t len)
{
    if (u->ahead && ahead_response(u->ahead, data, len))
        make_void(u->device);
}

void mount_ahead_push(struct mount_udp *u, const uint8_t *value, size_t len)
{
    __attribute__((cleanup(buf_done_cleanup))) struct buf answers = {0}, answer = {0};
    struct read_ahead_answer a;
    if (!u->ahead || read_ahead_unpack(value, len, &answers) < 0)
        return;
    const uint8_t *at = (const uint8_t *)answers.data;
    size_t left = answers.len;
    while (read_ahead_answer_next(&at, &left, &a) > 0) {
        if (ahead_push(u->ahead, &a, now_of(u), &answer) == AHEAD_GIVE)
            mount_udp_give(u, (const uint8_t *)answer.data, answer.len);
        buf_clear(&answer);
    }
    forward_waiting(u);
}

void mount_ahead_expire(struct mount_udp *u)
{
    if (u->ahead && ahead_expire(u->ahead, now_of(u)))
        tell(u);
}

void mount_ahead_end(struct mount_udp *u)
{
    struct mount_device *d = u->device;
    if (!u->ahead)
        return;
    DL_DELETE2(d->flows, u, device_prev, device_next);
    if (!d->flows) {
        HASH_DEL(u->mount->devices, d);
        mem_free(d);
    }
    ahead_free(TAKE(u->ahead));
    u->device = NULL;
}
