"""`warren forward` and `warren proxy` as processes of a test."""

import json
import os
import re

from lib.process import Process, wait_until
from lib.warren import program


class Local:
    """A door of this machine. `addresses`: where it listens, in the order of the arguments."""

    def __init__(self, hub, directory, *words, token_path=None):
        self.directory = directory
        os.makedirs(directory, exist_ok=True)
        self.process = Process([program("warren"), *words, "-o", "json"],
                               os.path.join(directory, "local.log"),
                               env=hub.environment(token_path)).start()

    def events(self, kind):
        return [json.loads(line) for line in self.process.log().splitlines()
                if line.startswith('{"event":"%s"' % kind)]

    @property
    def addresses(self):
        return [event["address"] for event in self.events("listening")]

    def ready(self, doors=1):
        wait_until(lambda: len(self.addresses) == doors and self.events("hub"), "the doors to open")
        assert self.events("hub")[-1]["state"] == "up", self.process.log()
        return self

    @property
    def address(self):
        return self.addresses[0]

    def notes(self):
        return re.findall(r"^warren: (.*)$", self.process.log(), re.M)

    def close(self):
        assert self.process.stop() == 0, self.process.log()


def forward(bench, hub, *words, **kwargs):
    path = os.path.join(bench.directory, f"local{len(bench.started)}")
    door = bench.keep(Local(hub, path, "forward", "lan", *words, **kwargs))
    return door.ready(sum(word[0].isdigit() for word in words if ":" in word[1:]))


def proxy(bench, hub, *words, **kwargs):
    path = os.path.join(bench.directory, f"local{len(bench.started)}")
    return bench.keep(Local(hub, path, "proxy", "lan", "--listen", "127.0.0.1:0", *words,
                            **kwargs)).ready()
