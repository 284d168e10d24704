/*
 * warren forward, warren proxy: services of a network as ports of this machine.
 */
#include "cli/commands.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/text.h"
#include "cli/local.h"
#include "cli/remote.h"

#include <stdio.h>
#include <string.h>

#define FORWARDS_MAX 256

static int begin(struct call *c, struct remote *r, struct local *l)
{
    l->call = c;
    l->network = c->args[0];
    l->http = remote_http(r);
    if (loop_new(&l->loop) < 0)
        return call_fail(c, ERR_LIMIT, NULL, "no event loop can be made");
    return 0;
}

/* ---- forward ---- */

/* "5432:10.0.0.5:5432", "5353:[fd00::53]:53/udp", "0:web.local:80". */
static int parse_forward(struct call *c, const char *text, uint64_t *port, bool *is_udp,
                         struct host_port *target)
{
    static const char udp[] = "/udp", tcp[] = "/tcp";
    CLEANUP(mem_free) char *copy = mem_strdup(text);
    struct diag d = {0};
    size_t len = strlen(copy);
    *is_udp = len > strlen(udp) && strcmp(copy + len - strlen(udp), udp) == 0;
    if (*is_udp || (len > strlen(tcp) && strcmp(copy + len - strlen(tcp), tcp) == 0))
        copy[len - strlen(udp)] = '\0';
    char *colon = strchr(copy, ':');
    if (!colon)
        return call_fail(c, ERR_USAGE, NULL,
                         "'%.100s' is not PORT:HOST:PORT, such as 5432:10.0.0.5:5432", text);
    *colon = '\0';
    if (text_to_u64(copy, 65535, port) < 0)
        return call_fail(c, ERR_USAGE, NULL, "'%.100s' is not PORT:HOST:PORT: '%.20s' is no port",
                         text, copy);
    if (host_port_parse(colon + 1, false, target, &d) < 0)
        return call_fail(c, ERR_USAGE, NULL, "'%.100s': %s", text, diag_text(&d));
    return 0;
}

static int open_forwards(struct call *c, struct local *l)
{
    const char *at = call_text(c, "--bind");
    for (size_t i = 1; i < c->n_args; i++) {
        struct host_port target;
        uint64_t port = 0;
        bool is_udp = false;
        TRY(parse_forward(c, c->args[i], &port, &is_udp, &target));
        TRY(local_open(l, at, (uint16_t)port, is_udp, &target));
    }
    return 0;
}

static int run_forward(struct call *c)
{
    CLEANUP(remote_free) struct remote *r = NULL;
    struct local l = {0};
    TRY(remote_open(c, &r));
    TRY(begin(c, r, &l));
    int rc = open_forwards(c, &l);
    return local_run(&l, rc);
}

/* ---- proxy ---- */

static int open_proxy(struct call *c, struct local *l)
{
    const char *users = call_text(c, "--users"), *listen = call_text(c, "--listen");
    struct host_port at;
    struct diag d = {0};
    if (users)
        TRY(local_users_read(c, users, &l->users));
    if (host_port_parse(listen, true, &at, &d) < 0)
        return call_fail(c, ERR_USAGE, NULL, "--listen: %s", diag_text(&d));
    return local_open(l, at.host, at.port, false, NULL);
}

static int run_proxy(struct call *c)
{
    CLEANUP(remote_free) struct remote *r = NULL;
    struct local l = {0};
    TRY(remote_open(c, &r));
    TRY(begin(c, r, &l));
    int rc = open_proxy(c, &l);
    return local_run(&l, rc);
}

/* ---- rows ---- */

static const char *const formats[] = {"text", "json", NULL};

static const struct flag_row output_row[] = {
    {"--output", 'o', FLAG_CHOICE, "FORMAT",
     "What standard output gets: lines to read, or an object a line.", "text", formats,
     CANDIDATES_CHOICES, false},
};
static const struct flag_set local_output = {"Output", output_row, ARRAY_SIZE(output_row)};

static const struct flag_row forward_rows[] = {
    {"--bind", 0, FLAG_TEXT, "ADDRESS", "The address of this machine to listen at.", "127.0.0.1",
     NULL, CANDIDATES_NONE, false},
};
static const struct flag_set forward_flags = {"Options", forward_rows, ARRAY_SIZE(forward_rows)};

static const struct flag_row proxy_rows[] = {
    {"--listen", 0, FLAG_TEXT, "ADDRESS:PORT", "Where to listen; port 0: any.", "127.0.0.1:1080",
     NULL, CANDIDATES_NONE, false},
    {"--users", 0, FLAG_TEXT, "FILE",
     "Only who has one of these passwords: a file with lines USER:PASSWORD.", NULL, NULL,
     CANDIDATES_FILE, false},
};
static const struct flag_set proxy_flags = {"Options", proxy_rows, ARRAY_SIZE(proxy_rows)};

#define STAYS                                                                                    \
    "It stays connected to the hub, and connects again for ever when it loses it; streams that " \
    "are open then end. On a terminal one line tells what goes on. Ctrl-C ends it."

static const struct command rows[] = {
    {.words = "forward",
     .summary = "Ports of this machine that lead to services in a network.",
     .run = run_forward,
     .args = "NETWORK PORT:HOST:PORT[/udp]...",
     .min_args = 2,
     .max_args = FORWARDS_MAX,
     .arg_candidates = CANDIDATES_NETWORK,
     .flags = {&forward_flags, &local_output, &remote_flags},
     .details = "Each PORT listens here (0: any), and its clients are connected with HOST:PORT as "
                "the agents of the network see it: names are resolved there. With /udp it takes "
                "datagrams.\n\n" STAYS,
     .examples = "warren forward plant 5432:10.0.0.5:5432 8080:web.local:80\n"
                 "warren forward plant 5353:10.0.0.5:53/udp\n"
                 "warren forward plant 8080:[fd00::5]:80 --bind ::1"},
    {.words = "proxy",
     .summary = "A SOCKS and HTTP proxy on this machine that leads into a network.",
     .run = run_proxy,
     .args = "NETWORK",
     .min_args = 1,
     .max_args = 1,
     .arg_candidates = CANDIDATES_NETWORK,
     .flags = {&proxy_flags, &local_output, &remote_flags},
     .details = "SOCKS 5 (also UDP ASSOCIATE), SOCKS 4a, HTTP CONNECT and plain HTTP requests on "
                "one port. Names are resolved in the network, so let the program pass them on: "
                "socks5h:// for curl.\n\n" STAYS,
     .examples = "warren proxy plant\n"
                 "curl -x socks5h://127.0.0.1:1080 http://10.0.0.17/\n"
                 "chromium --proxy-server=socks5://127.0.0.1:1080"},
};
const struct command_set forward_commands = {rows, ARRAY_SIZE(rows)};
