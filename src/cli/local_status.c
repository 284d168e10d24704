/*
 * What the user of `warren forward` and `warren proxy` sees: where the doors are (standard output),
 * what happens (standard error, a line each), and on a terminal one line that is kept up to date.
 */
#include "cli/local.h"

#include "base/mem.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define TICK_MS 1000
#define SAME_MS 5000

static FILE *err_of(const struct local *l)
{
    return l->call->err;
}

static void wipe(struct local *l)
{
    if (l->status.is_line)
        fputs("\r\x1b[K", err_of(l));
}

static void put_bytes(char *out, size_t size, uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double n = (double)bytes;
    size_t unit = 0;
    for (; n >= 1024 && unit < ARRAY_SIZE(units) - 1; unit++)
        n /= 1024;
    snprintf(out, size, unit ? "%.1f %s" : "%.0f %s", n, units[unit]);
}

static uint64_t bytes_up(const struct local *l)
{
    return l->relays.bytes_read + l->flows.bytes_read;
}

static uint64_t bytes_down(const struct local *l)
{
    return l->relays.bytes_written + l->flows.bytes_written;
}

static uint64_t streams_total(const struct local *l)
{
    return l->relays.total + l->flows.total;
}

static const char *state_text(const struct local *l)
{
    switch (uplink_state(l->uplink)) {
    case UPLINK_CONNECTING:
        return "connecting";
    case UPLINK_UP:
        return "connected";
    default:
        return "not connected";
    }
}

static void draw(struct local *l)
{
    char up[24], down[24], rate[24];
    uint64_t bytes = bytes_up(l) + bytes_down(l);
    if (!l->status.is_line)
        return;
    put_bytes(up, sizeof(up), bytes_up(l));
    put_bytes(down, sizeof(down), bytes_down(l));
    put_bytes(rate, sizeof(rate), (bytes - l->status.bytes_before) * 1000 / TICK_MS);
    fprintf(err_of(l), "\r\x1b[K%s: %s | %u open, %" PRIu64 " in all | %s up, %s down | %s/s",
            uplink_hub(l->uplink), state_text(l), l->relays.open + l->flows.open, streams_total(l),
            up, down, rate);
    fflush(err_of(l));
}

static void on_tick(struct timer *t)
{
    struct local *l = container_of(t, struct local, status.tick);
    draw(l);
    l->status.bytes_before = bytes_up(l) + bytes_down(l);
    timer_start(t, TICK_MS);
}

void local_note(struct local *l, const char *format, ...)
{
    char text[sizeof(l->status.last)];
    uint64_t now = loop_now_ms(l->loop);
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (strcmp(text, l->status.last) == 0 && now - l->status.last_ms < SAME_MS)
        return;
    snprintf(l->status.last, sizeof(l->status.last), "%s", text);
    l->status.last_ms = now;
    wipe(l);
    fprintf(err_of(l), "%s: %s\n", l->call->program->name, text);
    fflush(err_of(l));
    draw(l);
}

static void put_event(struct local *l, json_t *event)
{
    json_dumpf(event, l->call->out, JSON_COMPACT);
    fputc('\n', l->call->out);
    fflush(l->call->out);
    json_decref(event);
}

void local_status_door(struct local *l, const struct local_door *d)
{
    char at[ADDR_TEXT_SIZE], target[LOCAL_TARGET_SIZE];
    const char *protocol = d->is_udp ? "udp" : "tcp";
    addr_format(&d->at, at, sizeof(at));
    host_port_format(&d->target, target, sizeof(target));
    if (l->status.is_json) {
        json_t *event = json_pack("{s:s, s:s, s:s}", "event", "listening", "address", at,
                                  "protocol", d->is_proxy ? "proxy" : protocol);
        if (!d->is_proxy)
            json_object_set_new(event, "target", json_string(target));
        put_event(l, event);
        return;
    }
    wipe(l);
    if (d->is_proxy)
        fprintf(l->call->out, "%s: SOCKS and HTTP proxy into %s\n", at, l->network);
    else
        fprintf(l->call->out, "%s -> %s in %s%s\n", at, target, l->network,
                d->is_udp ? " (udp)" : "");
    fflush(l->call->out);
}

void local_status_state(struct local *l)
{
    enum uplink_state state = uplink_state(l->uplink);
    const char *why = diag_text(uplink_reason(l->uplink));
    bool is_new = l->status.shown != state;
    l->status.shown = state;
    if (l->status.is_json && is_new) {
        json_t *event =
            json_pack("{s:s, s:s}", "event", "hub", "state", state == UPLINK_UP ? "up" : "down");
        if (state != UPLINK_UP)
            json_object_set_new(event, "reason", json_string(why));
        put_event(l, event);
    }
    if (state == UPLINK_UP)
        local_note(l, "connected to %s", uplink_hub(l->uplink));
    else
        local_note(l, "%s; trying again", why);
}

void local_status_start(struct local *l)
{
    const char *output = call_text(l->call, "--output");
    l->status.is_json = output && strcmp(output, "json") == 0;
    l->status.is_line = isatty(fileno(err_of(l)));
    timer_init(&l->status.tick, l->loop, on_tick);
    if (l->status.is_line)
        timer_start(&l->status.tick, 0);
}

void local_status_end(struct local *l)
{
    char up[24], down[24];
    timer_stop(&l->status.tick);
    wipe(l);
    if (!l->status.is_line)
        return;
    put_bytes(up, sizeof(up), bytes_up(l));
    put_bytes(down, sizeof(down), bytes_down(l));
    fprintf(err_of(l), "%" PRIu64 " in all, %s up, %s down\n", streams_total(l), up, down);
}
