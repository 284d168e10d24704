/*
 * All descriptors of a loop live in one epoll set of ours, edge-triggered and added once, and libuv
 * watches that set. Compared with one uv_poll_t each this saves an epoll_ctl per change of interest
 * and a handle whose close is asynchronous.
 */
#include "loop/internal.h"

#include "base/error.h"

#include <errno.h>
#include <unistd.h>

static void on_readable_set(uv_poll_t *uv, int status, int events)
{
    struct loop *l = uv->data;
    (void)status;
    (void)events;
    l->turn_started_ns = uv_hrtime();
    l->n_events = epoll_wait(l->epoll_fd, l->events, IO_BATCH, 0);
    for (int i = 0; i < l->n_events; i++) {
        struct io *io = l->events[i].data.ptr;
        uint32_t e = l->events[i].events;
        if (!io)
            continue;
        if (e & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
            io->readable = true;
        if (e & (EPOLLOUT | EPOLLHUP | EPOLLERR))
            io->writable = true;
        if (e & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
            io->hup = true;
        if (e & EPOLLERR)
            io->error = true;
        io->on_event(io);
    }
    l->n_events = 0;
}

int loop_io_init(struct loop *l)
{
    l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (l->epoll_fd < 0)
        return error_from_errno(errno);
    int rc = uv_poll_init(&l->uv, &l->io_poll, l->epoll_fd);
    if (rc < 0)
        return error_from_errno(-rc);
    l->io_poll.data = l;
    rc = uv_poll_start(&l->io_poll, UV_READABLE, on_readable_set);
    return rc < 0 ? error_from_errno(-rc) : 0;
}

void loop_io_done(struct loop *l)
{
    if (l->epoll_fd >= 0)
        close(l->epoll_fd);
}

int io_start(struct io *io, struct loop *l, int fd, void (*on_event)(struct io *io))
{
    *io = (struct io){.fd = fd, .loop = l, .on_event = on_event};
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = io};
    if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0) {
        io->loop = NULL;
        return error_from_errno(errno);
    }
    return 0;
}

void io_stop(struct io *io)
{
    struct loop *l = io->loop;
    if (!l)
        return;
    epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, io->fd, NULL);
    for (int i = 0; i < l->n_events; i++) {
        if (l->events[i].data.ptr == io)
            l->events[i].data.ptr = NULL;
    }
    io->loop = NULL;
}

void io_close(struct io *io)
{
    if (!io->loop)
        return;
    io_stop(io);
    close(io->fd);
    io->fd = -1;
}
