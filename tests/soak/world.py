"""A hub, agents on hosts of their own behind emulated wires, and what befalls them.

    hub 10.20.0.1 ── 10.20.i.1 ─wire i─ 10.20.i.2 agent i, which finds echo services at 127.0.0.1

Every fault has an end, planned when it begins; `heal` brings all of them about at once.
"""

import heapq
import itertools
import os
import signal
import time

from lib.datagram import UdpServer
from lib.link import Link
from lib.network import Host
from lib.process import wait_until
from lib.service import TcpServer, echo
from lib.warren import Agent, Hub, Problem

HUB = "10.20.0.1"
ECHO_PORTS = (7000, 7001)
DEAD_PORT = 9  # nobody listens there
NETWORKS = ("lan", "lan", "lan", "site")  # of agent 0, 1, …
TUNNELS = (8, 24)  # at least, at most


class Place:
    """One agent's host. The agent changes: a revoked one is followed by another."""

    def __init__(self, world, number, network):
        self.world, self.number, self.network = world, number, network
        self.host = Host(f"agent{number}")
        address = f"10.20.{number + 1}"
        self.link = Link(world.host, [f"{address}.1/24"], self.host, [f"{address}.2/24"],
                         device=f"wan{number}", seed=number, delay_ms=1)
        self.host.ip("route", "add", "default", "dev", f"wan{number}")
        self.services = [kind(namespace=self.host.name, port=p) for p in ECHO_PORTS
                         for kind in (lambda **at: TcpServer(echo, **at), UdpServer)]
        self.agent, self.life = None, 0
        self.busy = False  # a fault is under way

    def join(self):
        self.life += 1
        name = f"a{self.number}-{self.life}"
        hub = self.world.hub
        self.agent = Agent(hub, os.path.join(self.world.directory, name), name, self.host.name)
        self.agent.enroll(hub.bootstrap_token(self.network))
        self.agent.start()

    def close(self):
        for service in self.services:
            service.close()
        self.link.close()
        self.host.close()


class World:
    def __init__(self, directory, rng, say):
        self.directory, self.rng, self.say = directory, rng, say
        self.ends, self.serial = [], itertools.count()  # heap of (when, number, text, function)
        self.counts = {}
        self.host = Host("hub")
        self.host.ip("addr", "add", f"{HUB}/32", "dev", "lo")
        self.hub = Hub(os.path.join(directory, "hub"), host=HUB, namespace=self.host.name)
        self.places = []
        self.hub_busy, self.hub_end = False, None
        self.hub_deaths = 0
        self.is_deadly = True  # else hub and first agent live on
        self.made = 0

    def start(self):
        self.hub.start()
        for number, network in enumerate(NETWORKS):
            self.places.append(Place(self, number, network))
            self.places[-1].join()
        for place in self.places:
            place.agent.wait_online()

    def close(self):
        for place in self.places:
            if place.agent and place.agent.process.alive():
                place.agent.process.stop()
        self.hub.process.stop()
        for place in self.places:
            place.close()
        self.host.close()

    # -- faults and their ends

    def later(self, seconds, text, end):
        heapq.heappush(self.ends, (time.monotonic() + seconds, next(self.serial), text, end))

    def end_faults(self, all_of_them=False):
        while self.ends and (all_of_them or self.ends[0][0] <= time.monotonic()):
            _, _, text, end = heapq.heappop(self.ends)
            self.say(text)
            end()

    def some_place(self):
        free = [p for p in self.places if not p.busy]
        return self.rng.choice(free) if free else None

    def fault(self, place, text, seconds, end):
        place.busy = True

        def over():
            end()
            place.busy = False
        self.say(f"agent {place.number} ({place.agent.name}): {text}, for {seconds:.1f} s")
        self.later(seconds, f"agent {place.number}: {text} is over", over)

    def kill_agent(self, place):
        place.agent.process.kill()
        self.fault(place, "kill -9", self.rng.uniform(0, 6), place.agent.start)

    def terminate_agent(self, place):
        place.agent.process.signal(signal.SIGTERM)

        def again():
            place.agent.process.stop()
            place.agent.start()
        self.fault(place, "SIGTERM", self.rng.uniform(0, 4), again)

    def freeze_agent(self, place):
        place.agent.process.signal(signal.SIGSTOP)
        self.fault(place, "SIGSTOP", self.rng.choice((0.3, 3, 13)) * self.rng.uniform(0.5, 1.5),
                   lambda: place.agent.process.signal(signal.SIGCONT))

    def cut(self, place):
        way = self.rng.choice(("both", "ab", "ba"))
        place.link.cut(way)
        self.fault(place, f"wire cut ({way})", self.rng.choice((1, 5, 14)) * self.rng.uniform(0.5, 1.5),
                   place.link.restore)

    def bad_wire(self, place):
        place.link.set(loss=self.rng.choice((0.01, 0.05, 0.3)), delay_ms=self.rng.choice((1, 30, 150)),
                       rate_mbit=self.rng.choice((0, 5, 50)))
        self.fault(place, "bad wire", self.rng.uniform(2, 12),
                   lambda: place.link.set(loss=0, delay_ms=1, rate_mbit=0))

    def revoke(self, place):
        """The machine enrols again, as another agent."""
        self.hub.admin.post(f"/api/v1/agents/{place.agent.id}:revoke", {})

        def again():
            self.bring_hub_back()
            place.agent.process.stop()
            place.join()
        self.fault(place, "revoked", self.rng.uniform(0.5, 3), again)

    def drain(self, place):
        path = f"/api/v1/agents/{place.agent.id}"
        self.hub.admin.post(path + ":drain", {})

        def again():
            self.bring_hub_back()
            self.hub.admin.post(path + ":undrain", {})
        self.fault(place, "drained", self.rng.uniform(1, 6), again)

    def kill_hub(self):
        self.hub_deaths += 1
        self.hub.process.kill()
        self.say("hub: kill -9")
        self.hub_is_away(self.rng.uniform(0, 3), self.hub.start)

    def restart_hub(self):
        self.say("hub: SIGTERM")
        self.hub.process.signal(signal.SIGTERM)

        def again():
            self.hub.process.stop(25)
            self.hub.start()
        self.hub_is_away(self.rng.uniform(0, 2), again)

    def freeze_hub(self):
        self.hub.process.signal(signal.SIGSTOP)
        self.say("hub: SIGSTOP")
        self.hub_is_away(self.rng.choice((0.3, 3, 12)) * self.rng.uniform(0.5, 1.5),
                         lambda: self.hub.process.signal(signal.SIGCONT))

    def hub_is_away(self, seconds, end):
        self.hub_busy = True

        def over():
            if self.hub_end is not over:
                return  # it was brought back already
            self.hub_busy, self.hub_end = False, None
            end()
        self.hub_end = over
        self.later(seconds, "hub: back", over)

    def bring_hub_back(self):
        if self.hub_end:
            self.hub_end()

    # -- what users do

    def tunnels(self):
        return self.hub.admin.get("/api/v1/tunnels?page_size=500")["items"]

    def create(self, _=None):
        self.made += 1
        body = {"name": f"t{self.made}", "spec": {
            "target": {"network": self.rng.choice(("lan", "lan", "site")),
                       "address": f"127.0.0.1:{self.rng.choice(ECHO_PORTS)}", "protocol": "tcp"},
            "access": {"endpoint": {"listen": f"{HUB}:0"}},
            "spread": self.rng.choice(("agent", "agent", "connection"))}}
        if self.rng.random() < 0.15:
            body["spec"]["ttl"] = f"{self.rng.randint(3, 60)}s"
        if self.rng.random() < 0.25:
            body["spec"]["target"]["protocol"] = "udp"
            body["spec"].update(idle_timeout="1s", spread="agent")
        elif self.rng.random() < 0.25:
            body["spec"]["check"] = {"type": "tcp", "interval": "1s", "rise": 1, "fall": 2}
        if self.rng.random() < 0.1:
            body["spec"]["target"]["address"] = f"127.0.0.1:{DEAD_PORT}"
        self.hub.admin.post("/api/v1/tunnels", body)

    def delete(self, tunnel):
        self.hub.admin.delete(f"/api/v1/tunnels/{tunnel['id']}")

    def change(self, tunnel):
        if self.rng.random() < 0.5:
            body = {"spec": {"target": {"address": f"127.0.0.1:{self.rng.choice(ECHO_PORTS)}"}}}
        else:
            self.made += 1
            body = {"name": f"t{self.made}"}
        self.hub.admin.patch(f"/api/v1/tunnels/{tunnel['id']}", body)

    def user_acts(self):
        tunnels = self.tunnels()
        if len(tunnels) < TUNNELS[0]:
            act = self.create
        elif len(tunnels) > TUNNELS[1]:
            act = self.delete
        else:
            act = self.rng.choice((self.create, self.create, self.delete, self.change))
        act(self.rng.choice(tunnels) if tunnels else None)
        self.count(act.__name__)

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def step(self):
        """One thing happens: mostly a user's act, else a fault."""
        self.end_faults()
        try:
            if self.rng.random() < 0.6:
                if not self.hub_busy:
                    self.user_acts()
                return
            if self.rng.random() < 0.12:
                if not self.hub_busy:
                    deaths = (self.kill_hub, self.restart_hub) if self.is_deadly else ()
                    act = self.rng.choice((*deaths, self.freeze_hub))
                    self.count(act.__name__)
                    act()
                return
            place = self.some_place()
            act = self.rng.choice((self.freeze_agent, self.cut, self.bad_wire, self.drain))
            if self.is_deadly or (place and place.number > 0):
                act = self.rng.choice((act, self.kill_agent, self.terminate_agent, self.revoke))
            if place and not (act in (self.revoke, self.drain) and self.hub_busy):
                self.count(act.__name__)
                act(place)
        except (OSError, Problem) as error:
            if not self.hub_busy and getattr(error, "status", 0) not in (404, 409):
                raise  # nobody stood in the way

    def heal(self):
        self.end_faults(all_of_them=True)
        self.hub.wait_ready(30)
        wait_until(lambda: all(p.agent.identity()["status"]["phase"] == "online" for p in self.places),
                   "all agents to be online", 40)
