/*
 * Writes as a login does (an upsert, a change in the feed) to a database, FILE or postgres://...,
 * with several in flight, and says how many a second and how long each waited.
 *
 *     store-load DB [WRITES [IN_FLIGHT]]
 */
#include "base/macro.h"
#include "base/mem.h"
#include "loop/loop.h"
#include "store/store.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static const char *const steps[] = {"CREATE TABLE load_session (agent TEXT PRIMARY KEY, epoch "
                                    "BIGINT NOT NULL, text TEXT NOT NULL)"};
static const struct store_schema schema = {"load", steps, 1};
static const struct store_schema *const schemas[] = {&schema};

struct bench {
    struct loop *loop;
    struct store *store;
    size_t started, ended, failed, writes;
    uint64_t *waits_us;
};

struct write {
    struct bench *bench;
    size_t number;
    uint64_t began_us;
};

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static int write_one(struct tx *tx, void *arg)
{
    const struct write *w = arg;
    char agent[64];
    int64_t epoch;
    snprintf(agent, sizeof(agent), "agt_%d_%zu", (int)getpid(), w->number % 5000);
    TRY(tx_query_int(tx, &epoch,
                     "INSERT INTO load_session (agent, epoch, text) VALUES ($1, 1, $2) ON CONFLICT "
                     "(agent) DO UPDATE SET epoch = load_session.epoch + 1, text = excluded.text "
                     "RETURNING epoch",
                     STORE_TEXT(agent), STORE_TEXT("192.0.2.1:4711 host.example warren/1.0")));
    return store_publish(tx, "ten_1", "agent", agent, STORE_PUT);
}

static void start_one(struct bench *b, struct write *w);

static void written(void *arg, int err)
{
    struct write *w = arg;
    struct bench *b = w->bench;
    b->waits_us[b->ended++] = now_us() - w->began_us;
    b->failed += err < 0;
    if (b->started < b->writes)
        start_one(b, w);
    else if (b->ended == b->writes)
        loop_stop(b->loop);
}

static void start_one(struct bench *b, struct write *w)
{
    w->number = b->started++;
    w->began_us = now_us();
    store_run(b->store, STORE_WRITE, write_one, written, w);
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Of sorted waits. */
static uint64_t percentile(const struct bench *b, size_t p)
{
    return b->waits_us[b->writes * p / 100];
}

int main(int argc, char **argv)
{
    struct diag d = {0};
    struct bench b = {.writes = argc > 2 ? strtoul(argv[2], NULL, 10) : 10000};
    size_t in_flight = argc > 3 ? strtoul(argv[3], NULL, 10) : 64;
    struct store_options options = {.db = argv[1], .schemas = schemas, .n_schemas = 1};
    struct store_stats stats;
    if (argc < 2 || !b.writes || !in_flight) {
        fprintf(stderr, "usage: store-load DB [WRITES [IN_FLIGHT]]\n");
        return 2;
    }
    b.waits_us = mem_new(b.writes * sizeof(*b.waits_us));
    struct write *slots = mem_new(in_flight * sizeof(*slots));
    if (loop_new(&b.loop) < 0)
        return 1;
    if (store_open(b.loop, &options, &b.store, &d) < 0) {
        fprintf(stderr, "%s\n", diag_text(&d));
        return 1;
    }
    uint64_t began = now_us();
    for (size_t i = 0; i < in_flight && b.started < b.writes; i++) {
        slots[i].bench = &b;
        start_one(&b, &slots[i]);
    }
    loop_run(b.loop);
    double seconds = (double)(now_us() - began) / 1e6;
    store_stats(b.store, &stats);
    qsort(b.waits_us, b.writes, sizeof(*b.waits_us), by_value);
    printf("%zu writes, %zu in flight: %.0f/s, p50 %.2f ms, p99 %.2f ms, %" PRIu64
           " commits, %zu failed\n",
           b.writes, in_flight, (double)b.writes / seconds, (double)percentile(&b, 50) / 1e3,
           (double)percentile(&b, 99) / 1e3, stats.commits, b.failed);
    store_close(b.store);
    loop_settle(b.loop);
    loop_free(b.loop);
    mem_free(slots);
    mem_free(b.waits_us);
    return b.failed != 0;
}
