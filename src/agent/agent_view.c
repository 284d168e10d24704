#include "agent/agent_view.h"

#include "base/error.h"
#include "base/mem.h"
#include "loop/io.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define CLIENTS_MAX 4 /* more wait in the kernel's queue */
#define READ_MAX_S  10

struct client {
    struct io io; /* fd -1: free */
    struct agent_view *view;
    struct buf text;
};

struct agent_view {
    struct agent_view_config cfg;
    struct sockaddr_un address;
    struct io io;
    struct client clients[CLIENTS_MAX];
};

static int address_of(const char *dir, struct sockaddr_un *ret, struct diag *d)
{
    *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
    int n = snprintf(ret->sun_path, sizeof(ret->sun_path), "%s/%s", dir, AGENT_VIEW_SOCKET);
    if (n < 0 || (size_t)n >= sizeof(ret->sun_path))
        return diag_set(d, ERR_TOO_LARGE, "%s: the path is too long for a socket", dir);
    return 0;
}

static void accept_clients(struct agent_view *v);

static void client_close(struct client *c)
{
    io_close(&c->io);
    buf_done(&c->text);
    accept_clients(c->view);
}

static void on_client(struct io *io)
{
    struct client *c = container_of(io, struct client, io);
    while (c->text.len && c->io.writable) {
        ssize_t n = send(c->io.fd, c->text.data, c->text.len, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            c->io.writable = false;
        else if (n < 0)
            buf_clear(&c->text);
        else
            buf_consume(&c->text, (size_t)n);
    }
    if (!c->text.len)
        client_close(c);
}

static int append_json(const char *text, size_t len, void *buf)
{
    return buf_append(buf, text, len);
}

static void client_start(struct client *c, int fd)
{
    struct agent_view *v = c->view;
    c->io = (struct io){.fd = fd};
    json_t *value = v->cfg.render(v->cfg.arg);
    json_dump_callback(value, append_json, &c->text, JSON_INDENT(1));
    json_decref(value);
    buf_puts(&c->text, "\n");
    if (io_start(&c->io, v->cfg.loop, fd, on_client) < 0) {
        close(fd);
        c->io.fd = -1;
        buf_done(&c->text);
    }
}

static struct client *free_client(struct agent_view *v)
{
    for (size_t i = 0; i < CLIENTS_MAX; i++) {
        if (v->clients[i].io.fd < 0)
            return &v->clients[i];
    }
    return NULL;
}

static void accept_clients(struct agent_view *v)
{
    struct client *c;
    while (v->io.readable && (c = free_client(v))) {
        int fd = accept4(v->io.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0)
            client_start(c, fd);
        else
            v->io.readable = false;
    }
}

static void on_listener(struct io *io)
{
    accept_clients(container_of(io, struct agent_view, io));
}

static int bind_socket(const struct sockaddr_un *a, struct diag *d)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return diag_set(d, ERR_IO, "socket: %s", strerror(errno));
    unlink(a->sun_path);
    mode_t old = umask(0177);
    int r = bind(fd, (const struct sockaddr *)a, sizeof(*a));
    umask(old);
    if (r < 0 || listen(fd, CLIENTS_MAX) < 0) {
        diag_set(d, ERR_IO, "%s: %s", a->sun_path, strerror(errno));
        close(fd);
        return ERR_IO;
    }
    return fd;
}

int agent_view_start(const struct agent_view_config *cfg, struct agent_view **ret, struct diag *d)
{
    struct sockaddr_un address;
    TRY(address_of(cfg->dir, &address, d));
    int fd = bind_socket(&address, d);
    if (fd < 0)
        return fd;
    struct agent_view *v = NEW(struct agent_view);
    v->cfg = *cfg;
    v->address = address;
    for (size_t i = 0; i < CLIENTS_MAX; i++)
        v->clients[i] = (struct client){.io.fd = -1, .view = v};
    v->io.fd = fd;
    int r = io_start(&v->io, cfg->loop, fd, on_listener);
    if (r < 0) {
        agent_view_free(v);
        return diag_set(d, r, "%s cannot be watched", address.sun_path);
    }
    *ret = v;
    return 0;
}

void agent_view_free(struct agent_view *v)
{
    if (!v)
        return;
    unlink(v->address.sun_path);
    io_close(&v->io);
    for (size_t i = 0; i < CLIENTS_MAX; i++) {
        io_close(&v->clients[i].io);
        buf_done(&v->clients[i].text);
    }
    mem_free(v);
}

int agent_view_read(const char *dir, struct buf *out, struct diag *d)
{
    struct sockaddr_un address;
    TRY(address_of(dir, &address, d));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval limit = {.tv_sec = READ_MAX_S};
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        diag_set(d, ERR_UNAVAILABLE, "no agent runs in %s: %s", dir, strerror(errno));
        if (fd >= 0)
            close(fd);
        return ERR_UNAVAILABLE;
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    char data[4096];
    ssize_t n;
    while ((n = recv(fd, data, sizeof(data), 0)) > 0)
        buf_append(out, data, (size_t)n);
    close(fd);
    return n < 0 ? diag_set(d, ERR_TIMEOUT, "the agent in %s does not answer", dir) : 0;
}
