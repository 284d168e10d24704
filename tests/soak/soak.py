#!/usr/bin/python3
"""`make soak`: random tunnels, clients and faults, with quiet points at which everything must agree.

    tests/soak/soak.py --seconds 3600 --seed 7

See tests/soak/README.md. Needs root, for network namespaces. The programs come from WARREN_BUILD.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from lib import network  # noqa: E402
from lib.process import SANITIZE, wait_until  # noqa: E402

import check  # noqa: E402
from flat import Flat  # noqa: E402
from traffic import Traffic  # noqa: E402
from world import World  # noqa: E402

STORM_SECONDS = 12
STEPS_A_SECOND = 2.5
TELL_SECONDS = 15
# Of 10 rounds, in so many hub and first agent may be killed; in the others they age, and are weighed.
ROUNDS, DEADLY_ROUNDS = 10, 3


class Soak:
    def __init__(self, options, directory):
        self.o, self.directory = options, directory
        self.began = time.monotonic()
        self.world = World(directory, random.Random(options.seed), self.say)
        self.traffic, self.addresses, self.looked = None, [], 0.0
        self.flat, self.log_offsets, self.problems = Flat(), {}, []

    def say(self, text):
        print(f"{time.monotonic() - self.began:8.2f} {text}", flush=True)

    def note_addresses(self):
        """Where clients find tunnels; read anew now and then, as they would."""
        if time.monotonic() - self.looked < 0.5 or self.world.hub_busy:
            return
        self.looked = time.monotonic()
        try:
            self.addresses = [(t["spec"]["target"]["protocol"], t["status"]["endpoint"]["address"])
                              for t in self.world.tunnels() if t["status"]["endpoint"]]
        except OSError:
            pass

    def storm(self):
        rng, until = self.world.rng, time.monotonic() + STORM_SECONDS
        while time.monotonic() < until:
            self.world.step()
            self.note_addresses()
            time.sleep(rng.expovariate(STEPS_A_SECOND))

    def settled(self):
        """A picture without differences; what differed longest is told, if it took long."""
        last, began = None, time.monotonic()

        def look():
            nonlocal last
            before, last = last, check.Picture(self.world)
            if not last.differences and before and time.monotonic() - began > TELL_SECONDS:
                self.say(f"settled last: {'; '.join(before.differences)}")
            return not last.differences
        try:
            wait_until(look, "the fleet to settle", check.SETTLE_SECONDS, every=0.3)
        except AssertionError as error:
            self.problems += [str(error), *(last.differences if last else [])]
        return last

    def quiet(self):
        began = time.monotonic()
        self.traffic.rest()
        self.world.heal()
        picture = self.settled()
        took = time.monotonic() - began
        self.problems += self.traffic.wrong
        self.probe(picture)
        self.read_logs()
        weights = self.flat.weigh(self.world)
        self.say(f"quiet after {took:.1f} s: {len(picture.tunnels)} tunnels, exchanges "
                 f"{self.traffic.ok} done and {self.traffic.failed} cut so far; {weights}")

    def probe(self, picture):
        active = [t for t in picture.tunnels.values() if t["status"]["phase"] == "active"]
        wrong = [check.probe(self.world, t) for t in active if not t["spec"]["ttl"]]

        def miscounted():
            after = {t["id"]: t for t in self.world.tunnels()}
            return [bad for t in active if not t["spec"]["ttl"]
                    if (bad := check.counted(t, after[t["id"]]))]
        try:
            wait_until(lambda: not miscounted(), "the counters to tell of the probes")
        except AssertionError:
            wrong += miscounted()
        self.problems += [bad for bad in wrong if bad]

    def read_logs(self):
        processes = [self.world.hub.process, *(a.process for a in self.world.hub.agents)]
        for process in processes:
            path = process.log_path
            bad, self.log_offsets[path] = check.log_complaints(process, self.log_offsets.get(path, 0))
            self.problems += [f"{path}: {line}" for line in bad]

    def run(self):
        self.world.start()
        self.traffic = Traffic(self.world.host.name, lambda: self.addresses,
                               lambda: self.world.hub_deaths, self.o.seed)
        rounds = 0
        while time.monotonic() - self.began < self.o.seconds and not self.problems:
            self.world.is_deadly = rounds % ROUNDS < DEADLY_ROUNDS
            self.traffic.resume()
            self.storm()
            self.quiet()
            rounds += 1
        self.traffic.stop()
        self.problems += self.flat.judge()
        self.say(f"{rounds} rounds; {', '.join(f'{n} {c}' for n, c in sorted(self.world.counts.items()))}")

    def close(self):
        if self.traffic:
            self.traffic.stop()
        self.world.close()


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--seconds", type=float, default=90)
    p.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    p.add_argument("--keep", action="store_true", help="keep the directory, also of a good run")
    o = p.parse_args()
    if not network.available():
        p.exit(2, "soak: needs root, for network namespaces\n")
    directory = tempfile.mkdtemp(prefix="warren-soak-")
    print(f"soak: seed {o.seed}, {o.seconds:g} s, sanitizers {SANITIZE or 'none'}, in {directory}",
          flush=True)
    soak = Soak(o, directory)
    try:
        soak.run()
    finally:
        soak.close()
    if soak.problems:
        print(f"soak: FAILED with seed {o.seed}; logs in {directory}")
        print(*soak.problems, sep="\n")
        return 1
    if not o.keep:
        shutil.rmtree(directory)
    print("soak: passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
