#include "store/postgres_listen.h"

#include "base/backoff.h"
#include "base/error.h"
#include "base/log.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/time.h"
#include "store/postgres_conn.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define CHANNEL   "warren_feed"
#define NOTIFY_MS 100 /* between two that we send */
#define ANSWER_MS 5000

struct postgres_listener {
    struct postgres_conn conn;
    char *url, *password_file;
    void (*wake)(void *arg);
    void *arg;
    pthread_t thread;
    int event; /* eventfd: one of the flags below was set */
    atomic_bool is_stopping, owes_notify;
    uint64_t notified_ms; /* when the last one was sent */
    struct backoff backoff;
    bool in_trouble;
};

static void signal_thread(struct postgres_listener *l)
{
    eventfd_write(l->event, 1);
}

static void say_trouble(struct postgres_listener *l, int rc)
{
    if (rc < 0 && !l->in_trouble)
        LOG_WARN("not listening for other hubs' changes; reading the feed on a timer",
                 LOG_STR("reason", l->conn.error));
    else if (rc >= 0 && l->in_trouble)
        LOG_INFO("listening for other hubs' changes again");
    l->in_trouble = rc < 0;
}

static int listen_now(struct postgres_listener *l)
{
    TRY(postgres_connect(&l->conn, l->url, l->password_file));
    TRY(postgres_script(&l->conn, "LISTEN " CHANNEL, ANSWER_MS));
    l->wake(l->arg); /* what came while nobody listened */
    return 0;
}

static void take_notifications(struct postgres_listener *l)
{
    PGnotify *n;
    bool is_news = false;
    if (!PQconsumeInput(l->conn.pg)) {
        postgres_disconnect(&l->conn);
        return;
    }
    while ((n = PQnotifies(l->conn.pg))) {
        is_news |= n->be_pid != PQbackendPID(l->conn.pg);
        PQfreemem(n);
    }
    if (is_news)
        l->wake(l->arg);
}

/* How long to wait for events, in ms; -1: for ever. */
static int send_owed(struct postgres_listener *l)
{
    uint64_t now = time_mono_ms(), next = l->notified_ms + NOTIFY_MS;
    if (!atomic_load(&l->owes_notify))
        return -1;
    if (now < next)
        return (int)(next - now);
    atomic_store(&l->owes_notify, false);
    l->notified_ms = now;
    if (postgres_script(&l->conn, "NOTIFY " CHANNEL, ANSWER_MS) < 0)
        postgres_disconnect(&l->conn);
    return -1;
}

static void wait_for(struct postgres_listener *l, int wait_ms)
{
    struct pollfd fds[] = {
        {.fd = l->event, .events = POLLIN},
        {.fd = l->conn.pg ? PQsocket(l->conn.pg) : -1, .events = POLLIN},
    };
    eventfd_t count;
    poll(fds, ARRAY_SIZE(fds), wait_ms);
    if (fds[0].revents)
        eventfd_read(l->event, &count);
    if (l->conn.pg)
        take_notifications(l); /* some may have come with the answer to a statement */
}

static void *thread_main(void *arg)
{
    struct postgres_listener *l = arg;
    while (!atomic_load(&l->is_stopping)) {
        if (!l->conn.pg) {
            int rc = listen_now(l);
            say_trouble(l, rc);
            if (rc < 0) {
                postgres_disconnect(&l->conn);
                wait_for(l, (int)backoff_next(&l->backoff));
                continue;
            }
            backoff_reset(&l->backoff);
        }
        int wait_ms = send_owed(l);
        if (l->conn.pg)
            wait_for(l, wait_ms);
    }
    return NULL;
}

static void listener_free(struct postgres_listener *l)
{
    postgres_disconnect(&l->conn);
    close(l->event);
    mem_free(l->url);
    mem_free(l->password_file);
    mem_free(l);
}

int postgres_listener_start(const char *url, const char *password_file, void (*wake)(void *arg),
                            void *arg, struct postgres_listener **ret)
{
    struct postgres_listener *l = NEW(struct postgres_listener);
    sigset_t all, before;
    l->url = mem_strdup(url);
    l->password_file = mem_strdup(password_file);
    l->wake = wake;
    l->arg = arg;
    l->backoff = (struct backoff){.first_ms = 200, .max_ms = 5000};
    l->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = l->event < 0 ? -1 : pthread_create(&l->thread, NULL, thread_main, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc) {
        listener_free(l);
        return ERR_LIMIT;
    }
    *ret = l;
    return 0;
}

void postgres_listener_notify(struct postgres_listener *l)
{
    if (!atomic_exchange(&l->owes_notify, true))
        signal_thread(l);
}

void postgres_listener_stop(struct postgres_listener *l)
{
    atomic_store(&l->is_stopping, true);
    signal_thread(l);
    pthread_join(l->thread, NULL);
    listener_free(l);
}
