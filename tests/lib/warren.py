"""Warren's own processes: a hub, agents, the command line, a REST client."""

import contextlib
import http.client
import json
import os
import socket
import ssl
import threading
import time

from lib.network import inside
from lib.process import SLOW, Process, run, wait_until
from lib.service import free_port

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("WARREN_BUILD", os.path.join(REPOSITORY, "build"))


def program(name):
    return os.path.join(BUILD, name)


class Problem(Exception):
    """An answer of 400 or more: application/problem+json."""

    def __init__(self, status, body, headers):
        super().__init__(f"{status} {body}")
        self.status = status
        self.headers = headers
        self.body = body if isinstance(body, dict) else {}


class Rest:
    """One API token's view of a hub. A connection for each call, so it can be used from anywhere."""

    def __init__(self, host, port, ca_path, token, namespace=None):
        self.host, self.port, self.ca_path = host, port, ca_path
        self.token = token
        self.namespace = namespace

    def connection(self, timeout=10):
        context = ssl.create_default_context(cafile=self.ca_path)
        connection = http.client.HTTPSConnection(self.host, self.port, context=context, timeout=timeout)
        with inside(self.namespace):
            connection.connect()
        return connection

    def raw(self, method, path, body=None, headers=None, timeout=10):
        """(status, headers, body bytes)"""
        sent = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
            sent["Content-Type"] = "application/json"
        sent.update(headers or {})
        connection = self.connection(timeout)
        try:
            connection.request(method, path, body=body, headers=sent)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def call(self, method, path, body=None, headers=None, timeout=10):
        """(JSON body, headers) or Problem."""
        status, got, data = self.raw(method, path, body, headers, timeout)
        is_json = "json" in (got.get("Content-Type") or "")
        value = json.loads(data) if data and is_json else data.decode(errors="replace")
        if status >= 400:
            raise Problem(status, value, got)
        return value, got

    def get(self, path, **kwargs):
        return self.call("GET", path, **kwargs)[0]

    def post(self, path, body=None, **kwargs):
        return self.call("POST", path, body, **kwargs)[0]

    def patch(self, path, body, **kwargs):
        return self.call("PATCH", path, body, **kwargs)[0]

    def delete(self, path, **kwargs):
        return self.call("DELETE", path, **kwargs)[0]

    def items(self, path):
        return self.get(path)["items"]

    @contextlib.contextmanager
    def watch(self, path, last_event_id=None, timeout=15):
        """Yields a `Watch` of server-sent events."""
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "text/event-stream"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = str(last_event_id)
        connection = self.connection(timeout)
        try:
            connection.request("GET", path + ("&" if "?" in path else "?") + "watch=1", headers=headers)
            answer = connection.getresponse()
            if answer.status != 200:
                data = answer.read()
                raise Problem(answer.status, json.loads(data) if data else None, answer.headers)
            yield Watch(answer)
        finally:
            connection.close()


class Watch:
    def __init__(self, answer):
        self.answer = answer

    def next(self, seconds=10):
        """(id, event, data) of the next event; comments are skipped. None at the end."""
        deadline = time.monotonic() + seconds * SLOW
        event = {"event": "message", "data": "", "id": None}
        while line := self.answer.readline():
            assert time.monotonic() < deadline, "heartbeats, but no event"
            line = line.decode().rstrip("\r\n")
            if not line:
                if event["data"]:
                    return event["id"], event["event"], json.loads(event["data"])
            elif not line.startswith(":"):
                key, _, value = line.partition(":")
                event[key] = value.lstrip(" ")
        return None

    def until(self, wanted):
        """The first event for which `wanted(event, data)`."""
        while got := self.next():
            if wanted(got[1], got[2]):
                return got
        raise AssertionError("the watch ended before the event")


class Hub:
    """`options`: more flags; they stay over restarts."""

    agent_options = ()  # of its agents, beside their own

    def __init__(self, directory, host="127.0.0.1", namespace=None, options=(), env=None):
        self.directory = str(directory)
        os.makedirs(self.directory, exist_ok=True)
        self.data = os.path.join(self.directory, "data")
        self.host, self.namespace = host, namespace
        self.port = free_port(host, namespace)
        at = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.url = f"https://{at}"
        self.process = Process(
            [program("warren"), "hub", "--data", self.data, "--listen", at, "--public-name", host,
             *options],
            os.path.join(self.directory, "hub.log"), env=env, namespace=namespace)
        self.agents = []
        self.home = self  # the hub to which its agents come

    def start(self, wait=True):
        self.process.start()
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, seconds=10):
        def ready():
            assert self.process.alive(), f"the hub ended:\n{self.process.log()[-3000:]}"
            return os.path.exists(self.token_path) and self.anonymous().raw("GET", "/readyz")[0] == 200
        wait_until(ready, "the hub to be ready", seconds)

    @property
    def token_path(self):
        return os.path.join(self.data, "admin.token")

    @property
    def token(self):
        """The administrator's."""
        with open(self.token_path) as f:
            return f.read().strip()

    @property
    def ca_path(self):
        return os.path.join(self.data, "ca.pem")

    def rest(self, token=None):
        return Rest(self.host, self.port, self.ca_path, token or self.token, self.namespace)

    def anonymous(self):
        return Rest(self.host, self.port, self.ca_path, None, self.namespace)

    @property
    def admin(self):
        return self.rest()

    def environment(self, token_path=None):
        return {"WARREN_HUB": self.url, "WARREN_TOKEN_FILE": token_path or self.token_path,
                "WARREN_CA": self.ca_path, "HOME": self.directory,
                "XDG_CONFIG_HOME": os.path.join(self.directory, "config")}

    def cli(self, *words, check=True, input=None, env=None, seconds=30):
        """Runs `warren WORDS`; the parsed JSON when -o json was asked for, else CompletedProcess."""
        done = run([program("warren"), *words], input=input, seconds=seconds,
                   env={**self.environment(), **(env or {})}, namespace=self.namespace, check=check)
        if check and "json" in words:
            return json.loads(done.stdout)
        return done

    def bootstrap_token(self, network="lan", **options):
        body = {"network": network, "uses": None, **options}
        return self.admin.post("/api/v1/tokens", body)["token"]

    def agent(self, name, network="lan", token=None, namespace=None, options=(), user=None, env=None):
        """Enrols and starts an agent, and waits until the hub sees it."""
        agent = Agent(self, os.path.join(self.directory, name), name, namespace, options, user, env)
        agent.enroll(token or self.bootstrap_token(network))
        agent.start()
        agent.wait_online()
        return agent

    def tunnel(self, target, name="web", network="lan", listen=None, wait=True, protocol="tcp", **spec):
        """Makes a tunnel; its object once it is active."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        body = {"name": name, "spec": {
            "target": {"network": network, "address": target, "protocol": protocol},
            "access": {"endpoint": {"listen": listen or f"{host}:0"}}, **spec}}
        made = self.admin.post("/api/v1/tunnels", body)
        return self.wait_active(made["id"]) if wait else made

    def tunnels(self):
        return self.admin.items("/api/v1/tunnels?page_size=1000")

    def closed_connections(self, tunnel):
        """The access log of a tunnel's id, once there is one and nothing is open."""
        rows = self.admin.items(f"/api/v1/tunnels/{tunnel}/connections")
        return rows if rows and all(row["closed"] for row in rows) else None

    def wait_active(self, name, seconds=10):
        def active():
            tunnel = self.admin.get(f"/api/v1/tunnels/{name}")
            return tunnel if tunnel["status"]["phase"] == "active" else None
        return wait_until(active, f"tunnel {name} to be active", seconds)

    def metric(self, name):
        """The sum of a metric over its labels."""
        text = self.admin.raw("GET", "/metrics")[2].decode()
        values = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
                  if line.startswith((name + " ", name + "{"))]
        assert values, f"no metric {name} in:\n{text}"
        return sum(values)

    def close(self):
        for agent in self.agents:
            agent.process.stop()
        self.process.stop()


class Agent:
    def __init__(self, hub, directory, name, namespace=None, options=(), user=None, env=None):
        self.hub, self.name, self.namespace = hub, name, namespace
        self.directory = str(directory)
        os.makedirs(self.directory, exist_ok=True)
        if user:
            os.chown(self.directory, int(user), -1)
        self.data = os.path.join(self.directory, "data")
        self.user, self.env = user, env
        more = getattr(hub, "agent_options", ())
        self.process = Process([program("warren-agent"), "run", "--data", self.data, *more, *options],
                               os.path.join(self.directory, "agent.log"), env=env,
                               namespace=namespace, user=user)
        hub.agents.append(self)

    def enroll(self, token, check=True):
        argv = [program("warren-agent"), "enroll", "--hub", self.hub.home.url, "--token-file", "-",
                "--data", self.data, "--name", self.name]
        if self.user:
            argv = ["setpriv", f"--reuid={self.user}", "--clear-groups", *argv]
        return run(argv, input=token + "\n", namespace=self.namespace, check=check, env=self.env)

    def start(self):
        self.process.start()
        return self

    @property
    def certificate_path(self):
        return os.path.join(self.data, "cert.pem")

    @property
    def key_path(self):
        return os.path.join(self.data, "key.pem")

    def certificate(self):
        """The text of `openssl x509 -text`."""
        return run(["openssl", "x509", "-in", self.certificate_path, "-noout", "-text"]).stdout

    def serial(self):
        return run(["openssl", "x509", "-in", self.certificate_path, "-noout", "-serial"]).stdout.strip()

    def expired(self, seconds=0):
        """Whether the certificate has expired, or will within `seconds`."""
        return run(["openssl", "x509", "-in", self.certificate_path, "-noout", "-checkend", seconds],
                   check=False).returncode != 0

    @property
    def id(self):
        """What is in the certificate."""
        return self.certificate().split("/agent/", 1)[1].split()[0].strip(",")

    def identity(self):
        """The agent's object."""
        return self.hub.admin.get("/api/v1/agents/" + self.id)

    def wait_online(self, seconds=10):
        def online():
            assert self.process.alive(), f"the agent ended:\n{self.process.log()[-3000:]}"
            try:
                return self.identity()["status"]["phase"] == "online"
            except Problem as p:
                if p.status == 404:  # it enrolled at another hub, of which this one will hear
                    return False
                raise
        wait_until(online, f"agent {self.name} to be online", seconds)


def endpoint(tunnel):
    return tunnel["status"]["endpoint"]["address"]


class Traffic:
    """Short exchanges with an echo service, one after the other, from a thread, and when they failed."""

    def __init__(self, address, namespace=None, pause=0.02):
        self.address, self.namespace, self.pause = address, namespace, pause
        self.ok = self.failed = 0
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        from lib.service import serves
        while not self.stopping.is_set():
            try:
                good = serves(self.address, self.namespace)
            except OSError:
                good = False
            if good:
                self.ok += 1
            else:
                self.failed += 1
            self.stopping.wait(self.pause)

    def stop(self):
        self.stopping.set()
        self.thread.join(10)


def tls_socket(hub, alpn=None, cafile=None, certificate=None, key=None, timeout=10):
    """A TLS connection to the hub's port, shaken hands; `alpn` a list of names. With TLS 1.3 a refused
    client certificate shows at the first read only."""
    context = ssl.create_default_context(cafile=cafile or hub.ca_path)
    if alpn:
        context.set_alpn_protocols(alpn)
    if certificate:
        context.load_cert_chain(certificate, key)
    with inside(hub.namespace):
        raw = socket.create_connection((hub.host, hub.port), timeout)
    return context.wrap_socket(raw, server_hostname=hub.host)
