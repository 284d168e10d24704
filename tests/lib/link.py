"""A wire between two hosts with delay, loss, rate and a bounded queue: `linkem` beside its settings.

    link = Link(a, ["10.9.0.1/24"], b, ["10.9.0.2/24"], delay_ms=25, rate_mbit=200, loss=0.005)
    link.set("ab", loss=0.1)        # from a to b only
    link.cut(); link.restore()

Each way has its own settings: `delay_ms` (one way), `loss` (0 to 1, single packets, drawn from `seed`),
`rate_mbit` (with the 38 bytes of Ethernet around a packet), `queue_ms` and `queue_kib` (what may wait for
its turn before the tail is dropped). MTU 1500. Accurate to about a tenth of a millisecond.
"""

import json
import os
import subprocess

DEFAULTS = {"delay_ms": 0, "loss": 0, "rate_mbit": 0, "queue_ms": 100, "queue_kib": 0, "up": 1}
_REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def linkem_path():
    build = os.environ.get("WARREN_BUILD", "build")
    return os.path.join(_REPOSITORY, build, "tests/lib/linkem")


class Link:
    """`a`, `b`: lib.network.Host. Each gets a device named `device` with its addresses ("IP/LEN")."""

    def __init__(self, a, a_addresses, b, b_addresses, device="wan", seed=1, program=None, **settings):
        self.linkem = subprocess.Popen([program or linkem_path(), a.name, device, b.name, device],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        bufsize=1)
        if self.linkem.stdout.readline() != "ready\n":
            raise RuntimeError("linkem does not run")
        self.set(seed=seed)
        self.set("ba", seed=seed + 1)
        self.set(**{**DEFAULTS, **settings})
        a.plug(device, a_addresses)
        b.plug(device, b_addresses)

    def _say(self, line):
        self.linkem.stdin.write(line + "\n")
        return self.linkem.stdout.readline().strip()

    def set(self, way="both", **settings):
        """`way`: "ab", "ba" or "both"; what is not named stays."""
        words = " ".join(f"{name}={value}" for name, value in settings.items())
        answer = self._say(f"{way} {words}")
        if answer != "ok":
            raise ValueError(f"{way} {words}: {answer}")

    def cut(self, way="both"):
        """Silence: packets vanish, those on their way too."""
        self.set(way, up=0)

    def restore(self, way="both"):
        self.set(way, up=1)

    def stats(self):
        """{"ab": {packets, bytes, lost, dropped, cut, waiting}, "ba": …}; all but the last since the
        start."""
        return json.loads(self._say("stats"))

    def close(self):
        self.linkem.stdin.close()
        self.linkem.wait(10)
        self.linkem.stdout.close()
