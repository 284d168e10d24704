"""What hubs have acknowledged, while they and their database are disturbed, and whether it is there afterwards."""

import http.client
import threading
import time
from typing import NamedTuple

from lib.process import SLOW, wait_until
from lib.warren import Problem


def try_write(hub):
    """A new token's id; None when the hub says that it cannot now."""
    try:
        return hub.admin.call("POST", "/api/v1/tokens", {"network": "lan", "uses": 1},
                              timeout=30 * SLOW)[0]["id"]
    except Problem as problem:
        assert problem.status == 503, problem
        return None
    except TimeoutError:  # its commit is in doubt, and answered when the database can say
        return None


def write_again(hub, what):
    """Until a write is acknowledged; says how long that took."""
    start = time.monotonic()
    token = wait_until(lambda: try_write(hub), "the hub to write", 60, every=0.05)
    print(f"{what}: the hub writes again after {time.monotonic() - start:.2f} s")
    return token


class Entry(NamedTuple):
    token: str
    asked: float
    acknowledged: float


class Writer:
    """Writes one after the other from a thread, and keeps what was acknowledged. `pause`: seconds between
    two."""

    def __init__(self, hub, pause=0):
        self.hub, self.entries, self.refused, self.pause = hub, [], 0, pause
        self.longest, self.last = 0.0, time.monotonic()
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    @property
    def acknowledged(self):
        return [e.token for e in self.entries]

    def _write(self):
        try:
            return try_write(self.hub)
        except (OSError, http.client.HTTPException):  # the hub is not there
            return None

    def _run(self):
        while not self.stopping.is_set():
            asked = time.monotonic()
            token = self._write()
            if token:
                now = time.monotonic()
                self.entries.append(Entry(token, asked, now))
                self.longest, self.last = max(self.longest, now - self.last), now
            else:
                self.refused += 1
            self.stopping.wait(self.pause if token else 0.05)

    def wait_for(self, n):
        goal = len(self.entries) + n
        wait_until(lambda: len(self.entries) >= goal, f"{n} more writes", 60)

    def stop(self):
        self.stopping.set()
        self.thread.join(60 * SLOW)
        print(f"{len(self.entries)} writes, {self.refused} refused, the longest pause {self.longest:.2f} s")


def wrongly_lost(entries, there, window=None):
    """Of what was acknowledged, what is not `there` and may not be missing. `window`: (since, until), in which a
    database acknowledged what its replica never got: only what was acknowledged in it may be lost."""
    def may_be_lost(e):
        return window is not None and window[0] < e.acknowledged < window[1]
    return [e for e in entries if e.token not in there and not may_be_lost(e)]


class Ledger:
    """A Writer at each hub of a cluster. `window`: see wrongly_lost; whoever fails a database over sets it."""

    def __init__(self, cluster):
        self.cluster, self.window = cluster, None
        self.writers = [Writer(hub, pause=0.1) for hub in cluster.hubs]
        self.wait_for_all()

    def wait_for_all(self):
        """Until each hub has acknowledged another write."""
        for writer in self.writers:
            writer.wait_for(1)

    def entries(self):
        return [e for writer in self.writers for e in writer.entries]

    def check(self):
        """Ends it. What was acknowledged is in the database, and each hub that runs shows what is there: no less, and
        nothing that is not. (How many were acknowledged, how many of them were lost)"""
        for writer in self.writers:
            writer.stop()
        there, entries = ids(self.cluster, "token"), self.entries()
        wrong = wrongly_lost(entries, there, self.window)
        assert not wrong, f"acknowledged and lost: {wrong}"
        for hub in self.cluster.hubs:
            if hub.process.alive():
                wait_until(lambda h=hub: agrees(self.cluster, h), f"{hub.host} to agree with the database", 30)
        return len(entries), len([e for e in entries if e.token not in there])


# ---- what hubs show, and the database has ----

def agrees(cluster, hub):
    """Whether a hub shows the tokens, tunnels, routes and sessions of the database, and no others."""
    return (tokens_of(hub) == ids(cluster, "token")
            and {t["id"] for t in pages(hub, "/api/v1/tunnels")} == ids(cluster, "tunnel")
            and routes_of(hub) == rows(cluster, "select id, lease_hub, lease_agent, lease_epoch from tunnel "
                                       "where lease_hub is not null")
            and sessions_of(hub) == rows(cluster, "select agent, hub, epoch from agent_session "
                                         "where disconnected is null"))


def ids(cluster, table):
    return set(cluster.sql(f"select id from {table}").split())


def rows(cluster, query):
    return {tuple(line.split("|")) for line in cluster.sql(query).splitlines()}


def pages(hub, path):
    after = ""
    while after is not None:
        page = hub.admin.get(f"{path}?page_size=500" + (f"&page_token={after}" if after else ""))
        yield from page["items"]
        after = page.get("next_page_token")


def tokens_of(hub):
    return {t["id"] for t in pages(hub, "/api/v1/tokens")}


def routes_of(hub):
    """{(tunnel, hub, agent, epoch)}, of those that are served."""
    leases = ((t["id"], t["status"]["lease"]) for t in pages(hub, "/api/v1/tunnels"))
    return {(tunnel, of["server"]["id"], of["agent"]["id"], str(of["agent"]["epoch"]))
            for tunnel, of in leases if of["server"] and of["agent"]}


def sessions_of(hub):
    """{(agent, hub, epoch)}, of those that are connected."""
    shown = ((a["id"], a["status"]["session"]) for a in pages(hub, "/api/v1/agents"))
    return {(agent, s["hub"], str(s["epoch"])) for agent, s in shown if s}
