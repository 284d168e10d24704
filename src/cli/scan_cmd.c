/*
 * warren scan: what an agent finds in ranges of addresses, as it finds it. Rows go to standard
 * output, the progress to a terminal's standard error.
 */
#include "cli/commands.h"

#include "base/buf.h"
#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "cli/object_cmd.h"
#include "cli/output.h"
#include "cli/remote.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define BAR_WIDTH  30
#define OVER       1 /* of an event callback: the scan has ended */
#define ADDRESS_AT 15

static const struct column columns[] = {
    {"ADDRESS", "address"},
    {"FOUND BY", "found_by"},
    {"RTT", "rtt"},
    {"MAC", "mac"},
    {"OPEN", "listed"},
    {"NAME", "snmp.name"},
    {"DESCRIPTION", "snmp.description"},
};
static const struct view view = {"scans", "host", columns, ARRAY_SIZE(columns)};

struct scan {
    struct call *call;
    struct output output;
    struct output_widths widths;
    bool has_terminal, has_bar;
    json_t *end; /* what came last; NULL: nothing did */
};

/* ---- progress ---- */

static int64_t number(const json_t *o, const char *name)
{
    return json_integer_value(json_object_get(o, name));
}

static void clear_bar(struct scan *s)
{
    if (s->has_bar)
        fputs("\r\x1b[K", s->call->err);
    s->has_bar = false;
}

static void show_bar(struct scan *s, const json_t *o)
{
    char bar[BAR_WIDTH + 1];
    double part = json_real_value(json_object_get(o, "part"));
    part = MIN(part, 1.0);
    size_t filled = part > 0 ? (size_t)(part * BAR_WIDTH) : 0;
    if (!s->has_terminal)
        return;
    memset(bar, '.', BAR_WIDTH);
    memset(bar, '#', filled);
    bar[BAR_WIDTH] = '\0';
    clear_bar(s);
    fprintf(s->call->err,
            "[%s] %3.0f %%  %" PRId64 "/%" PRId64 " addresses, %" PRId64 " up, %" PRId64
            " ports open",
            bar, part * 100, number(o, "done"), number(o, "addresses"), number(o, "up"),
            number(o, "open_ports"));
    fflush(s->call->err);
    s->has_bar = true;
}

/* ---- hosts ---- */

/* What a table shows instead of lists and numbers. */
static void add_texts(json_t *host)
{
    CLEANUP(buf_done) struct buf ports = {0};
    CLEANUP(buf_done) struct buf rtt = {0};
    const json_t *list = json_object_get(host, "ports"), *ms = json_object_get(host, "rtt_ms");
    for (size_t i = 0; i < json_array_size(list); i++)
        buf_printf(&ports, "%s%" PRId64, i ? "," : "", number(json_array_get(list, i), "port"));
    if (ms)
        buf_printf(&rtt, "%.1f ms", json_number_value(ms));
    json_object_set_new(host, "listed", json_string(buf_text(&ports)));
    json_object_set_new(host, "rtt", json_string(buf_text(&rtt)));
}

static int show_row(struct scan *s, json_t *host)
{
    json_t *one = json_array();
    add_texts(host);
    json_array_append(one, host);
    int rc = output_rows(&s->output, &view, one, &s->widths);
    json_decref(one);
    return rc;
}

static int show_host(struct scan *s, json_t *host)
{
    const char *address = json_string_value(json_object_get(host, "address"));
    clear_bar(s);
    if (s->output.is_quiet) {
        CLEANUP(buf_done) struct buf safe = {0};
        output_put_safe(&safe, address ? address : "");
        fprintf(s->output.file, "%s\n", buf_text(&safe));
        return fflush(s->output.file) == 0 ? 0 : ERR_IO;
    }
    return s->output.format == OUTPUT_TABLE ? show_row(s, host) : output_item(&s->output, host);
}

static int on_event(void *arg, const struct http_event *e)
{
    struct scan *s = arg;
    json_t *o = json_loads(e->data, 0, NULL);
    int rc = 0;
    if (json_is_object(o) && strcmp(e->event, "host") == 0) {
        rc = show_host(s, o);
    } else if (json_is_object(o) && strcmp(e->event, "progress") == 0) {
        show_bar(s, o);
    } else if (json_is_object(o) && strcmp(e->event, "end") == 0) {
        s->end = json_incref(o);
        rc = OVER;
    }
    json_decref(o);
    return rc;
}

/* ---- the whole ---- */

static void tell_summary(struct scan *s)
{
    const json_t *o = s->end;
    CLEANUP(buf_done) struct buf denied = {0};
    if (number(o, "denied"))
        buf_printf(&denied, "; %" PRId64 " outside what the agent's owner allows",
                   number(o, "denied"));
    fprintf(s->call->err,
            "%" PRId64 " addresses, %" PRId64 " up, %" PRId64 " ports open, in %.1f s%s\n",
            number(o, "addresses"), number(o, "up"), number(o, "open_ports"),
            (double)number(o, "elapsed_ms") / 1000, buf_text(&denied));
}

static json_t *request_of(const struct call *c)
{
    json_t *o = json_object(), *addresses = json_array();
    for (size_t i = 1; i < c->n_args; i++)
        json_array_append_new(addresses, json_string(c->args[i]));
    json_object_set_new(o, "addresses", addresses);
    if (call_is_given(c, "--ports"))
        json_object_set_new(o, "ports", json_string(call_text(c, "--ports")));
    if (call_is_given(c, "--snmp"))
        json_object_set_new(o, "snmp", json_pack("{s:s}", "community", call_text(c, "--snmp")));
    if (call_is_given(c, "--rate"))
        json_object_set_new(o, "rate", json_integer(call_int(c, "--rate", 0)));
    if (call_is_given(c, "--timeout"))
        json_object_set_new(o, "timeout", json_string(call_text(c, "--timeout")));
    return o;
}

static int finish(struct scan *s, struct remote *r, int rc, const struct diag *d)
{
    const char *error = json_string_value(json_object_get(s->end, "error"));
    clear_bar(s);
    if (ferror(s->output.file))
        return call_fail(s->call, ERR_IO, NULL, "cannot write the output");
    if (rc < 0)
        return remote_fail(r, "scan", d);
    if (!s->end)
        return call_fail(s->call, ERR_CLOSED, NULL,
                         "the hub ended the scan before it was complete");
    if (error)
        return call_fail(s->call, ERR_UNAVAILABLE, "what was found until then is shown", "%s",
                         error);
    tell_summary(s);
    return 0;
}

static int run_scan(struct call *c)
{
    CLEANUP(remote_free) struct remote *r = NULL;
    TRY(remote_open(c, &r));
    CLEANUP(mem_free) char *path = remote_path("networks", c->args[0], "/scans");
    struct scan s = {.call = c, .output = output_of(c, NULL)};
    struct diag d = {0};
    s.has_terminal = isatty(fileno(c->err));
    s.widths.columns[0] = ADDRESS_AT;
    int rc = remote_stream(r, path, request_of(c), on_event, &s, &d);
    rc = finish(&s, r, rc, &d);
    json_decref(s.end);
    return rc;
}

static const struct flag_row rows_of_flags[] = {
    {"--ports", 'p', FLAG_TEXT, "LIST",
     "TCP ports to be tried on each host that is there, such as 22,80,8000-8100.", NULL, NULL,
     CANDIDATES_NONE, false},
    {"--snmp", 0, FLAG_TEXT, "COMMUNITY",
     "Ask each address by SNMP v2c for its name and description.", NULL, NULL, CANDIDATES_NONE,
     false},
    {"--rate", 0, FLAG_INT, "N", "Probes a second, at most 20000; 2000 unless given.", NULL, NULL,
     CANDIDATES_NONE, false},
    {"--timeout", 0, FLAG_DURATION, "TIME",
     "How long an answer may take; 1500ms unless given, in which a SYN is sent twice.", NULL, NULL,
     CANDIDATES_NONE, false},
};
static const struct flag_set scan_flags = {"Options", rows_of_flags, ARRAY_SIZE(rows_of_flags)};

static const struct command rows[] = {
    {.words = "scan",
     .summary = "Has an agent find out who is there in a network.",
     .run = run_scan,
     .args = "NETWORK CIDR...",
     .min_args = 2,
     .max_args = ARGS_ANY,
     .arg_candidates = CANDIDATES_NETWORK,
     .flags = REMOTE_FLAGS(&scan_flags),
     .details =
         "One agent of the network asks each address by itself, so that the way to it costs "
         "nothing: by ICMP echo where its system permits, by TCP and UDP, and by what its kernel "
         "knows of its neighbours. Hosts that are there are printed as they are found; with -o "
         "json one object a line. At most 65,536 addresses at once.\n\n"
         "The ceiling of the agent's owner counts for every probe. Who scanned what is in the "
         "audit (\"warren audit list\"). Ctrl-C ends the scan at the agent, too.",
     .examples = "warren scan plant 10.0.0.0/22\n"
                 "warren scan plant 10.0.0.0/24 10.1.0.17 --ports 22,80,443,8000-8100\n"
                 "warren scan plant 10.0.0.0/24 --snmp public -o json | jq -r .snmp.name"},
};
const struct command_set scan_commands = {rows, ARRAY_SIZE(rows)};
