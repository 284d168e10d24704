/*
 * warren mount: a program with a customer's network under it.
 *
 * The program's place is made first, while this process has one thread, and waits; once the hub has
 * let us in, it goes.
 */
#include "cli/commands.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "cli/remote.h"
#include "cli/uplink.h"
#include "loop/io.h"
#include "mount/mount.h"
#include "mount/space.h"
#include "wire/read_ahead.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define STOP_TURNS 10000
#define HEADERS    MOUNT_HEADERS_MAX

struct session {
    struct call *call;
    struct loop *loop;
    struct uplink *uplink;
    struct space space;
    struct io child;
    struct mount *mount;
    struct h2_header headers[HEADERS];
    bool has_started, has_ended; /* the program */
};

static struct h2conn *pick(void *arg)
{
    return uplink_pick(((struct session *)arg)->uplink);
}

static void on_child(struct io *io)
{
    if (io->readable)
        container_of(io, struct session, child)->has_ended = true;
}

static void on_state(void *arg)
{
    struct session *s = arg;
    enum uplink_state state = uplink_state(s->uplink);
    if (state == UPLINK_UP && !s->has_started) {
        s->has_started = true;
        space_go(&s->space);
    }
    if (state == UPLINK_DOWN)
        fprintf(s->call->err, "%s: %s; trying again\n", s->call->program->name,
                diag_text(uplink_reason(s->uplink)));
}

/* The terminal's Ctrl-C reaches the program itself; what it does about it decides. */
static void on_interrupt(void *arg, int signum)
{
    struct session *s = arg;
    if (!s->has_started || signum == SIGTERM)
        kill(s->space.pid, signum);
}

static uint32_t read_ahead_ttl(const struct call *c)
{
    int64_t ttl_ms = call_duration_ms(c, "--read-ahead-ttl", READ_AHEAD_TTL_MS);
    return call_is_given(c, "--no-read-ahead") ? 0 : (uint32_t)MIN(ttl_ms, READ_AHEAD_TTL_MAX_MS);
}

static int start(struct session *s, struct remote *r)
{
    const struct uplink_config up = {.loop = s->loop,
                                     .http = remote_http(r),
                                     .network = s->call->args[0],
                                     .stream_window_max = MOUNT_STREAM_WINDOW_MAX,
                                     .on_state = on_state,
                                     .arg = s};
    struct diag d = {0};
    size_t n;
    if (uplink_new(&up, &s->uplink, &d) < 0)
        return call_fail(s->call, d.code, NULL, "%s", diag_text(&d));
    const struct h2_header *headers = uplink_headers(s->uplink, &n);
    for (size_t i = 0; i < n; i++)
        s->headers[i] = headers[i];
    s->headers[n] = (struct h2_header){"warren-scope", "network"};
    const struct mount_uplink uplink = {.conn = pick,
                                        .arg = s,
                                        .headers = s->headers,
                                        .n_headers = n + 1,
                                        .authority = uplink_hub(s->uplink),
                                        .read_ahead_ttl_ms = read_ahead_ttl(s->call)};
    int rc = io_start(&s->child, s->loop, s->space.pidfd, on_child);
    if (rc == 0)
        rc = mount_start(s->loop, s->space.tun, &uplink, &s->mount);
    return rc < 0 ? call_fail(s->call, rc, NULL, "the mount cannot start: %s", error_text(rc)) : 0;
}

static int run_until_over(struct session *s)
{
    loop_on_signal(s->loop, SIGINT, on_interrupt, s);
    loop_on_signal(s->loop, SIGTERM, on_interrupt, s);
    while (!s->has_ended && uplink_state(s->uplink) != UPLINK_REFUSED)
        loop_turn(s->loop, true);
    if (s->has_ended)
        return 0;
    return call_fail(s->call, uplink_reason(s->uplink)->code, NULL, "the hub refuses: %s",
                     diag_text(uplink_reason(s->uplink)));
}

static void stop(struct session *s)
{
    mount_stop(s->mount);
    if (s->uplink)
        uplink_close(s->uplink);
    for (int i = 0; s->uplink && !uplink_is_idle(s->uplink) && i < STOP_TURNS; i++)
        loop_turn(s->loop, false);
    io_stop(&s->child);
    if (s->uplink)
        uplink_free(s->uplink);
    loop_settle(s->loop);
    loop_free(s->loop);
}

static int run_mount(struct call *c)
{
    CLEANUP(remote_free) struct remote *r = NULL;
    struct session s = {.call = c, .child.fd = -1};
    CLEANUP(mem_free) char **argv = mem_new(c->n_args * sizeof(*argv));
    struct diag d = {0};
    for (size_t i = 1; i < c->n_args; i++)
        argv[i - 1] = (char *)c->args[i];
    const struct space_config place = {.argv = argv,
                                       .has_v6 = call_is_given(c, "--ipv6"),
                                       .as_root = call_is_given(c, "--root"),
                                       .resolv_conf = "nameserver " MOUNT_RESOLVER_4 "\n"};
    TRY(remote_open(c, &r));
    if (space_open(&place, &s.space, &d) < 0)
        return call_fail(c, d.code, NULL, "%s", diag_text(&d));
    int rc = loop_new(&s.loop);
    if (rc == 0)
        rc = start(&s, r);
    if (rc == 0)
        rc = run_until_over(&s);
    if (s.loop)
        stop(&s);
    int status = space_wait(&s.space);
    return rc < 0 ? rc : status;
}

static const struct flag_row rows_of_flags[] = {
    {"--ipv6", '6', FLAG_SWITCH, NULL, "The network can do IPv6: give the program a route to it.",
     NULL, NULL, CANDIDATES_NONE, false},
    {"--root", 'r', FLAG_SWITCH, NULL,
     "Let the program see itself as uid 0, as nmap asks for; it gains no right outside its "
     "namespaces.",
     NULL, NULL, CANDIDATES_NONE, false},
    {"--no-read-ahead", '\0', FLAG_SWITCH, NULL,
     "Let each request of an SNMP walk cross the distance by itself.", NULL, NULL, CANDIDATES_NONE,
     false},
    {"--read-ahead-ttl", '\0', FLAG_DURATION, "TIME",
     "How old an answer may be that was read ahead of an SNMP walk; 2s if not given, 1m at most.",
     NULL, NULL, CANDIDATES_NONE, false},
};
static const struct flag_set mount_flags = {"Options", rows_of_flags, ARRAY_SIZE(rows_of_flags)};

static const struct command rows[] = {
    {.words = "mount",
     .summary = "Runs a program as if it stood in a network.",
     .run = run_mount,
     .args = "NETWORK -- COMMAND [ARGUMENT]...",
     .min_args = 2,
     .max_args = ARGS_ANY,
     .arg_candidates = CANDIDATES_NETWORK,
     .flags = {&mount_flags, &remote_flags},
     .details =
         "The program gets a network namespace of its own, whose only way out leads to the agents "
         "of the network. What it connects to answers as it answers the agent: accepted, refused, "
         "unreachable, or silent. Names are asked of the name server of the agent's machine (which "
         "an "
         "agent with a ceiling must permit). TCP and UDP pass; ping does not yet.\n\n"
         "No root is needed where users may make user namespaces and open /dev/net/tun. The "
         "command ends with the program, and with its exit status.",
     .examples = "warren mount plant -- snmpwalk -v2c -c public 10.0.0.17\n"
                 "warren mount plant -- ssh admin@10.0.0.5\n"
                 "warren mount plant --root -- nmap -sT 10.0.0.0/24"},
};
const struct command_set mount_commands = {rows, ARRAY_SIZE(rows)};
