"""`warren mount` as a command: its end, lasting mounts, who is let out and where to, fail-over, and
that nothing stays behind."""

import fcntl
import json
import os
import select
import signal
import stat
import subprocess
import termios

import pytest

from lib import network
from lib.process import SLOW, run, wait_until
from lib.service import echo
from lib.warren import program

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun")
PYTHON = "/usr/bin/python3"


@pytest.fixture
def site(bench, lan):
    """A hub that has no route to the LAN, and an agent there."""
    hub = bench.hub(host=lan.HUB, namespace=lan.hub.name)
    hub.agent("a1", network="plant", namespace=lan.lan.name)
    return hub


def warren(hub, lan, *words, **options):
    """A `warren` process on the hub's host."""
    options.setdefault("stdout", subprocess.PIPE)
    options.setdefault("stderr", subprocess.PIPE)
    env = {**os.environ, **hub.environment(), **options.pop("env", {})}
    return subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{lan.hub.name}", program("warren"), *words], env=env,
        text=True, **options)


def done(process, seconds=60):
    try:
        out, err = process.communicate(timeout=seconds * SLOW)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


def mounted(hub, lan, *argv, flags=(), **options):
    return warren(hub, lan, "mount", "plant", *flags, "--", *argv, **options)


@pytest.fixture
def lasting(site, lan):
    """Makes mounts that last, in the foreground; they are stopped afterwards."""
    started = []

    def start(name, *flags, network="plant", hub=site):
        p = warren(hub, lan, "mount", network, "--name", name, *flags)
        started.append(p)
        wait_until(lambda: status(hub, lan, name).get("phase") == "active", f"mount {name}")
        return p
    yield start
    for p in started:
        p.terminate()
        p.communicate(timeout=30 * SLOW)


def status(hub, lan, name):
    code, out, err = done(warren(hub, lan, "mount", "status", name, "-o", "json"))
    return json.loads(out) if code == 0 else {}


def execute(hub, lan, name, *argv):
    return done(warren(hub, lan, "mount", "exec", name, "--", *argv))


# ---- how it ends ----

def test_it_ends_as_the_program_ended(site, lan):
    assert done(mounted(site, lan, "sh", "-c", "exit 42"))[0] == 42
    assert done(mounted(site, lan, "sh", "-c", "kill -9 $$"))[0] == -signal.SIGKILL
    assert done(mounted(site, lan, "no-such-program"))[0] == 127
    assert done(mounted(site, lan, "/etc/passwd"))[0] == 126


def test_signals_reach_the_program(site, lan):
    script = ("import signal, sys\n"
              "signal.signal(signal.SIGTERM, lambda *a: sys.exit(7))\n"
              "print('ready', flush=True)\nsignal.pause()\n")
    p = mounted(site, lan, PYTHON, "-c", script)
    assert p.stdout.readline() == "ready\n", p.stderr.read()
    p.terminate()
    assert done(p)[0] == 7
    p = mounted(site, lan, PYTHON, "-c", script.replace("sys.exit(7)", "None"))
    p.stdout.readline()
    p.send_signal(signal.SIGHUP)
    assert done(p)[0] == -signal.SIGHUP


def alive_with(mark):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as f:
                if mark in f.read():
                    found.append(int(pid))
        except OSError:
            pass
    return found


def processes_of(mount, mark):
    """Process 1 of the space, and the program's."""
    with open(f"/proc/{mount}/task/{mount}/children") as f:
        init = int(f.read().split()[0])
    return init, [pid for pid in alive_with(mark) if pid not in (mount, init)]


def mounts():
    """Without those of other tests."""
    with open("/proc/self/mounts") as f:
        return [line for line in f if " /run/netns/w" not in line]


LINGERS = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    os.fork()
else:
    print('runs', flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("victim", ["mount", "process 1", "program"])
def test_nothing_survives_the_death_of_any_part(site, lan, directory, victim):
    mark = os.path.join(directory, "mark")
    before = {"links": run(["ip", "-n", lan.hub.name, "link"]).stdout,
              "mounts": mounts()}
    p = mounted(site, lan, PYTHON, "-c", LINGERS, mark)
    assert p.stdout.readline() == "runs\n", p.stderr.read()
    wait_until(lambda: len(alive_with(mark)) >= 5, "its children")
    init, programs = processes_of(p.pid, mark)
    assert len(programs) == 3
    os.kill({"mount": p.pid, "process 1": init, "program": min(programs)}[victim], signal.SIGKILL)
    assert done(p)[0] == -signal.SIGKILL
    wait_until(lambda: not alive_with(mark), "all of them to be gone")
    assert run(["ip", "-n", lan.hub.name, "link"]).stdout == before["links"]
    assert mounts() == before["mounts"]
    assert json.loads(done(warren(site, lan, "mount", "list", "-o", "json"))[1]) == []


# ---- lasting mounts ----

def test_a_detached_mount_is_entered_listed_and_stopped(bench, site, lan):
    nginx = bench.nginx(host=lan.AGENT, namespace=lan.lan.name)
    nginx.put_file("page", b"a page of the LAN")
    code, _, err = done(warren(site, lan, "mount", "plant", "--name", "lab", "--detach"))
    assert code == 0, err
    try:
        assert [m["name"] for m in json.loads(done(warren(site, lan, "mount", "list", "-o", "json"))[1])] \
            == ["lab"]
        code, out, err = execute(site, lan, "lab", "curl", "-sS", f"http://{nginx.address}/page")
        assert (code, out) == (0, "a page of the LAN"), err
        assert execute(site, lan, "lab", "sh", "-c", "exit 9")[0] == 9
        assert execute(site, lan, "lab", "sh", "-c", "kill -15 $$")[0] == -15
        code, out, err = execute(site, lan, "lab", "pwd")
        assert out.strip() == os.getcwd()
        shown = status(site, lan, "lab")
        assert shown["phase"] == "active" and shown["agent"] == "a1" and shown["network"] == "plant"
        assert shown["bytes"]["down"] >= 17
        code, _, err = done(warren(site, lan, "mount", "plant", "--name", "lab", "--detach"))
        assert code == 5 and "runs already" in err
        inside = warren(site, lan, "mount", "exec", "lab", "--", "sleep", "1000")
        wait_until(lambda: len(alive_with("sleep\0001000")) > 1, "the client and the program in it")
    finally:
        assert done(warren(site, lan, "mount", "stop", "lab"))[0] == 0
    assert done(inside)[0] == -signal.SIGKILL
    code, _, err = execute(site, lan, "lab", "true")
    assert code == 3 and "no mount named" in err


def test_a_stopped_client_does_not_hold_up_the_end(site, lan, lasting):
    lasting("lab")
    inside = warren(site, lan, "mount", "exec", "lab", "--", "sleep", "1001")
    wait_until(lambda: len(alive_with("sleep\0001001")) > 1, "the client and the program in it")
    inside.send_signal(signal.SIGSTOP)
    try:
        assert done(warren(site, lan, "mount", "stop", "lab"))[0] == 0
    finally:
        inside.send_signal(signal.SIGCONT)
    assert done(inside)[0] == -signal.SIGKILL
    assert not alive_with("sleep\0001001")


def test_a_detached_mount_that_cannot_serve_says_why(site, lan):
    code, _, err = done(warren(site, lan, "mount", "nowhere", "--name", "x", "--detach"))
    assert code == 3 and "nowhere" in err
    site.agents[0].process.stop()
    code, _, err = done(warren(site, lan, "mount", "plant", "--name", "x", "--detach", "--timeout", "1s"))
    assert code == 6 and "no agent of 'plant'" in err
    assert json.loads(done(warren(site, lan, "mount", "list", "-o", "json"))[1]) == []


def test_what_is_asked_for_wrongly_is_refused_before_anything_runs(site, lan):
    for flags, what in (((), "COMMAND"), (("--name", "A!"), "--name"), (("--detach",), "COMMAND"),
                        (("--allow", "10.0.0.0/33", "--", "true"), "--allow"),
                        (("--netns", "../x"), "--netns"),
                        (("--detach", "--name", "x", "--", "true"), "--detach")):
        code, _, err = done(warren(site, lan, "mount", "plant", *flags))
        assert code == 2 and what in err, (flags, err)


# ---- the lease ----

def test_the_program_waits_for_an_agent_which_is_shown(site, lan, directory):
    agent = site.agents[0]
    agent.process.stop()
    p = mounted(site, lan, "echo", "served")
    assert "waiting for an agent of plant" in p.stderr.readline()
    agent.start()
    assert done(p)[:2] == (0, "served\n")
    agent.process.stop()
    code, _, err = done(mounted(site, lan, "true", flags=("--timeout", "500ms")))
    assert code == 6 and "no agent of 'plant' serves the mount" in err


def test_another_agent_takes_over(bench, site, lan, lasting):
    server = bench.server(echo, host=lan.AGENT, namespace=lan.lan.name)
    site.agent("a2", network="plant", namespace=lan.router.name)
    p = lasting("lab")
    wait_until(lambda: status(site, lan, "lab")["agent"], "an agent's name")
    first = status(site, lan, "lab")["agent"]
    host, _, port = server.address.rpartition(":")
    asks = ["sh", "-c", f"echo hello | timeout 20 nc -N {host} {port}"]
    assert execute(site, lan, "lab", *asks)[1] == "hello\n"
    next(a for a in site.agents if a.name == first).process.kill()
    wait_until(lambda: status(site, lan, "lab")["agent"] not in (None, first), "the other agent", 40)
    assert execute(site, lan, "lab", *asks)[1] == "hello\n"
    p.terminate()
    assert "serves the mount" in p.communicate(timeout=30 * SLOW)[1]


def test_a_drained_agent_is_left_at_once(bench, site, lan, lasting):
    """What the mount keeps open does not hold the drain up."""
    site.agent("a2", network="plant", namespace=lan.router.name)
    p = lasting("lab")
    wait_until(lambda: status(site, lan, "lab")["agent"], "an agent's name")
    first = status(site, lan, "lab")["agent"]
    site.cli("agent", "drain", first, "--wait", "--timeout", "20s")
    wait_until(lambda: status(site, lan, "lab")["agent"] not in (None, first), "the other agent", 40)
    p.terminate()
    assert "serves the mount now" in p.communicate(timeout=30 * SLOW)[1]


# ---- where to ----

CONNECTS = """
import socket, sys
for host, port in zip(sys.argv[1::2], sys.argv[2::2]):
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    s.settimeout(5)
    try:
        s.connect((host, int(port)))
        print("connected")
    except OSError as e:
        print(type(e).__name__ if e.errno is None else e.errno)
"""


def test_only_the_allowed_part_of_the_network_is_reached(bench, site, lan):
    server = bench.server(echo, host=lan.AGENT, namespace=lan.lan.name)
    other = bench.server(echo, host="10.0.0.1", namespace=lan.router.name)
    tries = (lan.AGENT, str(server.port), "10.0.0.1", str(other.port))
    code, out, err = done(mounted(site, lan, PYTHON, "-c", CONNECTS, *tries, flags=("--allow", lan.AGENT)))
    assert out.split() == ["connected", "101"], err  # ENETUNREACH: no route
    # Whoever makes himself a route is refused by the hub.
    code, out, err = done(mounted(
        site, lan, "sh", "-c", f"ip route add default dev warren0 && exec {PYTHON} -c '{CONNECTS}' "
        + " ".join(tries), flags=("--allow", "10.0.0.16/30", "--root")))
    assert out.split() == ["connected", "113"], err  # EHOSTUNREACH: prohibited
    targets = [t["spec"]["target"] for t in site.admin.items("/api/v1/tunnels")]
    assert sorted(t["allow"] for t in targets) == [["10.0.0.16/30"], ["10.0.0.17/32"]]
    code, out, err = done(mounted(site, lan, "getent", "hosts", "example.org", flags=("--allow", lan.AGENT)))
    assert code == 2 and not out


def test_mounts_of_networks_with_equal_addresses_do_not_meet(bench, directory):
    if not network.available():
        pytest.skip("network namespaces need root")
    places = [bench.keep(network.CustomerNetwork()) for _ in range(2)]
    pages = []
    for i, place in enumerate(places):
        h = bench.hub(host=place.HUB, namespace=place.hub.name)
        h.agent(f"a{i}", network="plant", namespace=place.lan.name)
        nginx = bench.nginx(host=place.AGENT, namespace=place.lan.name)
        nginx.put_file("page", f"plant {i}".encode())
        pages.append((h, place, nginx))
    running = [mounted(h, place, "sh", "-c", f"curl -sS http://{nginx.address}/page; echo; read _ || true",
                       stdin=subprocess.PIPE) for h, place, nginx in pages]
    assert [p.stdout.readline() for p in running] == ["plant 0\n", "plant 1\n"]  # while both are there
    assert [done(p)[0] for p in running] == [0, 0]


ESCAPES = """
import ctypes, os, signal, socket, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
def tried(what, fn):
    try:
        print(what, fn())
    except OSError as e:
        print(what, "refused")
ports = [int(p) for p in sys.argv[3:]]
hub, loop, hub_port = sys.argv[1], sys.argv[2], ports[0]
def reach(host, port):
    s = socket.socket()
    s.settimeout(3)
    s.connect((host, port))
    return "reached"
# What is the operator's own comes by lo, and by the device where one has made routes to it.
tried("hub", lambda: reach(hub, hub_port))
tried("loopback", lambda: reach("127.0.0.1", ports[1]))
for command in ("ip route del local 127.0.0.0/8 table local", "ip route del local 127.0.0.1 table local",
                "ip link set lo down", "ip route add 127.0.0.0/8 dev warren0",
                "ip route add 0.0.0.0/8 dev warren0"):
    subprocess.run(command.split(), capture_output=True)
tried("loopback by the device", lambda: reach("127.0.0.1", ports[1]))
# The machine's other processes and namespaces.
print("others", len([p for p in os.listdir("/proc") if p.isdigit()]) < 10)
tried("signal", lambda: os.kill(int(loop), 0) or "reached")
for name in ("/proc/1/ns/net", f"/proc/{loop}/ns/net"):
    try:
        fd = os.open(name, os.O_RDONLY)
    except OSError:
        continue
    before = os.readlink("/proc/self/ns/net")
    libc.setns(fd, 0x40000000)
    print("netns", "left" if os.readlink("/proc/self/ns/net") != before else "stays")
# The mount's own control socket.
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
tried("control", lambda: s.connect(b"\\0warren-mount/%d/lab" % os.getuid()) or "reached")
print("token", os.environ.get("WARREN_TOKEN"))
"""


def test_a_malicious_program_reaches_nothing_of_the_hub_or_the_operator(bench, site, lan):
    """The agent stands on the hub's own machine, and could reach all of it."""
    site.agent("near", network="near", namespace=lan.hub.name)
    secret = bench.server(echo, host="127.0.0.1", namespace=lan.hub.name)
    p = warren(site, lan, "mount", "near", "--name", "lab", "--root", "--", PYTHON, "-c", ESCAPES, lan.HUB,
               str(os.getpid()), str(site.port), str(secret.port),
               env={"WARREN_TOKEN": open(site.token_path).read().strip(), "WARREN_TOKEN_FILE": ""})
    code, out, err = done(p)
    said = {"netns": "stays", **dict(line.rsplit(" ", 1) for line in out.splitlines())}
    assert code == 0, err
    assert said == {"hub": "refused", "loopback": "refused", "loopback by the device": "refused",
                    "others": "True", "signal": "refused", "netns": "stays", "control": "refused",
                    "token": "None"}, out
    assert secret.accepted == 0


# ---- names in /run/netns ----

@pytest.fixture
def netns():
    """The name of a namespace that must not stay."""
    name = f"w{os.getpid()}-mount"
    assert not left_of(name)
    yield name
    assert not left_of(name)


def left_of(name):
    return [p for p in (f"/run/netns/{name}", f"/etc/netns/{name}") if os.path.lexists(p)] \
        + [line for line in open("/proc/self/mounts") if name in line]


@pytest.mark.parametrize("end", ["stop", "kill the mount", "kill process 1", "kill the guardian"])
def test_a_namespace_with_a_name_goes_with_its_mount(bench, site, lan, netns, end):
    nginx = bench.nginx(host=lan.AGENT, namespace=lan.lan.name)
    nginx.put_file("page", b"a page of the LAN")
    p = warren(site, lan, "mount", "plant", "--netns", netns)
    try:
        wait_until(lambda: status(site, lan, netns).get("phase") == "active", "the mount")
        got = run(["ip", "netns", "exec", netns, "curl", "-sS", f"http://a1.agent:{nginx.port}/page"])
        assert got.stdout == "a page of the LAN"
        code, _, err = done(warren(site, lan, "mount", "plant", "--name", "second", "--netns", netns))
        assert code == 5 and "already" in err
        with open(f"/proc/{p.pid}/task/{p.pid}/children") as f:
            init, guardian = map(int, f.read().split())
        if end == "stop":
            assert done(warren(site, lan, "mount", "stop", netns))[0] == 0
            assert not left_of(netns)
        elif end == "kill the guardian":
            os.kill(guardian, signal.SIGKILL)
            p.terminate()
        else:
            os.kill(p.pid if end == "kill the mount" else init, signal.SIGKILL)
    finally:
        p.terminate()
        p.communicate(timeout=30 * SLOW)
    wait_until(lambda: not left_of(netns), "nothing to be left")


def test_a_namespace_that_a_power_cut_left_is_taken_again(site, lan, netns):
    os.makedirs(f"/etc/netns/{netns}")
    with open(f"/etc/netns/{netns}/resolv.conf", "w") as f:
        f.write("# made by warren mount for as long as it runs\nnameserver 198.18.0.1\n")
    assert done(warren(site, lan, "mount", "plant", "--netns", netns, "--", "true"))[0] == 0


# ---- without root ----

AS_NOBODY = """
mount --bind {} /dev/net/tun &&
exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
"""


def test_a_user_needs_no_root(bench, site, lan, directory):
    """With a device that is open to users, as udev makes it."""
    nginx = bench.nginx(host=lan.AGENT, namespace=lan.lan.name)
    nginx.put_file("page", b"a page of the LAN")
    token, device = os.path.join(directory, "token"), os.path.join(directory, "tun")
    os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(10, 200))
    os.chmod(device, 0o666)
    with open(token, "w") as f:
        f.write(open(site.token_path).read())
    os.chmod(token, 0o600)
    os.chown(token, 65534, 65534)
    os.chmod(os.path.dirname(site.ca_path), 0o755)
    env = {**os.environ, **site.environment(token), "HOME": "/nonexistent"}

    def start(*words):
        return subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{lan.hub.name}", "unshare", "-m", "--propagation", "private", "sh",
             "-c", AS_NOBODY.format(device), "sh", program("warren"), "mount", *words],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def as_user(*words):
        code, out, err = done(start(*words))
        return subprocess.CompletedProcess(words, code, out, err)
    got = as_user("plant", "--", "sh", "-c", f"id -u; curl -sS http://{nginx.address}/page")
    if "new namespaces are refused" in got.stderr:
        pytest.skip("users may not make user namespaces here")
    assert got.stdout == "65534\na page of the LAN", got.stderr
    assert as_user("plant", "--root", "--", "id", "-u").stdout == "0\n"
    assert as_user("plant", "--", "sh", "-c", "kill -3 $$").returncode == -signal.SIGQUIT
    got = as_user("plant", "--netns", "x", "--", "true")
    assert got.returncode == 4 and "root" in got.stderr
    got = as_user("plant", "--name", "lab", "--", "sh", "-c",
                  f"nsenter --net=/run/netns/{lan.hub.name} true || echo kept in")
    assert got.stdout == "kept in\n"
    lasting = start("plant", "--name", "lab")
    wait_until(lambda: as_user("exec", "lab", "--", "id", "-u").stdout == "65534\n", "the mount")
    assert as_user("exec", "lab", "--", "curl", "-sS", f"http://{nginx.address}/page").stdout \
        == "a page of the LAN"
    assert not status(site, lan, "lab")  # root's mounts are others
    assert as_user("stop", "lab").returncode == 0
    assert done(lasting)[0] == 0


# ---- on a terminal ----

def test_a_terminal_shows_the_wait_and_its_keys_reach_the_program(site, lan):
    agent = site.agents[0]
    agent.process.stop()
    here, there = os.openpty()
    p = mounted(site, lan, PYTHON, "-c", """
import sys, time
try:
    print("begins", flush=True)
    time.sleep(1000)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(3)
""", stdin=there, stdout=there, stderr=there, start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
    os.close(there)
    said = ""

    def hear(text):
        nonlocal said
        while text not in said:
            assert select.select([here], [], [], 30 * SLOW)[0], said
            said += os.read(here, 4096).decode()
    hear("waiting for an agent of plant: none is connected")
    agent.start()
    hear("begins")
    assert "\r\x1b[K" in said
    os.write(here, b"\x03")
    hear("interrupted")
    assert p.wait(30 * SLOW) == 3
    os.close(here)
