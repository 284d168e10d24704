"""Three hubs on one PostgreSQL behind haproxy: clients and agents at different hubs, hubs that die."""

import base64
import contextlib
import json
import os
import signal
import ssl
import time

import pytest

from lib import network
from lib.cluster import echo_at
from lib.datagram import UdpServer, ask, udp_socket
from lib.process import SLOW, run, wait_until
from lib.service import connect, read_all, serves
from lib.warren import program, tls_socket
from lib.witness import who

PORT = 9000


def test_a_tunnel_is_open_on_every_hub(bench, cluster):
    agent = cluster.agent("a1")
    home = cluster.hub_of(agent)
    echo = echo_at(bench, agent)
    others = [h for h in cluster.hubs if h is not home]
    made = cluster.tunnel(others[0], echo.address, endpoint={"listen": f"0.0.0.0:{PORT}"})
    for hub in cluster.hubs:
        assert serves(f"{hub.host}:{PORT}", cluster.client), hub.host
    status = [h.admin.get(f"/api/v1/tunnels/{made['id']}")["status"] for h in cluster.hubs]
    assert {s["lease"]["server"]["id"] for s in status} == {cluster.id_of(home)}


def test_a_port_that_a_hub_chose_is_the_same_on_all(bench, cluster):
    agent = cluster.agent("a1")
    echo = echo_at(bench, agent)
    made = cluster.tunnel(cluster.hubs[2], echo.address, endpoint={"listen": "0.0.0.0:0"})

    def ports():
        shown = [h.admin.get(f"/api/v1/tunnels/{made['id']}")["status"]["endpoint"] for h in cluster.hubs]
        return {e["address"].rsplit(":", 1)[1] for e in shown if e and e["address"]}
    wait_until(lambda: len(ports()) == 1 and all(
        serves(f"{h.host}:{next(iter(ports()))}", cluster.client) for h in cluster.hubs), "one port", 20)
    cluster.hubs[0].admin.patch(f"/api/v1/tunnels/{made['id']}", {"spec": {"access": {
        "endpoint": {"listen": "0.0.0.0:9100"}}}})
    wait_until(lambda: all(serves(f"{h.host}:9100", cluster.client) for h in cluster.hubs), "the new port", 20)


def test_a_port_is_open_at_the_hubs_that_the_endpoint_selects_only(bench, cluster):
    agent = cluster.agent("a1")
    home = cluster.hub_of(agent)
    one, other = [h for h in cluster.hubs if h is not home]
    echo = echo_at(bench, agent)
    blocked = bench.server(host="0.0.0.0", port=PORT, namespace=other.namespace)  # nobody's business
    chosen = {"listen": f"0.0.0.0:{PORT}", "hubs": [cluster.id_of(one)]}
    made = cluster.tunnel(home, echo.address, endpoint=chosen)
    path = f"/api/v1/tunnels/{made['id']}"
    assert serves(f"{one.host}:{PORT}", cluster.client)
    assert refuses(f"{home.host}:{PORT}", cluster.client)
    for hub in (home, other):
        status = hub.admin.get(path)["status"]
        assert (status["phase"], status["endpoint"]["address"]) == ("active", f"0.0.0.0:{PORT}")
    blocked.close()
    # another hub, and a port that the hub chooses at which the tunnel is not made
    home.admin.patch(path, {"spec": {"access": {"endpoint": {
        "listen": "0.0.0.0:0", "hubs": [cluster.id_of(other)]}}}})

    def port():
        shown = {h: h.admin.get(path)["status"]["endpoint"] for h in cluster.hubs}
        ports = {e["address"].rsplit(":", 1)[1] if e else None for e in shown.values()}
        return ports.pop() if len(ports) == 1 else None
    found = wait_until(port, "all hubs to know the port", 20)
    wait_until(lambda: serves(f"{other.host}:{found}", cluster.client), "the other hub to listen", 20)
    assert all(refuses(f"{h.host}:{p}", cluster.client) for h in (home, one) for p in (PORT, found))
    home.admin.patch(path, {"spec": {"access": {"endpoint": {"hubs": ["nobody"]}}}})
    wait_until(lambda: "none of its endpoint's hubs" in (home.admin.get(path)["status"]["reason"] or ""),
               "the tunnel to say that it is nowhere", 20)
    home.cli("tunnel", "update", "web", "--at-hub", "any")
    wait_until(lambda: len({serves(f"{h.host}:{port()}", cluster.client) for h in cluster.hubs}) == 1,
               "all hubs to listen", 20)


def refuses(address, namespace):
    try:
        connect(address, 2, namespace).close()
    except ConnectionRefusedError:
        return True
    return False


def test_every_hub_tells_why_a_target_is_not_reached(bench, cluster):
    agent = cluster.agent("a1", at=cluster.hubs[0])
    _, second, third = cluster.hubs
    echo = echo_at(bench, agent)
    for protocol in ("tcp", "udp"):
        cluster.tunnel(second, echo.address, name=protocol, protocol=protocol,
                       endpoint={"listen": f"0.0.0.0:{PORT}"})

    def all_say(name, *words):
        shown = [h.admin.get(f"/api/v1/tunnels/{name}")["status"] for h in cluster.hubs]
        reason = shown[0]["reason"] or ""
        return (len({(s["phase"], s["reason"]) for s in shown}) == 1 and all(w in reason for w in words)
                and (words or not reason))
    echo.close()
    refused = ("connection_refused", echo.address)
    with udp_socket("0.0.0.0", namespace=cluster.client, timeout=2 * SLOW) as sock:
        sock.sendto(b"anybody there?", (second.host, PORT))
        with contextlib.suppress(ConnectionResetError):
            assert connect(f"{second.host}:{PORT}", namespace=cluster.client).recv(1) == b""
        wait_until(lambda: all_say("udp", *refused), "the reason at all hubs", 20)
        wait_until(lambda: all_say("tcp", *refused), "the reason at all hubs", 20)
        wait_until(lambda: all_say("tcp", *refused, "no agent reaches"), "what the check says at all hubs", 20)
        bench.server(host=agent.address, namespace=agent.namespace, port=echo.port)
        bench.keep(UdpServer(host=agent.address, namespace=agent.namespace, port=echo.port))
        assert serves(f"{third.host}:{PORT}", cluster.client, timeout=10 * SLOW)
        assert ask(sock, (third.host, PORT), b"and now?", tries=5) == b"and now?"
    for name in ("tcp", "udp"):
        wait_until(lambda n=name: all_say(n), f"no reason of {name} any more", 20)


def test_every_kind_of_access_works_from_every_hub(bench, cluster):
    agent = cluster.agent("a1")
    nginx = bench.nginx(host=agent.address, namespace=agent.namespace)
    with open(f"{nginx.root}/hello", "w") as f:
        f.write("hello from afar")
    udp = bench.keep(UdpServer(host=agent.address, namespace=agent.namespace))
    first = cluster.hubs[0]
    cluster.tunnel(first, nginx.address, name="named", protocol="http", endpoint={"host": "web.test"})
    cluster.tunnel(first, udp.address, name="udp", protocol="udp",
                   endpoint={"listen": f"0.0.0.0:{PORT}"})
    with open(first.token_path) as f:
        token = f.read().strip()
    for hub in cluster.hubs:
        curl = ["curl", "-sS", "--max-time", str(20 * SLOW)]
        proxy = [*curl, "-x", hub.url, "--proxy-cacert", hub.ca_path, "--proxy-user", f"lan:{token}"]
        got = run([*proxy, "--proxytunnel", f"http://{nginx.address}/hello"], namespace=cluster.client)
        assert got.stdout == "hello from afar"
        got = run([*proxy, f"http://{nginx.address}/hello"], namespace=cluster.client)
        assert got.stdout == "hello from afar"
        got = run([*curl, "-k", "--resolve", f"web.test:{hub.port}:{hub.host}",
                   f"https://web.test:{hub.port}/hello"], namespace=cluster.client)
        assert got.stdout == "hello from afar"
        with udp_socket("0.0.0.0", namespace=cluster.client, timeout=2 * SLOW) as sock:
            assert ask(sock, (hub.host, PORT), b"datagram", tries=5) == b"datagram"


def test_the_command_line_works_by_every_hub_and_by_the_balancer(bench, cluster):
    agent = cluster.agent("a1")
    nginx = bench.nginx(host=agent.address, namespace=agent.namespace)
    nginx.put_file("hello", b"hello from afar")
    url = f"http://{nginx.address}/hello"
    for at in (*cluster.hubs, cluster.front):
        def warren(*words, at=at, **more):
            return run([program("warren"), *words], namespace=cluster.client,
                       env={**cluster.hubs[0].environment(), "WARREN_HUB": at.url}, **more).stdout
        assert warren("connect", "lan", nginx.address, input="GET /hello HTTP/1.0\r\n\r\n").endswith("hello from afar")
        found = [json.loads(line) for line in warren("scan", "lan", agent.address, "--ports", nginx.port, "-o", "json")
                 .splitlines()]
        assert [(h["address"], [p["port"] for p in h["ports"]]) for h in found] == [(agent.address, [nginx.port])]
        if os.path.exists("/dev/net/tun"):
            assert warren("mount", "lan", "--", "curl", "-sS", url) == "hello from afar"


def test_agents_certificates_do_not_make_links(bench, cluster):
    agent = cluster.agent("a1")
    hub = cluster.hubs[0]
    with network.inside(hub.namespace), pytest.raises(ssl.SSLError), \
            tls_socket(hub, ["warren-hub/1"], hub.ca_path, agent.certificate_path, agent.key_path) as sock:
        sock.recv(1)  # TLS 1.3: the client hears of it after its handshake


def test_a_hub_that_is_stopped_gives_up_what_it_has(bench, cluster):
    agent = cluster.agent("a1")
    home = cluster.hub_of(agent)
    other = next(h for h in cluster.hubs if h is not home)
    echo = echo_at(bench, agent)
    cluster.tunnel(other, echo.address, endpoint={"listen": f"0.0.0.0:{PORT}"})
    home.process.signal(signal.SIGTERM)
    started = time.monotonic()
    wait_until(lambda: cluster.hub_of(agent) not in (None, home)
               and serves(f"{other.host}:{PORT}", cluster.client), "another hub to serve", 30)
    print(f"\nserved again {time.monotonic() - started:.2f} s after SIGTERM")


def two_agents(bench, cluster):
    """Agents of one network at two hubs, which both reach a server on a third host, and a tunnel to it."""
    first = cluster.agent("a1", at=cluster.hubs[0])
    host, address = cluster.host()
    target = bench.server(who, host=address, namespace=host)
    cluster.tunnel(cluster.hubs[2], target.address, endpoint={"listen": f"0.0.0.0:{PORT}"})
    second = cluster.agent("a2", at=cluster.hubs[1])
    return first, second


def at(hub):
    return f"{hub.host}:{PORT}"


def answers(cluster, hub):
    with connect(at(hub), 2.0, cluster.client) as sock:
        sock.settimeout(2.0)
        return read_all(sock)[0].decode()


def test_hubs_show_each_other(bench, cluster):
    two_agents(bench, cluster)
    for hub in cluster.hubs:
        wait_until(lambda h=hub: h.metric("warren_hubs") == 3, "the hubs to know each other")

        def listed(h=hub):
            return {shown["id"]: shown for shown in h.admin.items("/api/v1/hubs")}

        def column(name, of=listed):
            return [of()[cluster.id_of(h)][name] for h in cluster.hubs]
        assert set(listed()) == {cluster.id_of(h) for h in cluster.hubs}
        wait_until(lambda c=column: c("agents") == [1, 1, 0], "the agents to be shown")
        wait_until(lambda c=column: c("tunnels") == [1, 0, 0], "the tunnels to be shown")
        assert {h["phase"] for h in listed().values()} == {"ready"}
        assert hub.metric("warren_hub_lease_held") == 1


def ask_proxy(hub, sock, target):
    """For a tunnel's target, over HTTP/1.1."""
    login = base64.b64encode(f"lan:{hub.token}".encode()).decode()
    sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic {login}\r\n\r\n".encode())


def test_a_stale_route_is_put_right_by_not_here(bench, cluster):
    """The hub that forwards sleeps while the tunnel moves; what waited for it goes by the old route, is turned
    away, and gets there all the same."""
    agents = dict(zip(("first", "second"), two_agents(bench, cluster)))
    ingress = cluster.hubs[2]
    target = ingress.admin.get("/api/v1/tunnels/web")["spec"]["target"]["address"]
    serving, spare = "first", "second"
    for attempt in range(10):
        wait_until(lambda: answers(cluster, ingress) == agents[serving].address, "the right agent to serve", 20)
        turned = ingress.metric("warren_streams_turned_total")
        proxied = tls_socket(ingress, ["http/1.1"], timeout=30 * SLOW)
        ingress.process.signal(signal.SIGSTOP)
        agents[serving].process.kill()
        wait_until(lambda: answers(cluster, cluster.hubs[0]) == agents[spare].address, "the other one to serve", 40)
        clients = [connect(at(ingress), 20 * SLOW, cluster.client) for _ in range(8)]
        ask_proxy(ingress, proxied, target)
        ingress.process.signal(signal.SIGCONT)
        for sock in clients:
            sock.settimeout(20 * SLOW)
            assert read_all(sock)[0].decode() == agents[spare].address
            sock.close()
        answer = read_all(proxied)
        assert answer[0].endswith(b"\r\n\r\n" + agents[spare].address.encode()), answer
        turned = ingress.metric("warren_streams_turned_total") - turned
        if turned:
            print(f"\n{turned:.0f} clients were turned away and served (attempt {attempt + 1})")
            return
        agents[serving].start()
        wait_until(lambda: cluster.hub_of(agents[serving]), "the agent to be back", 40)
        serving, spare = spare, serving
    raise AssertionError("no route was ever stale")
