#!/usr/bin/python3
"""PostgreSQL servers of a test: own data directory, own unprivileged user, a unix socket.

    postgres.py serve DIRECTORY     starts one, says its URL, and ends it when the input ends
"""

import contextlib
import glob
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from urllib.parse import quote

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from lib.process import SLOW, Process, run, wait_until  # noqa: E402

USER = "nobody"  # the server refuses to be root
OPTIONS = {"fsync": "off", "listen_addresses": "", "log_line_prefix": "%m [%p] %a ",
           "max_connections": "60", "shared_buffers": "16MB", "max_wal_senders": "4"}


def binaries():
    """The folder of the newest installed version; None: there is none."""
    found = glob.glob("/usr/lib/postgresql/*/bin/postgres")
    return os.path.dirname(max(found, key=lambda p: int(p.split("/")[4]))) if found else None


def as_user(argv):
    if os.geteuid() == 0:
        return ["setpriv", f"--reuid={USER}", "--clear-groups", *argv]
    return argv


class Postgres:
    """`options`: settings of the server. `port` without `listen`: only part of the socket's name."""

    def __init__(self, directory, port=5432, options=None):
        self.directory = str(directory)
        self.data = os.path.join(self.directory, "data")
        self.port = port
        self.options = {**OPTIONS, **(options or {})}
        self.log_path = os.path.join(self.directory, "postgres.log")
        self.popen = None
        self.count = 0
        os.makedirs(self.directory, exist_ok=True)
        if os.geteuid() == 0:
            run(["chown", USER, self.directory])

    def program(self, name, *argv, seconds=120):
        return run(as_user([os.path.join(binaries(), name), *argv]), seconds=seconds)

    def make(self):
        self.program("initdb", "-D", self.data, "-A", "trust", "-U", "admin", "-E", "UTF8",
                     "--locale=C", "--no-sync", "--no-instructions")
        return self

    def start(self, wait=True):
        argv = [os.path.join(binaries(), "postgres"), "-D", self.data, "-p", str(self.port), "-k",
                self.directory]
        for name, value in self.options.items():
            argv += ["-c", f"{name}={value}"]
        with open(self.log_path, "ab") as log:
            self.popen = subprocess.Popen(as_user(argv), stdin=subprocess.DEVNULL, stdout=log,
                                          stderr=log, cwd="/")
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self):
        def ready():
            assert self.popen.poll() is None, f"PostgreSQL ended:\n{self.log()[-2000:]}"
            return self.try_sql("select 1") == "1"
        wait_until(ready, "PostgreSQL", 60)

    def log(self):
        with contextlib.suppress(FileNotFoundError), open(self.log_path, errors="replace") as f:
            return f.read()
        return ""

    def stop(self, number=signal.SIGINT):
        """SIGINT: sessions are cut and the rest is written; SIGQUIT: a crash; SIGTERM waits for them."""
        if self.popen and self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.send_signal(number)
            self.popen.wait(60 * SLOW)

    def close(self):
        self.stop(signal.SIGQUIT)

    def pids(self):
        """Pids of the server's own processes, the first one first."""
        children = run(["pgrep", "-P", self.popen.pid], check=False).stdout.split()
        return [self.popen.pid, *map(int, children)]

    def freeze(self):
        for pid in self.pids():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self):
        for pid in reversed(self.pids()):
            os.kill(pid, signal.SIGCONT)

    # ---- databases ----

    def url(self, database="postgres", host=None):
        return f"postgres://admin@/{database}?host={quote(host or self.directory, safe='')}&port={self.port}"

    def _psql(self, sql, database):
        return ["psql", "-X", "-At", "-v", "ON_ERROR_STOP=1", "-d", self.url(database), "-c", sql]

    def sql(self, sql, database="postgres"):
        return run(self._psql(sql, database)).stdout.strip()

    def try_sql(self, sql, database="postgres"):
        """None when the server does not answer."""
        done = subprocess.run(self._psql(sql, database), capture_output=True, text=True, check=False,
                              stdin=subprocess.DEVNULL, timeout=30 * SLOW)
        return done.stdout.strip() if done.returncode == 0 else None

    def new_database(self):
        """The URL of an empty one."""
        self.count += 1
        name = f"warren{self.count}"
        self.sql(f"create database {name}")
        return self.url(name)

    # ---- replicas ----

    def replica(self, directory, is_sync=False):
        """A streaming replica, running, that has all which was committed until now; of `is_sync`
        everything that is acknowledged."""
        r = Postgres(directory, self.port, self.options)
        self.program("pg_basebackup", "-D", r.data, "-d", self.url(), "-R", "-X", "stream", "-c", "fast",
                     "--no-sync")
        r.start()
        if is_sync:
            self.sql("alter system set synchronous_standby_names = '*'")
            self.sql("select pg_reload_conf()")
            wait_until(lambda: self.sql("select sync_state from pg_stat_replication") == "sync",
                       "the replica to be synchronous", 30)
        return r

    def fall_behind(self, primary):
        """The replica has all that is there now, and nothing of what follows."""
        position = primary.sql("select pg_current_wal_lsn()")
        wait_until(lambda: self.sql(f"select pg_last_wal_replay_lsn() >= '{position}'") == "t",
                   "the replica to have all", 30)
        self.sql("alter system set primary_conninfo = ''")
        self.sql("select pg_reload_conf()")
        wait_until(lambda: primary.sql("select count(*) from pg_stat_replication") == "0",
                   "the replica to be behind", 30)

    def promote(self):
        self.program("pg_ctl", "promote", "-D", self.data, "-w")


class Beside:
    """A process that ends with the test, however it stands."""

    def __init__(self, process):
        self.process = process

    def close(self):
        self.process.kill()


WRITERS_LOCK = int.from_bytes(b"warren", "big") << 16 | 1


class Holder(Beside):
    """A session that has the lock of those who write to a database of hubs, and does nothing; the server ends it
    after `seconds`."""

    def __init__(self, url, directory, seconds):
        super().__init__(Process(
            ["psql", "-X", "-d", url, "-c", "begin", "-c",
             f"select set_config('idle_in_transaction_session_timeout', '{seconds}s', true)", "-c",
             f"select pg_advisory_xact_lock({WRITERS_LOCK})", "-c", "\\! sleep 60"],
            os.path.join(directory, "holder.log")))
        self.process.start()
        self.process.wait_log("advisory")


_shared = []


def shared():
    """One server for all databases of this run of pytest."""
    if not _shared:
        _shared.append(Postgres(tempfile.mkdtemp(prefix="warren-pg-")).make().start())
    return _shared[0]


def end_shared():
    while _shared:
        server = _shared.pop()
        server.close()
        shutil.rmtree(server.directory, ignore_errors=True)


def serve(directory):
    server = Postgres(directory)
    server.make().start()
    print(server.url(), flush=True)
    sys.stdin.read()
    server.close()


def main():
    if not binaries():
        sys.exit("PostgreSQL is not installed")
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
