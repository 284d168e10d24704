"""The other side of a tunnel: small servers in threads, and real programs."""

import hashlib
import os
import socket
import struct
import threading

from lib.network import inside
from lib.process import Process, run, wait_until

CHUNK = 1 << 18


def free_port(host="127.0.0.1", namespace=None):
    with inside(namespace), socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as s:
        s.bind((host, 0))
        return s.getsockname()[1]


def reset(sock):
    """Closes with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class TcpServer:
    """Calls `handler(server, socket)` in a thread for each connection."""

    def __init__(self, handler, host="127.0.0.1", namespace=None, port=0, backlog=1024):
        with inside(namespace):
            self.listener = socket.create_server(
                (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET,
                backlog=backlog)
        self.port = self.listener.getsockname()[1]
        self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.handler = handler
        self.accepted = 0
        self.connections = []
        self.ends = []  # what `note_end` gathered: how each connection ended, seen from here
        self.lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                self.accepted += 1
                self.connections.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        try:
            self.handler(self, sock)
        except OSError as error:
            self.note_end(type(error).__name__)
        finally:
            sock.close()

    def note_end(self, how):
        with self.lock:
            self.ends.append(how)

    def close(self):
        try:
            self.listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept()
        except OSError:
            pass
        self.listener.close()
        with self.lock:
            for sock in self.connections:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass


def echo(server, sock):
    while True:
        data = sock.recv(CHUNK)
        if not data:
            server.note_end("eof")
            return
        sock.sendall(data)


def hash_until_eof(server, sock):
    """Reads everything, then answers its sha256: works only when half-close is carried."""
    digest, size = hashlib.sha256(), 0
    while data := sock.recv(CHUNK):
        digest.update(data)
        size += len(data)
    sock.sendall(f"{size} {digest.hexdigest()}\n".encode())


def source(server, sock):
    """Sends for as long as the other end takes it."""
    block = bytes(CHUNK)
    while True:
        sock.sendall(block)


def silent(server, sock):
    """Accepts and never says anything."""
    while sock.recv(CHUNK):
        pass
    server.note_end("eof")


def connect(address, timeout=10.0, namespace=None):
    """A socket to "host:port" or (host, port)."""
    if isinstance(address, str):
        host, port = address.rsplit(":", 1)
        address = (host.strip("[]"), int(port))
    with inside(namespace):
        sock = socket.create_connection(address, timeout)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        pass  # reset already: the first read tells
    return sock


def read_all(sock, limit=None):
    """(bytes, how it ended: "eof", "reset", "timeout")."""
    data = bytearray()
    try:
        while limit is None or len(data) < limit:
            piece = sock.recv(CHUNK)
            if not piece:
                return bytes(data), "eof"
            data += piece
    except ConnectionResetError:
        return bytes(data), "reset"
    except TimeoutError:
        return bytes(data), "timeout"
    return bytes(data), "limit"


def exchange(sock, data):
    """Sends and reads back as many bytes as were sent."""
    sock.sendall(data)
    got = bytearray()
    while len(got) < len(data):
        piece = sock.recv(len(data) - len(got))
        if not piece:
            break
        got += piece
    return bytes(got)


def serves(address, namespace=None, timeout=2.0):
    """Whether an echo service answers there now."""
    with connect(address, timeout, namespace) as sock:
        sock.settimeout(timeout)
        return exchange(sock, b"are you there?") == b"are you there?"


class Nginx:
    """A real nginx: GET from `root`, PUT into it; also at `host6`, on the same port."""

    def __init__(self, directory, host="127.0.0.1", namespace=None, port=None, host6=None):
        self.root = os.path.join(directory, "www")
        os.makedirs(os.path.join(self.root, "tmp"), exist_ok=True)
        os.chmod(directory, 0o755)
        self.port = port or free_port(host, namespace)
        self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        listen6 = f"listen [{host6}]:{self.port};" if host6 else ""
        conf = os.path.join(directory, "nginx.conf")
        user = "user root;" if os.geteuid() == 0 else ""
        with open(conf, "w") as f:
            f.write(f"""
                {user} daemon off; worker_processes 1; pid {directory}/nginx.pid;
                error_log stderr warn;
                events {{ worker_connections 4096; }}
                http {{
                    access_log off; client_max_body_size 0; sendfile on;
                    client_body_temp_path {self.root}/tmp; proxy_temp_path {directory}/p;
                    fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u;
                    scgi_temp_path {directory}/s; keepalive_requests 1000000;
                    server {{ listen {self.address} backlog=4096; {listen6} root {self.root};
                             location / {{ dav_methods PUT; }} }}
                }}""")
        self.process = Process(["/usr/sbin/nginx", "-e", "stderr", "-c", conf],
                               os.path.join(directory, "nginx.log"), namespace=namespace).start()
        wait_until(lambda: connect(self.address, 1, namespace).close() or True, "nginx")

    def put_file(self, name, content):
        with open(os.path.join(self.root, name), "wb") as f:
            f.write(content)

    def close(self):
        self.process.stop()


class Sshd:
    """A real sshd with keys of its own and one permitted key."""

    def __init__(self, directory, host="127.0.0.1", namespace=None, port=None):
        self.directory = directory
        self.port = port or free_port(host, namespace)
        self.address = f"{host}:{self.port}"
        self.client_key = os.path.join(directory, "client_key")
        for key in ("host_key", "client_key"):
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", os.path.join(directory, key)])
        os.makedirs("/run/sshd", exist_ok=True)
        conf = os.path.join(directory, "sshd_config")
        with open(conf, "w") as f:
            f.write(f"ListenAddress {host}:{self.port}\nHostKey {directory}/host_key\n"
                    f"AuthorizedKeysFile {directory}/client_key.pub\nStrictModes no\nUsePAM no\n"
                    f"PidFile none\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n")
        self.process = Process(["/usr/sbin/sshd", "-D", "-e", "-f", conf],
                               os.path.join(directory, "sshd.log"), namespace=namespace).start()
        wait_until(lambda: connect(self.address, 1, namespace).close() or True, "sshd")

    def close(self):
        self.process.stop()
