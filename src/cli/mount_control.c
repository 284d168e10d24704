#include "cli/mount_control.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/text.h"
#include "loop/io.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>
#include <utlist.h>

#define PREFIX      "warren-mount/"
#define BACKLOG     64
#define CLIENTS_MAX 64
#define ASK_MAX     32
#define ANSWER_MAX  (64 << 10)
#define ANSWER_S    5
#define STOP_S      60

struct client {
    struct control *control;
    struct io io;
    bool waits; /* for the end */
    struct client *prev, *next;
};

struct control {
    struct loop *loop;
    struct io io;
    const struct control_ops *ops;
    void *arg;
    struct client *clients; /* oldest first */
    size_t n_clients;
};

static socklen_t address_of(const char *name, struct sockaddr_un *ret)
{
    *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
    int n = snprintf(ret->sun_path + 1, sizeof(ret->sun_path) - 1, PREFIX "%u/%s", geteuid(), name);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

static bool is_of_user(int fd)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.uid == geteuid();
}

static int send_message(int fd, const void *data, size_t len, int passed)
{
    char room[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec iov = {(void *)data, len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (passed >= 0) {
        msg.msg_control = room;
        msg.msg_controllen = sizeof(room);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        *c = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(c), &passed, sizeof(passed));
    }
    return sendmsg(fd, &msg, MSG_NOSIGNAL) == (ssize_t)len ? 0 : ERR_IO;
}

/* ---- the mount's side ---- */

static void client_free(struct client *cl)
{
    DL_DELETE(cl->control->clients, cl);
    cl->control->n_clients--;
    io_close(&cl->io);
    mem_free(cl);
}

static void answer(struct client *cl, const char *what)
{
    const struct control *c = cl->control;
    json_t *status = c->ops->status(c->arg);
    char *text = json_dumps(status, JSON_COMPACT);
    bool is_join = strcmp(what, "join") == 0;
    send_message(cl->io.fd, text, strlen(text), is_join ? c->ops->process(c->arg) : -1);
    free(text);
    json_decref(status);
}

static void on_client(struct io *io)
{
    struct client *cl = container_of(io, struct client, io);
    const struct control *c = cl->control;
    char what[ASK_MAX + 1];
    ssize_t n = recv(io->fd, what, ASK_MAX, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        io->readable = io->hup;
        return;
    }
    if (n <= 0 || cl->waits) {
        client_free(cl);
        return;
    }
    what[n] = '\0';
    answer(cl, what);
    cl->waits = strcmp(what, "stop") == 0;
    if (cl->waits)
        c->ops->stop(c->arg);
    else
        client_free(cl);
}

/* One that says nothing gives way to those that come. */
static void make_room(struct control *c)
{
    if (c->n_clients >= CLIENTS_MAX)
        client_free(c->clients);
}

static void on_accept(struct io *io)
{
    struct control *c = container_of(io, struct control, io);
    int fd;
    while ((fd = accept4(io->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (!is_of_user(fd)) {
            close(fd);
            continue;
        }
        make_room(c);
        struct client *cl = NEW(struct client);
        cl->control = c;
        c->n_clients++;
        DL_APPEND(c->clients, cl);
        if (io_start(&cl->io, c->loop, fd, on_client) < 0) {
            cl->io.fd = fd;
            client_free(cl);
        }
    }
    io->readable = false;
}

int control_listen(const char *name, int *ret_fd, struct diag *d)
{
    struct sockaddr_un at;
    socklen_t len = address_of(name, &at);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&at, len) == 0 && listen(fd, BACKLOG) == 0) {
        *ret_fd = fd;
        return 0;
    }
    int err = errno;
    if (fd >= 0)
        close(fd);
    if (err == EADDRINUSE)
        return diag_set(d, ERR_EXISTS, "a mount named '%s' runs already", name);
    return diag_set(d, ERR_LIMIT, "cannot make a socket: %s", strerror(err));
}

int control_start(struct loop *l, int fd, const struct control_ops *ops, void *arg,
                  struct control **ret)
{
    struct control *c = NEW(struct control);
    *c = (struct control){.loop = l, .ops = ops, .arg = arg};
    int rc = io_start(&c->io, l, fd, on_accept);
    if (rc < 0) {
        close(fd);
        mem_free(c);
        return rc;
    }
    *ret = c;
    return 0;
}

void control_stop(struct control *c)
{
    struct client *cl, *next;
    if (!c)
        return;
    io_close(&c->io);
    DL_FOREACH_SAFE (c->clients, cl, next) {
        if (cl->waits)
            io_stop(&cl->io);
        else
            client_free(cl);
    }
}

void control_free(struct control *c)
{
    if (!c)
        return;
    while (c->clients)
        client_free(c->clients);
    mem_free(c);
}

/* ---- the other side ---- */

static int not_there(const char *name, struct diag *d)
{
    return diag_set(d, ERR_NOT_FOUND, "there is no mount named '%.63s'", name);
}

static int dial(const char *name, struct diag *d)
{
    struct sockaddr_un at;
    if (!text_is_name(name))
        return not_there(name, d);
    socklen_t len = address_of(name, &at);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return diag_set(d, ERR_LIMIT, "cannot make a socket: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&at, len) == 0 && is_of_user(fd))
        return fd;
    close(fd);
    return not_there(name, d);
}

static void wait_at_most(int fd, int seconds)
{
    struct timeval limit = {.tv_sec = seconds};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
}

/* The descriptor that came along, or -1. */
static int receive_answer(int from, char *text, size_t size, ssize_t *ret_len)
{
    char room[CMSG_SPACE(sizeof(int))];
    struct iovec iov = {text, size};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
    int fd = -1;
    *ret_len = recvmsg(from, &msg, MSG_CMSG_CLOEXEC);
    const struct cmsghdr *c = *ret_len > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
    if (c && c->cmsg_type == SCM_RIGHTS)
        memcpy(&fd, CMSG_DATA(c), sizeof(fd));
    return fd;
}

/* Until the mount closes the connection: it is gone. */
static int wait_for_end(int fd, const char *name, struct diag *d)
{
    char more;
    wait_at_most(fd, STOP_S);
    ssize_t n = recv(fd, &more, 1, 0);
    return n >= 0 || errno == ECONNRESET
               ? 0
               : diag_set(d, ERR_TIMEOUT, "the mount '%.63s' was told to stop, and still runs",
                          name);
}

int control_ask(const char *name, const char *what, json_t **ret, int *ret_fd, struct diag *d)
{
    CLEANUP(mem_free) char *text = mem_new(ANSWER_MAX);
    ssize_t len;
    int fd = TRY(dial(name, d));
    wait_at_most(fd, ANSWER_S);
    send_message(fd, what, strlen(what), -1);
    int passed = receive_answer(fd, text, ANSWER_MAX, &len);
    json_t *status = len > 0 ? json_loadb(text, (size_t)len, 0, NULL) : NULL;
    int rc = status ? 0 : diag_set(d, ERR_TIMEOUT, "the mount '%.63s' does not answer", name);
    if (rc == 0 && strcmp(what, "stop") == 0)
        rc = wait_for_end(fd, name, d);
    close(fd);
    if (ret_fd)
        *ret_fd = passed;
    else if (passed >= 0)
        close(passed);
    if (ret && rc == 0)
        *ret = status;
    else
        json_decref(status);
    return rc;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Names of sockets of this user, as the kernel lists them: "@warren-mount/0/plant". */
static size_t list_names(char ***ret)
{
    char line[256], mine[64];
    size_t n = 0;
    FILE *f = fopen("/proc/net/unix", "re");
    snprintf(mine, sizeof(mine), "@" PREFIX "%u/", geteuid());
    while (f && fgets(line, sizeof(line), f)) {
        const char *at = strstr(line, mine);
        if (!at)
            continue;
        char *name = mem_strdup(at + strlen(mine));
        name[strcspn(name, "\n")] = '\0';
        *ret = mem_grow(*ret, (n + 1) * sizeof(**ret));
        (*ret)[n++] = name;
    }
    if (f)
        fclose(f);
    if (n)
        qsort(*ret, n, sizeof(**ret), by_name);
    return n;
}

json_t *control_list(void)
{
    json_t *list = json_array();
    char **names = NULL;
    size_t n = list_names(&names);
    for (size_t i = 0; i < n; i++) {
        json_t *status = NULL;
        bool is_again = i > 0 && strcmp(names[i], names[i - 1]) == 0; /* a connection of it */
        if (!is_again && control_ask(names[i], "status", &status, NULL, NULL) == 0)
            json_array_append_new(list, status);
    }
    for (size_t i = 0; i < n; i++)
        mem_free(names[i]);
    mem_free(names);
    return list;
}
