#include "loop/notify.h"

#include "base/text.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define WATCHDOG_MAX_US ((uint64_t)86400 * 1000000)

/* sd_notify(3): a path, or '@' and an abstract name. */
static void find_manager(struct notify *n)
{
    const char *name = getenv("NOTIFY_SOCKET");
    size_t len = name ? strlen(name) : 0;
    if (len < 2 || len >= sizeof(n->manager.sun_path) || (*name != '/' && *name != '@'))
        return;
    n->manager.sun_family = AF_UNIX;
    memcpy(n->manager.sun_path, name, len);
    if (*name == '@')
        n->manager.sun_path[0] = '\0';
    n->manager_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    n->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/* sd_watchdog_enabled(3); feeding at half the interval, as it advises. */
static uint64_t find_watchdog(void)
{
    const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    uint64_t us, owner;
    if (!usec || text_to_u64(usec, WATCHDOG_MAX_US, &us) < 0)
        return 0;
    if (pid && (text_to_u64(pid, UINT32_MAX, &owner) < 0 || (pid_t)owner != getpid()))
        return 0;
    return us / 2000;
}

static void on_feed(struct timer *t)
{
    struct notify *n = container_of(t, struct notify, feed);
    notify_send(n, "WATCHDOG=1");
    timer_start(&n->feed, n->feed_every_ms);
}

void notify_init(struct notify *n, struct loop *l)
{
    *n = (struct notify){.fd = -1};
    timer_init(&n->feed, l, on_feed);
    find_manager(n);
    if (n->fd >= 0)
        n->feed_every_ms = find_watchdog();
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
}

void notify_done(struct notify *n)
{
    timer_stop(&n->feed);
    if (n->fd >= 0)
        close(n->fd);
    n->fd = -1;
}

void notify_send(struct notify *n, const char *text)
{
    if (n->fd >= 0) /* a full or vanished socket is the manager's trouble, not ours */
        (void)sendto(n->fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&n->manager,
                     n->manager_len);
}

void notify_ready(struct notify *n)
{
    notify_send(n, "READY=1");
    if (n->feed_every_ms)
        on_feed(&n->feed);
}

void notify_reloading(struct notify *n)
{
    char text[64];
    struct timespec now; /* the manager orders events by CLOCK_MONOTONIC in µs */
    clock_gettime(CLOCK_MONOTONIC, &now);
    snprintf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%" PRIu64,
             (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000);
    notify_send(n, text);
}

void notify_stopping(struct notify *n)
{
    notify_send(n, "STOPPING=1");
}

void notify_status(struct notify *n, const char *format, ...)
{
    char text[256] = "STATUS=";
    size_t used = strlen(text);
    va_list args;
    va_start(args, format);
    vsnprintf(text + used, sizeof(text) - used, format, args);
    va_end(args);
    for (char *c = text; (c = strchr(c, '\n'));)
        *c = ' ';
    notify_send(n, text);
}
