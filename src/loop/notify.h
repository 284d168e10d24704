/*
 * Tells the service manager how this process is, by the datagram protocol of sd_notify(3), and
 * feeds its watchdog from the loop: a loop that hangs stops feeding and the process is restarted.
 * Outside of a service manager every call does nothing.
 */
#pragma once

#include "base/macro.h"
#include "loop/loop.h"

#include <sys/un.h>

struct notify {
    int fd; /* -1: nobody to tell */
    struct sockaddr_un manager;
    socklen_t manager_len;
    struct timer feed;
    uint64_t feed_every_ms; /* 0: no watchdog */
};

/* From NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID, which it takes out of the environment, so
 * that no child speaks for this process. */
void notify_init(struct notify *n, struct loop *l);
void notify_done(struct notify *n);

/* "READY=1" and such; may hold several lines. */
void notify_send(struct notify *n, const char *text);

void notify_ready(struct notify *n);     /* started, or done with reloading; starts the feeding */
void notify_reloading(struct notify *n); /* until notify_ready */
void notify_stopping(struct notify *n);

/* One line for people, shown by `systemctl status`. */
void notify_status(struct notify *n, const char *format, ...) PRINTF_LIKE(2, 3);
