#!/usr/bin/python3
"""Requests for a tunnel by name, beside a pair of haproxy: both end the client's TLS, take HTTP apart and
carry it over another TLS connection to a second process, which connects to the same nginx.

    WARREN_BUILD=build bench/web.py [--rounds 3] [--seconds 3]

The two take turns within a round, so that what else the machine does meets both. Medians are printed.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests"))

import peers  # noqa: E402
from lib.service import Nginx  # noqa: E402
from lib.warren import Hub  # noqa: E402
from procs import free_port, wait_for  # noqa: E402

HOST = "bench.tunnels.example.org"
ROWS = [("HTTP/1.1, 1 connection", ["--h1", "-c1"]), ("HTTP/1.1, 32 connections", ["--h1", "-c32"]),
        ("HTTP/2, 1 connection, 1 at a time", ["-c1", "-m1"]),
        ("HTTP/2, 4 connections, 8 at a time each", ["-c4", "-m8"])]


class HaproxyWeb(peers.Haproxy):
    def start(self):
        pem, tls_port, ca = self.certificates(), free_port(), self.path("ca.pem")
        bind = f"127.0.0.1:{self.port} ssl crt {pem} alpn h2,http/1.1"
        server = f"127.0.0.1:{tls_port} ssl verify required ca-file {ca} crt {pem} sni str(agent)"
        for name, at, to in (("edge", bind, server),
                             ("inner", f"127.0.0.1:{tls_port} ssl crt {pem} verify required ca-file {ca}",
                              f"127.0.0.1:{self.target}")):
            config = self.write(name + ".cfg", f"""
global
    nbthread {os.cpu_count() if name == "edge" else 1}
defaults
    mode http
    option forwardfor
    http-reuse always
    timeout connect 10s
    timeout client 1m
    timeout server 1m
listen {name}
    bind {at}
    server next {to}
""")
            self.near(name, ["haproxy", "-db", "-f", config])
        wait_for("haproxy", lambda: self.place.port_open(self.port))


def measure(port, flags, seconds):
    """Requests a second; all must have been answered well."""
    done = subprocess.run(["h2load", f"--connect-to=127.0.0.1:{port}", f"-D{seconds}", "--warm-up-time=1", *flags,
                           f"https://{HOST}/small"], capture_output=True, text=True, check=True, timeout=60)
    good, bad = re.search(r"(\d+) succeeded, (\d+) failed", done.stdout).groups()
    statuses = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", done.stdout)
    if int(bad) or any(int(n) for n in statuses.groups()[1:]):
        raise RuntimeError(done.stdout)
    return int(good) / seconds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    o = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="warren-bench-") as directory:
        os.chmod(directory, 0o755)
        nginx_folder = os.path.join(directory, "nginx")
        os.mkdir(nginx_folder)
        nginx = Nginx(nginx_folder)
        nginx.put_file("small", b"x" * 100)
        haproxy = None
        hub = Hub(os.path.join(directory, "warren")).start()
        try:
            hub.agent("bench")
            hub.admin.post("/api/v1/tunnels", {"name": "bench", "spec": {
                "target": {"network": "lan", "address": nginx.address, "protocol": "http"},
                "access": {"endpoint": {"host": HOST}}}})
            hub.wait_active("bench")
            haproxy = HaproxyWeb(directory, nginx.port)
            samples = {}
            for _ in range(o.rounds):
                for row, flags in ROWS:
                    for name, port in (("warren", hub.port), ("haproxy", haproxy.port)):
                        samples.setdefault((row, name), []).append(measure(port, flags, o.seconds))
        finally:
            if haproxy:
                haproxy.stop()
            hub.close()
            nginx.close()
    print(f"{'requests a second':44}{'warren':>10}{'haproxy':>10}{'ratio':>8}")
    for row, _ in ROWS:
        ours, theirs = (statistics.median(samples[row, name]) for name in ("warren", "haproxy"))
        print(f"{row:44}{ours:10.0f}{theirs:10.0f}{ours / theirs:8.2f}")


if __name__ == "__main__":
    main()
