/*
 * Certificates for the names of tunnels, from files. Each item of the setting may have wildcards
 * (glob) and names a file or a folder:
 *
 *   folder with fullchain.pem and privkey.pem     certbot: /etc/letsencrypt/live/NAME/
 *   folder with NAME.crt and NAME.key, many       lego: ~/.lego/certificates/
 *   file NAME.pem or NAME.crt                     key in NAME.key beside it, or in the same file
 *
 * The files are looked at every CHECK_MS, a few stat() each; what changed is read again. A pair
 * that cannot be used, such as one of which half is replaced, leaves what was read of it before.
 */
#include "hub/internal.h"

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "net/tls.h"
#include "net/tls_names.h"

#include <glob.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define CHECK_MS     2000
#define FILE_MAX     (256 * 1024)
#define PAIRS_MAX    4096
#define DIGEST_START 0xcbf29ce484222325u
#define DIGEST_PRIME 0x100000001b3u

/* What is found: each pair is told to `fn`. */
struct pairs {
    void (*fn)(struct pairs *p, const char *cert, const char *key);
    size_t n;
    uint64_t digest;
    struct tls_names *names;
    const struct tls_names *old;
};

static bool is_file(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

static bool has_suffix(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);
    return n > m && strcmp(s + n - m, suffix) == 0;
}

static void tell(struct pairs *p, const char *cert, const char *key)
{
    if (p->n++ < PAIRS_MAX)
        p->fn(p, cert, key);
}

static void tell_file(struct pairs *p, const char *path)
{
    const char *dot = strrchr(path, '.');
    if (!dot || strchr(dot, '/'))
        return;
    CLEANUP(mem_free) char *key = mem_printf("%.*s.key", (int)(dot - path), path);
    tell(p, path, is_file(key) ? key : path);
}

static void tell_folder(struct pairs *p, const char *folder)
{
    CLEANUP(mem_free) char *chain = mem_printf("%s/fullchain.pem", folder);
    CLEANUP(mem_free) char *key = mem_printf("%s/privkey.pem", folder);
    CLEANUP(mem_free) char *pattern = mem_printf("%s/*.crt", folder);
    glob_t found = {0};
    if (is_file(chain)) {
        tell(p, chain, key);
        return;
    }
    if (glob(pattern, 0, NULL, &found) == 0) {
        for (size_t i = 0; i < found.gl_pathc; i++) {
            if (!has_suffix(found.gl_pathv[i], ".issuer.crt"))
                tell_file(p, found.gl_pathv[i]);
        }
    }
    globfree(&found);
}

static void each_pair(const struct hub *h, struct pairs *p)
{
    const struct conf_list *items = &h->settings->certificates;
    for (size_t i = 0; i < items->n; i++) {
        glob_t found = {0};
        if (glob(items->items[i], GLOB_NOCHECK, NULL, &found) != 0)
            continue;
        for (size_t k = 0; k < found.gl_pathc; k++) {
            struct stat st;
            if (stat(found.gl_pathv[k], &st) < 0)
                LOG_DEBUG("no certificate", LOG_STR("path", found.gl_pathv[k]));
            else if (S_ISDIR(st.st_mode))
                tell_folder(p, found.gl_pathv[k]);
            else
                tell_file(p, found.gl_pathv[k]);
        }
        globfree(&found);
    }
}

/* ---- looking ---- */

static void digest_bytes(struct pairs *p, const void *data, size_t len)
{
    for (size_t i = 0; i < len; i++)
        p->digest = (p->digest ^ ((const uint8_t *)data)[i]) * DIGEST_PRIME;
}

static void digest_file(struct pairs *p, const char *path)
{
    struct stat st = {0};
    digest_bytes(p, path, strlen(path) + 1);
    if (stat(path, &st) < 0)
        return;
    digest_bytes(p, &st.st_ino, sizeof(st.st_ino));
    digest_bytes(p, &st.st_size, sizeof(st.st_size));
    digest_bytes(p, &st.st_mtim, sizeof(st.st_mtim));
}

static void digest_pair(struct pairs *p, const char *cert, const char *key)
{
    digest_file(p, cert);
    digest_file(p, key);
}

static uint64_t digest_of(const struct hub *h)
{
    struct pairs p = {.fn = digest_pair, .digest = DIGEST_START};
    each_pair(h, &p);
    return p.digest;
}

/* ---- reading ---- */

static int load(struct pairs *p, const char *cert, const char *key, struct diag *d)
{
    CLEANUP(buf_done) struct buf chain = {0}, text = {0};
    CLEANUP(secret_done) struct secret secret = {0};
    TRY(file_read(cert, FILE_MAX, false, &chain, d));
    TRY(file_read(key, FILE_MAX, false, &text, d));
    secret_set(&secret, buf_text(&text), text.len);
    if (text.len)
        explicit_bzero(text.data, text.len);
    return tls_names_add(p->names, cert, buf_text(&chain), &secret, d);
}

static void load_pair(struct pairs *p, const char *cert, const char *key)
{
    struct diag d = {0};
    if (load(p, cert, key, &d) == 0)
        return;
    LOG_ERROR("a certificate cannot be used", LOG_STR("path", cert), LOG_STR("key", key),
              LOG_STR("why", diag_text(&d)));
    if (p->old)
        tls_names_keep(p->names, p->old, cert);
}

static void load_all(struct hub *h)
{
    struct pairs p = {.fn = load_pair, .names = tls_names_new(), .old = h->certs};
    for (size_t i = 0; i < h->settings->public_names.n; i++)
        tls_names_exclude(p.names, h->settings->public_names.items[i]);
    tls_names_exclude(p.names, "localhost");
    each_pair(h, &p);
    LOG_INFO("certificates for names of tunnels", LOG_INT("count", tls_names_count(p.names)));
    tls_server_set_names(h->tls, p.names);
    h->certs = p.names; /* the server's, which lives longer than our looking */
}

static void check(struct timer *t)
{
    struct hub *h = container_of(t, struct hub, certs_timer);
    uint64_t digest = digest_of(h);
    if (digest != h->certs_digest) {
        h->certs_digest = digest;
        load_all(h);
    }
    if (h->settings->certificates.n)
        timer_start(t, CHECK_MS);
}

int hub_certs_open(struct hub *h, struct diag *d)
{
    h->certs_digest = DIGEST_START;
    timer_init(&h->certs_timer, h->loop, check);
    check(&h->certs_timer);
    return 0;
}

void hub_certs_reload(struct hub *h)
{
    timer_start(&h->certs_timer, 0);
}

void hub_certs_close(struct hub *h)
{
    timer_stop(&h->certs_timer);
}
