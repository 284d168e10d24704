"""Who looks on while hubs of a cluster and their database are disturbed. One `Lookout` for each fault: who serves
(lib/holders.py), what was acknowledged (lib/ledger.py), what becomes of streams that have nothing to do with it, and
how long clients were without an answer."""

import threading
import time

from lib.holders import Target, ask, epochs_taken_twice, leases_taken, turns, two_at_once
from lib.ledger import Ledger
from lib.process import SLOW, wait_until
from lib.service import connect, echo, exchange

PORT = 9000  # of the witnessed tunnel at each hub; the next one is that of the bystanders'


def who(server, sock):
    """Handler of a target: says which agent's host asks."""
    sock.sendall(sock.getpeername()[0].encode())


class Witness:
    """Asks at one hub, again and again. `longest`: seconds between two answers."""

    def __init__(self, cluster, hub):
        self.cluster, self.hub = cluster, hub
        self.answered, self.failed, self.longest, self.last = 0, 0, 0.0, None
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _ask(self):
        try:
            return ask(f"{self.hub.host}:{PORT}", self.hub.host, self.cluster.client, patience=2.0 * SLOW)
        except OSError:
            return ""

    def _run(self):
        while not self.stopping.is_set():
            answer, now = self._ask(), time.monotonic()
            if answer:
                self.longest, self.last = max(self.longest, now - (self.last or now)), now
                self.answered += 1
            else:
                self.failed += 1
            self.stopping.wait(0.03)

    def stop(self):
        self.stopping.set()
        self.thread.join(20)


class Stream:
    """One stream to an echo service that is used all the time. `cut`: why it ended, None as long as it goes on."""

    def __init__(self, cluster, hub):
        self.hub, self.cut, self.exchanged, self.longest = hub, None, 0, 0.0
        self.sock = connect(f"{hub.host}:{PORT + 1}", 10 * SLOW, cluster.client)
        self.sock.settimeout(30 * SLOW)
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        last = time.monotonic()
        while not self.stopping.is_set():
            try:
                if exchange(self.sock, b"are you there?") != b"are you there?":
                    self.cut = "it was closed"
                    return
            except OSError as error:
                self.cut = repr(error)
                return
            now = time.monotonic()
            self.longest, last = max(self.longest, now - last), now
            self.exchanged += 1
            self.stopping.wait(0.05)

    def stop(self):
        self.stopping.set()
        self.thread.join(40 * SLOW)
        self.sock.close()


class Lookout:
    """Two agents at two hubs, which both reach a target; the first one serves its tunnel. A third agent, of another
    network, is at the second hub, and clients come to it there and at the third.

    `agents`: environment of the first two. `is_free`: the first one may go to any hub; else it knows the first hub
    only, and its tunnel is the other agent's when the hub's lease is over. `before_second`: what is done while the first
    agent is alone."""

    def __init__(self, bench, cluster, agents=(None, None), is_free=False, before_second=lambda look: None):
        self.cluster, self.home = cluster, cluster.hubs[0]
        self.first = cluster.agent("a1", at=None if is_free else self.home, env=agents[0])
        host, address = cluster.host()
        self.target = bench.keep(Target(host=address, namespace=host))
        self.tunnel = cluster.tunnel(cluster.hubs[2], self.target.address,
                                     endpoint={"listen": f"0.0.0.0:{PORT}"})["id"]
        before_second(self)
        self.second = cluster.agent("a2", at=cluster.hubs[1], env=agents[1])
        staying = cluster.agent("staying", at=cluster.hubs[1], network="elsewhere")
        far = bench.server(echo, host=staying.address, namespace=staying.namespace)
        cluster.tunnel(cluster.hubs[1], far.address, name="other", network="elsewhere",
                       endpoint={"listen": f"0.0.0.0:{PORT + 1}"})
        self.ledger = self.witnesses = self.streams = None
        self.written = self.lost = 0  # at the end: what was acknowledged

    def begin(self, *through):
        """`through`: hubs that the streams come in at which nothing may cut; the second and the third are usual."""
        self.wait_served(self.first)
        self.streams = [Stream(self.cluster, h) for h in through or self.cluster.hubs[1:]]
        self.ledger = Ledger(self.cluster)
        self.witnesses = [Witness(self.cluster, h) for h in self.cluster.hubs]
        for witness in self.witnesses:
            wait_until(lambda w=witness: w.answered, "the witnesses to be answered", 20)
        return self

    def ask(self, hub, patience=2.0):
        """Who serves, for a client of this hub."""
        return ask(f"{hub.host}:{PORT}", hub.host, self.cluster.client, patience)

    def wait_served(self, agent, *hubs):
        for hub in hubs or self.cluster.hubs:
            wait_until(lambda h=hub: self.ask(h) == agent.address, f"{agent.name} to serve at {hub.host}", 40)

    def see_home_die(self, fault):
        """Its hub is killed and started again, and its agent can go nowhere else: the second one serves when the lease
        is over, and goes on."""
        self.home.process.kill()
        self.wait_served(self.second, *(h for h in self.cluster.hubs if h is not self.home))
        self.home.start()
        wait_until(lambda: self.cluster.hub_of(self.first) is self.home, "the first one to be back", 40)
        self.wait_served(self.second)
        assert self.end(fault, [self.home]) == [self.first.address, self.second.address]

    @property
    def failed(self):
        """How many clients were refused, or waited for more than two seconds."""
        return sum(w.failed for w in self.witnesses)

    def end(self, fault, disturbed=()):
        """Ends it, checks all, and prints the fault's line. `disturbed`: hubs whose own clients are told of apart. The
        agents that served, in their order."""
        for watcher in (*self.witnesses, *self.streams):
            watcher.stop()
        self.written, self.lost = self.ledger.check()
        history = self.target.history
        logs = {a.name: leases_taken(a.process.log()) for a in (self.first, self.second)}
        cut = {s.hub.host: s.cut for s in self.streams if s.cut}
        wrong = [*two_at_once(history), *epochs_taken_twice(logs)]
        assert not wrong, f"two holders: {wrong[:5]}"
        assert not cut, f"streams that had nothing to do with it: {cut}"
        assert all(logs.values()) or len(turns(history)) < 2, "what agents log is understood"
        print("\n" + self._line(fault, disturbed, history))
        return turns(history)

    def _line(self, fault, disturbed, history):
        def longest(watchers):
            return max((w.longest for w in watchers), default=0)
        apart = [w for w in self.witnesses if w.hub in disturbed]
        others = [w for w in self.witnesses if w.hub not in disturbed]
        own = f", at the hub itself {longest(apart):.2f} s" if apart else ""
        return (f"fault: {fault}: served again after {longest(others):.2f} s{own}; "
                f"{len(history)} streams by {len(turns(history))} holder(s), never two; "
                f"{self.written} writes acknowledged, {self.lost} lost; "
                f"{sum(s.exchanged for s in self.streams)} exchanges on {len(self.streams)} other streams, "
                f"none cut, the longest pause {longest(self.streams):.2f} s")
