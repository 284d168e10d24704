#include "agent/settings.h"

#include "base/error.h"
#include "base/macro.h"

#include <assert.h>
#include <string.h>

static const char *const log_levels[] = {"debug", "info", "warn", "error", NULL};
static const char *const log_formats[] = {"text", "json", NULL};
static_assert(ARRAY_SIZE(log_levels) == LOG_LEVEL_COUNT + 1, "a name for each level");

static int check_hub(const char *item, struct diag *d)
{
    if (strncmp(item, "https://", 8) != 0 || !item[8])
        return diag_set(d, ERR_INVALID,
                        "'%.100s' is not the URL of a hub, such as "
                        "https://hub.example:8443",
                        item);
    return 0;
}

static int check_allow(const char *item, struct diag *d)
{
    struct addr_rule rule;
    return addr_rule_parse(item, &rule, d);
}

#define AT(member) offsetof(struct agent_settings, member)

static const struct conf_row rows[] = {
    {"data", CONF_PATH, AT(data), AGENT_DATA, "WARREN_AGENT_DATA", "--data", "DIR",
     "Folder of the key, the certificate and the state."},
    {"hub", CONF_LIST, AT(hubs), NULL, "WARREN_AGENT_HUB", "--hub", "URL",
     "Hubs to dial, in this order; none means the one it enrolled at.", .check = check_hub},
    {"allow", CONF_LIST, AT(allow), NULL, "WARREN_AGENT_ALLOW", "--allow", "CIDR[:PORTS]",
     "What a hub may reach through this agent, whatever it asks for; none means everything.",
     CONF_RELOADABLE, .check = check_allow},
    {"fixed_hubs", CONF_BOOL, AT(fixed_hubs), "false", "WARREN_AGENT_FIXED_HUBS", "--fixed-hubs",
     NULL,
     "Dials only the hubs that are set, or that it enrolled at, and not those that the cluster "
     "tells "
     "of."},
    {"no_discovery", CONF_BOOL, AT(no_discovery), "false", "WARREN_AGENT_NO_DISCOVERY",
     "--no-discovery", NULL,
     "Does not look for other agents on its LANs, nor answer them (multicast DNS)."},
    {"no_read_ahead", CONF_BOOL, AT(no_read_ahead), "false", "WARREN_AGENT_NO_READ_AHEAD",
     "--no-read-ahead", NULL,
     "Asks SNMP devices nothing but what programs in mounts have asked, so that walks wait for the "
     "distance."},
    {"log_level", CONF_ENUM, AT(log_level), "info", "WARREN_AGENT_LOG_LEVEL", "--log-level",
     "LEVEL", "Least severe events that are logged.", CONF_RELOADABLE, .choices = log_levels},
    {"log_format", CONF_ENUM, AT(log_format), "text", "WARREN_AGENT_LOG_FORMAT", "--log-format",
     "FORMAT", "How log lines are written.", CONF_RELOADABLE, .choices = log_formats},
    {"drain_grace", CONF_DURATION, AT(drain_grace_ms), "5s", "WARREN_AGENT_DRAIN_GRACE",
     "--drain-grace", "TIME", "How long open streams may finish after SIGTERM.", CONF_RELOADABLE,
     .min = 0, .max = 3600000},
};

const struct conf_table agent_conf_table = {rows, ARRAY_SIZE(rows), sizeof(struct agent_settings)};
