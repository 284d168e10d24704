/*
 * A data folder that was copied to a second machine: two agents with one identity. Their sessions
 * end each other in turn, or one hears the other on its LAN. Both are told in the agent's status
 * and the log until it has been quiet for a while; nothing is decided, since nobody but the owner
 * knows which of the two is the copy.
 */
#include "fleet/lan_hub.h"

#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/time.h"

#include <stdio.h>
#include <string.h>

#define ADVICE "on one of the two run: warren-agent enroll --force"

struct note {
    char agent[ID_SIZE], tenant[ID_SIZE];
    char *text;
    int64_t now;
};

static int write_note(struct tx *tx, void *arg)
{
    const struct note *n = arg;
    TRY(identity_audit(tx, n->now,
                       &(struct audit_entry){.tenant = n->tenant,
                                             .actor = "hub",
                                             .action = "agent.clone",
                                             .object = n->agent,
                                             .outcome = AUDIT_FAILED,
                                             .detail = n->text}));
    return store_publish(tx, n->tenant, "agent", n->agent, STORE_PUT);
}

static void note_written(void *arg, int err)
{
    struct note *n = arg;
    mem_free(n->text);
    mem_free(n);
}

static void seen(struct fleet *f, struct fleet_agent *a, char *text)
{
    struct fleet_lan *lan = a->lan;
    int64_t now = time_wall_ms();
    mem_free(lan->clone);
    lan->clone = text;
    lan->clone_at = now;
    if (lan->clone_told && now - lan->clone_told < LAN_CLONE_MS)
        return;
    lan->clone_told = now;
    f->lan_stats.clones++;
    LOG_ERROR("an agent's identity is in use twice", LOG_STR("agent", a->id),
              LOG_STR("name", a->name), LOG_STR("why", text));
    struct note *n = NEW(struct note);
    snprintf(n->agent, sizeof(n->agent), "%s", a->id);
    snprintf(n->tenant, sizeof(n->tenant), "%s", a->tenant);
    n->text = mem_strdup(text);
    n->now = now;
    store_run(f->cfg.store, STORE_WRITE, write_note, note_written, n);
}

void fleet_clone_login(struct fleet *f, struct fleet_agent *a, const char *instance,
                       const char *address, bool is_taking)
{
    struct fleet_lan *lan = fleet_lan_of(a);
    if (lan_lineage_login(&lan->lineage, instance, is_taking, time_wall_ms()))
        seen(
            f, a,
            mem_printf("two machines bear this identity and end each other's sessions, from %s and "
                       "%s: its data folder was copied; " ADVICE,
                       lan->clone_from, address));
    snprintf(lan->clone_from, sizeof(lan->clone_from), "%s", address);
}

void fleet_clone_on_lan(struct fleet *f, struct fleet_agent *a, const char *address)
{
    fleet_lan_of(a);
    seen(f, a,
         mem_printf("another machine at %s on its LAN bears this identity: its data folder was "
                    "copied; " ADVICE,
                    address));
}

const char *fleet_clone_reason(const struct fleet_agent *a)
{
    const struct fleet_lan *lan = a->lan;
    return lan && lan->clone && time_wall_ms() - lan->clone_at < LAN_CLONE_MS ? lan->clone : NULL;
}
