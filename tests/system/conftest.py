"""Fixtures: a hub with real processes in a directory and on ports of its own; what it said is shown
when a test fails, and a sanitizer's report in any log fails the test."""

import os
import shutil
import signal
import sys
import tempfile

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from lib import network, pair, postgres  # noqa: E402
from lib.cluster import Cluster  # noqa: E402
from lib.pair import hub_of_test  # noqa: E402
from lib.plant import Plant  # noqa: E402
from lib.process import SLOW  # noqa: E402
from lib.service import Nginx, Sshd, TcpServer, echo  # noqa: E402
from lib.warren import BUILD, program  # noqa: E402
from lib.web import App  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "one_hub(reason): says nothing about two (WARREN_TEST_HUBS=2)")
    config.addinivalue_line("markers", "seconds(limit): may take so long, where others keep the machine busy")
    if pair.is_paired():
        network.leave()
    for number in (signal.SIGINT, signal.SIGQUIT):  # what a job in the background ignores, its programs would
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    if not os.path.exists(program("warren")):
        pytest.exit(f"no {program('warren')}: run make first, or set WARREN_BUILD (now {BUILD})", 2)


def pytest_collection_modifyitems(items):
    for item in items if pair.is_paired() else ():
        for mark in item.iter_markers("one_hub"):
            item.add_marker(pytest.mark.skip(reason=f"one hub: {mark.args[0]}"))


def pytest_sessionfinish():
    postgres.end_shared()


TEST_SECONDS = 120


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    """No test waits for ever."""
    mark = item.get_closest_marker("seconds")
    seconds = (mark.args[0] if mark else TEST_SECONDS) * SLOW

    def too_long(signum, frame):
        raise AssertionError(f"the test took longer than {seconds} s")
    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call":
        item.failed = outcome.get_result().failed


@pytest.fixture
def directory(request):
    """A directory of the test; a short path, so that sockets fit in too."""
    path = tempfile.mkdtemp(prefix="warren-test-")
    os.chmod(path, 0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


class Bench:
    """What a test started, to be ended in reverse order."""

    def __init__(self, directory):
        self.directory = directory
        self.started = []
        self.count = 0

    def keep(self, thing):
        self.started.append(thing)
        return thing

    def postgres(self, **kwargs):
        """A PostgreSQL server of the test's own."""
        if not postgres.binaries():
            pytest.skip("PostgreSQL is not installed")
        path = tempfile.mkdtemp(prefix="pg", dir=self.directory)
        return self.keep(postgres.Postgres(path, **kwargs).make().start())

    def hub(self, db=None, options=(), **kwargs):
        """See lib.pair.hub_of_test."""
        self.count += 1
        path = os.path.join(self.directory, f"hub{self.count}")
        return self.keep(hub_of_test(path, db=db, options=options, **kwargs)).start()

    def nginx(self, **kwargs):
        path = tempfile.mkdtemp(prefix="nginx", dir=self.directory)
        return self.keep(Nginx(path, **kwargs))

    def sshd(self, **kwargs):
        path = tempfile.mkdtemp(prefix="sshd", dir=self.directory)
        return self.keep(Sshd(path, **kwargs))

    def server(self, handler=echo, **kwargs):
        return self.keep(TcpServer(handler, **kwargs))

    def processes(self):
        for thing in self.started:
            if hasattr(thing, "process"):
                yield thing.process
            if hasattr(thing, "processes"):
                yield from thing.processes()
            for agent in getattr(thing, "agents", ()):
                yield agent.process


def end(b, has_failed):
    """What was started is stopped; what it said is shown if something went wrong."""
    processes = list(b.processes())
    errors = []
    for thing in reversed(b.started):
        try:
            thing.close()
        except AssertionError as error:
            errors.append(str(error))
    for process in processes:
        report = process.sanitizer_report()
        if report:
            errors.append(f"{process.log_path}:\n{report}")
    if errors or has_failed:
        for process in processes:
            print(f"\n--- {process.log_path}\n{process.log()[-6000:]}")
    if errors:
        pytest.fail("\n".join(errors))


@pytest.fixture
def bench(request, directory):
    """Makes hubs and services that end with the test."""
    b = Bench(directory)
    yield b
    end(b, getattr(request.node, "failed", False))


@pytest.fixture(scope="module")
def plant(request):
    """A LAN with a host for every way to answer, an agent and a hub (lib/plant.py), of all tests of a
    file."""
    if not network.available():
        pytest.skip("network namespaces need root")
    path = tempfile.mkdtemp(prefix="warren-test-")
    os.chmod(path, 0o755)
    failed = request.session.testsfailed
    b = Bench(path)
    try:
        yield b.keep(Plant(path)).start()
    finally:
        end(b, request.session.testsfailed > failed)
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def hub(bench):
    """A hub on loopback."""
    return bench.hub()


@pytest.fixture
def cluster(bench):
    """Three hubs on one PostgreSQL behind haproxy."""
    if not network.available():
        pytest.skip("network namespaces need root")
    return Cluster(bench, bench.postgres())


@pytest.fixture
def site(bench):
    """(hub, agent) on loopback, the agent in the network "lan"."""
    hub = bench.hub()
    return hub, hub.agent("a1")


@pytest.fixture
def lan_hub(site):
    """The hub of `site`."""
    return site[0]


@pytest.fixture
def app(bench):
    return bench.keep(App())


@pytest.fixture
def echo_server(bench):
    return bench.server(echo)


@pytest.fixture
def lan(bench):
    """A customer's network behind NAT, with namespaces of its own."""
    if not network.available():
        pytest.skip("network namespaces need root")
    return bench.keep(network.CustomerNetwork())
