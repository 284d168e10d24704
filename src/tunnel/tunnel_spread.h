/*
 * Which agent should hold each tunnel of a network: a pure function over who holds what, who is
 * able to serve, and who reaches which target.
 *
 *   - A tunnel stays where it is, as long as its agent may hold it.
 *   - What has no holder goes to the agents that hold least.
 *   - Then as few tunnels as possible move, from those that hold most to those that hold least,
 *     until no move makes it more even. Where every agent reaches every target that is: even to
 *     within one.
 *   - A target that no able agent reaches binds nobody: its tunnel stays with its agent, or goes
 *     to any able one, for somebody must notice when the target comes back.
 *
 * The same input gives the same answer, and an answer fed back gives no move.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SPREAD_NOBODY UINT32_MAX

struct spread {
    uint32_t n_agents, n_tunnels;
    const bool *is_able; /* of each agent: online, not leaving */
    uint32_t *holder;    /* of each tunnel: in: who holds it or SPREAD_NOBODY; out: who should */
    /* Whether the agent is not known to miss the tunnel's target. NULL: always. */
    bool (*reaches)(void *arg, uint32_t tunnel, uint32_t agent);
    void *arg;
};

/* The number of tunnels whose holder is another now. */
uint32_t spread_plan(const struct spread *s);
