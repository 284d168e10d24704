/*
 * A LAN of agents in virtual time: their own pace and tables (lan_peers.c), packets that are late
 * or lost, reports that take a while, and the hub's rules (lan_model.c). Whatever the seed, it
 * comes to one network, by as many merges as there were networks too many, and then nothing
 * happens any more.
 */
#include "base/macro.h"
#include "base/mem.h"
#include "fleet/lan_model.h"
#include "fleet/lan_peers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define AGENTS_MAX 50
#define STEP_MS    10
#define LOOK_MS    50
#define REPORT_MS  1000
#define START      1000 /* at once, but for a second */

struct packet {
    uint64_t at_ms;
    int64_t time_ms;
    unsigned int from, to;
};

struct sim_agent {
    struct lan_peers peers;
    struct lan_pace pace;
    uint64_t starts_ms, report_ms, reported_ms; /* report: on its way until then; 0: none */
    bool said[AGENTS_MAX], hears[AGENTS_MAX];   /* sent to the hub; known to it */
    unsigned int network;
};

struct sim {
    unsigned int n;
    uint64_t now, random;
    unsigned int loss; /* per cent */
    bool is_split;     /* the first half and the second do not hear each other */
    struct sim_agent agents[AGENTS_MAX];
    struct lan_network networks[AGENTS_MAX];
    char ids[AGENTS_MAX][ID_SIZE];
    struct packet *packets;
    size_t n_packets, room;
    unsigned int merges;
    uint64_t last_merge_ms;
};

static uint32_t draw(struct sim *s)
{
    s->random ^= s->random << 13;
    s->random ^= s->random >> 7;
    s->random ^= s->random << 17;
    return (uint32_t)(s->random >> 16);
}

static void agent_id(unsigned int i, char out[ID_SIZE])
{
    snprintf(out, ID_SIZE, "agt_%016u", i);
}

static struct sim *sim_new(unsigned int n, uint64_t seed, unsigned int loss)
{
    struct sim *s = NEW(struct sim);
    s->n = n;
    s->random = seed * 0x9e3779b97f4a7c15u + 1;
    s->loss = loss;
    s->now = 1000;
    for (unsigned int i = 0; i < n; i++) {
        snprintf(s->ids[i], ID_SIZE, "net_%08x%08u", draw(s), i);
        s->networks[i] = (struct lan_network){.id = s->ids[i], .created = draw(s) % 5};
        s->agents[i].network = i;
        s->agents[i].starts_ms = s->now + draw(s) % START;
        lan_pace_start(&s->agents[i].pace, s->agents[i].starts_ms, draw(s));
    }
    return s;
}

static void sim_free(struct sim *s)
{
    for (unsigned int i = 0; i < s->n; i++)
        lan_peers_done(&s->agents[i].peers);
    mem_free(s->packets);
    mem_free(s);
}

static bool is_apart(const struct sim *s, unsigned int a, unsigned int b)
{
    return s->is_split && (a < s->n / 2) != (b < s->n / 2);
}

static void send_beacon(struct sim *s, unsigned int from)
{
    for (unsigned int to = 0; to < s->n; to++) {
        if (to == from || s->agents[to].starts_ms > s->now || is_apart(s, from, to) ||
            draw(s) % 100 < s->loss)
            continue;
        if (s->n_packets == s->room) {
            s->room = s->room ? s->room * 2 : 64;
            s->packets = mem_grow(s->packets, s->room * sizeof(*s->packets));
        }
        s->packets[s->n_packets++] =
            (struct packet){s->now + 1 + draw(s) % 80, (int64_t)s->now, from, to};
    }
    lan_pace_sent(&s->agents[from].pace, s->now, draw(s));
}

static void deliver(struct sim *s, const struct packet *p)
{
    struct sim_agent *to = &s->agents[p->to];
    struct lan_beacon b = {.time_ms = p->time_ms, .instance = p->from, .from.family = AF_INET};
    char self[ID_SIZE];
    bool is_new;
    agent_id(p->from, b.agent);
    agent_id(p->to, self);
    lan_peers_hear(&to->peers, self, 1, &b, s->now, &is_new);
    if (is_new)
        lan_pace_hurry(&to->pace, s->now, draw(s));
}

static void deliver_all(struct sim *s)
{
    for (size_t i = 0; i < s->n_packets;) {
        if (s->packets[i].at_ms > s->now) {
            i++;
            continue;
        }
        struct packet p = s->packets[i];
        s->packets[i] = s->packets[--s->n_packets];
        deliver(s, &p);
    }
}

static void report(struct sim *s, struct sim_agent *a)
{
    if (a->report_ms && a->report_ms <= s->now) {
        memcpy(a->hears, a->said, sizeof(a->hears));
        a->report_ms = 0;
    }
    if (a->report_ms || !a->peers.has_changed || s->now < a->reported_ms + REPORT_MS)
        return;
    memset(a->said, 0, sizeof(a->said));
    for (size_t i = 0; i < a->peers.n; i++)
        a->said[a->peers.list[i].instance] = true;
    a->peers.has_changed = false;
    a->reported_ms = s->now;
    a->report_ms = s->now + 5 + draw(s) % 300;
}

static void merge(struct sim *s, unsigned int x, unsigned int y)
{
    bool first = lan_network_prevails(&s->networks[x], &s->networks[y]);
    unsigned int from = first ? y : x, to = first ? x : y;
    for (unsigned int i = 0; i < s->n; i++) {
        if (s->agents[i].network == from)
            s->agents[i].network = to;
    }
    s->merges++;
    s->last_merge_ms = s->now;
}

static void look(struct sim *s)
{
    static const struct lan_end settled;
    for (unsigned int a = 0; a < s->n; a++) {
        for (unsigned int b = a + 1; b < s->n; b++) {
            unsigned int x = s->agents[a].network, y = s->agents[b].network;
            if (x != y && s->agents[a].hears[b] && s->agents[b].hears[a] &&
                lan_decide(&settled, &settled, false) == LAN_MERGE)
                merge(s, x, y);
        }
    }
}

static void run(struct sim *s, uint64_t ms)
{
    for (uint64_t end = s->now + ms; s->now < end; s->now += STEP_MS) {
        deliver_all(s);
        for (unsigned int i = 0; i < s->n; i++) {
            struct sim_agent *a = &s->agents[i];
            if (a->starts_ms <= s->now && a->pace.due_ms <= s->now) {
                send_beacon(s, i);
                lan_peers_expire(&a->peers, s->now);
            }
            report(s, a);
        }
        if (s->now % LOOK_MS == 0)
            look(s);
    }
}

static unsigned int count_networks(const struct sim *s)
{
    bool seen[AGENTS_MAX] = {0};
    unsigned int n = 0;
    for (unsigned int i = 0; i < s->n; i++) {
        n += !seen[s->agents[i].network];
        seen[s->agents[i].network] = true;
    }
    return n;
}

static void any_number_that_start_at_once_come_to_one_network_and_rest(void **state)
{
    static const struct {
        unsigned int n, loss, within_s;
    } cases[] = {{2, 0, 5}, {3, 30, 60}, {8, 50, 60}, {50, 0, 10}, {50, 30, 20}};
    for (size_t c = 0; c < ARRAY_SIZE(cases); c++) {
        for (uint64_t seed = 1; seed <= (cases[c].n > 10 ? 4 : 40); seed++) {
            struct sim *s = sim_new(cases[c].n, seed, cases[c].loss);
            run(s, (uint64_t)cases[c].within_s * 1000);
            assert_int_equal(count_networks(s), 1);
            unsigned int winner = s->agents[0].network;
            run(s, 300000);
            assert_int_equal(s->merges, cases[c].n - 1);
            assert_int_equal(s->agents[0].network, winner);
            assert_true(s->last_merge_ms <= (uint64_t)cases[c].within_s * 1000 + 1000);
            sim_free(s);
        }
    }
}

static void a_split_keeps_one_network_and_two_halves_that_join_merge_once(void **state)
{
    for (uint64_t seed = 1; seed <= 10; seed++) {
        struct sim *s = sim_new(10, seed, 20);
        s->is_split = true;
        run(s, 60000);
        assert_int_equal(count_networks(s), 2);
        assert_int_equal(s->merges, 8);
        s->is_split = false;
        run(s, 90000);
        assert_int_equal(count_networks(s), 1);
        assert_int_equal(s->merges, 9);
        for (int i = 0; i < 6; i++) { /* a switch that comes and goes */
            s->is_split = !s->is_split;
            run(s, 200000);
        }
        assert_int_equal(count_networks(s), 1);
        assert_int_equal(s->merges, 9);
        sim_free(s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_that_start_at_once_come_to_one_network_and_rest),
        cmocka_unit_test(a_split_keeps_one_network_and_two_halves_that_join_merge_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
