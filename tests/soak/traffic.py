"""Clients of whatever tunnels there are. Errors are theirs to bear while faults go on; what is never
excused is wrong content, and a proper end where the service made none."""

import random
import socket
import threading

from lib.datagram import address_of, udp_socket
from lib.service import connect


class Traffic:
    """`addresses`: a function that gives the endpoints there are now, as (protocol, address); `hub_deaths`: one that counts how
    often the hub was killed, as the kernel then ends its connections properly."""

    def __init__(self, namespace, addresses, hub_deaths, seed, clients=6):
        self.namespace, self.addresses, self.hub_deaths = namespace, addresses, hub_deaths
        self.ok = self.failed = 0
        self.wrong = []  # texts
        self.resting, self.ended = threading.Event(), threading.Event()
        self.idle = threading.Condition()
        self.at_work = 0
        self.threads = [threading.Thread(target=self._client, args=(seed * 1000 + n,), daemon=True)
                        for n in range(clients)]
        for thread in self.threads:
            thread.start()

    def rest(self):
        """Returns when no client has a connection any more."""
        self.resting.set()
        with self.idle:
            assert self.idle.wait_for(lambda: not self.at_work, 60), "a client hangs"

    def resume(self):
        self.resting.clear()

    def stop(self):
        self.ended.set()
        self.resting.set()
        for thread in self.threads:
            thread.join(30)

    def _client(self, seed):
        rng = random.Random(seed)
        while not self.ended.is_set():
            addresses = self.addresses()
            with self.idle:
                works = bool(addresses) and not self.resting.is_set()
                self.at_work += works
            if not works:
                self.ended.wait(0.05)
                continue
            protocol, address = rng.choice(addresses)
            session = self._flow if protocol == "udp" else self._session
            try:
                session(rng, address)
                self.ok += 1
            except OSError:
                self.failed += 1
            finally:
                with self.idle:
                    self.at_work -= 1
                    self.idle.notify_all()
            self.resting.wait(rng.choice((0, 0, 0.05)))

    def _session(self, rng, address):
        deaths = self.hub_deaths()
        with connect(address, 5, self.namespace) as sock:
            sock.settimeout(20)
            for _ in range(rng.choice((1, 1, 1, 3, 8))):
                self._exchange(sock, rng, address, deaths)
                if self.resting.is_set():
                    break
                self.resting.wait(rng.choice((0, 0, 0.2, 1)))
            if rng.random() < 0.5:
                sock.shutdown(socket.SHUT_WR)
                if sock.recv(1):
                    self.wrong.append(f"{address}: bytes that nobody sent")

    def _exchange(self, sock, rng, address, deaths):
        sent = rng.randbytes(rng.choice((1, 14, 1000, 70_000, 400_000)))
        failures = []
        writer = threading.Thread(target=self._send, args=(sock, sent, failures), daemon=True)
        writer.start()
        got = bytearray()
        try:
            while len(got) < len(sent):
                piece = sock.recv(1 << 18)
                if not piece:
                    break
                got += piece
        finally:
            writer.join(30)
        if len(got) < len(sent):
            # A reset is told once, to the writer or to the reader.
            if not failures and self.hub_deaths() == deaths:
                self.wrong.append(f"{address}: end of stream after {len(got)} of {len(sent)} bytes")
            raise OSError("ended")
        if got != sent:
            self.wrong.append(f"{address}: {len(sent)} bytes came back changed")

    def _flow(self, rng, address):
        """Datagrams may be lost, but what comes was sent."""
        to, ever = address_of(address), set()
        with udp_socket(to[0], namespace=self.namespace, timeout=1) as sock:
            for _ in range(rng.choice((1, 1, 5, 20))):
                sent = {rng.randbytes(rng.choice((1, 100, 1400, 9000))) for _ in range(rng.choice((1, 4)))}
                ever |= sent
                for data in sent:
                    sock.sendto(data, to)
                for _ in sent:
                    if (data := sock.recv(1 << 16)) not in ever:
                        self.wrong.append(f"{address}: a datagram of {len(data)} bytes that nobody sent")
                if self.resting.is_set():
                    break

    @staticmethod
    def _send(sock, data, failures):
        try:
            sock.sendall(data)
        except OSError as error:
            failures.append(error)
