/*
 * A stream begins with one "put" for each present object and a "sync"; a table is printed at the
 * sync, so that its columns fit. A broken stream is resumed after the last event seen; when the hub
 * no longer has that position, the stream begins anew.
 */
#include "cli/watch.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

#define AGAIN_MS        1000
#define WAIT_SILENCE_MS 10000
#define DELETED         1 /* of an event callback: the one object is gone */
#define DECIDED         2 /* of an event callback: the wait is over */

struct watch {
    const struct view *view;
    const struct output *output;
    struct output_widths widths;
    json_t *snapshot; /* gathered until the sync */
    char last_id[64];
    bool is_synced;
    bool is_object;
};

static void pause_ms(int64_t ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static int show_rows(struct watch *w, json_t *array)
{
    struct output now = *w->output;
    now.now_ms = time_wall_ms();
    return output_rows(&now, w->view, array, &w->widths);
}

static int show_change(struct watch *w, json_t *obj, bool is_deleted)
{
    const struct output *o = w->output;
    if (o->format != OUTPUT_TABLE || o->is_quiet)
        return output_item(o, obj);
    if (is_deleted) {
        const char *id = json_string_value(json_object_get(obj, "id"));
        fprintf(o->file, "%s %s deleted\n", w->view->noun, id ? id : "");
        return fflush(o->file) == 0 ? 0 : ERR_IO;
    }
    json_t *one = json_array();
    json_array_append(one, obj);
    int r = show_rows(w, one);
    json_decref(one);
    return r;
}

static int show_snapshot(struct watch *w)
{
    int r = 0;
    size_t i;
    json_t *obj;
    if (w->output->format == OUTPUT_TABLE && !w->output->is_quiet)
        r = show_rows(w, w->snapshot);
    else
        json_array_foreach (w->snapshot, i, obj) {
            r = r < 0 ? r : output_item(w->output, obj);
        }
    json_array_clear(w->snapshot);
    return r;
}

static int on_put(struct watch *w, json_t *obj)
{
    if (w->is_synced)
        return show_change(w, obj, false);
    json_array_append(w->snapshot, obj);
    return 0;
}

static int on_event(void *arg, const struct http_event *e)
{
    struct watch *w = arg;
    int r = 0;
    if (*e->id)
        snprintf(w->last_id, sizeof(w->last_id), "%s", e->id);
    json_t *obj = json_loads(e->data, 0, NULL);
    if (strcmp(e->event, "sync") == 0) {
        r = w->is_synced ? 0 : show_snapshot(w);
        w->is_synced = true;
    } else if (json_is_object(obj) && strcmp(e->event, "put") == 0) {
        r = on_put(w, obj);
    } else if (json_is_object(obj) && strcmp(e->event, "delete") == 0) {
        json_object_set_new(obj, "deleted", json_true());
        r = show_change(w, obj, true);
        r = r == 0 && w->is_object ? DELETED : r;
    }
    json_decref(obj);
    return r;
}

/* Whether trying again can help. */
static bool is_passing(int code)
{
    switch (error_category(code)) {
    case ERROR_CLOSED:
    case ERROR_REFUSED:
    case ERROR_TIMEOUT:
        return true;
    case ERROR_IO:
        return code != ERR_IO;
    default:
        return false;
    }
}

static void tell_broken(struct call *c, const struct diag *d)
{
    if (isatty(fileno(c->err)))
        fprintf(c->err, "%s: %s; connecting again\n", c->program->name, diag_text(d));
}

static int watch_all(struct call *c, struct remote *r, struct watch *w, const char *path)
{
    for (;;) {
        struct diag d = {0};
        int result = remote_watch(r, path, w->last_id[0] ? w->last_id : NULL, 0, on_event, w, &d);
        if (result == DELETED)
            return 0;
        if (ferror(w->output->file))
            return call_fail(c, ERR_IO, NULL, "cannot write the output");
        if (result < 0 && w->last_id[0] && (result == ERR_STALE || result == ERR_EXPIRED)) {
            w->last_id[0] = '\0';
            w->is_synced = false;
            continue;
        }
        if (result < 0 && (!is_passing(result) || !w->last_id[0]))
            return remote_fail(r, "watch", &d);
        if (result < 0)
            tell_broken(c, &d);
        pause_ms(AGAIN_MS);
    }
}

int watch_show(struct call *c, struct remote *r, const struct view *v, const struct output *o,
               const char *path)
{
    struct watch w = {.view = v, .output = o, .snapshot = json_array()};
    size_t depth = 0;
    for (const char *s = path; *s && *s != '?'; s++)
        depth += *s == '/';
    w.is_object = depth > 3; /* /api/v1/tunnels/web */
    int result = watch_all(c, r, &w, path);
    json_decref(w.snapshot);
    return result;
}

/* --- waiting --------------------------------------------------------------------------------- */

/* What is waited for. */
struct goal {
    const char *collection, *noun;
    bool (*is_reached)(const json_t *obj);
    bool (*is_hopeless)(const json_t *obj);
    const char *timeout_hint;
};

struct wait {
    struct call *call;
    const struct goal *goal;
    json_t *newest;
    bool is_told; /* a line of progress is on the terminal */
};

static const char *text_at(const json_t *obj, const char *path)
{
    return json_string_value(output_at(obj, path));
}

static bool phase_is(const json_t *obj, const char *name)
{
    const char *phase = text_at(obj, "status.phase");
    return phase && strcmp(phase, name) == 0;
}

/* An agent has it, and its listener, if it wants one, is open. */
static bool is_serving(const json_t *tunnel)
{
    bool wants_endpoint = json_is_object(output_at(tunnel, "spec.access.endpoint"));
    return phase_is(tunnel, "active") &&
           (!wants_endpoint || text_at(tunnel, "status.endpoint.address"));
}

static bool is_over(const json_t *tunnel)
{
    return phase_is(tunnel, "failed") || phase_is(tunnel, "closed") || phase_is(tunnel, "expired");
}

static bool is_drained(const json_t *agent)
{
    return text_at(agent, "status.draining") &&
           json_integer_value(output_at(agent, "status.tunnels")) == 0 &&
           json_integer_value(output_at(agent, "status.lingering")) == 0;
}

static bool is_not_draining(const json_t *agent)
{
    return !text_at(agent, "status.draining");
}

static const struct goal serving = {
    "tunnels", "tunnel", is_serving, is_over,
    "it stays stored and begins to serve as soon as it can; \"warren agent list\" shows who is "
    "online"};
static const struct goal drained = {
    "agents", "agent", is_drained, is_not_draining,
    "the drain goes on; streams that are open have as long as its --grace says"};

static void tell_progress(struct wait *w)
{
    const char *phase = text_at(w->newest, "status.phase");
    const char *reason = text_at(w->newest, "status.reason");
    if (!isatty(fileno(w->call->err)))
        return;
    fprintf(w->call->err, "\r\x1b[Kwaiting: %s%s%s", phase ? phase : "", reason ? ", " : "",
            reason ? reason : "");
    fflush(w->call->err);
    w->is_told = true;
}

static int on_wait_event(void *arg, const struct http_event *e)
{
    struct wait *w = arg;
    if (strcmp(e->event, "delete") == 0)
        return DELETED;
    if (strcmp(e->event, "put") != 0)
        return 0;
    json_t *obj = json_loads(e->data, 0, NULL);
    if (!json_is_object(obj)) {
        json_decref(obj);
        return 0;
    }
    json_decref(w->newest);
    w->newest = obj;
    if (w->goal->is_reached(obj) || w->goal->is_hopeless(obj))
        return DECIDED;
    tell_progress(w);
    return 0;
}

static int wait_timeout(struct wait *w, int64_t timeout_ms)
{
    const char *phase = text_at(w->newest, "status.phase");
    const char *reason = text_at(w->newest, "status.reason");
    return call_fail(w->call, ERR_TIMEOUT, w->goal->timeout_hint,
                     "the %s is still %s after %.1f s%s%s", w->goal->noun,
                     phase ? phase : "unknown", (double)timeout_ms / 1000, reason ? ": " : "",
                     reason ? reason : "");
}

static int wait_decision(struct wait *w)
{
    const char *phase = text_at(w->newest, "status.phase");
    const char *reason = text_at(w->newest, "status.reason");
    if (w->goal->is_reached(w->newest))
        return 0;
    return call_fail(w->call, ERR_CONFLICT, NULL, "the %s is %s: %s", w->goal->noun,
                     phase ? phase : "unknown", reason ? reason : "the hub gave no reason");
}

/* Streams are limited to a short silence, so that the deadline is kept and each new one begins with
 * the present state. */
static int wait_loop(struct wait *w, struct remote *r, const char *path, int64_t timeout_ms)
{
    uint64_t end = time_mono_ms() + (uint64_t)timeout_ms;
    for (;;) {
        uint64_t now = time_mono_ms();
        if (now >= end)
            return wait_timeout(w, timeout_ms);
        struct diag d = {0};
        uint32_t silence = (uint32_t)MIN(end - now, (uint64_t)WAIT_SILENCE_MS);
        int result = remote_watch(r, path, NULL, silence, on_wait_event, w, &d);
        if (result == DECIDED)
            return wait_decision(w);
        if (result == DELETED)
            return call_fail(w->call, ERR_NOT_FOUND, NULL, "the %s was deleted meanwhile",
                             w->goal->noun);
        if (result < 0 && !is_passing(result)) {
            char doing[64];
            snprintf(doing, sizeof(doing), "wait for the %s", w->goal->noun);
            return remote_fail(r, doing, &d);
        }
        if (result != ERR_TIMEOUT)
            pause_ms(200);
    }
}

static int wait_for(struct call *c, struct remote *r, const struct goal *goal, const char *id,
                    int64_t timeout_ms, json_t **ret)
{
    struct wait w = {.call = c, .goal = goal};
    CLEANUP(mem_free) char *path = remote_path(goal->collection, id, NULL);
    int result = wait_loop(&w, r, path, timeout_ms);
    if (w.is_told)
        fputs("\r\x1b[K", c->err);
    *ret = w.newest;
    return result;
}

int watch_until_active(struct call *c, struct remote *r, const char *id, int64_t timeout_ms,
                       json_t **ret)
{
    return wait_for(c, r, &serving, id, timeout_ms, ret);
}

int watch_until_drained(struct call *c, struct remote *r, const char *id, int64_t timeout_ms,
                        json_t **ret)
{
    return wait_for(c, r, &drained, id, timeout_ms, ret);
}
