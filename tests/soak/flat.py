"""Memory and descriptors at the quiet points, and whether they stay flat over a process's life."""

from lib.process import SANITIZE

ENOUGH = 6          # quiet points of one process before a trend is judged
WARM_UP = 2         # quiet points that do not count: caches fill, the allocator grows
GROWTH = 0.15       # of the mean, and
GROWTH_KIB = 2048   # and more than that, from first to last
GROWTH_FILES = 12


def trend(values):
    """(mean, growth from first to last) of the straight line through the values."""
    n = len(values)
    xs = [i - (n - 1) / 2 for i in range(n)]
    mean = sum(values) / n
    slope = sum(x * (v - mean) for x, v in zip(xs, values)) / sum(x * x for x in xs)
    return mean, slope * (n - 1)


class Flat:
    def __init__(self):
        self.lives = {}  # (name, pid): [(RSS in KiB, descriptors without those of listeners)]

    def weigh(self, world):
        """Notes all processes; a text about them."""
        listeners = sum(1 for t in world.tunnels() if t["status"]["endpoint"])
        texts = []
        for name, process, known in [("hub", world.hub.process, listeners),
                                     *((f"agent {p.number}", p.agent.process, 0) for p in world.places)]:
            rss, files = process.rss_kib(), process.open_files() - known
            self.lives.setdefault((name, process.pid), []).append((rss, files))
            texts.append(f"{name} {rss / 1024:.1f} MiB {files} fd")
        return ", ".join(texts)

    def judge(self):
        """What grew."""
        bad = []
        for (name, pid), weights in self.lives.items():
            weights = weights[WARM_UP:]
            if len(weights) < ENOUGH:
                continue
            mean, growth = trend([rss for rss, _ in weights])
            text = f"{name} (pid {pid}): over {len(weights)} quiet points"
            if not SANITIZE and growth > max(GROWTH_KIB, GROWTH * mean):
                bad.append(f"{text} RSS grew by {growth:.0f} KiB; mean {mean:.0f} KiB")
            mean, growth = trend([files for _, files in weights])
            if growth > GROWTH_FILES:
                bad.append(f"{text} descriptors grew by {growth:.0f}; mean {mean:.0f}")
        return bad
