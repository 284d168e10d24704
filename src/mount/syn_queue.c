#include "mount/syn_queue.h"

#include "base/macro.h"
#include "base/mem.h"

#include <assert.h>
#include <string.h>
#include <utlist.h>

static size_t class_of(const struct packet *p)
{
    uint32_t h = p->ends.far_port;
    for (size_t i = 0; i < sizeof(p->ends.far); i++)
        h = h * 31 + p->ends.far[i];
    return (h * 0x9e3779b1u) >> 26;
}

static_assert(SYN_QUEUE_CLASSES == 1 << (32 - 26), "what class_of gives");

static struct syn_waiting *remove_one(struct syn_queue *q, size_t class, struct syn_waiting *w)
{
    DL_DELETE(q->classes[class], w);
    q->counts[class]--;
    q->n--;
    return w;
}

static size_t longest(const struct syn_queue *q)
{
    size_t class = 0;
    for (size_t i = 1; i < SYN_QUEUE_CLASSES; i++)
        class = q->counts[i] > q->counts[class] ? i : class;
    return class;
}

void syn_queue_put(struct syn_queue *q, const struct packet *syn)
{
    size_t class = class_of(syn);
    if (q->n == SYN_QUEUE_MAX) {
        size_t full = longest(q);
        if (full == class)
            return;
        mem_free(remove_one(q, full, q->classes[full]->prev));
    }
    struct syn_waiting *w = NEW(struct syn_waiting);
    w->packet = *syn;
    w->packet.ip = w->quote;
    w->packet.ip_len = MIN(syn->ip_len, sizeof(w->quote));
    w->packet.payload = NULL;
    w->packet.payload_len = 0;
    memcpy(w->quote, syn->ip, w->packet.ip_len);
    DL_APPEND(q->classes[class], w);
    q->counts[class]++;
    q->n++;
}

struct syn_waiting *syn_queue_take(struct syn_queue *q)
{
    if (!q->n)
        return NULL;
    do {
        q->turn = (q->turn + 1) % SYN_QUEUE_CLASSES;
    } while (!q->classes[q->turn]);
    return remove_one(q, q->turn, q->classes[q->turn]);
}

void syn_queue_done(struct syn_queue *q)
{
    struct syn_waiting *w;
    while ((w = syn_queue_take(q)))
        mem_free(w);
}
