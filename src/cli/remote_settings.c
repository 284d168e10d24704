#include "cli/remote_settings.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/text.h"
#include "cli/contexts.h"
#include "cli/remote.h"

#include <stdlib.h>
#include <string.h>

#define NO_HUB_HINT "log in with \"warren login URL\", or set WARREN_HUB and WARREN_TOKEN_FILE"

static const struct flag_row rows[] = {
    {.name = "--context",
     .type = FLAG_TEXT,
     .metavar = "NAME",
     .candidates = CANDIDATES_CONTEXT,
     .help = "Use this login instead of the current one."},
    {.name = "--hub",
     .type = FLAG_TEXT,
     .metavar = "URL",
     .help = "Address of the hub [WARREN_HUB]."},
    {.name = "--token-file",
     .type = FLAG_TEXT,
     .metavar = "FILE",
     .candidates = CANDIDATES_FILE,
     .help = "File with the API token, - for the standard input [WARREN_TOKEN_FILE]."},
    {.name = "--ca",
     .type = FLAG_TEXT,
     .metavar = "FILE|sha256:HEX",
     .candidates = CANDIDATES_FILE,
     .help = "The hub's CA certificate (PEM), or its SHA-256 fingerprint [WARREN_CA]."},
};
const struct flag_set remote_flags = {"Hub", rows, ARRAY_SIZE(rows)};

/* An empty variable is as good as none. */
static const char *env(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

void remote_settings_done(struct remote_settings *s)
{
    if (s->token)
        explicit_bzero(s->token, strlen(s->token));
    free(s->hub);
    free(s->token);
    free(s->ca_file);
    free(s->ca_pem);
    free(s->ca_context);
    *s = (struct remote_settings){0};
}

char *remote_url(const char *typed)
{
    if (strncmp(typed, "https://", 8) == 0)
        typed += 8;
    else if (strstr(typed, "://"))
        return NULL;
    size_t len = strlen(typed);
    while (len > 0 && typed[len - 1] == '/')
        len--;
    return len > 0 ? mem_printf("https://%.*s", (int)len, typed) : NULL;
}

static int hex_digit(char c)
{
    static const char digits[] = "0123456789abcdef";
    const char *at = c ? strchr(digits, c | 0x20) : NULL;
    return at ? (int)(at - digits) : -1;
}

int remote_parse_fingerprint(const char *s, uint8_t out[32])
{
    uint8_t bytes[32];
    size_t n = 0;
    if (strncasecmp(s, "sha256:", 7) == 0)
        s += 7;
    while (*s && n < sizeof(bytes)) {
        int high = hex_digit(s[0]), low = high < 0 ? -1 : hex_digit(s[1]);
        if (low < 0)
            return ERR_INVALID;
        bytes[n++] = (uint8_t)(high << 4 | low);
        s += 2;
        if (*s == ':' && s[1])
            s++;
    }
    if (n != sizeof(bytes) || *s)
        return ERR_INVALID;
    memcpy(out, bytes, sizeof(bytes));
    return 0;
}

static int token_of_file(struct call *c, const char *path, char **ret)
{
    struct secret secret = {0};
    int r = conf_read_secret(path, &secret, &c->diag);
    if (r == 0)
        *ret = mem_strndup(secret.data, secret.len);
    secret_done(&secret);
    return r == ERR_NOT_FOUND ? ERR_USAGE : r; /* what is missing is no object of the hub */
}

int remote_settings_token(struct call *c, char **ret)
{
    const char *file = call_text(c, "--token-file");
    const char *value = env("WARREN_TOKEN");
    if (!file && value) {
        *ret = mem_strdup(value);
        return 0;
    }
    file = file ? file : env("WARREN_TOKEN_FILE");
    return file ? token_of_file(c, file, ret) : 0;
}

static int take_ca(struct call *c, struct remote_settings *s, const char *ca)
{
    if (strncasecmp(ca, "sha256:", 7) != 0) {
        s->ca_file = mem_strdup(ca);
        return 0;
    }
    if (remote_parse_fingerprint(ca, s->pin) < 0)
        return call_fail(c, ERR_USAGE, NULL, "\"%.80s\" is not a SHA-256 fingerprint", ca);
    s->has_pin = true;
    return 0;
}

static int take_hub(struct call *c, struct remote_settings *s, const char *typed)
{
    s->hub = remote_url(typed);
    return s->hub ? 0
                  : call_fail(c, ERR_USAGE, NULL,
                              "\"%.100s\" is not the address of a hub, such as "
                              "https://hub.example:8443",
                              typed);
}

/* What neither flags nor environment gave comes from the context, if it is of the same hub. */
static int complete_from(struct call *c, struct remote_settings *s, const struct context *from)
{
    if (!s->hub)
        s->hub = mem_strdup(from->hub);
    if (strcmp(s->hub, from->hub) != 0)
        return 0;
    if (!s->token)
        s->token = mem_strdup(from->token);
    if (s->ca_file || s->has_pin || !from->ca)
        return 0;
    s->ca_pem = mem_strdup(from->ca);
    s->ca_context = mem_strdup(from->name);
    return 0;
}

static int find(struct call *c, struct remote_settings *s, const struct contexts *contexts)
{
    const char *name = call_text(c, "--context");
    const char *ca = call_text(c, "--ca");
    const char *hub = call_text(c, "--hub");
    struct context context = {0};
    struct diag d = {0};
    /* A context that was asked for is stronger than the environment, weaker than flags. */
    bool by_env = !name;
    hub = hub ? hub : by_env ? env("WARREN_HUB") : NULL;
    ca = ca ? ca : by_env ? env("WARREN_CA") : NULL;
    if (hub)
        TRY(take_hub(c, s, hub));
    if (ca)
        TRY(take_ca(c, s, ca));
    if (by_env || call_text(c, "--token-file"))
        TRY(remote_settings_token(c, &s->token));
    int r = contexts_get(contexts, name, &context, &d);
    if (r < 0 && name)
        return call_fail(c, ERR_NOT_FOUND, "\"warren context list\" shows them", "%s",
                         diag_text(&d));
    if (r < 0 && !s->hub)
        return call_fail(c, ERR_USAGE, NO_HUB_HINT, "no hub is chosen");
    return r == 0 ? complete_from(c, s, &context) : 0;
}

int remote_settings_find(struct call *c, struct remote_settings *ret)
{
    struct contexts contexts = {0};
    TRY(contexts_load(&contexts, &c->diag));
    int r = find(c, ret, &contexts);
    contexts_done(&contexts);
    return r;
}
