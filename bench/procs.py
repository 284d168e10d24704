"""Processes of a measurement: start, stop, CPU time and memory from /proc."""

import os
import signal
import socket
import subprocess
import sys
import time

TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids):
    """User and system time of all threads of the processes, in seconds."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def machine_busy_seconds():
    """Time all CPUs together were not idle since the machine started."""
    with open("/proc/stat") as f:
        user, nice, system, _idle, _iowait, irq, softirq = map(int, f.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / TICK


def own_seconds():
    """CPU time of this process and of all its children that have ended."""
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def memory_kib(pids):
    """(RSS, PSS) of the processes, in KiB."""
    rss = pss = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as f:
            for line in f:
                if line.startswith("Rss:"):
                    rss += int(line.split()[1])
                elif line.startswith("Pss:"):
                    pss += int(line.split()[1])
    return rss, pss


def children(pid):
    """All descendants of a process."""
    found = []
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            for child in f.read().split():
                found += [int(child)] + children(int(child))
    except FileNotFoundError:
        pass
    return found


class AwakeCores:
    """With this, no core ever sleeps: idle-class spinners run whenever nothing else does, and give way
    to whatever does."""

    SPIN = "import os\nos.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nprint()\nwhile True: pass"

    def __enter__(self):
        self.spinners = [subprocess.Popen([sys.executable, "-uc", self.SPIN], stdout=subprocess.PIPE)
                         for _ in range(os.cpu_count())]
        for spinner in self.spinners:
            spinner.stdout.readline()

    def __exit__(self, *_):
        for spinner in self.spinners:
            spinner.kill()
            spinner.communicate()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, condition, seconds=15):
    """Asks `condition` until it says yes; its exceptions of the kind "not there yet" count as no."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except (OSError, ValueError):
            pass
        time.sleep(0.02)
    raise RuntimeError(f"waited {seconds} s in vain for {what}")


class Group:
    """Processes that end together."""

    def __init__(self, directory):
        self.directory = directory
        self.processes = []

    def start(self, name, argv, **kwargs):
        log = open(os.path.join(self.directory, name + ".log"), "ab")
        p = subprocess.Popen([str(a) for a in argv], stdout=log, stderr=log,
                             stdin=subprocess.DEVNULL, **kwargs)
        log.close()
        self.processes.append(p)
        return p.pid

    def stop(self):
        for p in reversed(self.processes):
            if p.poll() is None:
                p.send_signal(signal.SIGTERM)
        for p in reversed(self.processes):
            try:
                p.wait(5)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
        self.processes.clear()
