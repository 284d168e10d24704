"""The tunnels that are compared. Each brings a port of the load server to another local port.

A peer has `port` (where clients connect), `ends` (name of an end: its processes) and `max_streams`
(what the limit of descriptors lets it hold). All keys are made for the run and thrown away.
"""

import json
import os
import pwd
import shutil
import subprocess

from procs import Group, children, free_port, port_open, wait_for


class Peer:
    name = ""
    max_streams = 10_000

    def __init__(self, directory, target_port):
        self.directory = os.path.join(directory, self.name.split()[0])
        shutil.rmtree(self.directory, ignore_errors=True)
        os.makedirs(self.directory, mode=0o700)
        self.target = target_port
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

    def start(self):
        raise NotImplementedError

    def stop(self):
        self.group.stop()


class Direct(Peer):
    """No tunnel: what the machine and the load generator can do at all."""

    name = "direct"
    max_streams = 0

    def start(self):
        self.port = self.target


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
ListenAddress 127.0.0.1:{sshd_port}
HostKey {self.path("host")}
AuthorizedKeysFile {self.path("user.pub")}
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
PidFile none
""")
        sshd = self.group.start("sshd", ["/usr/sbin/sshd", "-D", "-e", "-f", config])
        wait_for("sshd", lambda: port_open(sshd_port))
        ssh = self.group.start("ssh", [
            "ssh", "-F", "none", "-N", "-T", "-p", sshd_port, "-i", self.path("user"),
            "-c", "aes128-gcm@openssh.com", "-o", "StrictHostKeyChecking=no",
            "-o", "UserKnownHostsFile=/dev/null", "-o", "ExitOnForwardFailure=yes",
            "-R", f"127.0.0.1:{self.port}:127.0.0.1:{self.target}", f"{user}@127.0.0.1"])
        wait_for("ssh -R", lambda: port_open(self.port))
        self.ends = {"hub": children(sshd), "agent": [ssh]}


class Haproxy(Peer):
    """Two haproxy processes of one thread each, with mutual TLS between them."""

    name = "haproxy TLS pair"
    max_streams = 4_500  # two descriptors a stream and end

    def start(self):
        pem = self.certificates()
        tls_port = free_port()
        self.ends = {
            "hub": [self.run("hub", self.port, "", tls_port,
                             f"ssl verify required ca-file {self.path('ca.pem')} crt {pem} "
                             "sni str(agent)")],
            "agent": [self.run("agent", tls_port,
                               f"ssl crt {pem} verify required ca-file {self.path('ca.pem')}",
                               self.target, "")],
        }
        wait_for("haproxy", lambda: port_open(tls_port) and port_open(self.port))

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

    def run(self, name, port, bind_options, server_port, server_options):
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
    bind 127.0.0.1:{port} {bind_options}
    server next 127.0.0.1:{server_port} {server_options}
""")
        return self.group.start(name, ["haproxy", "-db", "-f", config])


class Warren(Peer):
    """A hub and one agent, with the settings they come with (but for the swarm's enrolments)."""

    name = "warren"
    enroll_per_minute = "100000"
    build = ""

    def start(self):
        self.hub_port = free_port()
        data = self.path("hub")
        hub = self.group.start("hub-process", [self.program("warren"), "hub", "--data", data,
                                               "--listen", f"127.0.0.1:{self.hub_port}"],
                               env=dict(os.environ, WARREN_LIMIT_ENROLL=self.enroll_per_minute))
        wait_for("the hub", lambda: os.stat(os.path.join(data, "admin.token")) and
                 port_open(self.hub_port))
        self.environment = dict(os.environ, WARREN_HUB=f"https://127.0.0.1:{self.hub_port}",
                                WARREN_TOKEN_FILE=os.path.join(data, "admin.token"),
                                WARREN_CA=os.path.join(data, "ca.pem"))
        token = self.token(1)
        self.command("warren-agent", "enroll", "--hub", self.environment["WARREN_HUB"],
                     "--token-file", token, "--data", self.path("agent"))
        agent = self.group.start("agent-process", [self.program("warren-agent"), "run", "--data",
                                                   self.path("agent")])
        self.ends = {"hub": [hub], "agent": [agent]}

    def open_tunnel(self):
        tunnel = json.loads(self.command(
            "warren", "tunnel", "create", "--name", "bench", "--network", "bench", "--target",
            f"127.0.0.1:{self.target}", "--listen", "127.0.0.1:0", "--wait", "-o", "json"))
        self.port = int(tunnel["status"]["endpoint"]["address"].rsplit(":", 1)[1])
        return self

    def program(self, name):
        places = [os.path.join(self.build, d, name) for d in ("", "src/cli")]
        return next((p for p in places if os.path.exists(p)), places[0])

    def command(self, program, *argv):
        p = subprocess.run([self.program(program), *argv], env=self.environment, timeout=30,
                           capture_output=True, text=True)
        if p.returncode:
            raise RuntimeError(f"{program} {' '.join(argv)}: {p.stdout}{p.stderr}")
        return p.stdout

    def token(self, uses):
        created = self.command("warren", "token", "create", "--network", "bench", "--uses",
                               str(uses), "-o", "json")
        return self.write("bootstrap.token", json.loads(created)["token"])


class WarrenTunnel(Warren):
    def start(self):
        super().start()
        self.open_tunnel()


ALL = {"direct": Direct, "ssh": Ssh, "haproxy": Haproxy, "warren": WarrenTunnel}
