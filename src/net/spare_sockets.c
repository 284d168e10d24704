#include "net/spare_sockets.h"

#include "base/macro.h"

#include <assert.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

struct spare {
    int fd;
    sa_family_t family;
    uint8_t kind;
    uint8_t ip[16];
    uint32_t scope; /* of a link-local address */
};

/* The oldest first. */
static _Thread_local struct spares {
    struct spare items[SPARE_SOCKETS_MAX];
    size_t n;
} spares;

static pthread_key_t key; /* for its destructor only */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void close_all(void *arg)
{
    struct spares *s = arg;
    while (s->n)
        close(s->items[--s->n].fd);
}

static void make_key(void)
{
    int rc = pthread_key_create(&key, close_all);
    assert(rc == 0);
    (void)rc;
}

static struct spare describe(int fd, const struct addr *to, enum spare_kind kind)
{
    struct spare s = {.fd = fd, .family = to->sa.sa_family, .kind = (uint8_t)kind};
    addr_mapped(to, s.ip);
    if (s.family == AF_INET6)
        s.scope = to->in6.sin6_scope_id;
    return s;
}

static bool is_for(const struct spare *a, const struct spare *b)
{
    return a->family == b->family && a->kind == b->kind && a->scope == b->scope &&
           memcmp(a->ip, b->ip, sizeof(a->ip)) == 0;
}

static int take_out(size_t at)
{
    int fd = spares.items[at].fd;
    spares.n--;
    memmove(&spares.items[at], &spares.items[at + 1], (spares.n - at) * sizeof(spares.items[0]));
    return fd;
}

int spare_socket_take(const struct addr *to, enum spare_kind kind)
{
    struct spare wanted = describe(-1, to, kind);
    for (size_t i = spares.n; i > 0; i--) {
        if (is_for(&spares.items[i - 1], &wanted))
            return take_out(i - 1);
    }
    return -1;
}

void spare_socket_keep(int fd, const struct addr *to, enum spare_kind kind)
{
    pthread_once(&once, make_key);
    pthread_setspecific(key, &spares);
    if (spares.n == SPARE_SOCKETS_MAX)
        close(take_out(0));
    spares.items[spares.n++] = describe(fd, to, kind);
}

void spare_sockets_close(void)
{
    close_all(&spares);
}
