#include "scan/scan_stream.h"

#include "base/buf.h"
#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "loop/loop.h"
#include "scan/sweep.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define PROGRESS_MS 500
#define REQUEST_MS  10000      /* for its line */
#define UNSENT_MAX  (1u << 20) /* bytes, beyond which the sweep pauses */

struct scan_stream {
    struct scan_stream_params p;
    struct h2_stream *stream;
    struct scan_request request;
    struct sweep *sweep; /* NULL: not begun, or over */
    struct buf line;     /* of the request */
    struct buf out;
    struct timer timer;
    uint64_t started_ms;
    bool is_over; /* nothing more will be said */
    struct scan_stream *prev, *next;
};

/* ---- lines ---- */

static void say(struct scan_stream *s, json_t *line)
{
    CLEANUP(mem_free) char *text = json_dumps(line, JSON_COMPACT);
    json_decref(line);
    if (text && strlen(text) < SCAN_LINE_MAX)
        buf_printf(&s->out, "%s\n", text);
    if (s->sweep)
        sweep_pause(s->sweep, s->out.len > UNSENT_MAX);
    if (s->stream)
        h2_resume(s->stream);
}

static json_t *counts_json(const struct scan_stream *s, const char *type)
{
    struct sweep_counts c;
    sweep_get_counts(s->sweep, &c);
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:I}", "type", type, "addresses",
                     (json_int_t)c.addresses, "done", (json_int_t)c.done, "up", (json_int_t)c.up,
                     "denied", (json_int_t)c.denied, "open_ports", (json_int_t)c.open, "probes",
                     (json_int_t)c.probes, "part", c.part, "elapsed_ms",
                     (json_int_t)(loop_now_ms(s->p.loop) - s->started_ms));
}

static void say_failed(struct scan_stream *s, const char *text)
{
    s->is_over = true;
    say(s, json_pack("{s:s, s:s}", "type", "end", "error", text));
}

static int by_number(const void *a, const void *b)
{
    return *(const uint16_t *)a - *(const uint16_t *)b;
}

static json_t *ports_json(const struct sweep_host *h)
{
    json_t *list = json_array();
    CLEANUP(mem_free) uint16_t *open = mem_dup(h->open, h->n_open * sizeof(*open));
    qsort(open, h->n_open, sizeof(*open), by_number);
    for (size_t i = 0; i < h->n_open && i < SCAN_PORTS_LISTED; i++)
        json_array_append_new(list, json_pack("{s:i, s:s, s:s}", "port", open[i], "protocol", "tcp",
                                              "state", "open"));
    return list;
}

static json_t *host_json(const struct scan_request *r, const struct sweep_host *h)
{
    char ip[ADDR_TEXT_SIZE], sign[16];
    addr_format_ip(&h->addr, ip, sizeof(ip));
    snprintf(sign, sizeof(sign), h->sign == SWEEP_TCP ? "%s/%u" : "%s", sweep_sign_name(h->sign),
             h->port);
    json_t *o = json_pack("{s:s, s:s, s:s}", "type", "host", "address", ip, "found_by", sign);
    if (h->has_answered)
        json_object_set_new(o, "rtt_ms", json_real(h->rtt_us / 1000.0));
    if (h->mac[0])
        json_object_set_new(o, "mac", json_string(h->mac));
    if (r->n_ports) {
        json_object_set_new(o, "ports", ports_json(h));
        json_object_set_new(o, "open", json_integer((json_int_t)h->n_open));
        json_object_set_new(o, "closed", json_integer((json_int_t)h->n_closed));
        json_object_set_new(o, "filtered", json_integer((json_int_t)h->n_silent));
    }
    if (h->has_snmp)
        json_object_set_new(o, "snmp",
                            json_pack("{s:s, s:s}", "name", h->name, "description", h->descr));
    return o;
}

/* ---- the sweep ---- */

static void on_host(void *arg, const struct sweep_host *h)
{
    struct scan_stream *s = arg;
    say(s, host_json(&s->request, h));
}

static void on_sweep_end(void *arg, int err)
{
    struct scan_stream *s = arg;
    struct sweep_counts c;
    sweep_get_counts(s->sweep, &c);
    LOG_INFO("scan ended", LOG_INT("addresses", c.addresses), LOG_INT("up", c.up),
             LOG_INT("probes", c.probes), LOG_STR("why", err ? error_text(err) : "complete"));
    s->is_over = true;
    timer_stop(&s->timer);
    if (err)
        say_failed(s, "the agent's machine had no room for another question: its table of "
                      "neighbours is full (net.ipv4.neigh.default.gc_thresh3), or it has no "
                      "descriptors left");
    else
        say(s, counts_json(s, "end"));
    sweep_free(TAKE(s->sweep));
}

static const struct sweep_ops sweep_callbacks = {.on_host = on_host, .on_end = on_sweep_end};

static void begin(struct scan_stream *s)
{
    json_error_t error;
    struct diag d = {0};
    char what[160];
    json_t *o = json_loads(buf_text(&s->line), JSON_REJECT_DUPLICATES, &error);
    int rc = json_is_object(o) ? scan_request_read(o, &s->request, &d)
                               : diag_set(&d, ERR_INVALID, "the request is no JSON object");
    json_decref(o);
    if (s->line.len)
        explicit_bzero(s->line.data, s->line.len);
    buf_done(&s->line);
    if (rc < 0) {
        say_failed(s, diag_text(&d));
        return;
    }
    scan_request_describe(&s->request, what, sizeof(what));
    LOG_INFO("scan begins", LOG_STR("what", what));
    s->sweep = sweep_new(&(struct sweep_config){.loop = s->p.loop,
                                                .request = &s->request,
                                                .gate = s->p.gate,
                                                .check = s->p.check,
                                                .check_arg = s->p.check_arg,
                                                .ops = &sweep_callbacks,
                                                .arg = s});
    s->started_ms = loop_now_ms(s->p.loop);
    timer_start(&s->timer, PROGRESS_MS);
}

static void on_timer(struct timer *t)
{
    struct scan_stream *s = container_of(t, struct scan_stream, timer);
    if (!s->sweep) {
        say_failed(s, "the request did not come");
        return;
    }
    timer_start(t, PROGRESS_MS);
    if (s->out.len < UNSENT_MAX)
        say(s, counts_json(s, "progress"));
}

/* ---- the stream ---- */

static void on_data(void *arg, struct h2_stream *stream, const uint8_t *data, size_t len)
{
    struct scan_stream *s = arg;
    const uint8_t *end = memchr(data, '\n', len);
    h2_consume(stream, len);
    if (s->sweep || s->is_over)
        return;
    if (buf_append(&s->line, data, end ? (size_t)(end - data) : len) < 0)
        say_failed(s, "the request is too long");
    else if (end)
        begin(s);
}

static int on_produce(void *arg, struct h2_stream *stream, uint8_t *out, size_t cap, bool *eof)
{
    struct scan_stream *s = arg;
    size_t n = MIN(cap, s->out.len);
    if (n) {
        memcpy(out, s->out.data, n);
        buf_consume(&s->out, n);
    }
    if (s->sweep)
        sweep_pause(s->sweep, s->out.len > UNSENT_MAX);
    *eof = s->is_over && !s->out.len;
    return (int)n;
}

static void on_close(void *arg, struct h2_stream *stream, uint32_t error)
{
    struct scan_stream *s = arg;
    struct scan_stream_params p = s->p;
    sweep_free(s->sweep);
    timer_stop(&s->timer);
    buf_done(&s->line);
    buf_done(&s->out);
    DL_DELETE(p.set->head, s);
    p.set->n--;
    mem_free(s);
    p.on_end(p.arg);
}

static const struct h2_stream_ops stream_ops = {
    .on_data = on_data, .on_produce = on_produce, .on_close = on_close};

void scan_stream_accept(struct h2_stream *stream, const struct scan_stream_params *p)
{
    struct scan_stream *s = NEW(struct scan_stream);
    s->p = *p;
    s->stream = stream;
    s->line.limit = SCAN_BODY_MAX;
    timer_init(&s->timer, p->loop, on_timer);
    timer_start(&s->timer, REQUEST_MS);
    DL_APPEND(p->set->head, s);
    p->set->n++;
    h2_stream_set(stream, &stream_ops, s);
    h2_respond(stream, H2_HEADERS({":status", "200"}), 1, true);
}

void scan_set_abort(struct scan_set *set)
{
    struct scan_stream *s;
    DL_FOREACH (set->head, s) {
        s->is_over = true;
        sweep_free(TAKE(s->sweep));
        timer_stop(&s->timer);
        h2_reset(s->stream, H2_CONNECT_ERROR);
    }
}
