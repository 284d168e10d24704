"""Faults of hubs: killed, frozen, cut from each other, behind lossy wires. Each has a lookout (lib/witness.py): never two
holders, nothing acknowledged is lost, streams that have nothing to do with it go on; how long there was no service is
printed."""

import itertools
import os
import signal
import time

from lib.process import SLOW, amount, wait_until
from lib.service import connect, exchange, serves
from lib.witness import PORT, Lookout


def test_a_killed_hubs_agents_serve_again_elsewhere(bench, cluster):
    look = Lookout(bench, cluster, is_free=True)
    home, *others = cluster.hubs
    look.begin()
    home.process.kill()
    wait_until(lambda: look.ask(others[1]), "the tunnel to be served again", 30)
    wait_until(lambda: cluster.hub_of(look.first) in others, "its agent to be elsewhere", 30)
    home.start()
    look.ledger.wait_for_all()
    # its own agent, or the other one: whoever was first
    assert look.end("hub killed", [home])[0] == look.first.address


def test_a_killed_hubs_tunnels_move_once(bench, cluster):
    """To another agent, as its own may go nowhere else: when its lease is over."""
    Lookout(bench, cluster).begin().see_home_die("hub killed, its agent can go nowhere else")


def test_a_frozen_hubs_tunnels_move_once_and_it_finds_its_place_again(bench, cluster):
    """Clients wait in its queues while it sleeps, and its own agent's lease may outlast the hub's, which is to be
    renewed next when it falls asleep. It wakes as soon as the other agent serves."""
    look = Lookout(bench, cluster).begin()
    home, *others = cluster.hubs
    wait_until(lambda: cluster.lease_left_ms(home) < 7300, "its lease to be old", 20, every=0)
    home.process.signal(signal.SIGSTOP)
    look.wait_served(look.second, others[1])
    home.process.signal(signal.SIGCONT)
    # woken, it forwards like any other, and its agent is its agent again
    look.wait_served(look.second)
    wait_until(lambda: cluster.hub_of(look.first) is home, "the agent to be back", 40)
    assert look.end("hub frozen, then woken", [home]) == [look.first.address, look.second.address]


def test_a_hub_that_is_cut_from_its_peers_serves_its_own(bench, cluster):
    look = Lookout(bench, cluster)
    home, *others = cluster.hubs
    look.begin(others[0])
    for other in others:
        cluster.part(home, other)
    for other in others:
        other.process.wait_log("hub not linked", 20)
    assert look.ask(home) == look.first.address
    for other in others:
        cluster.join(home, other)
    began = time.monotonic()
    look.wait_served(look.first)
    print(f"\nlinked again {time.monotonic() - began:.1f} s after the wires were whole")
    assert look.end("hub cut from its peers only", others) == [look.first.address]


def test_packet_loss_between_hubs_costs_time_and_nothing_else(bench, cluster):
    look = Lookout(bench, cluster)
    far = f"{cluster.hubs[2].host}:{PORT + 1}"
    wires = [cluster.link(a, b, delay_ms=1) for a, b in itertools.combinations(cluster.hubs, 2)]
    wait_until(lambda: serves(far, cluster.client), "the way between the hubs")
    look.begin(*cluster.hubs)
    for wire in wires:
        wire.set(loss=0.2)
    times, cuts, data = [], 0, os.urandom(amount(1 << 20, 1 << 18))
    until = time.monotonic() + 12
    while time.monotonic() < until:
        began = time.monotonic()
        try:
            with connect(far, 20 * SLOW, cluster.client) as sock:
                assert exchange(sock, b"ping") == b"ping"
            times.append(time.monotonic() - began)
        except OSError:
            cuts += 1
    began = time.monotonic()
    assert wait_until(lambda: exchange_all(cluster, far, data) == data, "a bulk transfer to pass whole", 90)
    bulk = time.monotonic() - began
    for wire in wires:
        wire.set(loss=0)
    assert look.end("20 % loss between hubs") == [look.first.address]
    times.sort()
    print(f"{len(times)} connections, {cuts} cut, p50 {times[len(times) // 2] * 1000:.0f} ms, "
          f"longest {times[-1]:.2f} s, {len(data) >> 10} KiB both ways in {bulk:.1f} s")
    assert len(times) > 5 * cuts
    lost = sum(s["lost"] for wire in wires for s in wire.stats().values())
    assert lost > 50, "the wires did lose packets"


def exchange_all(cluster, address, data):
    with connect(address, 60 * SLOW, cluster.client) as sock:
        return exchange(sock, data)
