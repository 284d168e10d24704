/*
 * login, logout, context: which hubs the user knows.
 *
 * First contact: without --ca the hub's CA is fetched with no trust, and the user is shown its
 * fingerprint and decides. Only then does the token leave the machine, on a new connection that
 * this CA must vouch for.
 */
#include "cli/commands.h"

#include "base/error.h"
#include "base/file.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/text.h"
#include "cli/context_ca.h"
#include "cli/contexts.h"
#include "cli/object_cmd.h"
#include "cli/remote_settings.h"
#include "pki/cert.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <termios.h>
#include <unistd.h>

#define LINE_SIZE             1024
#define CA_FILE_MAX           (256u << 10)
#define FINGERPRINT_TEXT_SIZE (2 * CERT_FINGERPRINT_SIZE + 1)

/* --- the terminal ---------------------------------------------------------------------------- */

/* One line of the terminal, without its end. ERR_CANCELED at its end. */
static int read_line(int fd, char **ret)
{
    char line[LINE_SIZE];
    size_t n = 0;
    while (n < sizeof(line) - 1 && read(fd, line + n, 1) == 1 && line[n] != '\n')
        n++;
    bool is_whole = n < sizeof(line) - 1 && line[n] == '\n';
    line[n] = '\0';
    if (is_whole)
        *ret = mem_strdup(line);
    explicit_bzero(line, sizeof(line));
    return is_whole ? 0 : ERR_CANCELED;
}

/* Asks on the terminal itself, whatever stdin is. ERR_UNAVAILABLE without one. A secret's echo is
 * off before the question appears, so that nothing typed ahead is shown or lost. */
static int ask(const char *question, bool is_secret, char **ret)
{
    struct termios before, silent;
    int fd = open("/dev/tty", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return ERR_UNAVAILABLE;
    bool has_modes = is_secret && tcgetattr(fd, &before) == 0;
    if (has_modes) {
        silent = before;
        silent.c_lflag &= ~(tcflag_t)ECHO;
        tcsetattr(fd, TCSANOW, &silent);
    }
    dprintf(fd, "%s", question);
    int r = read_line(fd, ret);
    if (has_modes) {
        tcsetattr(fd, TCSANOW, &before);
        dprintf(fd, "\n");
    }
    close(fd);
    return r;
}

/* --- the CA ---------------------------------------------------------------------------------- */

/* The PEM of the roots in an EST answer and the fingerprint of the one that signs, or of the one
 * that is pinned. */
static int read_cacerts(const struct http_reply *reply, const uint8_t *pin, char **ret_pem,
                        uint8_t fingerprint[32], struct diag *d)
{
    CLEANUP(roots_done) struct roots roots = {0};
    struct buf pem = {0};
    int r = context_ca_read(reply, &roots, d);
    for (size_t i = roots.n; i-- > 0 && r == 0;) {
        r = cert_fingerprint(roots.certs[i], fingerprint);
        if (r == 0 && pin && memcmp(pin, fingerprint, CERT_FINGERPRINT_SIZE) == 0)
            break;
    }
    if (r == 0)
        r = roots_to_pem(&roots, &pem);
    if (r == 0)
        *ret_pem = buf_take(&pem);
    buf_done(&pem);
    return r;
}

/* `pin` NULL: from whoever answers. */
static int fetch_ca(const char *hub, const uint8_t *pin, char **ret_pem, uint8_t fingerprint[32],
                    struct diag *d)
{
    struct http_reply reply = {0};
    struct http_client_config http = {.base_url = hub, .ca_sha256 = pin, .insecure = !pin};
    int r = http_fetch(&http, &(struct http_ask){.path = "/.well-known/est/cacerts"}, &reply, d);
    if (r == 0)
        r = read_cacerts(&reply, pin, ret_pem, fingerprint, d);
    http_reply_done(&reply);
    if (r == 0 && pin && memcmp(pin, fingerprint, CERT_FINGERPRINT_SIZE) != 0)
        r = diag_set(d, ERR_TLS, "its CA has another fingerprint");
    return r;
}

static int confirm(struct call *c, const char *hub, const char *fingerprint)
{
    char question[320];
    char *answer = NULL;
    if (call_is_given(c, "--trust")) {
        fprintf(c->err, "trusting the CA sha256:%s\n", fingerprint);
        return 0;
    }
    snprintf(question, sizeof(question),
             "The hub at %.100s shows a CA with this fingerprint:\n  sha256:%s\n"
             "Is it the right one? Type yes to trust it: ",
             hub, fingerprint);
    int r = ask(question, false, &answer);
    bool is_yes = r == 0 && strcasecmp(answer, "yes") == 0;
    free(answer);
    if (is_yes)
        return 0;
    return call_fail(c, r == 0 ? ERR_CANCELED : ERR_TLS,
                     "compare it with the hub's own (DIR/ca.pem) and repeat with --ca FILE, "
                     "--ca sha256:HEX, or --trust",
                     "the CA with fingerprint sha256:%s is not trusted yet", fingerprint);
}

static int ca_from_hub(struct call *c, const char *hub, const uint8_t *pin, char **ret_pem)
{
    uint8_t fingerprint[CERT_FINGERPRINT_SIZE];
    char text[FINGERPRINT_TEXT_SIZE];
    struct diag d = {0};
    char *pem = NULL;
    int r = fetch_ca(hub, pin, &pem, fingerprint, &d);
    if (r < 0)
        return call_fail(c, r, NULL, "cannot get the CA of %s: %s", hub, diag_text(&d));
    text_hex(fingerprint, sizeof(fingerprint), text);
    r = pin ? 0 : confirm(c, hub, text);
    if (r < 0)
        free(pem);
    else
        *ret_pem = pem;
    return r;
}

static int choose_ca(struct call *c, const char *hub, char **ret_pem)
{
    const char *ca = call_text(c, "--ca");
    uint8_t pin[CERT_FINGERPRINT_SIZE];
    ca = ca ? ca : getenv("WARREN_CA");
    if (call_is_given(c, "--system-ca"))
        return 0;
    if (!ca || !*ca)
        return ca_from_hub(c, hub, NULL, ret_pem);
    if (strncasecmp(ca, "sha256:", 7) == 0) {
        if (remote_parse_fingerprint(ca, pin) < 0)
            return call_fail(c, ERR_USAGE, NULL, "\"%.80s\" is not a SHA-256 fingerprint", ca);
        return ca_from_hub(c, hub, pin, ret_pem);
    }
    struct buf text = {0};
    int r = file_read(ca, CA_FILE_MAX, false, &text, &c->diag);
    if (r < 0)
        buf_done(&text);
    else
        *ret_pem = buf_take(&text);
    return r;
}

/* --- login ----------------------------------------------------------------------------------- */

static int choose_token(struct call *c, char **ret)
{
    TRY(remote_settings_token(c, ret));
    if (*ret)
        return 0;
    if (ask("API token: ", true, ret) == 0)
        return 0;
    return call_fail(c, ERR_USAGE, "give it with --token-file FILE, or - for the standard input",
                     "a token is needed");
}

/* Whether the hub knows the token; tells whose it is. */
static int check_token(struct call *c, const char *hub, const char *token, const char *ca)
{
    CLEANUP(remote_free) struct remote *r = remote_new(c, hub, token, ca);
    CLEANUP(mem_free) char *path = remote_path("tokens", "self", NULL);
    json_t *self = NULL;
    TRY(remote_get(r, path, "log in", &self));
    const char *role = json_string_value(json_object_get(self, "role"));
    if (!call_is_given(c, "--quiet"))
        fprintf(c->err, "logged in to %s%s%s\n", hub, role ? " as " : "", role ? role : "");
    json_decref(self);
    return 0;
}

static int keep_context(struct call *c, const struct context *context)
{
    struct contexts all = {0};
    TRY(contexts_load(&all, &c->diag));
    contexts_put(&all, context);
    contexts_use(&all, context->name);
    int r = contexts_save(&all, &c->diag);
    contexts_done(&all);
    return r;
}

static int login(struct call *c, const char *hub, char **token, char **ca)
{
    const char *name = call_text(c, "--name");
    TRY(choose_ca(c, hub, ca));
    TRY(choose_token(c, token));
    TRY(check_token(c, hub, *token, *ca));
    return keep_context(c, &(struct context){
                               .name = name ? name : hub + strlen("https://"),
                               .hub = hub,
                               .token = *token,
                               .ca = *ca,
                           });
}

static int run_login(struct call *c)
{
    CLEANUP(mem_free) char *hub = remote_url(c->args[0]);
    char *token = NULL, *ca = NULL;
    if (!hub)
        return call_fail(c, ERR_USAGE, NULL, "\"%.100s\" is not the address of a hub", c->args[0]);
    int r = login(c, hub, &token, &ca);
    if (token)
        explicit_bzero(token, strlen(token));
    free(token);
    free(ca);
    return r;
}

/* --- contexts -------------------------------------------------------------------------------- */

/* Loads the contexts, and checks that the named one (NULL: the current) is there. */
static int open_context(struct call *c, struct contexts *all, const char *name, struct context *ret)
{
    struct diag d = {0};
    TRY(contexts_load(all, &c->diag));
    int r = contexts_get(all, name, ret, &d);
    if (r < 0) {
        contexts_done(all);
        return call_fail(c, r, "\"warren context list\" shows them", "%s", diag_text(&d));
    }
    return 0;
}

static int remove_context(struct call *c, const char *name)
{
    struct contexts all = {0};
    struct context context;
    TRY(open_context(c, &all, name, &context));
    CLEANUP(mem_free) char *copy = mem_strdup(context.name);
    contexts_remove(&all, copy);
    int r = contexts_save(&all, &c->diag);
    contexts_done(&all);
    if (r == 0)
        fprintf(c->err, "context \"%s\" removed\n", copy);
    return r;
}

static int run_logout(struct call *c)
{
    return remove_context(c, NULL);
}

static int run_remove(struct call *c)
{
    return remove_context(c, c->args[0]);
}

static int run_use(struct call *c)
{
    struct contexts all = {0};
    struct context context;
    TRY(open_context(c, &all, c->args[0], &context));
    contexts_use(&all, c->args[0]);
    int r = contexts_save(&all, &c->diag);
    contexts_done(&all);
    return r;
}

static const struct column columns[] = {{"NAME", "name"}, {"HUB", "hub"}, {"CURRENT", "current"}};
static const struct view view = {"contexts", "context", columns, ARRAY_SIZE(columns)};

static int run_list(struct call *c)
{
    struct contexts all = {0};
    TRY(contexts_load(&all, &c->diag));
    struct output o = output_of(c, NULL);
    json_t *list = contexts_list(&all);
    contexts_done(&all);
    int r = output_list(&o, &view, list);
    json_decref(list);
    return r;
}

/* --- rows ------------------------------------------------------------------------------------ */

static const struct flag_row login_rows[] = {
    {.name = "--token-file",
     .type = FLAG_TEXT,
     .metavar = "FILE",
     .candidates = CANDIDATES_FILE,
     .help = "File with the API token, - for the standard input [WARREN_TOKEN_FILE]. Without it, "
             "WARREN_TOKEN, or it is asked for."},
    {.name = "--ca",
     .type = FLAG_TEXT,
     .metavar = "FILE|sha256:HEX",
     .candidates = CANDIDATES_FILE,
     .help = "The hub's CA certificate (PEM), or its SHA-256 fingerprint [WARREN_CA]."},
    {.name = "--trust",
     .type = FLAG_SWITCH,
     .help = "Trust whatever CA the hub shows now, without asking."},
    {.name = "--system-ca", .type = FLAG_SWITCH, .help = "Trust the CAs of this machine."},
    {.name = "--name",
     .type = FLAG_TEXT,
     .metavar = "NAME",
     .help = "Of the context; its address if not given."},
    {.name = "--quiet", .letter = 'q', .type = FLAG_SWITCH, .help = "Say nothing."},
};
static const struct flag_set login_flags = {"Flags", login_rows, ARRAY_SIZE(login_rows)};

static const struct command rows[] = {
    {.words = "login",
     .summary = "Keeps the address, the CA and a token of a hub for later.",
     .run = run_login,
     .args = "URL",
     .min_args = 1,
     .max_args = 1,
     .flags = {&login_flags},
     .details = "The hub's CA is trusted by --ca, or by its fingerprint after you agreed. The "
                "token is checked with the hub and kept in a file that only you can read.",
     .examples = "warren login https://hub.example:8443 --token-file admin.token"},
    {.words = "logout",
     .summary = "Forgets the current context with its token.",
     .run = run_logout},
    {.words = "context list",
     .summary = "Lists the hubs one is logged in to.",
     .run = run_list,
     .flags = {&output_flags}},
    {.words = "context use",
     .summary = "Makes a context the current one.",
     .run = run_use,
     .args = "CONTEXT",
     .min_args = 1,
     .max_args = 1,
     .arg_candidates = CANDIDATES_CONTEXT},
    {.words = "context remove",
     .summary = "Forgets a context with its token.",
     .run = run_remove,
     .args = "CONTEXT",
     .min_args = 1,
     .max_args = 1,
     .arg_candidates = CANDIDATES_CONTEXT},
};
const struct command_set login_commands = {rows, ARRAY_SIZE(rows)};
