/*
 * All descriptors of a loop live in one epoll set of ours, edge-triggered and added once, and so
 * does libuv's set (level-triggered). Compared with one uv_poll_t each this saves an epoll_ctl per
 * change of interest and a handle whose close is asynchronous; compared with our set inside
 * libuv's, one epoll_wait each time something happens.
 */
#include "loop/internal.h"

#include "base/error.h"
#include "base/macro.h"

#include <errno.h>
#include <sys/resource.h>
#include <unistd.h>

void loop_io_wait(struct loop *l, int timeout_ms)
{
    l->n_events = epoll_wait(l->epoll_fd, l->events, IO_BATCH, timeout_ms);
    uv_update_time(&l->uv);
    l->turn_started_ns = uv_hrtime();
    for (int i = 0; i < l->n_events; i++) {
        struct io *io = l->events[i].data.ptr;
        uint32_t e = l->events[i].events;
        if (!io)
            continue;
        if (l->events[i].data.ptr == l) {
            l->uv_ready = true;
            continue;
        }
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
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = l};
    if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, uv_backend_fd(&l->uv), &e) < 0)
        return error_from_errno(errno);
    return 0;
}

void loop_io_done(struct loop *l)
{
    if (l->epoll_fd >= 0)
        close(l->epoll_fd);
}

#define READING (EPOLLIN | EPOLLRDHUP | EPOLLET)

static int watch(struct io *io, struct loop *l, int fd, int operation, uint32_t events,
                 void (*on_event)(struct io *io))
{
    *io = (struct io){.fd = fd, .loop = l, .on_event = on_event};
    struct epoll_event e = {.events = events, .data.ptr = io};
    if (epoll_ctl(l->epoll_fd, operation, fd, &e) < 0) {
        io->loop = NULL;
        return error_from_errno(errno);
    }
    return 0;
}

int io_start(struct io *io, struct loop *l, int fd, void (*on_event)(struct io *io))
{
    return watch(io, l, fd, EPOLL_CTL_ADD, READING | EPOLLOUT, on_event);
}

int io_start_reading(struct io *io, struct loop *l, int fd, void (*on_event)(struct io *io))
{
    return watch(io, l, fd, EPOLL_CTL_ADD, READING, on_event);
}

static void forget(struct io *io)
{
    struct loop *l = TAKE(io->loop);
    for (int i = 0; i < l->n_events; i++) {
        if (l->events[i].data.ptr == io)
            l->events[i].data.ptr = NULL;
    }
}

int io_move(struct io *to, struct io *from, void (*on_event)(struct io *io))
{
    int rc = watch(to, from->loop, from->fd, EPOLL_CTL_MOD, READING | EPOLLOUT, on_event);
    if (rc < 0)
        return rc;
    forget(from);
    from->fd = -1;
    return 0;
}

void io_stop(struct io *io)
{
    if (!io->loop)
        return;
    epoll_ctl(io->loop->epoll_fd, EPOLL_CTL_DEL, io->fd, NULL);
    forget(io);
}

void io_close(struct io *io)
{
    if (!io->loop)
        return;
    io_stop(io);
    close(io->fd);
    io->fd = -1;
}

void io_raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

size_t io_descriptor_limit(void)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_NOFILE, &limit) == 0 ? (size_t)limit.rlim_cur : 1024;
}
