#include "loop/work.h"

#include "base/mem.h"

#include <uv.h>

struct work {
    uv_work_t uv;
    void (*run)(void *arg);
    void (*done)(void *arg);
    void *arg;
};

static void on_run(uv_work_t *uv)
{
    struct work *w = uv->data;
    w->run(w->arg);
}

static void on_done(uv_work_t *uv, int status)
{
    struct work *w = uv->data;
    w->done(w->arg);
    mem_free(w);
}

void loop_work(struct loop *l, void (*run)(void *arg), void (*done)(void *arg), void *arg)
{
    struct work *w = NEW(struct work);
    *w = (struct work){.uv = {.data = w}, .run = run, .done = done, .arg = arg};
    uv_queue_work(loop_uv(l), &w->uv, on_run, on_done);
}
