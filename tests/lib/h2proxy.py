"""A client of a proxy over HTTP/2 by a stock library (python3-h2)."""

import base64
import time

import h2.config
import h2.connection
import h2.events
import h2.settings

from lib.process import SLOW
from lib.warren import tls_socket


class Stream:
    def __init__(self, proxy, number):
        self.proxy = proxy
        self.number = number
        self.headers = {}
        self.data = b""
        self.end = None  # "eof" or "reset"
        self.stalled = False

    @property
    def status(self):
        return int(self.headers[":status"])

    def opened(self, seconds=20):
        self.proxy.pump(lambda: self.headers or self.end, seconds)
        assert self.headers, f"no answer: {self.end}"
        return self

    def send(self, data, end=False, seconds=20):
        """All of it, as far as the windows let it through in time; returns what was left."""
        deadline = time.monotonic() + seconds * SLOW
        while data and time.monotonic() < deadline and not self.end == "reset":
            room = min(self.proxy.h2.local_flow_control_window(self.number),
                       self.proxy.h2.max_outbound_frame_size)
            if room <= 0:
                self.proxy.pump(lambda: True, 0.2)
                continue
            self.proxy.h2.send_data(self.number, data[:room])
            data = data[room:]
            self.proxy.flush()
            self.proxy.pump(lambda: True, 0)
        if end and not data:
            self.proxy.h2.end_stream(self.number)
            self.proxy.flush()
        return data

    def receive(self, length, seconds=20):
        self.proxy.pump(lambda: len(self.data) >= length or self.end, seconds)
        got, self.data = self.data[:length], self.data[length:]
        return got

    def read_all(self, seconds=20):
        self.proxy.pump(lambda: self.end, seconds)
        return self.data, self.end

    def reset(self):
        self.proxy.h2.reset_stream(self.number, 8)
        self.proxy.flush()


class H2Proxy:
    """One connection to the hub; streams are Stream objects."""

    def __init__(self, hub, user, alpn="h2", window=1 << 20):
        self.sock = tls_socket(hub, [alpn])
        assert self.sock.selected_alpn_protocol() == alpn
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8",
                                           validate_outbound_headers=False))
        self.h2.initiate_connection()
        self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.h2.increment_flow_control_window(window)
        self.authorization = "Basic " + base64.b64encode(user.encode()).decode() if user else None
        self.streams = {}
        self.is_closed = False
        self.goaway = False
        self.flush()

    def flush(self):
        data = self.h2.data_to_send()
        if data:
            self.sock.settimeout(20 * SLOW)
            self.sock.sendall(data)

    def request(self, *headers, end=True):
        number = self.h2.get_next_available_stream_id()
        if self.authorization:
            headers += (("proxy-authorization", self.authorization),)
        self.h2.send_headers(number, headers, end_stream=end)
        self.flush()
        stream = self.streams[number] = Stream(self, number)
        return stream

    def connect(self, target, *headers):
        return self.request((":method", "CONNECT"), (":authority", target), *headers, end=False)

    def connect_as_a_mount(self, target):
        """By a tunnel to the whole network."""
        return self.connect(target, ("warren-scope", "network"))

    def pump(self, until, seconds=20):
        """Handles what arrives until the condition holds or nothing came in time."""
        deadline = time.monotonic() + seconds * SLOW
        while True:
            self.sock.settimeout(0.01)
            try:
                data = self.sock.recv(1 << 16)
                if not data:
                    self._closed()
                    return
                for event in self.h2.receive_data(data):
                    self._handle(event)
                self.flush()
                continue
            except TimeoutError:
                pass
            except OSError:
                self._closed()
                return
            if until() or time.monotonic() > deadline:
                return

    def _closed(self):
        self.is_closed = True
        for stream in self.streams.values():
            stream.end = stream.end or "reset"

    def _handle(self, event):
        stream = self.streams.get(getattr(event, "stream_id", None))
        if isinstance(event, h2.events.ResponseReceived):
            stream.headers = dict(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            stream.data += event.data
            if not stream.stalled:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            stream.end = "eof"
        elif isinstance(event, h2.events.StreamReset):
            stream.end = "reset"
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = True
            # this library takes it for the end of everything; open streams go on
            self.h2.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN

    def close(self):
        self.sock.close()
