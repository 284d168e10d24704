"""A tunnel by name, requests to it, and a target that tells what it was asked."""

import hashlib
import http.server
import json
import os
import socket
import ssl
import subprocess
import threading


from lib.process import SLOW, run, wait_until
from lib.service import read_all

HOST = "device1.tunnels.example.org"


def web_tunnel(hub, target, host=HOST, name="web", protocol="http", wait=True, **access):
    body = {"name": name, "spec": {
        "target": {"network": "lan", "address": target, "protocol": protocol},
        "access": {"endpoint": {"host": host}, **access}}}
    made = hub.admin.post("/api/v1/tunnels", body)
    return hub.wait_active(made["id"]) if wait else made


def curl(hub, url, *more, seconds=60, cafile=None, check=True):
    """curl to the hub's port, whatever the host of the URL is: (status, head, body)."""
    trust = ["--cacert", cafile] if cafile else ["-k"]
    at = f"[{hub.host}]" if ":" in hub.host else hub.host
    done = subprocess.run(
        ["curl", "-sS", "-i", "--max-time", str(seconds * SLOW), *trust, "--connect-to",
         f"::{at}:{hub.port}", *more, url], capture_output=True, timeout=2 * seconds * SLOW)
    if check:
        assert done.returncode == 0, (done.returncode, done.stderr.decode())
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100") or b" 103 " in head.split(b"\r\n", 1)[0]:
        head, _, body = body.partition(b"\r\n\r\n")
    status = int(head.split()[1]) if head else 0
    return status, head.decode(errors="replace").lower(), body


def raw(hub, data, host=HOST, alpn=("http/1.1",)):
    """What the hub answers to these bytes until it closes."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(list(alpn))
    plain = socket.create_connection((hub.host, hub.port), 20 * SLOW)
    sock = context.wrap_socket(plain, server_hostname=host)
    sock.sendall(data)
    answer, end = read_all(sock)
    sock.close()
    return answer, end


class App:
    """An HTTP/1.1 server of Python's that tells what it saw."""

    def __init__(self, host="127.0.0.1"):
        app = self
        self.seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def body(self):
                if self.headers.get("Transfer-Encoding") == "chunked":
                    data = b""
                    while size := int(self.rfile.readline(), 16):
                        data += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                    return data
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def any(self):
                body = self.body()
                app.seen.append((self.command, self.path, self.headers.items(), body))
                if self.path == "/unlimited":  # until the end of the connection
                    self.send_response(200)
                    self.send_header("Connection", "close")
                    self.end_headers()
                    self.wfile.write(b"x" * 100000)
                    self.close_connection = True
                    return
                if self.path == "/events":
                    self.send_response(200)
                    self.send_header("Content-Type", "text/event-stream")
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    for i in range(3):
                        event = f"data: {i}\n\n".encode()
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
                        app.step.wait(20 * SLOW)
                        app.step.clear()
                    self.wfile.write(b"0\r\n\r\n")
                    return
                answer = json.dumps({"method": self.command, "path": self.path,
                                     "headers": self.headers.items(),
                                     "body": hashlib.sha256(body).hexdigest()}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.send_header("X-Hop", "dropped")
                self.send_header("Connection", "keep-alive, X-Hop")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer)

            do_GET = do_POST = do_PUT = do_HEAD = do_OPTIONS = do_DELETE = do_PATCH = any

        class Server(http.server.ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
            daemon_threads = True
            request_queue_size = 256

        self.step = threading.Event()
        self.server = Server((host, 0), Handler)
        port = self.server.server_address[1]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def asked(body):
    """What an App tells: (the fields by name in lower case, each a list; all of it)."""
    told = json.loads(body)
    fields = {}
    for name, value in told["headers"]:
        fields.setdefault(name.lower(), []).append(value)
    return fields, told


def certificate(directory, name, names, days=30, ca=None):
    """A CA (once) and a certificate of it: NAME.crt, NAME.key, and the CA's ca.crt."""
    at = lambda file: os.path.join(directory, file)  # noqa: E731
    if not os.path.exists(at("ca.crt")):
        run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", at("ca.key"), "-out", at("ca.crt"),
             "-subj", "/CN=test", "-days", "30"])
    run(["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", at(f"{name}.key"),
         "-out", at("csr"), "-subj", f"/CN={names[0]}"])
    with open(at("ext"), "w") as f:
        f.write("subjectAltName=" + ",".join(f"DNS:{n}" for n in names))
    run(["openssl", "x509", "-req", "-in", at("csr"), "-CA", at("ca.crt"), "-CAkey", at("ca.key"), "-out",
         at(f"{name}.crt"), "-days", days, "-extfile", at("ext")])
    return at("ca.crt")


def nginx_tls(bench, directory, name):
    """An nginx that speaks TLS itself: its address."""
    nginx = bench.nginx()
    nginx.process.stop()
    folder = os.path.dirname(nginx.root)
    conf = os.path.join(folder, "nginx.conf")
    with open(conf) as f:
        text = f.read()
    text = text.replace(f"listen {nginx.address}", f"listen {nginx.address} ssl")
    text = text.replace("location / {", f"ssl_certificate {directory}/{name}.crt; ssl_certificate_key {directory}/{name}.key;"
                        " location / { default_type text/plain; return 200 'hello of $host $scheme\\n'; ")
    with open(conf, "w") as f:
        f.write(text)
    nginx.process.start()
    wait_until(lambda: socket.create_connection(("127.0.0.1", nginx.port), 1).close() or True, "nginx")
    return nginx.address
