/*
 * A change that the feed tells of is in the database, but perhaps not yet in the views that render
 * objects: those follow with reads and commits of their own, queued earlier. So a watcher queues an
 * empty read behind them and sends when that comes back.
 */
#include "http/watch.h"

#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "http/rest.h"

#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define RESUME_MAX 10000 /* changes replayed; a reader further behind starts over */

struct change {
    int64_t seq;
    char id[ID_SIZE];
    struct change *next;
};

struct watch {
    struct watch_source source;
    char tenant[ID_SIZE], only[ID_SIZE];
    struct http_request *req; /* until the stream has begun */
    struct http_sse *sse;     /* NULL: not begun, or closed */
    struct store_subscriber feed;
    struct change *pending; /* waiting for the views */
    bool is_reading;        /* a read is queued */
    bool is_over;
    int64_t after, newest;
    int read_result;
};

static bool concerns(const struct watch *w, const struct store_change *c)
{
    return strcmp(c->kind, w->source.kind) == 0 &&
           (!w->tenant[0] || strcmp(c->tenant, w->tenant) == 0) &&
           (!w->only[0] || strcmp(c->id, w->only) == 0);
}

static void add_change(struct watch *w, const struct store_change *c)
{
    struct change *item;
    LL_FOREACH (w->pending, item) {
        if (strcmp(item->id, c->id) == 0) {
            item->seq = c->seq;
            return;
        }
    }
    item = NEW(struct change);
    item->seq = c->seq;
    snprintf(item->id, sizeof(item->id), "%s", c->id);
    LL_APPEND(w->pending, item);
}

static void drop_pending(struct watch *w)
{
    while (w->pending) {
        struct change *c = w->pending;
        LL_DELETE(w->pending, c);
        mem_free(c);
    }
}

static void finish(struct watch *w)
{
    w->is_over = true;
    if (w->feed.store)
        store_unsubscribe(&w->feed);
    if (w->sse)
        http_sse_end(TAKE(w->sse));
    if (w->is_reading)
        return; /* the read's end frees it */
    if (w->source.done)
        w->source.done(w->source.ctx);
    drop_pending(w);
    mem_free(w);
}

static void on_sse_close(void *arg)
{
    finish(arg);
}

/* Whether it is still there. */
static bool send_object(struct watch *w, int64_t seq, const char *id)
{
    json_t *object = w->source.render(w->source.ctx, id);
    if (!w->sse) {
        json_decref(object);
        return true;
    }
    const char *event = object ? "put" : "delete";
    rest_sse_send(w->sse, (uint64_t)seq, event, object ? object : json_pack("{s:s}", "id", id));
    return object != NULL;
}

/* The watch of one object ends with the object; `w` may be gone afterwards. */
static void send_pending(struct watch *w)
{
    struct change *list = TAKE(w->pending), *c, *next;
    bool is_there = true;
    LL_FOREACH_SAFE (list, c, next) {
        is_there = send_object(w, c->seq, c->id);
        mem_free(c);
    }
    if (w->only[0] && !is_there)
        finish(w);
}

static int no_read(struct tx *tx, void *arg)
{
    return 0;
}

static void begin(struct watch *w);

static void views_followed(void *arg, int err)
{
    struct watch *w = arg;
    w->is_reading = false;
    if (w->is_over)
        finish(w);
    else if (w->req)
        begin(w);
    else
        send_pending(w);
}

static void follow_views(struct watch *w)
{
    if (w->is_reading)
        return;
    w->is_reading = true;
    store_run(w->source.store, STORE_READ, no_read, views_followed, w);
}

static void on_change(struct store_subscriber *sub, const struct store_change *c)
{
    struct watch *w = container_of(sub, struct watch, feed);
    if (!concerns(w, c))
        return;
    add_change(w, c);
    follow_views(w);
}

/* ---- the beginning ---- */

static void on_replayed(void *arg, const struct store_change *c)
{
    struct watch *w = arg;
    if (concerns(w, c))
        add_change(w, c);
}

static int read_position(struct tx *tx, void *arg)
{
    struct watch *w = arg;
    int64_t oldest;
    TRY(store_feed_range(tx, &oldest, &w->newest));
    if (w->after < 0)
        return 0;
    int n = TRY(
        store_feed_read(tx, w->tenant[0] ? w->tenant : NULL, w->after, RESUME_MAX, on_replayed, w));
    return n == RESUME_MAX ? ERR_EXPIRED : 0;
}

static void send_initial(void *arg, const char *id)
{
    struct watch *w = arg;
    json_t *object;
    if (w->only[0] && strcmp(w->only, id) != 0)
        return;
    object = w->source.render(w->source.ctx, id);
    if (object && w->sse)
        rest_sse_send(w->sse, (uint64_t)w->newest, "put", object);
    else
        json_decref(object);
}

static void send_sync(struct watch *w)
{
    char id[24];
    snprintf(id, sizeof(id), "%lld", (long long)w->newest);
    if (w->sse)
        http_sse_send(w->sse, id, "sync", "{}");
}

static void refuse(struct watch *w, int err)
{
    struct http_request *req = TAKE(w->req);
    struct diag d = {0};
    if (err == ERR_EXPIRED) {
        diag_set(&d, ERR_EXPIRED, "changes after that position are no longer kept; start over");
        http_respond_problem(req, 410, &d);
    } else {
        http_respond_error(req, err, "cannot read the feed: %s", error_text(err));
    }
    finish(w);
}

/* The views are now at the position that was read, or beyond. */
static void begin(struct watch *w)
{
    if (http_request_is_gone(w->req)) {
        refuse(w, ERR_CLOSED);
        return;
    }
    w->sse = http_sse_start(TAKE(w->req), on_sse_close, w);
    if (w->after >= 0) {
        send_pending(w);
        return;
    }
    w->source.each(w->source.ctx, send_initial, w);
    send_sync(w);
    if (w->pending)
        follow_views(w);
}

static void position_read(void *arg, int err)
{
    struct watch *w = arg;
    w->is_reading = false;
    if (err < 0) {
        refuse(w, err);
        return;
    }
    w->feed.fn = on_change;
    store_subscribe(w->source.store, &w->feed);
    follow_views(w);
}

void watch_start(struct http_request *req, const struct watch_source *source, int64_t after)
{
    struct watch *w = NEW(struct watch);
    w->source = *source;
    w->req = req;
    w->after = after;
    w->is_reading = true;
    snprintf(w->tenant, sizeof(w->tenant), "%s", source->tenant ? source->tenant : "");
    snprintf(w->only, sizeof(w->only), "%s", source->only ? source->only : "");
    store_run(source->store, STORE_READ, read_position, position_read, w);
}
