"""What two programs can do with a TCP connection, both sides of each case in one place.

The server's half runs in the test; the client's half in a program of its own (`python3 tcp_cases.py HOST
CASE=PORT...`), all cases at once in threads, which prints `CASE ok` or what was wrong.
"""

import fcntl
import hashlib
import os
import select
import socket
import struct
import sys
import termios
import threading
import traceback

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from lib.service import reset  # noqa: E402

BYTES = int(os.environ.get("TCP_CASES_BYTES", 1 << 20))
TIMEOUT = float(os.environ.get("TCP_CASES_TIMEOUT", 90))


def stream(seed, size):
    """The same bytes on both sides."""
    return hashlib.shake_128(str(seed).encode()).digest(size)


def read_to_end(sock):
    data = bytearray()
    while piece := sock.recv(1 << 16):
        data += piece
    return bytes(data)


def read_exactly(sock, size):
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, f"the end after {len(data)} of {size} bytes"
        data += piece
    return bytes(data)


def same(got, expected):
    if got != expected:
        at = next((i for i, (a, b) in enumerate(zip(got, expected)) if a != b), min(len(got), len(expected)))
        raise AssertionError(f"{len(got)} bytes in place of {len(expected)}, which differ from byte {at} on")


def expect(error, call):
    try:
        call()
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


def queued(sock, which):
    """Bytes that were not acknowledged (TIOCOUTQ) or not read (FIONREAD) yet."""
    return struct.unpack("i", fcntl.ioctl(sock, which, bytes(4)))[0]


def wait_until_acknowledged(sock):
    while queued(sock, termios.TIOCOUTQ):
        select.select([], [], [], 0.01)


class Told:
    """What the server saw of one connection, told on a second one, which asks with "?"."""

    def __init__(self):
        self.seen = threading.Event()
        self.what = b""

    def tell(self, what):
        self.what = what
        self.seen.set()

    def answer(self, sock):
        """Whether this is the connection that asks."""
        if read_exactly(sock, 1) != b"?":
            return False
        self.seen.wait(TIMEOUT)
        sock.sendall(self.what)
        return True

    @staticmethod
    def ask(connect):
        with connect() as sock:
            sock.sendall(b"?")
            return read_to_end(sock)


class BothWays:
    """Both sides send at once, then end."""

    def serve(sock):
        feeder = threading.Thread(target=sock.sendall, args=(stream("down", BYTES),))
        feeder.start()
        same(read_to_end(sock), stream("up", BYTES))
        feeder.join()
        sock.sendall(b"all of it")

    def client(connect):
        with connect() as sock:
            def feed():
                sock.sendall(stream("up", BYTES))
                sock.shutdown(socket.SHUT_WR)
            feeder = threading.Thread(target=feed)
            feeder.start()
            same(read_to_end(sock), stream("down", BYTES) + b"all of it")
            feeder.join()


class HalfCloseUp:
    """The program ends its direction first; the other goes on."""

    def serve(sock):
        same(read_to_end(sock), b"question")
        sock.sendall(stream("answer", BYTES // 4))

    def client(connect):
        with connect() as sock:
            sock.sendall(b"question")
            sock.shutdown(socket.SHUT_WR)
            same(read_to_end(sock), stream("answer", BYTES // 4))


class HalfCloseDown:
    """The target ends its direction first; the program's goes on."""

    told = Told()

    def serve(sock):
        told = HalfCloseDown.told
        if not told.answer(sock):
            sock.shutdown(socket.SHUT_WR)
            told.tell(hashlib.sha256(read_to_end(sock)).digest())

    def client(connect):
        with connect() as sock:
            sock.sendall(b"!")
            same(read_to_end(sock), b"")
            sock.sendall(stream("late", BYTES // 4))
        same(Told.ask(connect), hashlib.sha256(stream("late", BYTES // 4)).digest())


class ResetByProgram:
    """The target feels it."""

    told = Told()

    def serve(sock):
        if not ResetByProgram.told.answer(sock):
            expect(ConnectionResetError, lambda: read_to_end(sock))
            ResetByProgram.told.tell(b"reset")

    def client(connect):
        sock = connect()
        sock.sendall(b"!")
        wait_until_acknowledged(sock)
        reset(sock)
        same(Told.ask(connect), b"reset")


class ResetByTarget:
    """The program gets all that came before it, then the reset."""

    def serve(sock):
        sock.sendall(stream("before", 20_000))
        same(read_exactly(sock, 3), b"got")
        reset(sock)

    def client(connect):
        with connect() as sock:
            same(read_exactly(sock, 20_000), stream("before", 20_000))
            sock.sendall(b"got")
            expect(ConnectionResetError, lambda: read_to_end(sock))


class UnreadAtClose:
    """A close with data unread is a reset at the other side."""

    told = Told()

    def serve(sock):
        if UnreadAtClose.told.answer(sock):
            return
        try:
            while True:
                sock.sendall(bytes(1 << 16))
        except (ConnectionResetError, BrokenPipeError):
            UnreadAtClose.told.tell(b"reset")

    def client(connect):
        with connect() as sock:
            sock.sendall(b"!")
            select.select([sock], [], [], TIMEOUT)
        same(Told.ask(connect), b"reset")


class ZeroWindowUp:
    """A target that reads nothing until it is told to stops the program, and starts it again."""

    go = threading.Event()

    def serve(sock):
        if read_exactly(sock, 1) == b"?":
            ZeroWindowUp.go.set()
            return
        ZeroWindowUp.go.wait(TIMEOUT)
        same(read_to_end(sock), stream("much", 4 * BYTES))
        sock.sendall(b"all of it")

    def client(connect):
        data = stream("much", 4 * BYTES)
        with connect() as sock:
            sock.sendall(b"!")
            sock.setblocking(False)
            sent = 0
            while select.select([], [sock], [], 1)[1] and sent < len(data):
                sent += sock.send(data[sent:])
            with connect() as other:
                other.sendall(b"?")
            sock.settimeout(TIMEOUT)
            sock.sendall(data[sent:])
            sock.shutdown(socket.SHUT_WR)
            same(read_to_end(sock), b"all of it")


class ZeroWindowDown:
    """A program that does not read for a while misses nothing."""

    def serve(sock):
        sock.sendall(stream("much", 4 * BYTES))

    def client(connect):
        with connect() as sock:
            before = -1
            while (now := queued(sock, termios.FIONREAD)) != before or not now:
                before = now
                select.select([], [], [], 0.5)
            same(read_to_end(sock), stream("much", 4 * BYTES))


class SmallWrites:
    """Bytes in crumbs arrive as one stream."""

    def serve(sock):
        same(read_to_end(sock), stream("crumbs", 30_000))
        sock.sendall(b"all of it")

    def client(connect):
        data, at = stream("crumbs", 30_000), 0
        with connect() as sock:
            while at < len(data):
                size = 1 + data[at] % 50
                sock.sendall(data[at:at + size])
                at += size
            sock.shutdown(socket.SHUT_WR)
            same(read_to_end(sock), b"all of it")


class Urgent:
    """Urgent data is in the stream, as the agent's kernel reads it: nothing stops there."""

    def serve(sock):
        same(read_to_end(sock), b"before!after")
        sock.sendall(b"all of it")

    def client(connect):
        with connect() as sock:
            sock.sendall(b"before")
            sock.send(b"!", socket.MSG_OOB)
            sock.sendall(b"after")
            sock.shutdown(socket.SHUT_WR)
            same(read_to_end(sock), b"all of it")


class PortReuse:
    """One port of the program's again and again, after a reset and after a proper end."""

    def serve(sock):
        sock.sendall(read_exactly(sock, 4))
        sock.recv(1)

    def client(connect):
        port = 0
        for n in range(30):
            sock = connect(port)
            port = sock.getsockname()[1]
            sock.sendall(b"%04d" % n)
            same(read_exactly(sock, 4), b"%04d" % n)
            reset(sock)


class SimultaneousClose:
    """Both sides end at once."""

    def serve(sock):
        sock.sendall(b"go")
        sock.shutdown(socket.SHUT_WR)
        same(read_to_end(sock), b"")

    def client(connect):
        for _ in range(10):
            with connect() as sock:
                same(read_exactly(sock, 2), b"go")
                sock.shutdown(socket.SHUT_WR)
                same(read_to_end(sock), b"")


class Keepalive:
    """A quiet connection whose program asks whether it is still there is told that it is."""

    def serve(sock):
        sock.sendall(read_exactly(sock, 4))

    def client(connect):
        with connect() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option in socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL:
                sock.setsockopt(socket.IPPROTO_TCP, option, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
            assert not select.select([sock], [], [], 6)[0], "it ended"
            sock.sendall(b"here")
            same(read_exactly(sock, 4), b"here")


class Many:
    """Short connections, many at a time."""

    def serve(sock):
        sock.sendall(read_to_end(sock)[::-1])

    def client(connect):
        failed = []

        def some(n):
            try:
                for k in range(10):
                    with connect() as sock:
                        data = stream((n, k), 100 * n)
                        sock.sendall(data)
                        sock.shutdown(socket.SHUT_WR)
                        same(read_to_end(sock), data[::-1])
            except (OSError, AssertionError) as error:
                failed.append(error)
        threads = [threading.Thread(target=some, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed, failed


CASES = {case.__name__: case for case in (
    BothWays, HalfCloseUp, HalfCloseDown, ResetByProgram, ResetByTarget, UnreadAtClose, ZeroWindowUp, ZeroWindowDown,
    SmallWrites, Urgent, PortReuse, SimultaneousClose, Keepalive, Many)}


def run_client(name, host, port):
    def connect(source_port=0):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family)
        sock.settimeout(TIMEOUT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind(("::" if family == socket.AF_INET6 else "", source_port))
        sock.connect((host, port))
        return sock
    try:
        CASES[name].client(connect)
        print(f"{name} ok\n", end="", flush=True)
    except Exception:
        print(f"{name} failed: {traceback.format_exc()}\n".replace("\n", " | ") + "\n", end="", flush=True)


def main():
    host, *pairs = sys.argv[1:]
    for pair in pairs:
        name, _, port = pair.partition("=")
        threading.Thread(target=run_client, args=(name, host, int(port))).start()


if __name__ == "__main__":
    main()
