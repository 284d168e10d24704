"""A stock gRPC client always offers ALPN "h2"; Warren's lanes have names of their own. This relays a plain
local port into a TLS connection with the wanted ALPN and client certificate, byte for byte."""

import socket
import ssl
import threading

from lib.network import inside
from lib.service import CHUNK, TcpServer


class AlpnShim(TcpServer):
    """`target`: "127.0.0.1:PORT" for grpc.insecure_channel."""

    def __init__(self, hub, alpn, certificate, key):
        self.context = ssl.create_default_context(cafile=hub.ca_path)
        self.context.set_alpn_protocols([alpn])
        self.context.load_cert_chain(certificate, key)
        self.hub = hub
        super().__init__(AlpnShim._relay)
        self.target = self.address

    def _relay(self, plain):
        with inside(self.hub.namespace):
            raw = socket.create_connection((self.hub.host, self.hub.port), 10)
        raw.settimeout(None)
        tls = self.context.wrap_socket(raw, server_hostname=self.hub.host)
        threading.Thread(target=self._copy, args=(tls, plain), daemon=True).start()
        self._copy(plain, tls)

    @staticmethod
    def _copy(source, target):
        try:
            while data := source.recv(CHUNK):
                target.sendall(data)
        except OSError:
            pass
        for sock in (source, target):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
