"""The wall clock of a process, wrong by what a test says, while it runs too (clock.c, preloaded)."""

import os

from lib.process import SANITIZE, run

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "clock.c")


def available():
    return not SANITIZE  # a preloaded library and a sanitizer's do not go together


class Clock:
    """`env`: of the processes that go by it."""

    def __init__(self, directory, seconds=0):
        library = os.path.join(directory, "clock.so")
        self.path = os.path.join(directory, f"offset{seconds}")
        if not os.path.exists(library):
            run(["cc", "-shared", "-fPIC", "-O", "-o", library, SOURCE, "-ldl"])
        self.env = {"LD_PRELOAD": library, "CLOCK_OFFSET": self.path}
        self.turn(seconds)

    def turn(self, seconds):
        with open(self.path + ".new", "w") as f:
            f.write(str(seconds))
        os.replace(self.path + ".new", self.path)
