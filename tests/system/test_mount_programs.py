"""Unmodified programs under `warren mount`, with the real thing on the other end."""

import os
import re
import shutil
import subprocess
import tempfile
import time

import pytest

from lib import postgres
from lib.datagram import Dnsmasq, Snmpd, answers
from lib.network import inside
from lib.process import SLOW, amount, run
from lib.warren import program

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun")
CHUNK = 1 << 20


@pytest.fixture
def mounted(bench, lan):
    """Runs a command line in a mount of the network; the operator's machine has no route there."""
    hub = bench.hub(host=lan.HUB, namespace=lan.hub.name)
    hub.agent("a1", network="plant", namespace=lan.lan.name)
    env = {**os.environ, **hub.environment()}

    def execute(*argv, seconds=60, check=True, **more):
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{lan.hub.name}", program("warren"), "mount", "plant", "--",
             *map(str, argv)],
            env={**env, **more}, capture_output=True, text=True, timeout=seconds * SLOW)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done
    return execute


def make_file(path, size):
    block = os.urandom(CHUNK)
    with open(path, "wb") as f:
        for i in range(size // CHUNK):
            f.write(i.to_bytes(8, "big"))
            f.write(block[8:])


def ssh_options(sshd, port="-p"):
    return ["-F", "none", "-i", sshd.client_key, "-c", "aes128-gcm@openssh.com", "-o", "StrictHostKeyChecking=no",
            "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", port, str(sshd.port)]


def test_ssh_runs_a_command(bench, lan, mounted):
    sshd = bench.sshd(host=lan.AGENT, namespace=lan.lan.name)
    done = mounted("ssh", *ssh_options(sshd), f"root@{lan.AGENT}",
                   "ip -o addr show dev lan; head -c 100000 /dev/zero | wc -c; exit 5", check=False)
    assert done.returncode == 5 and "10.0.0.17/24" in done.stdout and "100000" in done.stdout, done.stderr


@pytest.mark.seconds(400)
def test_scp_copies_a_gibibyte(bench, lan, mounted, directory):
    sshd = bench.sshd(host=lan.AGENT, namespace=lan.lan.name)
    size = amount(1 << 30, 32 << 20)
    sent, there, back = (os.path.join(directory, name) for name in ("sent", "there", "back"))
    make_file(sent, size)
    scp = ["scp", *ssh_options(sshd, "-P")]
    started = time.monotonic()
    mounted(*scp, sent, f"root@{lan.AGENT}:{there}", seconds=240)
    took = time.monotonic() - started
    run(["cmp", sent, there])
    os.truncate(there, size // 16)
    mounted(*scp, f"root@{lan.AGENT}:{there}", back)
    run(["cmp", there, back])
    started = time.monotonic()
    run([*scp, back, f"root@{lan.AGENT}:{there}"], namespace=lan.router.name)
    native = (time.monotonic() - started) * 16
    print(f"scp of {size >> 20} MiB: {took:.1f} s, {size / took / 1e6:.0f} MB/s; "
          f"on the LAN {size / native / 1e6:.0f} MB/s")


def test_git_clones_over_ssh_and_over_http(bench, lan, mounted, directory):
    sshd = bench.sshd(host=lan.AGENT, namespace=lan.lan.name)
    nginx = bench.nginx(host=lan.AGENT, namespace=lan.lan.name)
    origin = os.path.join(directory, "origin")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", origin]
    run(["git", "init", "-q", "-b", "main", origin])
    for i in range(20):
        make_file(os.path.join(origin, f"file{i}"), CHUNK)
    run([*git, "add", "."])
    run([*git, "commit", "-qm", "all"])
    bare = os.path.join(nginx.root, "origin.git")
    run(["git", "clone", "-q", "--bare", origin, bare])
    run(["git", "-C", bare, "update-server-info"])
    head = run([*git, "rev-parse", "HEAD"]).stdout
    ssh = " ".join(["ssh", *ssh_options(sshd)])
    for i, url in enumerate((f"ssh://root@{lan.AGENT}:{sshd.port}{origin}",
                             f"http://{nginx.address}/origin.git")):
        copy = os.path.join(directory, f"copy{i}")
        mounted("git", "clone", "-q", url, copy, GIT_SSH_COMMAND=ssh)
        assert run(["git", "-C", copy, "rev-parse", "HEAD"]).stdout == head
        run(["git", "-C", copy, "fsck", "--strict"])


@pytest.fixture
def database(lan, directory):
    """A PostgreSQL server on the LAN."""
    if not postgres.binaries():
        pytest.skip("PostgreSQL is not installed")
    server = postgres.Postgres(os.path.join(directory, "pg"), options={"listen_addresses": lan.AGENT}).make()
    with open(os.path.join(server.data, "pg_hba.conf"), "a") as f:
        f.write("host all all all trust\n")
    with inside(lan.lan.name):
        server.start(wait=False)
    server.wait_ready()
    yield server
    server.close()


def test_psql_queries_and_copies_both_ways(lan, mounted, directory, database):
    psql = ["psql", "-X", "-h", lan.AGENT, "-p", database.port, "-U", "admin", "-d", "postgres", "-At",
            "-v", "ON_ERROR_STOP=1"]
    rows = os.path.join(directory, "rows")
    back = os.path.join(directory, "rows-back")
    with open(rows, "w") as f:
        f.writelines(f"{i}\t{i * i}\n" for i in range(100_000))
    done = mounted(*psql, "-c", "create table t (n int, m bigint)", "-c", f"\\copy t from '{rows}'",
                   "-c", f"\\copy (select * from t order by n) to '{back}'",
                   "-c", "select count(*) from t where m = n::bigint * n")
    assert done.stdout.split()[-1] == "100000"
    run(["cmp", rows, back])


def test_dig_asks_by_udp_and_by_tcp(bench, lan, mounted):
    dns = bench.keep(Dnsmasq(tempfile.mkdtemp(dir=bench.directory), lan.AGENT, lan.lan.name))
    dig = ["dig", f"@{lan.AGENT}", "-p", dns.port, "+time=5"]
    assert answers(mounted(*dig, "device1.example", "A").stdout) == ["192.0.2.17"]
    assert answers(mounted(*dig, "device1.example", "AAAA").stdout) == ["2001:db8::17"]
    for how in (["+tcp"], ["+bufsize=4096"], ["+bufsize=512"]):  # the last is truncated, then TCP
        assert len(answers(mounted(*dig, "big.example", "TXT", *how).stdout)) == 12, how


def test_an_agent_is_found_by_its_name(bench, lan, mounted):
    nginx = bench.nginx(host=lan.AGENT, namespace=lan.lan.name)
    nginx.put_file("page", b"of the agent's machine")
    assert mounted("getent", "ahostsv4", "a1.agent").stdout.split()[0] == lan.AGENT
    assert mounted("curl", "-sS", f"http://A1.agent:{nginx.port}/page").stdout == "of the agent's machine"
    assert answers(mounted("dig", "a1.agent", "AAAA").stdout) == ["fd00::17"]
    assert "NXDOMAIN" in mounted("dig", "nobody.agent").stdout


def test_ping_counts_replies_and_losses(lan, mounted):
    said = mounted("ping", "-n", "-c", "5", "-i", "0.2", "-s", "1400", lan.AGENT).stdout
    assert "5 packets transmitted, 5 received, 0% packet loss" in said and "1408 bytes from" in said
    done = mounted("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", "10.0.0.99", check=False)
    assert done.returncode == 1 and " 0 received" in done.stdout


SNMP = ["-v2c", "-c", "public", "-t", "5", "-r", "3"]

# Of the interfaces' table, for snmptable: Debian has no MIBs of the IETF.
MIB = """
LAN-IF-MIB DEFINITIONS ::= BEGIN
org        OBJECT IDENTIFIER ::= { iso 3 }
dod        OBJECT IDENTIFIER ::= { org 6 }
internet   OBJECT IDENTIFIER ::= { dod 1 }
mgmt       OBJECT IDENTIFIER ::= { internet 2 }
mib-2      OBJECT IDENTIFIER ::= { mgmt 1 }
interfaces OBJECT IDENTIFIER ::= { mib-2 2 }
ifTable OBJECT-TYPE
    SYNTAX SEQUENCE OF IfEntry
    MAX-ACCESS not-accessible
    STATUS current
    ::= { interfaces 2 }
ifEntry OBJECT-TYPE
    SYNTAX IfEntry
    MAX-ACCESS not-accessible
    STATUS current
    INDEX { ifIndex }
    ::= { ifTable 1 }
IfEntry ::= SEQUENCE { ifIndex INTEGER, ifDescr OCTET STRING, ifType INTEGER, ifMtu INTEGER }
ifIndex OBJECT-TYPE SYNTAX INTEGER MAX-ACCESS read-only STATUS current ::= { ifEntry 1 }
ifDescr OBJECT-TYPE SYNTAX OCTET STRING MAX-ACCESS read-only STATUS current ::= { ifEntry 2 }
ifType  OBJECT-TYPE SYNTAX INTEGER MAX-ACCESS read-only STATUS current ::= { ifEntry 3 }
ifMtu   OBJECT-TYPE SYNTAX INTEGER MAX-ACCESS read-only STATUS current ::= { ifEntry 4 }
END
"""


@pytest.mark.parametrize("tool,oid", [("snmpget", "1.3.6.1.2.1.1.6.0"), ("snmpwalk", "1.3.6.1.2.1.1"),
                                      ("snmpwalk", "1.3.6.1.2.1.2.2"), ("snmpbulkwalk", "1.3.6.1.2.1"),
                                      ("snmptable", "LAN-IF-MIB::ifTable")])
def test_snmp_tools_say_what_they_say_on_the_lan(bench, lan, mounted, directory, tool, oid):
    snmpd = bench.keep(Snmpd(tempfile.mkdtemp(dir=bench.directory), lan.AGENT, lan.lan.name))
    mibs = os.path.join(directory, "mibs")
    os.mkdir(mibs)
    with open(os.path.join(mibs, "LAN-IF-MIB.txt"), "w") as f:
        f.write(MIB)
    argv = [tool, *SNMP, "-M", mibs, "-m", "ALL", f"udp:{lan.AGENT}:{snmpd.port}", oid]

    def lines(done):
        """Without the values of what counts time or traffic, or measures the machine."""
        return [re.sub(r"(Timeticks|Counter32|Counter64|Gauge32|INTEGER|STRING|Hex-STRING): .*", r"\1", line)
                for line in done.stdout.splitlines() if "::" in line or ":" not in line]
    native = subprocess.run(["ip", "netns", "exec", lan.router.name, *argv], capture_output=True, text=True,
                            timeout=60 * SLOW)
    through = mounted(*argv)
    assert native.returncode == 0 and native.stdout, native.stderr
    assert lines(through) == lines(native)
    if tool == "snmptable":
        assert through.stdout == native.stdout and '"lan"' in through.stdout


NODE = """
const http = require('http'), dns = require('dns');
const url = process.argv[2], n = 200;
const get = () => new Promise((ok, no) => http.get(url, {agent}, r => {
  let size = 0; r.on('data', d => size += d.length); r.on('end', () => ok(size)); }).on('error', no));
const agent = new http.Agent({keepAlive: true, maxSockets: 20});
dns.lookup('a1.agent', async (err, address) => {
  const sizes = await Promise.all(Array.from({length: n}, get));
  console.log(address, sizes.every(s => s === 300000));
  agent.destroy();
});
"""

PYTHON = """
import asyncio, sys, urllib.request
async def echo(i):
    reader, writer = await asyncio.open_connection(sys.argv[1], int(sys.argv[2]))
    data = bytes([i]) * 100000
    writer.write(data)
    writer.write_eof()
    got = await reader.read(-1)
    writer.close()
    return got == data
async def main():
    print(all(await asyncio.gather(*(echo(i) for i in range(100)))))
asyncio.run(main())
print(len(urllib.request.urlopen(sys.argv[3]).read()))
"""


def test_node_and_python_programs(bench, lan, mounted, directory):
    nginx = bench.nginx(host=lan.AGENT, namespace=lan.lan.name)
    nginx.put_file("blob", bytes(300000))
    server = bench.server(host=lan.AGENT, namespace=lan.lan.name)
    url = f"http://{nginx.address}/blob"
    done = mounted("/usr/bin/python3", "-c", PYTHON, lan.AGENT, server.port, url)
    assert done.stdout.split() == ["True", "300000"], done.stderr
    if not shutil.which("node"):
        pytest.skip("no Node.js")
    script = os.path.join(directory, "get.js")
    with open(script, "w") as f:
        f.write(NODE)
    assert mounted("node", script, url).stdout.split() == [lan.AGENT, "true"]


def test_curl_uploads_and_downloads_over_many_connections(bench, lan, mounted, directory):
    nginx = bench.nginx(host=lan.AGENT, namespace=lan.lan.name)
    path = os.path.join(directory, "up")
    make_file(path, 32 * CHUNK)
    mounted("curl", "-sS", "-T", path, f"http://{nginx.address}/up")
    run(["cmp", path, os.path.join(nginx.root, "up")])
    urls = " ".join(f"-o {directory}/part{i} http://{nginx.address}/up" for i in range(8))
    mounted("sh", "-c", f"curl -sS --parallel {urls}")
    for i in range(8):
        run(["cmp", path, f"{directory}/part{i}"])
