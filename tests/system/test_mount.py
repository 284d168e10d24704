"""`warren mount`: unmodified programs with a customer's network under them."""

import hashlib
import os
import shutil
import socket
import subprocess
import threading

import pytest

from lib import network
from lib.process import SLOW, Process, run
from lib.service import hash_until_eof
from lib.warren import program

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun")


@pytest.fixture
def site(bench, lan):
    """A hub that has no route to the LAN, and an agent there."""
    hub = bench.hub(host=lan.HUB, namespace=lan.hub.name)
    hub.agent("a1", network="plant", namespace=lan.lan.name)
    return hub


def mounted(hub, lan, *argv, seconds=60, stdin=None):
    return subprocess.run(
        ["ip", "netns", "exec", lan.hub.name, program("warren"), "mount", "plant", "--", *argv],
        env=hub.environment(), capture_output=True, timeout=seconds * SLOW, input=stdin)


def test_curl_gets_a_page_of_the_lan_and_the_exit_status_is_its_own(bench, site, lan):
    nginx = bench.nginx(host=lan.AGENT, namespace=lan.lan.name)
    nginx.put_file("page", b"a page of the LAN")
    done = mounted(site, lan, "curl", "-sS", f"http://{nginx.address}/page")
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"a page of the LAN"
    assert mounted(site, lan, "sh", "-c", "exit 42").returncode == 42
    assert mounted(site, lan, "no-such-program").returncode == 127


def test_what_the_target_does_is_what_the_program_sees(site, lan):
    lan.lan.nft("""
        table inet f {
            chain in {
                type filter hook input priority 0;
                tcp dport 4001 reject with tcp reset
                tcp dport 4002 reject with icmpx host-unreachable
                tcp dport 4003 drop
                udp dport 4004 reject
            }
        }""")
    program_text = """
import socket, sys
for kind, port in ((1, 4000), (1, 4001), (1, 4002), (1, 4003), (2, 4004)):
    s = socket.socket(socket.AF_INET, kind)
    s.settimeout(2)
    try:
        s.connect(("10.0.0.17", port))
        s.send(b"x")
        s.recv(1)
        print("answered")
    except Exception as e:
        print(type(e).__name__, getattr(e, "errno", None))
"""
    def seen(*prefix):
        return subprocess.run([*prefix, "/usr/bin/python3", "-c", program_text], capture_output=True,
                              text=True, timeout=60 * SLOW).stdout
    native = seen("ip", "netns", "exec", lan.router.name)
    through = mounted(site, lan, "/usr/bin/python3", "-c", program_text).stdout.decode()
    assert native == through
    assert native.splitlines()[0].startswith("ConnectionRefusedError")


def test_bytes_arrive_as_they_were_sent_both_ways(bench, site, lan):
    nginx = bench.nginx(host=lan.AGENT, namespace=lan.lan.name)
    data = os.urandom(64 << 20)
    nginx.put_file("blob", data)
    hasher = bench.server(hash_until_eof, host=lan.AGENT, namespace=lan.lan.name)
    done = mounted(site, lan, "curl", "-sS", f"http://{nginx.address}/blob")
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest(), done.stderr
    host, _, port = hasher.address.rpartition(":")
    done = mounted(site, lan, "nc", "-N", host, port, stdin=data)
    assert done.stdout.decode().split()[-1] == hashlib.sha256(data).hexdigest(), done.stderr


def test_datagrams_of_every_size_come_back(site, lan):
    with network.inside(lan.lan.name):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((lan.AGENT, 0))
    server.settimeout(30 * SLOW)
    sizes = (0, 1, 1472, 1473, 3000, 65507)

    def answer():
        for _ in sizes:
            data, peer = server.recvfrom(70000)
            server.sendto(data[::-1], peer)
    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    done = mounted(site, lan, "/usr/bin/python3", "-c", f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout({10 * SLOW})
s.connect({server.getsockname()!r})
for n in {sizes!r}:
    sent = bytes(i * 7 & 255 for i in range(n))
    s.send(sent)
    assert s.recv(70000) == sent[::-1], n
print("all came back")
""")
    server.close()
    assert done.stdout == b"all came back\n", done.stderr


def test_one_tunnel_to_the_whole_network_serves_and_is_audited(site, lan):
    assert mounted(site, lan, "nmap", "-Pn", "-n", "-sT", "-p", "1-200", lan.AGENT).returncode == 0
    tunnels = site.admin.items("/api/v1/tunnels")
    assert [t["spec"]["target"]["address"] for t in tunnels] == ["*"]
    assert any(a["action"] == "tunnel.create" for a in site.admin.items("/api/v1/audit"))


def test_a_network_that_is_not_there_is_refused_before_anything_runs(site, lan, directory):
    mark = os.path.join(directory, "ran")
    done = subprocess.run(
        ["ip", "netns", "exec", lan.hub.name, program("warren"), "mount", "nowhere", "--", "touch", mark],
        env=site.environment(), capture_output=True, text=True, timeout=60 * SLOW)
    assert done.returncode != 0 and "nowhere" in done.stderr + " ".join(done.args)
    assert "no network 'nowhere'" in done.stderr
    assert not os.path.exists(mark)


def test_the_program_ends_with_a_mount_that_is_killed(site, lan):
    links = run(["ip", "-n", lan.hub.name, "link"]).stdout
    mount = subprocess.Popen(
        ["ip", "netns", "exec", lan.hub.name, program("warren"), "mount", "plant", "--",
         "/usr/bin/python3", "-c", "import time; print('runs', flush=True); time.sleep(1000)"],
        env=site.environment(), stdout=subprocess.PIPE, text=True)
    assert mount.stdout.readline() == "runs\n"
    mount.kill()
    mount.wait()
    assert mount.stdout.read() == ""  # nobody holds it any more
    assert run(["ip", "-n", lan.hub.name, "link"]).stdout == links


def test_names_are_those_of_the_agents_machine(bench, site, lan, directory):
    """`ip netns exec` binds the files of /etc/netns over those of /etc."""
    netns = f"/etc/netns/{lan.lan.name}"
    os.makedirs(netns)
    try:
        with open(f"{netns}/resolv.conf", "w") as f:
            f.write("# the LAN's\nnameserver 10.0.0.17\n")
        dns = Process(
            ["dnsmasq", "-k", "-C", "/dev/null", "--listen-address=10.0.0.17", "--bind-interfaces",
             "--no-resolv", "--no-hosts", "--address=/printer.plant/10.0.0.17", "--pid-file="],
            os.path.join(directory, "dns.log"), namespace=lan.lan.name).start()
        site.agents[0].process.stop()
        site.agents[0].start().wait_online()
        nginx = bench.nginx(host=lan.AGENT, namespace=lan.lan.name)
        nginx.put_file("page", b"by name")
        port = nginx.address.rpartition(":")[2]
        done = mounted(site, lan, "curl", "-sS", f"http://printer.plant:{port}/page")
        assert done.stdout == b"by name", done.stderr
        assert mounted(site, lan, "getent", "hosts", "nobody.plant").returncode == 2
        dns.stop()
    finally:
        shutil.rmtree(netns)
