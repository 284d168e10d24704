"""Whose a name is, requests that are to confuse, certificates from files, TLS that passes untouched,
and tunnels by name on the command line."""

import os
import re
import socket
import ssl
import subprocess
import time

import pytest

from lib.process import SLOW, run, wait_until
from lib.warren import Problem
from lib.web import HOST, asked, certificate, curl, nginx_tls, raw, web_tunnel



def test_names_are_checked_and_claimed_once(lan_hub, app):
    for bad in ("device", "10.0.0.1", "a_b.example", "*.example.org", "-a.example", "a..b", "x" * 64 + ".org",
                "a.example:80", "ä.example", "a b.example", ""):
        with pytest.raises(Problem) as refused:
            web_tunnel(lan_hub, app.address, host=bad, wait=False)
            raise Problem(400, {"field": "spec.access.endpoint.host"}, {}) if bad == "" else AssertionError(bad)
        assert refused.value.status == 400, bad
        if bad == "":
            lan_hub.admin.delete("/api/v1/tunnels/web")
    web_tunnel(lan_hub, app.address, host="Device1.Tunnels.Example.ORG.")
    assert lan_hub.admin.get("/api/v1/tunnels/web")["spec"]["access"]["endpoint"] == {"host": HOST}
    for endpoint in ({"host": HOST}, {"sni": HOST}):
        with pytest.raises(Problem) as refused:
            lan_hub.admin.post("/api/v1/tunnels", {"name": "second", "spec": {
                "target": {"network": "lan", "address": app.address, "protocol": "tcp" if "sni" in endpoint else "http"},
                "access": {"endpoint": endpoint}}})
        assert refused.value.status == 409
    lan_hub.admin.delete("/api/v1/tunnels/web")
    web_tunnel(lan_hub, app.address, name="second")
    lan_hub.admin.patch("/api/v1/tunnels/second", {"spec": {"access": {"endpoint": {"host": "other.example.org"}}}})
    lan_hub.wait_active("second")
    assert curl(lan_hub, "https://other.example.org/")[0] == 200
    assert curl(lan_hub, f"https://{HOST}/", check=False)[0] in (404, 421)


def test_a_tenant_s_names_are_in_its_domains(lan_hub, app):
    web_tunnel(lan_hub, app.address, host="early.example.net", name="early")
    lan_hub.cli("tenant", "limit", "default", "--hosts", "Acme.example.org,other.example")
    assert lan_hub.admin.get("/api/v1/tenants/default")["limits"]["hosts"] == ["acme.example.org", "other.example"]
    web_tunnel(lan_hub, app.address, host="other.example", name="itself")
    for host in ("a.example.net", "xacme.example.org", "example.org", "other.example.com"):
        with pytest.raises(Problem) as refused:
            web_tunnel(lan_hub, app.address, host=host, name="wrong")
        assert refused.value.status == 403 and refused.value.body["field"] == "spec.access.endpoint.host"
        assert "acme.example.org" in refused.value.body["detail"]
    web_tunnel(lan_hub, app.address, host="A.b.acme.example.org", name="below")
    assert curl(lan_hub, "https://a.b.acme.example.org/")[0] == 200
    # what was there stays, also when it is changed otherwise
    lan_hub.admin.patch("/api/v1/tunnels/early", {"name": "renamed"})
    assert curl(lan_hub, "https://early.example.net/")[0] == 200
    with pytest.raises(Problem):
        lan_hub.admin.patch("/api/v1/tunnels/below", {"spec": {"access": {"endpoint": {"host": "a.example.net"}}}})
    lan_hub.cli("tenant", "limit", "default", "--hosts", "none")
    web_tunnel(lan_hub, app.address, host="a.example.net", name="free")


def test_the_api_and_the_tunnels_do_not_meet(bench, directory, app):
    hub = bench.hub(options=["--public-name", "hub.example.org"])
    hub.agent("a1")
    with pytest.raises(Problem) as refused:
        web_tunnel(hub, app.address, host="hub.example.org", wait=False)
    assert refused.value.status == 400 and "hub itself" in refused.value.body["detail"]
    web_tunnel(hub, app.address)
    status, _, body = curl(hub, f"https://{HOST}/api/v1/tunnels")
    assert status == 200 and asked(body)[1]["path"] == "/api/v1/tunnels"  # the target's own
    assert curl(hub, f"https://{HOST}/.warren/x")[0] == 404
    token = hub.token
    for version in ("--http1.1", "--http2"):
        # a connection to one, a request for the other
        assert curl(hub, f"https://{HOST}/healthz", version, "-H", "Host: hub.example.org")[0] == 421
        status, _, body = curl(hub, "https://hub.example.org/api/v1/tunnels", version, "-H", f"Host: {HOST}",
                               "-H", f"Authorization: Bearer {token}")
        assert status == 421
        assert curl(hub, "https://hub.example.org/healthz", version)[0] == 200
    # without SNI
    answer, _ = raw(hub, f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode(), host=None)
    assert answer.startswith(b"HTTP/1.1 421 ")


SMUGGLED = [
    b"POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    b"POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    b"POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nabcde",
    b"POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: +5\r\n\r\nabcde",
    b"POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 5, 5\r\n\r\nabcde",
    b"POST / HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.0\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: %s\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: %s\r\nX: y\r\n folded\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %s\r\nHost: other.example\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %s evil\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %s:99999\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a@%s\r\n\r\n",
    b"GET https://other.example/ HTTP/1.1\r\nHost: %s\r\n\r\n",
    b"GET ftp://%s/ HTTP/1.1\r\nHost: x.example\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %s\r\nX\x00Y: z\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %s\r\nX: a\x00b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %s\r\nX(y): z\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %s\r\n: z\r\n\r\n",
    b"GET / HTTP/1.1\nHost: %s\n\n",
    b"GET / HTTP/1.1\rHost: %s\r\r",
    b"GET /a b HTTP/1.1\r\nHost: %s\r\n\r\n",
    b"GET /\x01 HTTP/1.1\r\nHost: %s\r\n\r\n",
    b"GET / HTTP/2.0\r\nHost: %s\r\n\r\n",
    b"CONNECT %s:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


def test_smuggled_requests_are_refused_and_nothing_after_them_is_read(lan_hub, app):
    web_tunnel(lan_hub, app.address)
    second = b"GET /smuggled HTTP/1.1\r\nHost: " + HOST.encode() + b"\r\n\r\n"
    for request in SMUGGLED:
        data = request.replace(b"%s", HOST.encode())
        answer, end = raw(lan_hub, data + second)
        assert re.match(rb"HTTP/1\.1 (400|405|421|501|505) ", answer), (data, answer)
        assert b"connection: close" in answer.lower(), (data, answer)
        assert answer.count(b"HTTP/1.1 ") == 1, (data, answer)
    for body in (b"5\r\nabcdeX\r\n0\r\n\r\n", b"-5\r\nabcde\r\n0\r\n\r\n", b"0x5\r\nabcde\r\n0\r\n\r\n",
                 b"5;\x00\r\nabcde\r\n0\r\n\r\n", b"\r\n5\r\nabcde\r\n0\r\n\r\n", b"fffffffffffffffff\r\nx",
                 b"5 \r\nabcde\r\n0\r\n\r\n" if False else b"5\nabcde\n0\n\n", b"g\r\n"):
        data = b"POST /bad HTTP/1.1\r\nHost: " + HOST.encode() + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + body
        answer, end = raw(lan_hub, data + second)
        assert answer.startswith(b"HTTP/1.1 400 "), (body, answer)
        assert answer.count(b"HTTP/1.1 ") == 1, (body, answer)
    assert not [s for s in app.seen if s[1] == "/smuggled"]
    # and those that only look odd are served
    for request, path in ((b"GET https://%s/absolute?x HTTP/1.1\r\nHost: %s\r\n", "/absolute?x"),
                          (b"GET http://%s HTTP/1.1\r\nHost: %s\r\n", "/"),
                          (b"OPTIONS * HTTP/1.1\r\nHost: %s\r\n", "*"),
                          (b"GET //x/../y HTTP/1.1\r\nHost: %s:8443\r\n", None),
                          (b"POST /e HTTP/1.1\r\nHost: %s\r\nExpect: 100-continue\r\nContent-Length: 2\r\n", "/e")):
        data = request.replace(b"%s", HOST.encode()) + b"Connection: close\r\n\r\nhi"
        answer, _ = raw(lan_hub, data)
        assert b"HTTP/1.1 200 OK" in answer, (data, answer)
        assert path is None or app.seen[-1][1] == path


def test_limits_of_heads_and_slow_clients(lan_hub, app):
    web_tunnel(lan_hub, app.address)
    at = HOST.encode()
    for data, status in ((b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\nHost: " + at + b"\r\n\r\n", b"414"),
                         (b"GET / HTTP/1.1\r\nHost: " + at + b"\r\nX: " + b"y" * 20000 + b"\r\n\r\n", b"431"),
                         (b"GET / HTTP/1.1\r\nHost: " + at + b"\r\n" + b"X: y\r\n" * 120 + b"\r\n", b"431")):
        answer, _ = raw(lan_hub, data)
        assert answer.startswith(b"HTTP/1.1 " + status), answer[:100]
    begun = time.monotonic()
    answer, _ = raw(lan_hub, b"GET / HTTP/1.1\r\nHost: " + at + b"\r\nX: ")
    assert answer.startswith(b"HTTP/1.1 408 ") and time.monotonic() - begun > 5



def serial_shown(hub, host):
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"{hub.host}:{hub.port}", "-servername", host, "-alpn", "http/1.1"],
        input=b"", capture_output=True, timeout=30 * SLOW)
    out = subprocess.run(["openssl", "x509", "-noout", "-serial", "-subject"], input=done.stdout,
                         capture_output=True).stdout.decode()
    return out


def test_certificates_come_from_files_and_are_read_again(bench, directory, app):
    live = os.path.join(directory, "live", HOST)  # as certbot lays them out
    many = os.path.join(directory, "lego")
    os.makedirs(live)
    os.makedirs(many)
    ca = certificate(directory, "one", [HOST])
    os.symlink(os.path.join(directory, "one.crt"), os.path.join(live, "fullchain.pem"))
    os.symlink(os.path.join(directory, "one.key"), os.path.join(live, "privkey.pem"))
    hub = bench.hub(options=["--certificates", os.path.join(directory, "live", "*"), "--certificates", many])
    hub.agent("a1")
    web_tunnel(hub, app.address)
    web_tunnel(hub, app.address, host="x.wild.example.org", name="two")
    assert curl(hub, f"https://{HOST}/", cafile=ca)[0] == 200
    with pytest.raises(AssertionError):
        curl(hub, "https://x.wild.example.org/", cafile=ca)
    first = serial_shown(hub, HOST)
    # renewed: half of it first, as it happens
    certificate(directory, "new", [HOST])
    os.replace(os.path.join(directory, "new.crt"), os.path.join(directory, "one.crt"))
    wait_until(lambda: "a certificate cannot be used" in hub.process.log(), "the half to be seen", 20)
    assert serial_shown(hub, HOST) == first
    os.replace(os.path.join(directory, "new.key"), os.path.join(directory, "one.key"))
    wait_until(lambda: serial_shown(hub, HOST) != first, "the renewed certificate", 20)
    assert curl(hub, f"https://{HOST}/", cafile=ca)[0] == 200
    # a wildcard appears
    certificate(many, "_.wild.example.org", ["*.wild.example.org", "hub.example.org", "127.0.0.1", "localhost"])
    many_ca = os.path.join(many, "ca.crt")
    wait_until(lambda: curl(hub, "https://x.wild.example.org/", cafile=many_ca, check=False)[0] == 200, "the wildcard", 20)
    assert "wild" not in serial_shown(hub, "wild.example.org")
    assert "wild" not in serial_shown(hub, "a.b.wild.example.org")
    # one connection, two names: only where the certificate is good for both
    web_tunnel(hub, app.address, host="y.wild.example.org", name="three")
    for version in ("--http1.1", "--http2"):
        status, _, body = curl(hub, "https://x.wild.example.org/", version, "-H", "Host: y.wild.example.org", cafile=many_ca)
        assert status == 200 and asked(body)[0]["x-forwarded-host"] == ["y.wild.example.org"]
        assert curl(hub, "https://x.wild.example.org/", version, "-H", f"Host: {HOST}", cafile=many_ca)[0] == 421
    # agents and the command line still get the hub's own
    assert hub.admin.get("/api/v1/tunnels")["items"]
    hub.agent("a2")


def test_sni_passes_tls_untouched(bench, lan_hub, directory):
    name = "secret.tunnels.example.org"
    ca = certificate(directory, "inner", [name])
    target = nginx_tls(bench, directory, "inner")
    tunnel = lan_hub.admin.post("/api/v1/tunnels", {"name": "raw", "spec": {
        "target": {"network": "lan", "address": target}, "access": {"endpoint": {"sni": name}}}})
    tunnel = lan_hub.wait_active(tunnel["id"])
    assert tunnel["status"]["endpoint"]["address"] == name
    status, head, body = curl(lan_hub, f"https://{name}/", cafile=ca)  # its own certificate, end to end
    assert status == 200 and body == f"hello of {name} https\n".encode()
    shown = serial_shown(lan_hub, name)
    inner = run(["openssl", "x509", "-in", os.path.join(directory, "inner.crt"), "-noout", "-serial"]).stdout
    assert inner.strip() in shown
    assert lan_hub.admin.get("/healthz") is not None  # others are served as before
    rows = wait_until(lambda: lan_hub.admin.items("/api/v1/tunnels/raw/connections"), "the access log")
    assert rows[0]["client"].startswith("127.0.0.1:")
    # a ClientHello in pieces
    context = ssl.create_default_context(cafile=ca)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    with socket.create_connection((lan_hub.host, lan_hub.port), 20 * SLOW) as sock:
        for byte in outgoing.read():
            sock.sendall(bytes([byte]))
        while True:
            incoming.write(sock.recv(65536))
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
    assert tls.getpeercert()["subjectAltName"] == (("DNS", name),)


def test_the_command_line_makes_and_changes_them(lan_hub, app, directory):
    path = os.path.join(directory, "password")
    with open(path, "w") as f:
        f.write("secret\n")
    os.chmod(path, 0o600)
    made = lan_hub.cli("tunnel", "create", "--name", "web", "--network", "lan", "--target", app.address, "--host", HOST,
                    "--auth", "basic", "--user", "ann", "--password-file", path, "--source", "127.0.0.0/8", "--source",
                    "::1", "--wait", "-o", "json")
    assert made["spec"]["target"]["protocol"] == "http"
    assert made["spec"]["access"] == {"endpoint": {"host": HOST}, "internal": True, "auth": "basic",
                                      "users": [{"name": "ann"}], "sources": ["127.0.0.0/8", "::1/128"]}
    assert curl(lan_hub, f"https://{HOST}/", "-u", "ann:secret")[0] == 200
    assert HOST in lan_hub.cli("tunnel", "list").stdout
    lan_hub.cli("tunnel", "update", "web", "--host", "other.example.org", "--auth", "public", "--source", "any")
    assert wait_until(lambda: curl(lan_hub, "https://other.example.org/", check=False)[0] == 200, "the new name")
    changed = lan_hub.cli("tunnel", "update", "web", "--protocol", "tcp", "--sni", "raw.example.org", "-o", "json")
    assert changed["spec"]["access"]["endpoint"] == {"sni": "raw.example.org"}
    changed = lan_hub.cli("tunnel", "update", "web", "--listen", "127.0.0.1:0", "--wait", "-o", "json")
    assert changed["status"]["endpoint"]["address"].startswith("127.0.0.1:")
    done = lan_hub.cli("tunnel", "create", "--name", "x", "--network", "lan", "--target", app.address, "--host", HOST, "--sni",
                    HOST, check=False)
    assert done.returncode == 2 and "only one of" in done.stderr
    done = lan_hub.cli("tunnel", "update", "web", "--auth", "basic", check=False)
    assert done.returncode != 0 and "spec.access" in done.stderr


def test_apply_takes_hashes_and_says_what_is_wrong(lan_hub, app):
    tunnel = web_tunnel(lan_hub, app.address, auth="basic", users=[{"name": "ann", "password": "right"}])
    put = {"name": "web", "spec": {**tunnel["spec"], "access": {**tunnel["spec"]["access"], "users": [
        {"name": "ann"}, {"name": "bob", "hash": "$argon2id$v=19$m=4194304,t=2,p=1$c2FsdHNhbHRzYWx0$" + "A" * 43}]}}}
    with pytest.raises(Problem) as refused:  # it would cost 4 GiB to check
        lan_hub.admin.patch("/api/v1/tunnels/web", {"spec": put["spec"]})
    assert refused.value.body["field"] == "spec.access.users.hash"
