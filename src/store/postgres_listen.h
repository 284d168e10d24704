/*
 * The one session that listens: a thread that calls `wake` when another hub has written to the
 * feed, and tells the others on request, ten times a second at most. Only a hint: whoever follows
 * the feed reads it on a timer too. A transaction pooler cannot carry this session.
 */
#pragma once

struct postgres_listener;

/* `wake` comes from the listener's thread. */
int postgres_listener_start(const char *url, const char *password_file, void (*wake)(void *arg),
                            void *arg, struct postgres_listener **ret);
void postgres_listener_notify(struct postgres_listener *l); /* any thread */
void postgres_listener_stop(struct postgres_listener *l);   /* blocks for a moment */
