"""A hub to which more come than it can shake hands with: it refuses before that costs anything, what it has goes on,
and agents come back when it has time."""

import contextlib
import re
import socket
import threading
import time

from lib.process import wait_until
from lib.service import connect, exchange
from lib.warren import endpoint

RATE = 100


class Storm:
    """Strangers who begin a handshake each, as fast as they can."""

    def __init__(self, hub, threads=4):
        self.hub = hub
        self.admitted = self.refused = 0
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        self.began = time.monotonic()
        for thread in self.threads:
            thread.start()

    def _run(self):
        while not self.stopping.is_set():
            sock = socket.socket()
            sock.settimeout(0.01)
            try:
                sock.connect((self.hub.host, self.hub.port))
                sock.sendall(b"\x16\x03\x01")
                sock.recv(1)
                refused = True
            except TimeoutError:
                refused = False
            except OSError:
                refused = True
            sock.close()
            with self.lock:
                self.refused += refused
                self.admitted += not refused

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(20)
        self.seconds = time.monotonic() - self.began


def handshakes(hub):
    """By result."""
    text = hub.admin.raw("GET", "/metrics")[2].decode()
    return {m[1]: float(m[2]) for m in re.finditer(r'warren_handshakes_total{result="(\w+)"} (\S+)', text)}


def test_an_overloaded_hub_refuses_before_the_handshake(bench):
    began = time.monotonic()
    hub = bench.hub(env={"WARREN_LIMIT_HANDSHAKES_PER_SECOND": str(RATE)})
    agent, other = hub.agent("a1"), hub.agent("a2", network="elsewhere")
    public = endpoint(hub.tunnel(bench.server().address))
    with connect(public) as sock:
        assert exchange(sock, b"before") == b"before"
        storm = Storm(hub)
        wait_until(lambda: storm.refused > 5 * RATE, "many to be refused", 60)
        # who is in does not feel it
        assert exchange(sock, b"during") == b"during"
        for _ in range(20):
            with connect(public) as more:
                assert exchange(more, b"more") == b"more"
        # an agent takes it for what it is
        seen = 0
        while "the hub is overloaded" not in other.process.log():
            other.process.stop()
            seen = len(other.process.log())
            other.process.start()
            other.process.wait_log("overloaded|connected", 60, after=seen)
        storm.stop()
        assert exchange(sock, b"after") == b"after"
    print(f"\n{storm.admitted} admitted and {storm.refused} refused in {storm.seconds:.1f} s")

    def is_back():
        with contextlib.suppress(OSError):
            return other.identity()["status"]["phase"] == "online"
    wait_until(is_back, "the agent to be back", 60, every=0.2)
    assert agent.identity()["status"]["session"]["epoch"] == 1
    results = handshakes(hub)
    assert results["refused"] >= storm.refused * 0.5
    assert results["finished"] + results["failed"] + results["evicted"] <= RATE * (time.monotonic() - began + 2)
