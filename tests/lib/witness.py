"""Who looks on while hubs and databases are disturbed: who serves, what was acknowledged, how long nothing was."""

import http.client
import itertools
import threading
import time

from lib.process import SLOW, wait_until
from lib.service import connect, read_all
from lib.warren import Problem


# ---- who serves ----

def who(server, sock):
    """Handler of a target: says which agent's host asks."""
    sock.sendall(sock.getpeername()[0].encode())


class Witness:
    """Asks at `addresses` in turn, and notes each change of who serves in `seen`; `longest`: seconds between two
    answers."""

    def __init__(self, cluster, *addresses):
        self.cluster, self.addresses = cluster, itertools.cycle(addresses)
        self.seen, self.failed, self.longest = [], 0, 0.0
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _ask(self):
        try:
            with connect(next(self.addresses), 1.0, self.cluster.client) as sock:
                sock.settimeout(1.0)
                return read_all(sock)[0].decode()
        except OSError:
            self.failed += 1
            return ""

    def _run(self):
        last = None
        while not self.stopping.is_set():
            answer = self._ask()
            now = time.monotonic()
            if answer:
                self.longest, last = max(self.longest, now - (last or now)), now
            if answer and (not self.seen or self.seen[-1] != answer):
                self.seen.append(answer)
            self.stopping.wait(0.02)

    def stop(self):
        self.stopping.set()
        self.thread.join(20)
        return self.seen


# ---- what was acknowledged ----

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


class Writer:
    """Writes one after the other from a thread, and keeps what was acknowledged. `pause`: seconds between
    two."""

    def __init__(self, hub, pause=0):
        self.hub, self.acknowledged, self.refused, self.pause = hub, [], 0, pause
        self.longest, self.last = 0.0, time.monotonic()
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _write(self):
        try:
            return try_write(self.hub)
        except (OSError, http.client.HTTPException):  # the hub is not there
            return None

    def _run(self):
        while not self.stopping.is_set():
            token = self._write()
            if token:
                self.acknowledged.append(token)
                now = time.monotonic()
                self.longest, self.last = max(self.longest, now - self.last), now
            else:
                self.refused += 1
            self.stopping.wait(self.pause if token else 0.05)

    def wait_for(self, n):
        goal = len(self.acknowledged) + n
        wait_until(lambda: len(self.acknowledged) >= goal, f"{n} more writes", 60)

    def stop(self):
        self.stopping.set()
        self.thread.join(60 * SLOW)
        print(f"{len(self.acknowledged)} writes, {self.refused} refused, the longest pause "
              f"{self.longest:.2f} s")


class Ledger:
    """A Writer at each hub of a cluster."""

    def __init__(self, cluster):
        self.hubs = cluster.hubs
        self.writers = [Writer(hub, pause=0.1) for hub in self.hubs]
        self.wait_for_all()

    def wait_for_all(self):
        """Until each hub has acknowledged another write."""
        for writer in self.writers:
            writer.wait_for(1)

    def check(self):
        """Ends it. Each hub that runs knows what any of them has acknowledged: how much that is."""
        for writer in self.writers:
            writer.stop()
        acknowledged = {token for writer in self.writers for token in writer.acknowledged}
        for hub in self.hubs:
            if hub.process.alive():
                wait_until(lambda h=hub: acknowledged <= tokens_of(h), f"{hub.host} to know all of them", 20)
        return len(acknowledged)


def pages(hub, path):
    after = ""
    while after is not None:
        page = hub.admin.get(f"{path}?page_size=500" + (f"&page_token={after}" if after else ""))
        yield from page["items"]
        after = page.get("next_page_token")


def tokens_of(hub):
    return {t["id"] for t in pages(hub, "/api/v1/tokens")}
