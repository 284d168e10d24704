#include "fleet/shortcut.h"

#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "fleet/link.h"
#include "fleet/reverse.h"
#include "net/tls.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define PLACES_MAX 256   /* workers of hubs */
#define IDLE_MS    30000 /* at the second look they are closed */
#define AGAIN_MS   30000 /* after one that could not be had, or was lost */

/* To one worker of a hub. */
struct shortcut {
    struct shortcuts *owner;
    char hub[ID_SIZE];
    uint32_t worker;
    char ask_for[FLEET_WORKER_NAME_SIZE];
    struct reverse_pool *pool; /* NULL: none */
    uint64_t not_before_ms;
    bool was_idle; /* at the last look */
    struct timer look;
    struct shortcut *next;
};

struct shortcuts {
    struct shortcuts_config cfg;
    struct shortcut *all;
    size_t n;
    bool is_left;
};

struct shortcuts *shortcuts_new(const struct shortcuts_config *cfg)
{
    struct shortcuts *sc = NEW(struct shortcuts);
    sc->cfg = *cfg;
    return sc;
}

static void on_request(void *arg, struct h2_stream *s, const struct h2_headers *h)
{
    const struct shortcuts *sc = ((struct shortcut *)arg)->owner;
    sc->cfg.on_request(sc->cfg.arg, s, h);
}

static void on_lost(void *arg)
{
    struct shortcut *s = arg;
    s->not_before_ms = loop_now_ms(s->owner->cfg.loop) + AGAIN_MS;
}

static void on_look(struct timer *t)
{
    struct shortcut *s = container_of(t, struct shortcut, look);
    bool is_idle = !reverse_pool_streams(s->pool);
    if (is_idle && s->was_idle)
        reverse_pool_close_idle(s->pool);
    s->was_idle = is_idle;
    if (reverse_pool_count(s->pool))
        timer_start(t, IDLE_MS);
}

/* ---- one of them ---- */

static struct shortcut *find(struct shortcuts *sc, const char *hub, uint32_t worker)
{
    struct shortcut *s;
    LL_FOREACH (sc->all, s) {
        if (s->worker == worker && strcmp(s->hub, hub) == 0)
            return s;
    }
    if (sc->n == PLACES_MAX)
        return NULL;
    s = NEW(struct shortcut);
    s->owner = sc;
    s->worker = worker;
    snprintf(s->hub, sizeof(s->hub), "%s", hub);
    fleet_worker_name(s->ask_for, worker, hub);
    timer_init(&s->look, sc->cfg.loop, on_look);
    LL_PREPEND(sc->all, s);
    sc->n++;
    return s;
}

/* Where agents reach that hub; NULL: nobody has told, or it is being drained. */
static const struct hub_entry *place_of(const struct shortcuts *sc, const char *hub)
{
    for (size_t i = 0; i < sc->cfg.hubs->n; i++) {
        const struct hub_entry *e = &sc->cfg.hubs->entries[i];
        if (strcmp(e->id, hub) == 0)
            return e->is_leaving ? NULL : e;
    }
    return NULL;
}

/* By what the certificate is now. */
static int make_pool(struct shortcut *s, const struct hub_entry *at)
{
    const struct shortcuts_config *cfg = &s->owner->cfg;
    struct tls_client *tls;
    TRY(cfg->make_tls(cfg->arg, s->hub, &tls));
    const struct reverse_config reverse = {.loop = cfg->loop,
                                           .target = at->at,
                                           .known = at->known,
                                           .tls = tls,
                                           .ask_for = s->ask_for,
                                           .epoch = cfg->epoch,
                                           .on_lost = on_lost,
                                           .on_request = on_request,
                                           .arg = s};
    s->pool = reverse_pool_new(&reverse);
    tls_client_unref(tls);
    return 0;
}

/* One more than there are streams on them, so that bulk streams come to have their own. */
static void want(struct shortcut *s, const struct hub_entry *at)
{
    if (s->pool && !reverse_pool_count(s->pool))
        reverse_pool_free(TAKE(s->pool));
    if (!s->pool && make_pool(s, at) < 0)
        return;
    size_t n = reverse_pool_streams(s->pool) + 1;
    n = MIN(n, (size_t)FLEET_SHORTCUTS_MAX);
    if (n <= reverse_pool_count(s->pool))
        return;
    s->was_idle = false;
    reverse_pool_want(s->pool, (uint32_t)n);
    if (!timer_is_running(&s->look))
        timer_start(&s->look, IDLE_MS);
}

void shortcuts_want(struct shortcuts *sc, const char *tag)
{
    char hub[ID_SIZE];
    uint32_t worker;
    int end = 0;
    if (sc->is_left || sscanf(tag, "%31[^/]/%3" SCNu32 "/%n", hub, &worker, &end) != 2 || !end)
        return;
    const struct hub_entry *at = place_of(sc, hub);
    struct shortcut *s = at ? find(sc, hub, worker) : NULL;
    if (s && loop_now_ms(sc->cfg.loop) >= s->not_before_ms)
        want(s, at);
}

/* ---- the end ---- */

void shortcuts_leave(struct shortcuts *sc)
{
    struct shortcut *s;
    sc->is_left = true;
    LL_FOREACH (sc->all, s) {
        if (s->pool)
            reverse_pool_leave(s->pool);
    }
}

void shortcuts_free(struct shortcuts *sc)
{
    struct shortcut *s, *next;
    if (!sc)
        return;
    LL_FOREACH_SAFE (sc->all, s, next) {
        timer_stop(&s->look);
        if (sc->is_left) /* the hub that was left may know sooner that a stream has ended */
            reverse_pool_finish(s->pool);
        else
            reverse_pool_free(s->pool);
        mem_free(s);
    }
    mem_free(sc);
}
