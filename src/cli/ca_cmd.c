/* warren ca: the roots of the hubs' CA, and a new one in their place. */
#include "cli/commands.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"
#include "cli/object_cmd.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

#define POLL_MS 500
#define WAIT_MS 120000
#define DOING   "rotate the CA"

static const struct column columns[] = {
    {"ROOT", "id"},
    {"STATE", "state"},
    {"SIGNS SINCE", "since", COLUMN_TIME},
    {"UNTIL", "until", COLUMN_TIME},
    {"AGENTS", "agents"},
    {"FINGERPRINT", "fingerprint"},
};
static const struct view view = {"ca", "root", columns, ARRAY_SIZE(columns)};

static int64_t number(const json_t *ca, const char *path)
{
    return json_integer_value(output_at(ca, path));
}

static const char *stage_of(const json_t *ca)
{
    const char *stage = json_string_value(json_object_get(ca, "stage"));
    return stage ? stage : "";
}

static bool is_stage(const json_t *ca, const char *stage)
{
    return strcmp(stage_of(ca), stage) == 0;
}

static int get_ca(struct remote *r, const char *doing, json_t **ret)
{
    CLEANUP(mem_free) char *path = remote_path("ca", NULL, NULL);
    return remote_get(r, path, doing, ret);
}

/* "a, b, ..." of the objects in a list. */
static void put_names(FILE *out, const json_t *list, int64_t total)
{
    const json_t *item;
    size_t i;
    json_array_foreach (list, i, item) {
        const char *name = json_string_value(json_object_get(item, "name"));
        fprintf(out, "%s%s", i ? ", " : "", name && *name ? name : "?");
    }
    if ((int64_t)json_array_size(list) < total)
        fprintf(out, ", ...");
    fprintf(out, "\n");
}

static void say_waiting(FILE *out, const json_t *ca)
{
    int64_t hubs = number(ca, "hubs.total"), agents = number(ca, "agents.waiting");
    if (number(ca, "hubs.aware") < hubs) {
        fprintf(out, "hubs that have not learned the new root: ");
        put_names(out, output_at(ca, "hubs.waiting_for"), 0);
    }
    if (agents) {
        fprintf(out, "%lld connected agents have not learned the new root: ", (long long)agents);
        put_names(out, output_at(ca, "agents.waiting_for"), agents);
    }
}

static void say_stage(FILE *out, const json_t *ca)
{
    const char *ends = json_string_value(output_at(ca, "agents.old_ends"));
    int64_t total = number(ca, "agents.total"), old = number(ca, "agents.old");
    if (is_stage(ca, "stable")) {
        fprintf(out, "One root, no rotation under way. Kept in: %s.\n",
                json_string_value(json_object_get(ca, "kept_in")));
    } else if (is_stage(ca, "learning")) {
        fprintf(out, "A new root is being learned: %lld of %lld agents, %lld of %lld hubs.\n",
                (long long)number(ca, "agents.aware"), (long long)total,
                (long long)number(ca, "hubs.aware"), (long long)number(ca, "hubs.total"));
        say_waiting(out, ca);
    } else {
        fprintf(out, "The new root signs. %lld of %lld agents have a certificate by the old one",
                (long long)old, (long long)total);
        if (old && ends)
            fprintf(out, ", the last of which ends at %s", ends);
        fprintf(out, old ? ".\n" : ": the old one can end, by warren ca rotate --finish.\n");
        if (number(ca, "old_tokens"))
            fprintf(out, "%lld bootstrap tokens end with it.\n",
                    (long long)number(ca, "old_tokens"));
    }
}

static int run_status(struct call *c)
{
    CLEANUP(remote_free) struct remote *r = NULL;
    json_t *ca = NULL;
    TRY(remote_open(c, &r));
    TRY(get_ca(r, "ask for the CA", &ca));
    struct output o = output_of(c, r);
    int result = 0;
    if (o.format == OUTPUT_TABLE && !o.is_quiet) {
        say_stage(c->out, ca);
        result = output_list(&o, &view, json_object_get(ca, "roots"));
    } else {
        result = output_object(&o, ca);
    }
    json_decref(ca);
    return result;
}

/* ---- rotation ---- */

static int take_step(struct call *c, struct remote *r, const char *step, json_t **ret)
{
    CLEANUP(mem_free) char *path = remote_path("ca", NULL, NULL);
    CLEANUP(mem_free) char *action = mem_printf("%s:rotate", path);
    json_t *body =
        json_pack("{s:s, s:b}", "step", step, "force", call_is_given(c, "--force") ? 1 : 0);
    json_decref(*ret);
    *ret = NULL;
    return remote_send(r, "POST", action, body, 0, DOING, ret);
}

static bool is_learned(struct call *c, const json_t *ca)
{
    return number(ca, "hubs.aware") == number(ca, "hubs.total") &&
           (number(ca, "agents.waiting") == 0 || call_is_given(c, "--force"));
}

/* Until every hub and every agent that is connected trusts the new root. */
static int wait_learned(struct call *c, struct remote *r, json_t **ca)
{
    uint64_t ends = time_mono_ms() + (uint64_t)call_duration_ms(c, "--wait", WAIT_MS);
    while (is_stage(*ca, "learning") && !is_learned(c, *ca)) {
        if (time_mono_ms() >= ends) {
            say_waiting(c->err, *ca);
            return call_fail(c, ERR_TIMEOUT,
                             "run it again to go on waiting, with --force to go on without these "
                             "agents (they stay connected), or with --cancel to give up",
                             "the new root is not known everywhere yet");
        }
        poll(NULL, 0, POLL_MS);
        json_decref(*ca);
        *ca = NULL;
        TRY(get_ca(r, DOING, ca));
    }
    return 0;
}

static int go_on(struct call *c, struct remote *r, json_t **ca)
{
    if (is_stage(*ca, "stable")) {
        TRY(take_step(c, r, "start", ca));
        fprintf(c->err, "a new root is made; hubs and agents learn of it\n");
    }
    TRY(wait_learned(c, r, ca));
    if (is_stage(*ca, "learning")) {
        TRY(take_step(c, r, "sign", ca));
        fprintf(c->err, "the new root signs from now on\n");
    }
    return 0;
}

static int rotate(struct call *c, struct remote *r, json_t **ca)
{
    bool is_last = call_is_given(c, "--finish"), is_over = call_is_given(c, "--cancel");
    if (is_last && is_over)
        return call_fail(c, ERR_USAGE, NULL, "--finish and --cancel exclude each other");
    if (is_last || is_over)
        return take_step(c, r, is_last ? "finish" : "cancel", ca);
    TRY(get_ca(r, DOING, ca));
    return go_on(c, r, ca);
}

static int run_rotate(struct call *c)
{
    CLEANUP(remote_free) struct remote *r = NULL;
    json_t *ca = NULL;
    TRY(remote_open(c, &r));
    int result = rotate(c, r, &ca);
    if (result == 0) {
        struct output o = output_of(c, r);
        if (o.format == OUTPUT_TABLE)
            say_stage(c->out, ca);
        else
            result = output_object(&o, ca);
    }
    json_decref(ca);
    return result;
}

/* ---- rows ---- */

static const struct flag_row rotate_rows[] = {
    {.name = "--finish",
     .type = FLAG_SWITCH,
     .help = "Retire the old root. Refused while agents have certificates by it."},
    {.name = "--cancel",
     .type = FLAG_SWITCH,
     .help = "Give up a rotation whose new root does not sign yet."},
    {.name = "--force",
     .type = FLAG_SWITCH,
     .help = "Do not wait for agents; with --finish: cut off those that need the old root."},
    {.name = "--wait",
     .type = FLAG_DURATION,
     .metavar = "TIME",
     .fallback = "2m",
     .help = "How long hubs and connected agents may take to learn the new root."},
};
static const struct flag_set rotate_flags = {"Flags", rotate_rows, ARRAY_SIZE(rotate_rows)};

static const struct command rows[] = {
    {.words = "ca status",
     .summary = "Shows the CA's roots, and how many agents know and need which.",
     .run = run_status,
     .flags = REMOTE_FLAGS()},
    {.words = "ca rotate",
     .summary = "Replaces the CA's root, without cutting anybody off.",
     .run = run_rotate,
     .flags = REMOTE_FLAGS(&rotate_flags),
     .details = "A new root is made; when every hub and every connected agent trusts it, "
                "certificates are made by it. Both are trusted until --finish, which is for when "
                "no agent has a certificate by the old root any more (\"warren ca status\"). Run "
                "again, it goes on where it was.\n\n"
                "Bootstrap tokens that were made before the new root signs are good until then.",
     .examples = "warren ca rotate\n"
                 "warren ca status\n"
                 "warren ca rotate --finish"},
};
const struct command_set ca_commands = {rows, ARRAY_SIZE(rows)};
