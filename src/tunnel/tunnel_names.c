#include "tunnel/tunnel_names.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <uthash.h>

struct name {
    char text[HOST_SIZE];
    char tunnel[ID_SIZE]; /* "": the hub's own */
    enum tunnel_name_kind kind;
    UT_hash_handle hh;
};

struct tunnel_names {
    pthread_rwlock_t lock;
    struct name *names;
    _Atomic uint32_t n_sni;
};

struct tunnel_names *tunnel_names_new(void)
{
    struct tunnel_names *n = NEW(struct tunnel_names);
    pthread_rwlock_init(&n->lock, NULL);
    return n;
}

static struct name *find(struct tunnel_names *n, const char *text)
{
    struct name *name;
    HASH_FIND_STR(n->names, text, name);
    return name;
}

static void drop(struct tunnel_names *n, struct name *name)
{
    n->n_sni -= name->kind == TUNNEL_NAME_SNI;
    HASH_DEL(n->names, name);
    mem_free(name);
}

void tunnel_names_free(struct tunnel_names *n)
{
    struct name *name, *next;
    if (!n)
        return;
    HASH_ITER (hh, n->names, name, next)
        drop(n, name);
    pthread_rwlock_destroy(&n->lock);
    mem_free(n);
}

enum tunnel_name_kind tunnel_names_find(struct tunnel_names *n, const char *text)
{
    pthread_rwlock_rdlock(&n->lock);
    const struct name *name = find(n, text);
    enum tunnel_name_kind kind = name ? name->kind : TUNNEL_NAME_NONE;
    pthread_rwlock_unlock(&n->lock);
    return kind;
}

bool tunnel_names_has_sni(struct tunnel_names *n)
{
    return atomic_load_explicit(&n->n_sni, memory_order_relaxed) > 0;
}

int tunnel_names_check(struct tunnel_names *n, const char *text, const char *tunnel)
{
    const struct name *name = find(n, text);
    if (name && !name->tunnel[0])
        return ERR_DENIED;
    return name && strcmp(name->tunnel, tunnel) != 0 ? ERR_EXISTS : 0;
}

static void put(struct tunnel_names *n, const char *text, enum tunnel_name_kind kind,
                const char *tunnel)
{
    pthread_rwlock_wrlock(&n->lock);
    struct name *name = find(n, text);
    if (!name) {
        name = NEW(struct name);
        snprintf(name->text, sizeof(name->text), "%s", text);
        snprintf(name->tunnel, sizeof(name->tunnel), "%s", tunnel);
        HASH_ADD_STR(n->names, text, name);
    }
    n->n_sni += (kind == TUNNEL_NAME_SNI) - (name->kind == TUNNEL_NAME_SNI);
    name->kind = kind;
    pthread_rwlock_unlock(&n->lock);
}

int tunnel_names_claim(struct tunnel_names *n, const char *text, enum tunnel_name_kind kind,
                       const char *tunnel)
{
    TRY(tunnel_names_check(n, text, tunnel));
    put(n, text, kind, tunnel);
    return 0;
}

void tunnel_names_reserve(struct tunnel_names *n, const char *text)
{
    char host[HOST_SIZE];
    if (host_name_parse(text, host) == 0)
        put(n, host, TUNNEL_NAME_NONE, "");
}

void tunnel_names_release(struct tunnel_names *n, const char *text, const char *tunnel)
{
    pthread_rwlock_wrlock(&n->lock);
    struct name *name = find(n, text);
    if (name && strcmp(name->tunnel, tunnel) == 0)
        drop(n, name);
    pthread_rwlock_unlock(&n->lock);
}

const char *tunnel_names_tunnel(struct tunnel_names *n, const char *text)
{
    const struct name *name = find(n, text);
    return name && name->tunnel[0] ? name->tunnel : NULL;
}
