"""Who may come in by a tunnel's name: passwords, API tokens, the login page, addresses."""

import re
import socket
import subprocess
import threading

import pytest

from lib.process import SLOW, wait_until
from lib.warren import Problem
from lib.web import HOST, asked, curl, web_tunnel



def test_basic_lets_in_who_knows_a_password_and_never_shows_it(lan_hub, app):
    tunnel = web_tunnel(lan_hub, app.address, auth="basic",
                        users=[{"name": "ann", "password": "correct horse"}, {"name": "bob", "password": "b:c"}])
    assert tunnel["spec"]["access"]["users"] == [{"name": "ann"}, {"name": "bob"}]
    url = f"https://{HOST}/"
    status, head, body = curl(lan_hub, url)
    assert status == 401 and 'www-authenticate: basic realm="tunnel"' in head
    assert not app.seen
    for user in ("ann:wrong", "eve:correct horse", "bob:", "ann:correct horse2"):
        assert curl(lan_hub, url, "-u", user)[0] == 401
    for _ in range(3):
        status, _, body = curl(lan_hub, url, "-u", "ann:correct horse")
        assert status == 200 and "authorization" not in asked(body)[0]
    assert curl(lan_hub, url, "-u", "bob:b:c")[0] == 200
    data = subprocess.run(["grep", "-rc", "correct horse", lan_hub.data], capture_output=True, text=True).stdout
    assert all(line.endswith(":0") for line in data.split()), data
    # another user's password changes, this one's is kept, also over a restart
    lan_hub.admin.patch("/api/v1/tunnels/web", {"spec": {"access": {
        "users": [{"name": "ann"}, {"name": "bob", "password": "new"}]}}})
    assert curl(lan_hub, url, "-u", "bob:b:c")[0] == 401 and curl(lan_hub, url, "-u", "bob:new")[0] == 200
    lan_hub.process.stop()
    lan_hub.start()
    lan_hub.wait_active("web", 30)
    assert curl(lan_hub, url, "-u", "ann:correct horse")[0] == 200
    with pytest.raises(Problem) as refused:
        lan_hub.admin.patch("/api/v1/tunnels/web", {"spec": {"access": {"users": [{"name": "new"}]}}})
    assert refused.value.status == 400 and refused.value.body["field"] == "spec.access.users.password"


def test_a_crowd_of_wrong_passwords_is_bounded(lan_hub, app):
    web_tunnel(lan_hub, app.address, auth="basic", users=[{"name": "ann", "password": "right"}])
    statuses = []

    def guess(i):
        statuses.append(curl(lan_hub, f"https://{HOST}/", "-u", f"ann:wrong{i}")[0])
    threads = [threading.Thread(target=guess, args=(i,)) for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60 * SLOW)
    assert len(statuses) == 24 and set(statuses) <= {401, 503}
    assert curl(lan_hub, f"https://{HOST}/", "-u", "ann:right")[0] == 200


def test_api_token_lets_in_the_tenant_and_is_not_passed_on(lan_hub, app):
    web_tunnel(lan_hub, app.address, auth="api-token")
    url, token = f"https://{HOST}/", lan_hub.token
    status, head, _ = curl(lan_hub, url)
    assert status == 401 and "www-authenticate: bearer" in head
    assert curl(lan_hub, url, "-H", "Authorization: Bearer wat_nonsense")[0] == 401
    other = lan_hub.admin.post("/api/v1/tenants", {"name": "other"})
    stranger = lan_hub.admin.post("/api/v1/tokens", {"kind": "api", "role": "operator", "tenant": other["id"],
                                                  "name": "stranger"})["token"]
    assert curl(lan_hub, url, "-H", f"Authorization: Bearer {stranger}")[0] == 401
    assert not app.seen
    for flags in (["-H", f"Authorization: Bearer {token}"], ["-u", f"x:{token}"]):
        status, _, body = curl(lan_hub, url, *flags)
        assert status == 200 and "authorization" not in asked(body)[0]
        assert token.encode() not in body


def test_tenant_login_by_a_page(lan_hub, app):
    web_tunnel(lan_hub, app.address, auth="tenant-login")
    url, token = f"https://{HOST}", lan_hub.token
    html = ["-H", "Accept: text/html"]
    status, head, body = curl(lan_hub, f"{url}/deep/page?a=1&b=2", *html)
    assert status == 401 and b'action="/.warren/login"' in body
    assert b'value="/deep/page?a=1&amp;b=2"' in body and "content-security-policy: default-src 'none'" in head
    assert curl(lan_hub, f"{url}/")[0] == 401
    own = ["-H", f"Origin: https://{HOST}"]
    form = ["-d", f"next=/deep/page?a=1%26b=2&token={token}"]
    assert curl(lan_hub, f"{url}/.warren/login", *form)[0] == 403  # no origin, or another
    assert curl(lan_hub, f"{url}/.warren/login", *form, "-H", "Origin: https://evil.example")[0] == 403
    status, head, body = curl(lan_hub, f"{url}/.warren/login", *own, "-d", "token=wat_nonsense")
    assert status == 401 and b"no valid API token" in body and "set-cookie" not in head
    status, head, body = curl(lan_hub, f"{url}/.warren/login", *own, *form)
    assert status == 303 and "location: /deep/page?a=1&b=2" in head
    _, head_text, _ = curl_exact(lan_hub, f"{url}/.warren/login", *own, *form)
    cookie = re.search(r"set-cookie: (__Host-warren=[^;]+); ([^\r]*)", head_text, re.I)
    assert cookie[2] == "Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=28800"
    value = cookie[1]
    status, _, body = curl(lan_hub, f"{url}/x", "-H", f"Cookie: mine=1; {value}; other=2")
    assert status == 200 and asked(body)[0]["cookie"] == ["mine=1; other=2"]
    for bad in (value[:-1] + ("A" if value[-1] != "A" else "B"), value.replace("tok_", "tok_x"),
                re.sub(r"\.(\d+)\.", lambda m: f".{int(m[1]) + 1}.", value)):
        assert curl(lan_hub, f"{url}/x", "-H", f"Cookie: {bad}")[0] == 401
    # good for this name only
    web_tunnel(lan_hub, app.address, host="device2.tunnels.example.org", name="two", auth="tenant-login")
    assert curl(lan_hub, "https://device2.tunnels.example.org/", "-H", f"Cookie: {value}")[0] == 401
    # no open redirect
    for target in ("//evil.example", "https://evil.example", "/\\evil.example", "%0d%0aX: y"):
        status, head, _ = curl(lan_hub, f"{url}/.warren/login", *own, "-d", f"next={target}&token={token}")
        assert status == 303 and "\r\nlocation: /\r\n" in head + "\r\n"
    status, head, _ = curl(lan_hub, f"{url}/.warren/logout", *own, "-X", "POST", "-H", f"Cookie: {value}")
    assert status == 303 and "__host-warren=; " in head and "max-age=0" in head
    # programs use a token directly; a revoked token ends its sessions
    assert curl(lan_hub, f"{url}/x", "-H", f"Authorization: Bearer {token}")[0] == 200
    made = lan_hub.admin.post("/api/v1/tokens", {"kind": "api", "role": "operator", "name": "short"})
    _, head_text, _ = curl_exact(lan_hub, f"{url}/.warren/login", *own, "-d", f"token={made['token']}")
    value = re.search(r"set-cookie: (__Host-warren=[^;]+);", head_text, re.I)[1]
    assert curl(lan_hub, f"{url}/x", "-H", f"Cookie: {value}")[0] == 200
    lan_hub.admin.post(f"/api/v1/tokens/{made['id']}:revoke")
    assert curl(lan_hub, f"{url}/x", "-H", f"Cookie: {value}")[0] == 401


def curl_exact(hub, url, *more):
    """The same with the head as it was sent."""
    done = subprocess.run(["curl", "-sS", "-i", "-k", "--connect-to", f"::{hub.host}:{hub.port}", *more, url],
                          capture_output=True, timeout=60 * SLOW)
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode(), body


def test_source_ranges(bench, lan_hub, app, echo_server):
    web_tunnel(lan_hub, app.address, sources=["10.0.0.0/8", "127.0.0.0/8"])
    assert curl(lan_hub, f"https://{HOST}/")[0] == 200
    lan_hub.admin.patch("/api/v1/tunnels/web", {"spec": {"access": {"sources": ["10.0.0.0/8", "::/1"]}}})
    wait_until(lambda: curl(lan_hub, f"https://{HOST}/")[0] == 403, "the new list")
    tunnel = lan_hub.admin.post("/api/v1/tunnels", {"name": "tcp", "spec": {
        "target": {"network": "lan", "address": echo_server.address},
        "access": {"endpoint": {"listen": "127.0.0.1:0"}, "sources": ["192.0.2.0/24"]}}})
    at = lan_hub.wait_active(tunnel["id"])["status"]["endpoint"]["address"].rsplit(":", 1)
    with pytest.raises(ConnectionResetError), socket.create_connection((at[0], int(at[1])), 10) as sock:
        sock.settimeout(20 * SLOW)
        if not sock.recv(1):
            raise ConnectionResetError  # an end is as good
    assert echo_server.accepted == 0
    lan_hub.admin.patch("/api/v1/tunnels/tcp", {"spec": {"access": {"sources": ["127.0.0.1"]}}})

    def echoes():
        with socket.create_connection((at[0], int(at[1])), 10) as sock:
            sock.settimeout(5)
            sock.sendall(b"x")
            return sock.recv(1) == b"x"
    wait_until(echoes, "the new list")
