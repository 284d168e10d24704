#include "net/pinger.h"

#include "base/error.h"
#include "base/macro.h"

#include <unistd.h>

#define ANSWERS_A_TURN 64
#define SENDS_MAX      64 /* of one echo, while errors of others come in between */

/* Whether there was anything. */
static bool receive(struct pinger *p)
{
    struct ping_answer a;
    bool was_any = false;
    for (int i = 0; i < ANSWERS_A_TURN && p->io.readable; i++) {
        int rc = ping_receive(&p->ping, &a);
        was_any |= rc != 0;
        if (rc > 0)
            p->on_answer(p, &a);
        else if (rc == 0)
            p->io.readable = false;
    }
    if (p->io.readable)
        loop_defer(p->loop, &p->again);
    return was_any;
}

static void on_event(struct io *io)
{
    struct pinger *p = container_of(io, struct pinger, io);
    if (io->error) {
        io->error = false;
        io->readable = true;
    }
    receive(p);
}

static void on_again(struct defer *d)
{
    receive(container_of(d, struct pinger, again));
}

int pinger_start(struct pinger *p, struct loop *l, bool is_v6)
{
    p->loop = l;
    p->again.fn = on_again;
    p->io = (struct io){.fd = -1};
    TRY(ping_open(is_v6, &p->ping));
    int rc = io_start(&p->io, l, p->ping.fd, on_event);
    if (rc < 0) {
        close(p->ping.fd);
        p->io.fd = -1;
    }
    return rc;
}

void pinger_stop(struct pinger *p)
{
    loop_defer_cancel(&p->again);
    io_close(&p->io);
}

int pinger_send(struct pinger *p, const struct ping_request *r)
{
    int errnum = ping_send(&p->ping, r);
    bool was_any = true;
    for (int i = 0; errnum && was_any && i < SENDS_MAX; i++) { /* that of an earlier echo? */
        p->io.readable = true;
        was_any = receive(p);
        errnum = ping_send(&p->ping, r);
    }
    return errnum;
}
