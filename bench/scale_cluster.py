"""A cluster of hubs on a PostgreSQL of its own, on loopback, for scale.py."""

import contextlib
import os
import signal
import subprocess

from procs import TICK, Group, children, cpu_seconds, free_port, memory_kib, wait_for

from lib.postgres import Postgres  # after procs' callers, who know where it is
from lib.warren import Rest

NETWORK = "net_%016d"


class Database:
    """What PostgreSQL is asked about itself. `fsync` as it is shipped: writes are real."""

    OPTIONS = {"fsync": "on", "shared_buffers": "256MB", "max_wal_size": "2GB", "max_connections": "100"}

    def __init__(self, directory):
        self.server = Postgres(os.path.join(directory, "postgres"), options=self.OPTIONS).make().start()
        self.url = self.server.new_database()
        self.name = "warren1"

    def sql(self, sql):
        return self.server.sql(sql, self.name)

    def script(self, *words):
        argv = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", self.url, *words]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)

    def counters(self):
        """Since it runs: (transactions, rows written, bytes of log, CPU seconds of all its processes)"""
        self.sql("select pg_stat_force_next_flush()")
        commits, rows, wal = self.sql(
            "select xact_commit, tup_inserted + tup_updated + tup_deleted, "
            "(select wal_bytes from pg_stat_wal) from pg_stat_database "
            f"where datname = '{self.name}'").split("|")
        return int(commits), int(rows), int(wal), self.cpu()

    def cpu(self):
        """Also of sessions that have ended."""
        first = self.server.popen.pid
        with open(f"/proc/{first}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        seconds = sum(map(int, fields[11:15])) / TICK
        for pid in children(first):
            with contextlib.suppress(FileNotFoundError):
                seconds += cpu_seconds([pid])
        return seconds

    def close(self):
        self.server.close()


class Cluster:
    """`hubs` are pids by number; a killed one is None."""

    def __init__(self, directory, build, count, limits=None):
        self.directory, self.build, self.count = directory, build, count
        self.limits = {"WARREN_LIMIT_ENROLL": "1000000", **(limits or {})}
        self.group = Group(directory)
        self.database = Database(directory)
        self.ports = [free_port() for _ in range(count)]
        self.hubs = [None] * count
        self.key_file = os.path.join(directory, "ca.keyfile")
        with open(os.open(self.key_file, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as f:
            f.write(os.urandom(32).hex().encode())

    def program(self, name):
        return os.path.join(self.build, name)

    def data(self, i):
        return os.path.join(self.directory, f"hub{i + 1}")

    def url(self, i):
        return f"https://127.0.0.1:{self.ports[i]}"

    @property
    def ca(self):
        return os.path.join(self.data(0), "ca.pem")

    @property
    def token_file(self):
        return os.path.join(self.data(0), "admin.token")

    def rest(self, i=0):
        with open(self.token_file) as f:
            return Rest("127.0.0.1", self.ports[i], self.ca, f.read().strip())

    def environment(self, i=0):
        return {**os.environ, "WARREN_HUB": self.url(i), "WARREN_CA": self.ca,
                "WARREN_TOKEN_FILE": self.token_file}

    def start_hub(self, i, *options, seconds=300):
        """Returns when it is ready."""
        argv = [self.program("warren"), "hub", "--data", self.data(i), "--db", self.database.url, "--listen",
                f"127.0.0.1:{self.ports[i]}", "--public-name", "127.0.0.1", "--log-level", "warn", *options]
        self.hubs[i] = self.group.start(f"hub{i + 1}", argv, env={**os.environ, **self.limits})
        wait_for(f"hub {i + 1}", lambda: os.path.exists(self.token_file) and
                 Rest("127.0.0.1", self.ports[i], self.ca, None).raw("GET", "/readyz")[0] == 200, seconds)

    def start_all(self):
        for i in range(self.count):
            self.start_hub(i, "--ca-key-file", self.key_file)

    def stop_hub(self, i, number=signal.SIGTERM):
        p = next(p for p in self.group.processes if p.pid == self.hubs[i])
        p.send_signal(number)
        p.wait(60)
        self.hubs[i] = None

    def alive(self):
        return [pid for pid in self.hubs if pid]

    def cpu(self):
        return cpu_seconds(self.alive())

    def pss_mib(self):
        return memory_kib(self.alive())[1] / 1024

    def make_networks(self, count):
        self.database.sql(
            "insert into network (id, tenant, name, version, created) select "
            "'net_' || lpad(i::text, 16, '0'), (select id from tenant where name = 'default'), 'net-' || i, 1, 1 + i "
            f"from generate_series(0, {count - 1}) i")

    def tenant(self):
        return self.database.sql("select id from tenant where name = 'default'")

    def close(self):
        self.group.stop()
        self.database.close()
