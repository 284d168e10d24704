"""A bulk stream of a client, whose every byte is checked."""

import hashlib
import os
import socket
import threading

from lib.service import connect

BLOCK = os.urandom(1 << 16)


class Flow:
    """A client that sends blocks and reads them back from an echo service, until it is stopped."""

    def __init__(self, address, namespace=None):
        self.sock = connect(address, namespace=namespace)
        self.sock.settimeout(60)
        self.sent, self.got = hashlib.sha256(), hashlib.sha256()
        self.bytes = 0
        self.error = None
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._guard, args=(f,), daemon=True)
                        for f in (self._send, self._read)]
        for t in self.threads:
            t.start()

    def _guard(self, work):
        try:
            work()
        except OSError as error:
            self.error = error

    def _send(self):
        while not self.stopping.is_set():
            self.sock.sendall(BLOCK)
            self.sent.update(BLOCK)
        self.sock.shutdown(socket.SHUT_WR)

    def _read(self):
        while data := self.sock.recv(1 << 18):
            self.got.update(data)
            self.bytes += len(data)

    def alive(self):
        return all(t.is_alive() for t in self.threads)

    def stop(self):
        """Whether all came back as it was sent."""
        self.stopping.set()
        for t in self.threads:
            t.join(90)
        self.sock.close()
        return not self.error and self.got.digest() == self.sent.digest()
