#include "base/macro.h"
#include "route_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

bool world_chance(uint32_t one_in)
{
    return !w.is_calm && draw(one_in) == 0;
}

/* Most are quick. */
static uint64_t delay_ms(void)
{
    return w.is_calm || draw(10) ? draw(100) : draw(DELAY_MAX_MS);
}

void mail_post(struct mail m, uint64_t due_ms)
{
    assert_true(w.n_mail < MAIL_MAX);
    m.due_ms = due_ms;
    m.number = w.n_sent++;
    w.mail[w.n_mail++] = m;
}

static void post_after(struct mail m, uint64_t *after_ms)
{
    *after_ms = MAX(*after_ms, w.now_ms + delay_ms());
    mail_post(m, *after_ms);
}

struct mail mail_from(int hub, struct mail m)
{
    m.hub = hub;
    m.hub_epoch = w.hubs[hub].epoch;
    return m;
}

void mail_ask(int hub, struct mail m)
{
    m = mail_from(hub, m);
    m.is_failed = world_chance(50);
    m.is_answer_lost = !m.is_failed && world_chance(50);
    w.seen[SEEN_FAILED] += m.is_failed;
    if (m.kind == MAIL_RENEW) /* comes before all that waits */
        mail_post(m, w.now_ms + delay_ms());
    else
        post_after(m, &w.hubs[hub].asked_until_ms);
}

void mail_ask_until_done(int hub, struct mail m)
{
    m = mail_from(hub, m);
    m.is_patient = true;
    m.is_again = m.kind != MAIL_READ && m.kind != MAIL_READ_AGENT && world_chance(20);
    post_after(m, &w.hubs[hub].asked_until_ms);
}

void world_answer(const struct mail *to, enum mail_kind kind)
{
    struct mail m = *to;
    struct hub *h = &w.hubs[m.hub];
    if (m.is_silent)
        return;
    m.kind = kind;
    m.now_ms = db_now_ms();
    memcpy(m.leases, w.db.hubs, sizeof(m.leases));
    if (kind == MAIL_RENEWED)
        mail_post(m, w.now_ms + delay_ms());
    else if (m.hub_epoch == h->epoch)
        post_after(m, &h->answered_until_ms);
}

static int compare_mail(const void *a, const void *b)
{
    const struct mail *x = a, *y = b;
    return x->number < y->number ? -1 : 1;
}

void mail_deliver(bool (*deliver)(struct mail *m))
{
    static struct mail due[MAIL_MAX];
    size_t n = 0;
    for (size_t i = 0; i < w.n_mail;) {
        if (w.mail[i].due_ms > w.now_ms) {
            i++;
            continue;
        }
        due[n++] = w.mail[i];
        w.mail[i] = w.mail[--w.n_mail];
    }
    qsort(due, n, sizeof(due[0]), compare_mail);
    for (size_t i = 0; i < n; i++) {
        if (deliver(&due[i]))
            continue;
        due[i].due_ms = w.now_ms + STEP_MS;
        assert_true(w.n_mail < MAIL_MAX);
        w.mail[w.n_mail++] = due[i];
    }
}
