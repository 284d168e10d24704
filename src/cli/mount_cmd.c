/*
 * warren mount: programs with a customer's network under them.
 */
#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/text.h"
#include "cli/commands.h"
#include "cli/mount_session.h"
#include "cli/object_cmd.h"
#include "cli/remote.h"
#include "wire/read_ahead.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- what is asked for ---- */

static int read_allow(struct call *c, struct mount_plan *plan)
{
    const char *cidr;
    size_t at = 0;
    for (size_t i = 0; (cidr = call_item(c, "--allow", i)); i++) {
        struct addr_range range;
        if (i >= MOUNT_ALLOW_MAX)
            return call_fail(c, ERR_USAGE, NULL, "--allow: at most %d", MOUNT_ALLOW_MAX);
        if (addr_range_parse(cidr, &range) < 0)
            return call_fail(c, ERR_USAGE, NULL,
                             "--allow: '%.50s' is no address range, such as 10.0.0.0/24", cidr);
        addr_range_format(&range, plan->allow_text[i]);
        plan->allow[plan->n_allow++] = plan->allow_text[i];
        plan->has_v6 |= strchr(cidr, ':') != NULL;
        at += (size_t)snprintf(plan->scope + at, sizeof(plan->scope) - at, "%s%s", i ? "," : "",
                               plan->allow_text[i]);
    }
    if (!plan->n_allow)
        snprintf(plan->scope, sizeof(plan->scope), "network");
    plan->has_names = !plan->n_allow || call_is_given(c, "--dns");
    return 0;
}

/* One that nobody named is called by its network and process. */
static int read_name(struct call *c, struct mount_plan *plan)
{
    const char *name = call_text(c, "--name");
    plan->netns = call_text(c, "--netns");
    plan->is_detached = call_is_given(c, "--detach");
    if (name && !text_is_name(name))
        return call_fail(c, ERR_USAGE, NULL,
                         "--name: '%.64s' is no name: small letters, digits and '-'", name);
    if (plan->netns && !netns_name_is_good(plan->netns))
        return call_fail(c, ERR_USAGE, NULL, "--netns: '%.64s' is no name", plan->netns);
    if (!plan->argv && !name && !plan->netns)
        return call_fail(c, ERR_USAGE, "a mount without one needs --name or --netns",
                         "COMMAND is missing");
    if (plan->argv && plan->is_detached)
        return call_fail(c, ERR_USAGE, "detach it, then: warren mount exec NAME -- COMMAND",
                         "--detach is for a mount without a COMMAND");
    if (!name && plan->netns && text_is_name(plan->netns))
        name = plan->netns;
    if (name)
        snprintf(plan->name, sizeof(plan->name), "%s", name);
    else
        snprintf(plan->name, sizeof(plan->name), "%.40s-%d",
                 text_is_name(plan->network) ? plan->network : "mount", (int)getpid());
    return 0;
}

static uint32_t read_ahead_ttl(const struct call *c)
{
    int64_t ttl_ms = call_duration_ms(c, "--read-ahead-ttl", READ_AHEAD_TTL_MS);
    return call_is_given(c, "--no-read-ahead") ? 0 : (uint32_t)MIN(ttl_ms, READ_AHEAD_TTL_MAX_MS);
}

/* ---- ends ---- */

/* As the program ended: also by its signal, so that whoever waits for us can tell. */
static int end_as(int status)
{
    if (WIFSIGNALED(status)) {
        const struct rlimit none = {0};
        setrlimit(RLIMIT_CORE, &none);
        signal(WTERMSIG(status), SIG_DFL);
        raise(WTERMSIG(status));
    }
    return space_exit_code(status);
}

/* ---- detached ---- */

/* Waits until the mount serves, or has said why not: then its exit code is ours. */
static int wait_for_child(pid_t pid, int from)
{
    char ready;
    int status = 0;
    if (read(from, &ready, 1) == 1)
        return 0;
    waitpid(pid, &status, 0);
    return space_exit_code(status);
}

/* In the child: 0, and *ret_parent is who waits; in the parent the (positive) pid. */
static int detach(struct call *c, int *ret_parent, int *ret_child)
{
    int ends[2];
    pid_t parent = getpid();
    if (pipe2(ends, O_CLOEXEC) < 0)
        return call_fail(c, ERR_LIMIT, NULL, "cannot make a pipe");
    pid_t pid = fork();
    if (pid != 0) {
        close(ends[1]);
        *ret_child = ends[0];
        return pid < 0 ? call_fail(c, ERR_LIMIT, NULL, "cannot start a process") : pid;
    }
    close(ends[0]);
    setsid();
    (void)!chdir("/");
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* until it serves */
    if (getppid() != parent)
        _exit(0);
    *ret_parent = ends[1];
    return 0;
}

static int run_plan(struct call *c, const struct mount_plan *plan)
{
    struct diag d = {0};
    int control, parent = -1, from = -1, status = 0;
    if (control_listen(plan->name, &control, &d) < 0)
        return call_fail(c, d.code, "\"warren mount list\" shows what runs", "%s", diag_text(&d));
    if (plan->is_detached) {
        int pid = detach(c, &parent, &from);
        if (pid != 0)
            close(control);
        if (pid < 0)
            return pid;
        if (pid > 0)
            return wait_for_child(pid, from);
    }
    TRY(mount_session_run(c, plan, control, parent, &status));
    return end_as(status);
}

static int run_mount(struct call *c)
{
    CLEANUP(mem_free) char **argv = mem_new(c->n_args * sizeof(*argv));
    struct mount_plan plan = {.network = c->args[0],
                              .argv = c->n_args > 1 ? argv : NULL,
                              .has_v6 = call_is_given(c, "--ipv6"),
                              .as_root = call_is_given(c, "--root"),
                              .read_ahead_ttl_ms = read_ahead_ttl(c),
                              .timeout_ms = call_duration_ms(c, "--timeout", 0)};
    for (size_t i = 1; i < c->n_args; i++)
        argv[i - 1] = (char *)c->args[i];
    TRY(read_allow(c, &plan));
    TRY(read_name(c, &plan));
    return run_plan(c, &plan);
}

/* ---- those that run ---- */

static const struct column columns[] = {
    {"NAME", "name"},
    {"NETWORK", "network"},
    {"PHASE", "phase", COLUMN_PHASE},
    {"AGENT", "agent"},
    {"TCP", "flows.tcp"},
    {"UDP", "flows.udp"},
    {"UP", "bytes.up", COLUMN_BYTES},
    {"DOWN", "bytes.down", COLUMN_BYTES},
    {"PID", "pid"},
    {"STARTED", "started", COLUMN_AGE},
};
static const struct view view = {"mounts", "mount", columns, ARRAY_SIZE(columns)};

static int run_list(struct call *c)
{
    struct output o = output_of(c, NULL);
    json_t *list = control_list();
    int rc = output_list(&o, &view, list);
    json_decref(list);
    return rc;
}

static int ask(struct call *c, const char *name, const char *what, json_t **ret, int *ret_fd)
{
    struct diag d = {0};
    if (control_ask(name, what, ret, ret_fd, &d) < 0)
        return call_fail(c, d.code, "\"warren mount list\" shows what runs", "%s", diag_text(&d));
    return 0;
}

static int run_status(struct call *c)
{
    struct output o = output_of(c, NULL);
    json_t *status = NULL;
    TRY(ask(c, c->args[0], "status", &status, NULL));
    int rc = output_object(&o, status);
    json_decref(status);
    return rc;
}

static int run_stop(struct call *c)
{
    for (size_t i = 0; i < c->n_args; i++)
        TRY(ask(c, c->args[i], "stop", NULL, NULL));
    return 0;
}

static int run_exec(struct call *c)
{
    CLEANUP(mem_free) char **argv = mem_new(c->n_args * sizeof(*argv));
    struct diag d = {0};
    int pidfd = -1, status = 0;
    for (size_t i = 1; i < c->n_args; i++)
        argv[i - 1] = (char *)c->args[i];
    TRY(ask(c, c->args[0], "join", NULL, &pidfd));
    if (pidfd < 0)
        return call_fail(c, ERR_LIMIT, NULL, "the mount '%.64s' does not let us in", c->args[0]);
    int rc = space_join(pidfd, argv, &status, &d);
    close(pidfd);
    if (rc < 0)
        return call_fail(c, rc, NULL, "%s", diag_text(&d));
    _exit(end_as(status)); /* this process is in the mount: no handler of ours shall run there */
}

/* ---- rows ---- */

static const struct flag_row rows_of_flags[] = {
    {"--allow", 0, FLAG_LIST, "CIDR",
     "Only these addresses of the network, up to 16 ranges: the hub refuses all others.", NULL,
     NULL, CANDIDATES_NONE, false},
    {"--dns", 0, FLAG_SWITCH, NULL,
     "With --allow: also the names that the network's name server knows.", NULL, NULL,
     CANDIDATES_NONE, false},
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
    {"--name", 'n', FLAG_TEXT, "NAME",
     "What list, exec, status and stop know it by; without a COMMAND it lasts until it is stopped.",
     NULL, NULL, CANDIDATES_NONE, false},
    {"--detach", 'd', FLAG_SWITCH, NULL,
     "Return as soon as an agent serves the mount; it goes on by itself.", NULL, NULL,
     CANDIDATES_NONE, false},
    {"--netns", 0, FLAG_TEXT, "NAME",
     "As root: also a network namespace for \"ip netns exec NAME\" and systemd units.", NULL, NULL,
     CANDIDATES_NONE, false},
    {"--timeout", 0, FLAG_DURATION, "TIME",
     "Give up when no agent serves the mount within this time.", NULL, NULL, CANDIDATES_NONE,
     false},
};
static const struct flag_set mount_flags = {"Options", rows_of_flags, ARRAY_SIZE(rows_of_flags)};

static const struct command rows[] = {
    {.words = "mount",
     .summary = "Runs programs as if they stood in a network.",
     .run = run_mount,
     .args = "NETWORK [-- COMMAND [ARGUMENT]...]",
     .min_args = 1,
     .max_args = ARGS_ANY,
     .arg_candidates = CANDIDATES_NETWORK,
     .flags = {&mount_flags, &remote_flags},
     .details =
         "The program gets a network namespace of its own, whose only way out leads to the agents "
         "of the network. What it connects to answers as it answers the agent: accepted, refused, "
         "unreachable, or silent. Names are asked of the name server of the agent's machine; "
         "AGENT.agent is that agent's own address.\n\n"
         "It begins when an agent serves the mount; when that one goes, another one takes over, "
         "and streams that were open end. No root is needed where users may make user namespaces "
         "and open /dev/net/tun. The command ends with the program and as the program did, and "
         "nothing that was started in it survives it.\n\n"
         "With --name or --netns and no COMMAND the mount lasts: in the foreground, as for a "
         "service, or with --detach. A network that is called exec, list, status or stop is given "
         "by its id.",
     .examples = "warren mount plant -- snmpwalk -v2c -c public 10.0.0.17\n"
                 "warren mount plant -- ssh admin@a1.agent\n"
                 "warren mount plant --root -- nmap -sT 10.0.0.0/24\n"
                 "warren mount plant --allow 10.0.0.0/24 --name lab --detach\n"
                 "warren mount exec lab -- curl http://10.0.0.17/"},
    {.words = "mount exec",
     .summary = "Runs one more program in a mount that runs.",
     .run = run_exec,
     .args = "NAME -- COMMAND [ARGUMENT]...",
     .min_args = 2,
     .max_args = ARGS_ANY,
     .arg_candidates = CANDIDATES_MOUNT,
     .details = "It ends with the program and as the program did. When the mount ends, so does the "
                "program."},
    {.words = "mount list",
     .summary = "Lists the mounts of this user that run on this machine.",
     .run = run_list,
     .flags = {&output_flags}},
    {.words = "mount status",
     .summary = "Shows a mount that runs: who serves it, and what it has carried.",
     .run = run_status,
     .args = "NAME",
     .min_args = 1,
     .max_args = 1,
     .arg_candidates = CANDIDATES_MOUNT,
     .flags = {&output_flags}},
    {.words = "mount stop",
     .summary = "Stops mounts, and ends what runs in them.",
     .run = run_stop,
     .args = "NAME...",
     .min_args = 1,
     .max_args = ARGS_ANY,
     .arg_candidates = CANDIDATES_MOUNT},
};
const struct command_set mount_commands = {rows, ARRAY_SIZE(rows)};
