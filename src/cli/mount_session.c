/*
 *   the space is made, while this process has one thread; its program waits
 *     │  connected, an agent holds the lease, the agents' names are there
 *   the program goes, or the mount is told to be ready
 *     │  the program ends; or a signal, "stop", a refusal of the hub
 *   everything is closed; the space is ended; its names are taken away
 */
#include "cli/mount_session.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/time.h"
#include "cli/remote.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define STOP_TURNS  10000
#define PATIENCE_MS 300 /* before a wait is shown */

static struct h2conn *pick(void *arg)
{
    return uplink_pick(((struct mount_session *)arg)->uplink);
}

/* ---- ready ---- */

/* From here on nobody reads what it says but those who ask. */
static void tell_parent(struct mount_session *s)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    prctl(PR_SET_PDEATHSIG, 0);
    for (int fd = 0; fd <= STDERR_FILENO && null >= 0; fd++)
        dup2(null, fd);
    close(null);
    (void)!write(s->parent, "", 1);
    close(s->parent);
    s->parent = -1;
}

static void start_if_ready(struct mount_session *s)
{
    if (s->is_ready || !attach_is_up(&s->attach) || !mount_agents_are_known(s->agents))
        return;
    s->is_ready = true;
    timer_stop(&s->deadline);
    timer_stop(&s->patience);
    mount_show_served(s);
    if (s->parent >= 0)
        tell_parent(s);
    notify_ready(&s->notify);
    space_go(&s->space);
}

static void on_attach(void *arg)
{
    struct mount_session *s = arg;
    bool is_up = attach_is_up(&s->attach);
    if (is_up)
        mount_agents_ask(s->agents);
    else if (s->is_ready || !timer_is_running(&s->patience))
        mount_show_waiting(s);
    start_if_ready(s);
}

static void on_agents(void *arg)
{
    struct mount_session *s = arg;
    start_if_ready(s);
    if (s->is_ready && attach_is_up(&s->attach))
        mount_show_served(s);
}

static void on_patience(struct timer *t)
{
    mount_show_waiting(container_of(t, struct mount_session, patience));
}

static void on_deadline(struct timer *t)
{
    struct mount_session *s = container_of(t, struct mount_session, deadline);
    int err = attach_error(&s->attach);
    s->is_over = true;
    s->err = call_fail(s->call, ERR_TIMEOUT, "\"warren agent list\" shows which agents are online",
                       "no agent of '%.64s' serves the mount: %s", s->plan->network,
                       uplink_state(s->uplink) != UPLINK_UP ? diag_text(uplink_reason(s->uplink))
                       : err                                ? error_text(err)
                                                            : "none answered in time");
}

/* ---- what happens ---- */

static void on_uplink(void *arg)
{
    struct mount_session *s = arg;
    if (uplink_state(s->uplink) == UPLINK_REFUSED) {
        s->is_over = true;
        s->err = call_fail(s->call, uplink_reason(s->uplink)->code, NULL, "the hub refuses: %s",
                           diag_text(uplink_reason(s->uplink)));
    } else {
        mount_show_hub(s);
    }
}

static void on_note(void *arg, const char *text)
{
    mount_show_note(arg, text);
}

static void on_child(struct io *io)
{
    struct mount_session *s = container_of(io, struct mount_session, child);
    if (!io->readable || s->is_over)
        return;
    s->is_over = true;
    if (!s->plan->argv)
        s->err =
            call_fail(s->call, ERR_CLOSED, NULL, "the mount's process %d was killed", s->space.pid);
}

/* Ctrl-C is the terminal's word to the program itself, which decides what to do about it. */
static void on_signal(void *arg, int signum)
{
    struct mount_session *s = arg;
    bool is_keyboard =
        (signum == SIGINT || signum == SIGQUIT) && tcgetpgrp(STDIN_FILENO) == getpgrp();
    if (s->is_ready && s->plan->argv) {
        if (!is_keyboard)
            space_signal(&s->space, signum);
        return;
    }
    s->is_over = true;
    if (!s->is_ready)
        s->signum = signum;
}

static json_t *status(void *arg)
{
    return mount_status_json(arg);
}

static void stop_asked(void *arg)
{
    struct mount_session *s = arg;
    s->is_over = true;
}

static int process(void *arg)
{
    return ((struct mount_session *)arg)->space.pidfd;
}

static const struct control_ops control_callbacks = {
    .status = status, .stop = stop_asked, .process = process};

/* ---- start ---- */

static void make_headers(struct mount_session *s)
{
    size_t n;
    const struct h2_header *headers = uplink_headers(s->uplink, &n);
    for (size_t i = 0; i < n; i++)
        s->headers[i] = headers[i];
    s->headers[n] = (struct h2_header){"warren-scope", s->plan->scope};
    s->n_headers = n + 1;
}

static int start_network(struct mount_session *s, const struct http_client_config *http,
                         struct diag *d)
{
    const struct uplink_config up = {.loop = s->loop,
                                     .http = http,
                                     .network = s->plan->network,
                                     .stream_window = MOUNT_STREAM_WINDOW,
                                     .stream_window_max = MOUNT_STREAM_WINDOW_MAX,
                                     .on_state = on_uplink,
                                     .arg = s};
    const struct mount_agents_config agents = {.loop = s->loop,
                                               .http = http,
                                               .network = s->plan->network,
                                               .scope = s->plan->scope,
                                               .on_change = on_agents,
                                               .arg = s};
    TRY(uplink_new(&up, &s->uplink, d));
    TRY(mount_agents_new(&agents, &s->agents, d));
    make_headers(s);
    const struct attach_config attach = {.loop = s->loop,
                                         .uplink = s->uplink,
                                         .headers = s->headers,
                                         .n_headers = s->n_headers,
                                         .on_change = on_attach,
                                         .arg = s};
    attach_start(&s->attach, &attach);
    mount_agents_ask(s->agents);
    return 0;
}

static int start_mount(struct mount_session *s, struct diag *d)
{
    s->names = (struct mount_names){mount_agents_find, s->agents, !s->plan->has_names};
    const struct mount_uplink uplink = {.conn = pick,
                                        .arg = s,
                                        .headers = s->headers,
                                        .n_headers = s->n_headers,
                                        .authority = uplink_hub(s->uplink),
                                        .names = &s->names,
                                        .read_ahead_ttl_ms = s->plan->read_ahead_ttl_ms,
                                        .note = on_note};
    int tun = s->space.tun;
    s->space.tun = -1;
    int rc = mount_start(s->loop, tun, &uplink, &s->mount);
    return rc < 0 ? diag_set(d, rc, "the mount cannot start: %s", error_text(rc)) : 0;
}

static int start(struct mount_session *s, const struct remote *r, int *control_fd)
{
    struct diag d = {0};
    timer_init(&s->deadline, s->loop, on_deadline);
    timer_init(&s->patience, s->loop, on_patience);
    notify_init(&s->notify, s->loop);
    int rc = control_start(s->loop, *control_fd, &control_callbacks, s, &s->control);
    *control_fd = -1;
    if (rc == 0)
        rc = io_start(&s->child, s->loop, s->space.pidfd, on_child);
    if (rc == 0)
        rc = start_network(s, remote_http(r), &d);
    if (rc == 0)
        rc = start_mount(s, &d);
    if (rc < 0)
        return call_fail(s->call, rc, NULL, "%s", d.code ? diag_text(&d) : error_text(rc));
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
    for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
        loop_on_signal(s->loop, signals[i], on_signal, s);
    if (s->plan->timeout_ms)
        timer_start(&s->deadline, (uint64_t)s->plan->timeout_ms);
    timer_start(&s->patience, PATIENCE_MS);
    return 0;
}

/* ---- end ---- */

static bool is_idle(const struct mount_session *s)
{
    return (!s->uplink || uplink_is_idle(s->uplink)) &&
           (!s->agents || mount_agents_is_idle(s->agents));
}

static void stop(struct mount_session *s)
{
    timer_stop(&s->deadline);
    timer_stop(&s->patience);
    notify_stopping(&s->notify);
    control_stop(s->control);
    io_stop(&s->child);
    mount_stop(s->mount);
    if (s->uplink) {
        attach_stop(&s->attach);
        uplink_close(s->uplink);
    }
    if (s->agents)
        mount_agents_stop(s->agents);
    for (int i = 0; !is_idle(s) && i < STOP_TURNS; i++)
        loop_turn(s->loop, false);
    if (s->uplink)
        uplink_free(s->uplink);
    mount_agents_free(s->agents);
    notify_done(&s->notify);
    loop_settle(s->loop);
}

static int open_space(struct mount_session *s)
{
    const struct mount_plan *plan = s->plan;
    static const char names[] = "nameserver " MOUNT_RESOLVER_4 "\n";
    const struct space_config place = {.argv = plan->argv,
                                       .has_v6 = plan->has_v6,
                                       .as_root = plan->as_root,
                                       .routes = plan->n_allow ? plan->allow : NULL,
                                       .n_routes = plan->n_allow,
                                       .resolv_conf = names};
    struct diag d = {0};
    if (space_open(&place, &s->space, &d) < 0)
        return call_fail(s->call, d.code, NULL, "%s", diag_text(&d));
    if (plan->netns && netns_make(&s->netns, plan->netns, s->space.pid, names, &d) < 0) {
        close(s->space.tun);
        space_wait(&s->space);
        return call_fail(s->call, d.code, NULL, "%s", diag_text(&d));
    }
    return 0;
}

int mount_session_run(struct call *c, const struct mount_plan *plan, int control_fd, int parent,
                      int *ret_status)
{
    CLEANUP(remote_free) struct remote *r = NULL;
    struct mount_session s = {.call = c,
                              .plan = plan,
                              .started = time_wall_ms(),
                              .child.fd = -1,
                              .notify.fd = -1,
                              .parent = parent};
    int rc = open_space(&s);
    if (rc < 0) {
        close(control_fd);
        return rc;
    }
    rc = remote_open(c, &r); /* not before: the space's process 1 is a copy of us as we were */
    if (rc == 0)
        rc = loop_new(&s.loop);
    if (rc == 0)
        rc = start(&s, r, &control_fd);
    while (rc == 0 && !s.is_over)
        loop_turn(s.loop, true);
    if (s.loop)
        stop(&s);
    if (control_fd >= 0)
        close(control_fd);
    if (s.space.tun >= 0)
        close(s.space.tun);
    bool was_ready = s.is_ready;
    *ret_status = space_wait(&s.space);
    netns_remove(&s.netns);
    control_free(s.control);
    if (s.loop)
        loop_free(s.loop);
    if (s.signum)
        *ret_status = s.signum;
    else if (was_ready && !plan->argv)
        *ret_status = 0;
    return rc < 0 ? rc : s.err;
}
