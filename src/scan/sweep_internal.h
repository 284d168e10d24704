/*
 * The two halves of a sweep: its pace and its life (sweep.c), and what becomes of each address
 * (sweep_target.c).
 */
#pragma once

#include "net/dial_gate.h"
#include "scan/sweep.h"

#define SWEEP_FINDING_MAX 8 /* questions by which an address is found to be in use */

struct sweep_target {
    struct sweep *sweep;
    struct dial_ticket ticket;
    struct sweep_host host;
    struct {
        enum probe_kind kind;
        uint16_t port;
    } finding[SWEEP_FINDING_MAX];
    size_t n_finding, n_begun; /* n_begun: how many of them were started */
    struct sweep_ask *asks;
    size_t n_asks;
    uint16_t port;        /* the last one that was asked */
    bool has_more;        /* ports to be asked */
    uint32_t ports_asked; /* how many were */
    uint16_t *open;
    bool is_up, is_ready; /* is_ready: in the sweep's list */
    bool is_put_off;      /* its question could not be asked yet */
    bool is_unresolved;   /* the kernel asks for its hardware address */
    bool is_doubtful;     /* it knows one, and nothing has come from there of late */
    uint64_t started_ms;  /* 0: has not had its turn */
    char descr[PROBE_TEXT_SIZE], name[PROBE_TEXT_SIZE];
    struct sweep_target *prev, *next;
    struct sweep_target *ready_prev, *ready_next;
};

struct sweep {
    struct sweep_config cfg;
    struct scan_request request;
    struct sweep_counts counts;
    uint32_t next; /* address */
    struct sweep_target *targets, *ready;
    size_t n_targets, n_asks, n_put_off;
    double tokens;
    uint64_t filled_ms;
    uint64_t short_since_ms; /* 0: the last address could be asked */
    uint64_t again_ms;       /* not before, those that were put off */
    struct timer timer;
    struct defer pump, over;
    bool is_paused, is_ports_turn, is_short; /* is_short: of descriptors, or of places */
    bool is_stuck;
    struct neighbours table;
    uint64_t table_ms;
    struct neighbour_watch watch;
    struct prober *prober;
};

void sweep_wake(struct sweep *s);

/* Begins with the next address. */
void sweep_target_begin(struct sweep *s);
void sweep_target_free(struct sweep_target *t);
/* Asks the next port of one that is in s->ready. */
void sweep_target_ask_port(struct sweep_target *t);
/* Asks those that were put off, if it is time for that. */
void sweep_targets_try_again(struct sweep *s);
void sweep_on_neighbour(struct neighbour_watch *w, const struct neighbour *n);
