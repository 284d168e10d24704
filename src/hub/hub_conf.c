#include "hub/settings.h"

#include "base/error.h"
#include "base/macro.h"
#include "fleet/pool.h"
#include "store/store.h"

#include <assert.h>
#include <string.h>

static const char *const log_levels[] = {"debug", "info", "warn", "error", NULL};
static const char *const log_formats[] = {"text", "json", NULL};
static const char *const late_renewals[] = {"deny", "grace", "approve", NULL};
static const char *const metrics_accesses[] = {"token", "loopback", "open", NULL};
static_assert(ARRAY_SIZE(log_levels) == LOG_LEVEL_COUNT + 1, "a name for each level");
static_assert(ARRAY_SIZE(late_renewals) == LATE_RENEWAL_COUNT + 1, "a name for each policy");
static_assert(ARRAY_SIZE(metrics_accesses) == METRICS_ACCESS_COUNT + 1, "a name for each");

/* RFC 1123 labels, or the text of an IP address. */
static int check_public_name(const char *item, struct diag *d)
{
    struct addr a;
    size_t n = strlen(item);
    if (addr_parse(item, 0, &a) == 0)
        return 0;
    if (n == 0 || n > 253 || item[0] == '-' || item[0] == '.' ||
        strspn(item, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.") != n)
        return diag_set(d, ERR_INVALID, "'%.100s' is neither a host name nor an IP address", item);
    return 0;
}

/* SPIFFE-ID §2.1: lower-case letters, digits, '.', '-', '_', at most 255 bytes. */
static int check_trust_domain(const char *item, struct diag *d)
{
    size_t n = strlen(item);
    if (n == 0 || n > 255 || strspn(item, "abcdefghijklmnopqrstuvwxyz0123456789-._") != n)
        return diag_set(d, ERR_INVALID, "'%.100s' is not a trust domain, such as warren.example",
                        item);
    return 0;
}

static int check_agent_address(const char *item, struct diag *d)
{
    struct host_port at;
    return strcmp(item, "none") == 0 ? 0 : host_port_parse(item, false, &at, d);
}

static int check_proxy(const char *item, struct diag *d)
{
    struct addr_rule rule;
    TRY(addr_rule_parse(item, &rule, d));
    if (rule.n_ports)
        return diag_set(d, ERR_INVALID, "'%.100s': an address or CIDR, without ports", item);
    return 0;
}

#define AT(member) offsetof(struct hub_settings, member)

static const struct conf_row rows[] = {
    {"data", CONF_PATH, AT(data), "/var/lib/warren", "WARREN_DATA", "--data", "DIR",
     "Folder of the database, the CA and the keys; made at the first start."},
    {"db", CONF_STRING, AT(db), NULL, "WARREN_DB", "--db", "URL",
     "The database: postgres://USER@HOST/NAME?sslmode=verify-full, which several hubs share, or "
     "sqlite:PATH; without it a file in DIR.",
     .check = store_check_url},
    {"db_password_file", CONF_PATH, AT(db_password_file), NULL, "WARREN_DB_PASSWORD_FILE",
     "--db-password-file", "FILE", "Holds the password for PostgreSQL."},
    {"db_listen", CONF_STRING, AT(db_listen), NULL, "WARREN_DB_LISTEN", "--db-listen", "URL",
     "PostgreSQL without the transaction pooler that db goes through, for the one session that "
     "listens.",
     .check = store_check_url},
    {"listen", CONF_ADDR, AT(listen), "0.0.0.0:8443", "WARREN_LISTEN", "--listen", "ADDR:PORT",
     "The one TLS port for agents, users and peers."},
    {"public_name", CONF_LIST, AT(public_names), "localhost 127.0.0.1", "WARREN_PUBLIC_NAME",
     "--public-name", "NAME",
     "Host names and addresses by which agents and users reach this hub; its certificate bears "
     "them.",
     .check = check_public_name},
    {"certificates", CONF_LIST, AT(certificates), "", "WARREN_CERTIFICATES", "--certificates",
     "PATH",
     "Certificates for the names of tunnels: files, or folders as certbot and lego make them; read "
     "again when they change.",
     CONF_RELOADABLE},
    {"ca_key_file", CONF_PATH, AT(ca_key_file), NULL, "WARREN_CA_KEY_FILE", "--ca-key-file", "FILE",
     "Key under which hubs that share a database keep their CA in it; the same for each of them."},
    {"ca_passphrase_file", CONF_PATH, AT(ca_passphrase_file), NULL, "WARREN_CA_PASSPHRASE_FILE",
     "--ca-passphrase-file", "FILE",
     "Holds a passphrase in place of such a key; the variable WARREN_CA_PASSPHRASE may hold it "
     "too."},
    {"peer_address", CONF_ADDR, AT(peer_address), NULL, "WARREN_PEER_ADDRESS", "--peer-address",
     "HOST:PORT", "Where the other hubs of the cluster reach this one; as it listens, unless set."},
    {"agent_address", CONF_STRING, AT(agent_address), NULL, "WARREN_AGENT_ADDRESS",
     "--agent-address", "HOST:PORT",
     "Where agents reach this hub past any load balancer, so that they can choose among the hubs "
     "of "
     "a cluster; as other hubs do, unless set; \"none\" where they cannot.",
     .check = check_agent_address},
    {"no_shortcuts", CONF_BOOL, AT(no_shortcuts), "false", "WARREN_NO_SHORTCUTS", "--no-shortcuts",
     NULL,
     "Busy streams of this hub's clients to another hub's agents stay on their way by that hub; "
     "else "
     "the agent dials this one, at agent_address, if it can."},
    {"trust_domain", CONF_STRING, AT(trust_domain), "warren", "WARREN_TRUST_DOMAIN",
     "--trust-domain", "NAME", "SPIFFE trust domain of all identities; fixed once the CA exists.",
     .check = check_trust_domain},
    {"workers", CONF_INT, AT(workers), "0", "WARREN_WORKERS", "--workers", "N",
     "Threads that move bytes; 0 makes one for each core.", .min = 0, .max = 256},
    {"log_level", CONF_ENUM, AT(log_level), "info", "WARREN_LOG_LEVEL", "--log-level", "LEVEL",
     "Least severe events that are logged.", CONF_RELOADABLE, .choices = log_levels},
    {"log_format", CONF_ENUM, AT(log_format), "text", "WARREN_LOG_FORMAT", "--log-format", "FORMAT",
     "How log lines are written.", CONF_RELOADABLE, .choices = log_formats},
    {"cert_ttl", CONF_DURATION, AT(cert_ttl_ms), "24h", "WARREN_CERT_TTL", "--cert-ttl", "TIME",
     "Life of an agent's certificate; it is renewed at two thirds of it.", CONF_RELOADABLE,
     .min = 1000, .max = 366LL * 86400000},
    {"late_renewal", CONF_ENUM, AT(late_renewal), "grace", "WARREN_LATE_RENEWAL", "--late-renewal",
     "POLICY", "What happens to an agent whose certificate expired while it was away.",
     CONF_RELOADABLE, .choices = late_renewals},
    {"late_renewal_grace", CONF_DURATION, AT(late_renewal_grace_ms), "30d",
     "WARREN_LATE_RENEWAL_GRACE", "--late-renewal-grace", "TIME",
     "How long after the expiry the policy \"grace\" still renews.", CONF_RELOADABLE, .min = 0,
     .max = 3660LL * 86400000},
    {"drain_grace", CONF_DURATION, AT(drain_grace_ms), "10s", "WARREN_DRAIN_GRACE", "--drain-grace",
     "TIME", "How long open streams may finish after SIGTERM.", CONF_RELOADABLE, .min = 0,
     .max = 3600000},
    {"metrics.access", CONF_ENUM, AT(metrics_access), "loopback", "WARREN_METRICS_ACCESS",
     "--metrics-access", "WHO", "Who may read /metrics without an administrator's token.",
     CONF_RELOADABLE, .choices = metrics_accesses},
    {"proxy_protocol.from", CONF_LIST, AT(proxy_protocol_from), NULL, "WARREN_PROXY_PROTOCOL_FROM",
     "--proxy-protocol-from", "CIDR",
     "Load balancers before this hub: their connections must begin with a PROXY header, which "
     "names the real client.",
     .check = check_proxy},
    {"limits.reverse_connections", CONF_INT, AT(limits.reverse_connections), "32",
     "WARREN_LIMIT_REVERSE_CONNECTIONS", NULL, "N",
     "Connections that carry one agent's streams, opened as load asks for them.", .min = 1,
     .max = FLEET_LINKS_MAX},
    {"reverse_quiet", CONF_DURATION, AT(reverse_quiet_ms), "1m", "WARREN_REVERSE_QUIET", NULL,
     "TIME", "How long those of them that load no longer asks for stay open.", .min = 1000,
     .max = 86400000},
    {"limits.handshakes", CONF_INT, AT(limits.handshakes), "4096", "WARREN_LIMIT_HANDSHAKES", NULL,
     "N", "Unfinished TLS handshakes at a time, of all clients.", .min = 1, .max = 1000000},
    {"limits.handshakes_per_address", CONF_INT, AT(limits.handshakes_per_address), "1024",
     "WARREN_LIMIT_HANDSHAKES_PER_ADDRESS", NULL, "N",
     "Unfinished TLS handshakes at a time, of one client address.", .min = 1, .max = 1000000},
    {"limits.handshakes_per_second", CONF_INT, AT(limits.handshakes_per_second), "2000",
     "WARREN_LIMIT_HANDSHAKES_PER_SECOND", NULL, "N",
     "TLS handshakes that begin in a second; connections beyond are reset before they cost "
     "anything, and agents come back later. 0: as many as come.",
     .min = 0, .max = 10000000},
    {"limits.enroll_per_minute", CONF_INT, AT(limits.enroll_per_minute), "60",
     "WARREN_LIMIT_ENROLL", NULL, "N", "Enrolment attempts per minute and client address.",
     CONF_RELOADABLE, .min = 1, .max = 1000000},
    {"limits.logins_per_second", CONF_INT, AT(limits.logins_per_second), "1000",
     "WARREN_LIMIT_LOGINS", NULL, "N",
     "Agents that may come to each of the other hubs in a second when this one is gone: they "
     "spread "
     "themselves over the time that follows from it.",
     .min = 1, .max = 1000000},
};

const struct conf_table hub_conf_table = {rows, ARRAY_SIZE(rows), sizeof(struct hub_settings)};
