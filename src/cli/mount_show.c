/*
 * What the user of a mount sees: on a terminal one line while it waits, which goes when it is
 * served; then a line for each change. And its status as JSON, for those that ask.
 */
#include "cli/mount_session.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/time.h"
#include "http/rest.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *why_waiting(const struct mount_session *s)
{
    int err = attach_error(&s->attach);
    if (uplink_state(s->uplink) == UPLINK_CONNECTING)
        return "connecting to the hub";
    if (uplink_state(s->uplink) != UPLINK_UP)
        return diag_text(uplink_reason(s->uplink));
    if (err == ERR_UNAVAILABLE)
        return "none is connected";
    return err ? error_text(err) : "one is being asked";
}

static void wipe(struct mount_session *s)
{
    if (s->is_line)
        fputs("\r\x1b[K", s->call->err);
    s->is_line = false;
}

void mount_show_waiting(struct mount_session *s)
{
    FILE *err = s->call->err;
    if (s->is_told && s->is_ready)
        return;
    wipe(s);
    if (s->is_ready)
        fprintf(err, "%s: no agent of %s serves the mount; waiting for one\n",
                s->call->program->name, s->plan->network);
    else if (isatty(fileno(err)))
        s->is_line = fprintf(err, "%s: waiting for an agent of %s: %s", s->call->program->name,
                             s->plan->network, why_waiting(s)) > 0;
    else if (!s->is_told)
        fprintf(err, "%s: waiting for an agent of %s: %s\n", s->call->program->name,
                s->plan->network, why_waiting(s));
    s->is_told = true;
    fflush(err);
}

void mount_show_served(struct mount_session *s)
{
    const char *name = mount_agents_serving(s->agents);
    bool was_waiting = s->is_told;
    bool is_other = name && s->served_by[0] && strcmp(s->served_by, name) != 0;
    wipe(s);
    s->is_told = false;
    if (name && (is_other || (was_waiting && s->served_by[0])))
        fprintf(s->call->err, "%s: agent %s serves the mount now\n", s->call->program->name, name);
    if (name)
        snprintf(s->served_by, sizeof(s->served_by), "%s", name);
}

void mount_show_hub(struct mount_session *s)
{
    if (!s->is_ready || uplink_state(s->uplink) != UPLINK_DOWN)
        return;
    wipe(s);
    fprintf(s->call->err, "%s: %s; trying again\n", s->call->program->name,
            diag_text(uplink_reason(s->uplink)));
}

void mount_show_note(struct mount_session *s, const char *text)
{
    wipe(s);
    fprintf(s->call->err, "%s: %s\n", s->call->program->name, text);
}

static json_t *text_or_null(const char *text)
{
    return text && *text ? json_string(text) : json_null();
}

static json_t *list_of(const char *const *texts, size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_string(texts[i]));
    return list;
}

static json_t *command_of(const struct mount_plan *plan)
{
    size_t n = 0;
    while (plan->argv && plan->argv[n])
        n++;
    return plan->argv ? list_of((const char *const *)plan->argv, n) : json_null();
}

json_t *mount_status_json(const struct mount_session *s)
{
    const struct mount_plan *plan = s->plan;
    struct mount_stats stats = {0};
    bool is_up = s->is_ready && attach_is_up(&s->attach) && uplink_state(s->uplink) == UPLINK_UP;
    if (s->mount)
        mount_get_stats(s->mount, &stats);
    return json_pack(
        "{s:s, s:s, s:s, s:o, s:o, s:s, s:i, s:o, s:o, s:o, s:b, s:o, s:{s:I, s:I, s:I, s:I}, "
        "s:{s:I, s:I}, s:{s:I, s:I}, s:{s:I, s:I, s:I, s:I, s:I}, s:I}",
        "name", plan->name, "network", plan->network, "phase", is_up ? "active" : "waiting",
        "reason", is_up ? json_null() : json_string(why_waiting(s)), "agent",
        is_up ? text_or_null(mount_agents_serving(s->agents)) : json_null(), "hub",
        uplink_hub(s->uplink), "pid", (int)getpid(), "command", command_of(plan), "netns",
        text_or_null(plan->netns), "allow", list_of(plan->allow, plan->n_allow), "names",
        plan->has_names, "started", rest_time(s->started), "flows", "tcp",
        (json_int_t)stats.tcp_open, "udp", (json_int_t)stats.udp_open, "total",
        (json_int_t)stats.flows_total, "failed", (json_int_t)stats.dials_failed, "bytes", "up",
        (json_int_t)stats.bytes_up, "down", (json_int_t)stats.bytes_down, "read_ahead", "hits",
        (json_int_t)stats.ahead_hits, "wasted", (json_int_t)stats.ahead_wasted, "dials", "pending",
        (json_int_t)stats.dials.dials, "fullest_target", (json_int_t)stats.dials.fullest, "waiting",
        (json_int_t)stats.dials.waiting_place, "gave_way", (json_int_t)stats.dials.gave_way,
        "refused", (json_int_t)stats.dials.refused, "packets_ignored",
        (json_int_t)stats.packets_ignored);
}
