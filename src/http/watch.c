/*
 * A change that the feed tells of is in the database, but perhaps not yet in the views that render
 * objects: those follow with reads and commits of their own, queued earlier. So a watcher queues an
 * empty read behind them, and what it had heard of until then may be sent when that comes back:
 *
 *   feed -> heard -- read queued --> awaited -- read done --> ready -- room --> sent
 *
 * The objects present at the beginning are `ready` at once. They carry the position 0 until all are
 * out (the "sync"), so that a reader who is cut off in between misses nothing when it resumes.
 */
#include "http/watch.h"

#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "http/rest.h"

#include <stdio.h>
#include <string.h>
#include <uthash.h>

#define RESUME_MAX   10000       /* changes replayed; a reader further behind starts over */
#define UNSENT_BYTES (128 << 10) /* more waits until the reader has taken these */

/* An object that is to be sent as it then is. */
struct change {
    char id[ID_SIZE];
    int64_t seq; /* 0: present at the beginning */
    UT_hash_handle hh;
};

struct watch {
    struct watch_source source;
    char tenant[ID_SIZE], only[ID_SIZE];
    struct http_request *req; /* until the stream has begun */
    struct http_sse *sse;     /* NULL: not begun, or closed */
    struct store_subscriber feed;
    struct change *heard, *awaited, *ready; /* by id, in the order in which they came */
    bool is_reading;                        /* a read is queued */
    bool owes_sync;
    bool is_over;
    int64_t after, newest;
};

static bool concerns(const struct watch *w, const struct store_change *c)
{
    return strcmp(c->kind, w->source.kind) == 0 &&
           (!w->tenant[0] || strcmp(c->tenant, w->tenant) == 0) &&
           (!w->only[0] || strcmp(c->id, w->only) == 0);
}

/* One that is there already is sent in the newer state, but in its place and with its position. */
static void add_change(struct change **set, const char *id, int64_t seq)
{
    struct change *c;
    HASH_FIND_STR(*set, id, c);
    if (c)
        return;
    c = NEW(struct change);
    c->seq = seq;
    snprintf(c->id, sizeof(c->id), "%s", id);
    HASH_ADD_STR(*set, id, c);
}

static void remove_change(struct change **set, struct change *c)
{
    HASH_DEL(*set, c);
    mem_free(c);
}

static void drop(struct change **set)
{
    while (*set)
        remove_change(set, *set);
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
    drop(&w->heard);
    drop(&w->awaited);
    drop(&w->ready);
    mem_free(w);
}

static void on_sse_close(void *arg)
{
    finish(arg);
}

/* 1: sent, or nothing to tell; 0: sent that it is gone; negative: the stream has ended. */
static int send_change(struct watch *w, const struct change *c)
{
    json_t *object = w->source.render(w->source.ctx, c->id);
    const char *event = object ? "put" : "delete";
    if (!object && !c->seq)
        return 1; /* never was for this watcher */
    TRY(rest_sse_send(w->sse, (uint64_t)c->seq, event,
                      object ? object : json_pack("{s:s}", "id", c->id)));
    return object ? 1 : 0;
}

/* `w` may be gone afterwards; if the stream has ended, on_sse_close follows. */
static void send_ready(struct watch *w)
{
    while (http_sse_waiting(w->sse) < UNSENT_BYTES) {
        if (w->owes_sync && (!w->ready || w->ready->seq)) {
            w->owes_sync = false;
            if (rest_sse_send(w->sse, (uint64_t)w->newest, "sync", json_object()) < 0)
                return;
        }
        if (!w->ready)
            return;
        int rc = send_change(w, w->ready);
        remove_change(&w->ready, w->ready);
        if (rc < 0)
            return;
        if (rc == 0 && w->only[0]) {
            finish(w); /* the watch of one object ends with the object */
            return;
        }
    }
}

static void on_room(void *arg)
{
    send_ready(arg);
}

static bool begin(struct watch *w);

static void views_followed(void *arg, int err);

static void follow_views(struct watch *w)
{
    w->is_reading = true;
    w->awaited = TAKE(w->heard);
    store_follow(w->source.store, views_followed, w);
}

static void views_followed(void *arg, int err)
{
    struct watch *w = arg;
    w->is_reading = false;
    if (w->is_over) {
        finish(w);
        return;
    }
    if (w->req && !begin(w))
        return;
    while (w->awaited) {
        add_change(&w->ready, w->awaited->id, w->awaited->seq);
        remove_change(&w->awaited, w->awaited);
    }
    if (w->heard)
        follow_views(w);
    send_ready(w);
}

static void on_change(struct store_subscriber *sub, const struct store_change *c)
{
    struct watch *w = container_of(sub, struct watch, feed);
    if (w->sse && strcmp(c->kind, "token") == 0)
        http_sse_check(w->sse); /* perhaps it is the watcher's own, revoked */
    if (!concerns(w, c))
        return;
    add_change(&w->heard, c->id, c->seq);
    if (!w->is_reading)
        follow_views(w);
}

/* ---- the beginning ---- */

/* The last change of each object counts: its state is sent under that position. */
static void on_replayed(void *arg, const struct store_change *c)
{
    struct watch *w = arg;
    struct change *known;
    if (!concerns(w, c))
        return;
    HASH_FIND_STR(w->ready, c->id, known);
    if (known)
        remove_change(&w->ready, known);
    add_change(&w->ready, c->id, c->seq);
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

static void add_present(void *arg, const char *id)
{
    struct watch *w = arg;
    if (!w->only[0] || strcmp(w->only, id) == 0)
        add_change(&w->ready, id, 0);
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

/* The views are now at the position that was read, or beyond. False: it has ended already. */
static bool begin(struct watch *w)
{
    if (http_request_is_gone(w->req)) {
        refuse(w, ERR_CLOSED);
        return false;
    }
    w->sse = http_sse_start(TAKE(w->req), on_sse_close, w);
    http_sse_on_room(w->sse, on_room);
    if (w->after < 0) {
        w->source.each(w->source.ctx, add_present, w);
        w->owes_sync = true;
    }
    return true;
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
