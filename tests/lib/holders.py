"""Who serves a tunnel, seen from its target, and whether two ever did at once.

A `Target` is a server that several agents reach. A witness says at which hub it comes in, and is told by which
agent it got there. The target keeps each such stream in the order in which agents connected to it, which is what
the holder of a tunnel does and nobody else may. Connections on which nothing is said, such as agents' checks, are
nobody's."""

import re
import threading
from typing import NamedTuple

from lib.process import SLOW
from lib.service import TcpServer, connect, read_all

PATIENCE = 30  # seconds for a client's line: clients wait in queues of frozen hubs


class Served(NamedTuple):
    """A stream that reached the target; they are compared by their order."""
    agent: str
    hub: str  # where its client came in


# ---- the history ----

def turns(history):
    """Agents in the order in which they served, each as often as it began to."""
    found = []
    for served in history:
        if not found or found[-1] != served.agent:
            found.append(served.agent)
    return found


def two_at_once(history):
    """What shows that two served at once, as texts: who has served after another one did. A holder that is
    replaced has lost its lease for good, at whichever hub its clients come in."""
    over, holder, found = {}, None, []
    for i, served in enumerate(history):
        if served.agent in over:
            found.append(f"stream {i}, by {served.hub}: {served.agent} serves, which {over[served.agent]} had replaced")
        elif served.agent != holder:
            if holder:
                over[holder] = served.agent
            holder = served.agent
    return found


def epochs_taken_twice(taken):
    """The same of {agent: [(tunnel, epoch) that it took]}: leases that several have taken, or one twice."""
    owner, found = {}, []
    for agent, leases in taken.items():
        for lease in leases:
            if lease in owner:
                found.append(f"epoch {lease[1]} of {lease[0]}: {owner[lease]} and {agent}")
            owner[lease] = agent
    return found


def leases_taken(log):
    """What an agent's log says that it took."""
    return [(tunnel, int(epoch)) for tunnel, epoch in re.findall(r"lease taken tunnel=(\S+) epoch=(\d+)", log)]


# ---- its source ----

class Target(TcpServer):
    """`history`: what was served, in order."""

    def __init__(self, **where):
        self.marks, self.counter = [], threading.Lock()
        super().__init__(None, **where)

    def _accept(self):
        while True:
            try:
                sock, peer = self.listener.accept()
            except OSError:
                return
            self.connections.append(sock)
            self.marks.append(None)
            threading.Thread(target=self._answer, args=(sock, peer[0], len(self.marks) - 1), daemon=True).start()

    def _answer(self, sock, agent, number):
        sock.settimeout(PATIENCE * SLOW)
        line = b""
        try:
            while not line.endswith(b"\n"):
                piece = sock.recv(256)
                if not piece:
                    return
                line += piece
            self.marks[number] = Served(agent, line.decode().strip())
            sock.sendall(agent.encode())
        except OSError:
            pass
        finally:
            sock.close()

    @property
    def history(self):
        return [m for m in self.marks if m]


def ask(address, hub, namespace=None, patience=2.0):
    """Which agent serves a Target's tunnel, for a client that comes in at `hub`."""
    with connect(address, patience, namespace) as sock:
        sock.settimeout(patience)
        sock.sendall(f"{hub}\n".encode())
        return read_all(sock)[0].decode()
