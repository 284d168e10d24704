"""Processes of a test: started with a log, waited for with deadlines, ended by their own pid."""

import os
import re
import signal
import subprocess
import time

SANITIZE = os.environ.get("SANITIZE", "")

# Instrumented programs are slower: deadlines stretch, amounts shrink.
SLOW = {"": 1, "thread": 4}.get(SANITIZE, 3)

SANITIZER_REPORT = re.compile(
    r"ERROR: AddressSanitizer|ERROR: LeakSanitizer|WARNING: ThreadSanitizer|runtime error:"
    r"|Sanitizer: CHECK failed|SUMMARY: \w*Sanitizer")


def amount(full, small):
    """A size for this run: `small` under a sanitizer, where the point is the reports."""
    return small if SANITIZE else full


def wait_until(condition, what, seconds=10.0, every=0.02):
    """The first true value of `condition()`; connection errors count as false."""
    deadline = time.monotonic() + seconds * SLOW
    last = None
    while True:
        try:
            value = condition()
            if value:
                return value
        except (OSError, LookupError, ValueError) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds * SLOW:.0f} s in vain for {what}"
                                 + (f" (last: {last!r})" if last else ""))
        time.sleep(every)


def sanitizer_environment():
    env = {
        "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:exitcode=99:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=0",
        "TSAN_OPTIONS": "halt_on_error=0:exitcode=66:second_deadlock_stack=1:report_signal_unsafe=0",
    }
    return env if SANITIZE else {}


class Process:
    """A program whose output goes to a file. `namespace`: the network namespace it runs in."""

    def __init__(self, argv, log_path, env=None, namespace=None, user=None, cwd=None):
        self.argv = [str(a) for a in argv]
        self.log_path = str(log_path)
        self.env = {**os.environ, **sanitizer_environment(), **(env or {})}
        self.namespace = namespace
        self.user = user
        self.cwd = cwd
        self.popen = None

    def start(self):
        assert self.popen is None or self.popen.poll() is not None
        argv = self.argv
        if self.user:
            argv = ["setpriv", f"--reuid={self.user}", "--clear-groups", "--no-new-privs", *argv]
        if self.namespace:
            argv = ["ip", "netns", "exec", self.namespace, *argv]
        with open(self.log_path, "ab") as log:
            self.popen = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                          env=self.env, cwd=self.cwd)
        return self

    @property
    def pid(self):
        return self.popen.pid

    def alive(self):
        return self.popen is not None and self.popen.poll() is None

    def signal(self, number):
        self.popen.send_signal(number)

    def kill(self):
        """kill -9, and the body is buried."""
        if self.alive():
            self.popen.kill()
        self.popen.wait(30)

    def stop(self, seconds=15):
        """SIGTERM; the exit code. A process that does not end in time is an error."""
        if not self.popen:
            return 0
        if self.alive():
            self.popen.send_signal(signal.SIGCONT)
            self.popen.send_signal(signal.SIGTERM)
        try:
            return self.popen.wait(seconds * SLOW)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise AssertionError(f"{self.argv[0]} (pid {self.pid}) ignored SIGTERM for "
                                 f"{seconds * SLOW} s") from None

    def log(self):
        try:
            with open(self.log_path, errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def wait_log(self, text, seconds=10.0, after=0):
        """Waits until `text` (a regular expression) is in the log behind offset `after`."""
        return wait_until(lambda: re.search(text, self.log()[after:]),
                          f"/{text}/ in {self.log_path}", seconds)

    def rss_kib(self):
        with open(f"/proc/{self.pid}/status") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read())[1])

    def open_files(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def sanitizer_report(self):
        text = self.log()
        found = SANITIZER_REPORT.search(text)
        return text[max(0, found.start() - 200):found.start() + 6000] if found else None


def run(argv, input=None, env=None, seconds=60, namespace=None, check=True):
    """Runs a command to its end; its CompletedProcess with text output."""
    argv = [str(a) for a in argv]
    if namespace:
        argv = ["ip", "netns", "exec", namespace, *argv]
    done = subprocess.run(argv, input=input, env={**os.environ, **sanitizer_environment(), **(env or {})},
                          stdin=None if input is not None else subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=seconds * SLOW)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(argv)} ended with {done.returncode}\n"
                             f"{done.stdout}{done.stderr}")
    return done
