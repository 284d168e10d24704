/*
 * A running mount as the command line has it: the space and its program, the connection to the hub,
 * the tunnel's lease, the names of agents, and who asks how it goes. Everything on one loop.
 */
#pragma once

#include "cli/command.h"
#include "cli/mount_agents.h"
#include "cli/mount_attach.h"
#include "cli/mount_control.h"
#include "cli/mount_netns.h"
#include "cli/uplink.h"
#include "loop/io.h"
#include "loop/notify.h"
#include "mount/mount.h"
#include "mount/space.h"

#define MOUNT_ALLOW_MAX  16
#define MOUNT_SCOPE_SIZE (MOUNT_ALLOW_MAX * ADDR_TEXT_SIZE)

/* What the command line asks for. */
struct mount_plan {
    const char *network;
    char *const *argv; /* NULL: a lasting mount */
    char name[CONTROL_NAME_SIZE];
    const char *netns;                  /* NULL: none */
    const char *allow[MOUNT_ALLOW_MAX]; /* CIDRs, as the hub writes them */
    size_t n_allow;
    char allow_text[MOUNT_ALLOW_MAX][ADDR_TEXT_SIZE];
    char scope[MOUNT_SCOPE_SIZE]; /* the header warren-scope */
    bool has_v6, as_root, has_names, is_detached;
    uint32_t read_ahead_ttl_ms; /* 0: nothing is read ahead */
    int64_t timeout_ms;         /* for an agent to serve it; 0: no end */
};

struct mount_session {
    struct call *call;
    const struct mount_plan *plan;
    int64_t started; /* wall ms */
    struct loop *loop;
    struct uplink *uplink;
    struct attach attach;
    struct mount_agents *agents;
    struct control *control;
    struct mount *mount;
    struct mount_names names;
    struct space space;
    struct netns netns;
    struct io child;
    struct timer deadline, patience;
    struct notify notify;
    struct h2_header headers[MOUNT_HEADERS_MAX];
    size_t n_headers;
    int parent; /* of a detached mount: to be told that it runs; -1: nobody waits */
    int signum; /* that ended it before the program began; 0: none */
    int err;    /* why it ends; the call's diagnosis says it */
    bool is_ready, is_over, is_line, is_told;
    char served_by[64]; /* as was told last */
};

/* Runs a mount until it ends; takes `control_fd` (control_listen). 0 or a negative code with the
 * call's diagnosis; *ret_status is the program's end as of waitpid(2). */
int mount_session_run(struct call *c, const struct mount_plan *plan, int control_fd, int parent,
                      int *ret_status);

/* ---- mount_show.c: what its user sees ---- */

void mount_show_waiting(struct mount_session *s); /* not served (yet, or any more), and why */
void mount_show_served(struct mount_session *s);
void mount_show_hub(struct mount_session *s); /* the uplink's state or reason is another one */
void mount_show_note(struct mount_session *s, const char *text);
json_t *mount_status_json(const struct mount_session *s);
