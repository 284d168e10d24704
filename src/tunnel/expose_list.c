/* The open connections of an exposure, for the access log: asked for on the main loop, gathered on
 * the worker. */
#include "tunnel/expose_internal.h"

#include "base/macro.h"
#include "base/mem.h"

#define LIST_MAX 10000

struct listing {
    struct exposure *exposure;
    void (*done)(void *arg, const struct exposure_record *records, size_t n);
    void *arg;
    struct exposure_record *records;
    size_t n;
};

static void listed_on_main(void *arg)
{
    CLEANUP(mem_free) struct listing *l = arg;
    l->done(l->arg, l->records, l->n);
    mem_free(l->records);
}

static void list_on_worker(void *arg)
{
    struct listing *l = arg;
    struct exposure *e = l->exposure;
    uint32_t open = atomic_load(&e->relays.open) + (e->udp ? exposure_udp_open(e->udp) : 0);
    size_t room = MIN(open, (uint32_t)LIST_MAX);
    l->records = mem_new(room * sizeof(*l->records));
    for (const struct relay *r = e->relays.head; r && l->n < room; r = relay_next(r)) {
        l->records[l->n++] = (struct exposure_record){.client = *relay_peer(r),
                                                      .opened = exposure_opened_at(r),
                                                      .bytes_in = relay_bytes_read(r),
                                                      .bytes_out = relay_bytes_written(r)};
    }
    if (e->udp)
        l->n += exposure_udp_list(e->udp, l->records + l->n, room - l->n);
    for (size_t i = 0; i < l->n; i++) {
        exposure_name_record(e, &l->records[i]);
        l->records[i].end = "open";
    }
    loop_post(e->main, listed_on_main, l);
}

void exposure_list_open(struct exposure *e,
                        void (*done)(void *arg, const struct exposure_record *records, size_t n),
                        void *arg)
{
    struct listing *l = NEW(struct listing);
    *l = (struct listing){.exposure = e, .done = done, .arg = arg};
    if (e->is_stopping)
        loop_post(e->main, listed_on_main, l);
    else
        loop_post(e->worker, list_on_worker, l);
}
