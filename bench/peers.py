"""The tunnels that are compared. Each brings a port of the load server to another local port.

A peer has `host` and `port` (where clients of the near side connect), `udp_port` (None: it has no UDP),
`ends` (name of an end: its processes) and `max_streams` (what the limit of descriptors lets it hold). All
keys are made for the run and thrown away.
"""

import json
import os
import pwd
import shutil
import subprocess

from place import Loopback
from procs import Group, children, free_port, wait_for

from lib.warren import Problem, Rest  # after place, which knows where it is


class Peer:
    name = ""
    max_streams = 10_000
    host = "127.0.0.1"
    udp_port = None

    def __init__(self, directory, target_port, place=Loopback()):
        self.directory = os.path.join(directory, self.name.split()[0])
        shutil.rmtree(self.directory, ignore_errors=True)
        os.makedirs(self.directory, mode=0o700)
        self.target, self.place = target_port, place
        self.port = free_port()
        self.group = Group(self.directory)
        self.ends = {}
        self.start()

    def path(self, name):
        return os.path.join(self.directory, name)

    def write(self, name, text):
        with open(self.path(name), "w", opener=lambda p, f: os.open(p, f, 0o600)) as f:
            f.write(text)
        return self.path(name)

    def pids(self):
        return [pid for end in self.ends.values() for pid in end]

    def near(self, name, argv, **kwargs):
        """Starts a process of the client's and the hub's side."""
        return self.group.start(name, self.place.near(argv), **kwargs)

    def far(self, name, argv, **kwargs):
        return self.group.start(name, self.place.far(argv), **kwargs)

    def start(self):
        raise NotImplementedError

    def takes(self, measure, args):
        """Whether a measurement of run.Bench says anything about this peer."""
        return measure != "stalled"

    def stop(self):
        self.group.stop()


class Direct(Peer):
    """No tunnel: what the machine and the load generator can do at all."""

    name = "direct"
    max_streams = 0

    def start(self):
        self.port = self.udp_port = self.target
        self.host = self.place.agent_host


class PlainCopy(Peer):
    """Two processes that copy bytes and do nothing else: the floor of a round trip on this machine."""

    name = "plain copy"
    max_streams = 0

    def start(self):
        between = free_port()
        for name, port, target in ("agent", between, self.target), ("hub", self.port, between):
            program = os.path.join(Warren.build, "bench/plain-copy")
            self.ends[name] = [self.group.start(name, [program, port, target])]
            wait_for(name, lambda port=port: self.place.port_open(port))

    def takes(self, measure, args):
        return (measure, args) in [("round_trips", [1]), ("round_trips_awake", [])]


class Ssh(Peer):
    """`ssh -R` with the fastest cipher OpenSSH has here."""

    name = "ssh -R aes128-gcm"

    def start(self):
        for key in "host", "user":
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.path(key)],
                           check=True)
        os.makedirs("/run/sshd", exist_ok=True)
        user, sshd_port = pwd.getpwuid(os.getuid()).pw_name, free_port()
        config = self.write("sshd_config", f"""
ListenAddress {self.place.hub_host}:{sshd_port}
HostKey {self.path("host")}
AuthorizedKeysFile {self.path("user.pub")}
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
PidFile none
""")
        sshd = self.near("sshd", ["/usr/sbin/sshd", "-D", "-e", "-f", config])
        wait_for("sshd", lambda: self.place.port_open(sshd_port, self.place.hub_host))
        ssh = self.far("ssh", [
            "ssh", "-F", "none", "-N", "-T", "-p", sshd_port, "-i", self.path("user"),
            "-c", "aes128-gcm@openssh.com", "-o", "StrictHostKeyChecking=no",
            "-o", "UserKnownHostsFile=/dev/null", "-o", "ExitOnForwardFailure=yes",
            "-R", f"127.0.0.1:{self.port}:127.0.0.1:{self.target}", f"{user}@{self.place.hub_host}"])
        wait_for("ssh -R", lambda: self.place.port_open(self.port))
        self.ends = {"hub": children(sshd), "agent": [ssh]}


class Haproxy(Peer):
    """Two haproxy processes of one thread each, with mutual TLS between them."""

    name = "haproxy TLS pair"
    max_streams = 4_500  # two descriptors a stream and end

    def start(self):
        pem = self.certificates()
        tls_port = free_port()
        ca, here = self.path("ca.pem"), self.place.agent_host
        self.ends = {
            "hub": [self.run(self.near, "hub", f"127.0.0.1:{self.port}", f"{here}:{tls_port} "
                             f"ssl verify required ca-file {ca} crt {pem} sni str(agent)")],
            "agent": [self.run(self.far, "agent", f"{here}:{tls_port} ssl crt {pem} verify required "
                               f"ca-file {ca}", f"127.0.0.1:{self.target}")],
        }
        wait_for("haproxy", lambda: self.place.port_open(tls_port, here) and
                 self.place.port_open(self.port))

    def certificates(self):
        p256 = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        run = lambda *argv: subprocess.run(argv, check=True, capture_output=True)
        run("openssl", "req", "-x509", *p256, "-subj", "/CN=ca", "-keyout", self.path("ca.key"),
            "-out", self.path("ca.pem"))
        run("openssl", "req", "-x509", *p256, "-subj", "/CN=agent", "-CA", self.path("ca.pem"),
            "-CAkey", self.path("ca.key"), "-addext", "subjectAltName=DNS:agent",
            "-keyout", self.path("leaf.key"), "-out", self.path("leaf.crt"))
        both = "".join(open(self.path(n)).read() for n in ("leaf.crt", "leaf.key"))
        return self.write("leaf.pem", both)

    def run(self, start, name, bind, server):
        config = self.write(name + ".cfg", f"""
global
    nbthread 1
    maxconn {self.max_streams + 100}
defaults
    mode tcp
    timeout connect 10s
    timeout client 10m
    timeout server 10m
listen {name}
    bind {bind}
    server next {server}
""")
        return start(name, ["haproxy", "-db", "-f", config])


class Warren(Peer):
    """A hub and one agent, with the settings they come with (but for the swarm's enrolments)."""

    name = "warren"
    enroll_per_minute = "100000"
    network = "bench"
    agent_options = ()
    build = ""

    def start(self):
        hub = self.start_hub(self.near, self.place.hub_host)
        self.ends = {"hub": [hub], "agent": [self.start_agent()]}

    def start_hub(self, start, host, options=()):
        self.hub_port = free_port()
        self.data, at = self.path("hub"), f"{host}:{self.hub_port}"
        hub = start("hub-process", [self.program("warren"), "hub", "--data", self.data, "--listen", at,
                                    "--public-name", host, *options],
                    env=dict(os.environ, WARREN_LIMIT_ENROLL=self.enroll_per_minute))
        wait_for("the hub", lambda: os.stat(os.path.join(self.data, "admin.token")) and
                 self.place.port_open(self.hub_port, host))
        self.environment = dict(os.environ, WARREN_HUB=f"https://{at}",
                                WARREN_TOKEN_FILE=os.path.join(self.data, "admin.token"),
                                WARREN_CA=os.path.join(self.data, "ca.pem"))
        return hub

    def start_agent(self):
        self.command(self.place.far, "warren-agent", "enroll", "--hub",
                     self.environment["WARREN_HUB"], "--token-file", self.token(1), "--data",
                     self.path("agent"))
        return self.far("agent-process", [self.program("warren-agent"), "run", "--data",
                                          self.path("agent"), *self.agent_options])

    def open_tunnel(self):
        tunnel = json.loads(self.command(
            self.place.near, "warren", "tunnel", "create", "--name", self.network, "--network",
            self.network, "--target", f"127.0.0.1:{self.target}", "--listen", "127.0.0.1:0", "--wait", "-o", "json"))
        self.port = int(tunnel["status"]["endpoint"]["address"].rsplit(":", 1)[1])
        return self

    def open_udp_tunnel(self):
        """None where this Warren has no UDP."""
        with open(self.environment["WARREN_TOKEN_FILE"]) as f:
            rest = Rest(self.place.hub_host, self.hub_port, self.environment["WARREN_CA"],
                        f.read().strip(), self.place.near_namespace)
        try:
            path = "/api/v1/tunnels/" + rest.post("/api/v1/tunnels", {"name": "bench-udp", "spec": {
                "target": {"network": self.network, "address": f"127.0.0.1:{self.target}",
                           "protocol": "udp"},
                "access": {"endpoint": {"listen": "127.0.0.1:0"}}}})["id"]
        except Problem:
            return
        wait_for("the UDP tunnel", lambda: rest.get(path)["status"]["phase"] == "active")
        self.udp_port = int(rest.get(path)["status"]["endpoint"]["address"].rsplit(":", 1)[1])

    def program(self, name):
        places = [os.path.join(self.build, d, name) for d in ("", "src/cli")]
        return next((p for p in places if os.path.exists(p)), places[0])

    def command(self, where, program, *argv):
        p = subprocess.run(where([self.program(program), *argv]), env=self.environment, timeout=30,
                           capture_output=True, text=True)
        if p.returncode:
            raise RuntimeError(f"{program} {' '.join(argv)}: {p.stdout}{p.stderr}")
        return p.stdout

    def token(self, uses):
        created = self.command(self.place.near, "warren", "token", "create", "--network", self.network,
                               "--uses", str(uses), "-o", "json")
        return self.write("bootstrap.token", json.loads(created)["token"])


class WarrenTunnel(Warren):
    def start(self):
        super().start()
        self.open_tunnel()
        self.open_udp_tunnel()

    def takes(self, measure, args):
        return True


ALL = {"direct": Direct, "copy": PlainCopy, "ssh": Ssh, "haproxy": Haproxy, "warren": WarrenTunnel}
