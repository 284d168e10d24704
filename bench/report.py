"""What the numbers mean: the rows of the tables, the targets of the project, and their printing.

Samples are {row: {peer: [one value a round]}}. A ratio is made within each round and then the median
is taken, because a shared machine drifts from round to round.
"""

from statistics import median

import hop
import mount
from wan import GRID, grid_row

DIRECT, COPY, WARREN, SSH, HAPROXY = ("direct", "plain copy", "warren", "ssh -R aes128-gcm",
                                      "haproxy TLS pair")

# (key, heading, unit)
ROWS = [
    ("bulk1_to", "1 stream, to agent", "Gbit/s"),
    ("bulk1_from", "1 stream, from agent", "Gbit/s"),
    ("bulk8_to", "8 streams, to agent", "Gbit/s"),
    ("bulk8_from", "8 streams, from agent", "Gbit/s"),
    ("cpu1_to", "CPU of both ends, 1 stream, to agent", "s/GiB"),
    ("cpu1_from", "CPU of both ends, 1 stream, from agent", "s/GiB"),
    ("cpu8_to", "CPU of both ends, 8 streams, to agent", "s/GiB"),
    ("cpu8_from", "CPU of both ends, 8 streams, from agent", "s/GiB"),
    ("rr1_p50", "1-byte round trip, 1 at a time, p50", "us"),
    ("rr1_p99", "p99", "us"),
    ("rr1_cpu", "CPU of both ends for one", "us"),
    ("rr1_awake_p50", "the same while no core sleeps, p50", "us"),
    ("rr64_rate", "64 at a time, rate", "1/s"),
    ("rr64_p50", "p50", "us"),
    ("rr64_p99", "p99", "us"),
    ("rr64_cpu", "CPU of both ends for one", "us"),
    ("beside_to_p50", "round trip beside a bulk stream to the agent, p50", "us"),
    ("beside_to_p99", "p99", "us"),
    ("beside_to_bulk", "that bulk stream", "Gbit/s"),
    ("beside_from_p50", "round trip beside a bulk stream from the agent, p50", "us"),
    ("beside_from_p99", "p99", "us"),
    ("beside_from_bulk", "that bulk stream", "Gbit/s"),
    ("conn16_rate", "new connections, 16 at a time", "1/s"),
    ("conn16_p99", "p99", "us"),
    ("conn1_rate", "new connections, 1 at a time", "1/s"),
    ("conn_cpu", "CPU of both ends for a new connection", "us"),
    ("udp_p50", "datagram round trip, 1 at a time, p50", "us"),
    ("udp_p99", "p99", "us"),
    ("udp64_rate", "64 flows, round trips", "1/s"),
    ("udp_flood", "datagrams of 1,200 bytes that arrive, 16 flows to agent", "1/s"),
    ("wan50_bulk_to", "50 ms, 200 Mbit/s: 1 stream, to agent", "Mbit/s"),
    ("wan50_bulk_from", "1 stream, from agent", "Mbit/s"),
    ("wan50_loss_to", "with 0.5 % loss, to agent", "Mbit/s"),
    ("wan50_loss_from", "with 0.5 % loss, from agent", "Mbit/s"),
    ("wan50_beside_p50", "1-byte round trip beside a bulk stream, p50", "ms"),
    ("wan50_beside_p99", "p99", "ms"),
    ("wan50_beside_bulk", "that bulk stream", "Mbit/s"),
    ("wan50_udp_p50", "datagram round trip, p50", "ms"),
    ("wan50_udp_beside_p50", "datagram round trip beside a bulk stream, p50", "ms"),
    ("wan50_udp_beside_p99", "p99", "ms"),
    ("wan50_udp_beside_bulk", "that bulk stream", "Mbit/s"),
    ("wan50_first", "50 ms: answer on a new connection", "round trips"),
    ("wan100_lossy_bulk", "100 ms, 1 % loss, any rate: 32 streams, from agent", "Mbit/s"),
    ("wan100_lossy_p50", "1-byte round trip beside them, p50", "ms"),
    ("wan100_lossy_p99", "p99", "ms"),
    *[(grid_row(ms, loss, streams), f"{ms} ms, 200 Mbit/s, {loss * 100:g} % loss: {streams} streams".replace(
        " 1 streams", " 1 stream"), "Mbit/s") for ms, loss, streams in GRID],
    ("wan100_gbit", "100 ms, 1 Gbit/s: 1 stream", "Mbit/s"),
    ("loss_based_1", "50 ms, 200 Mbit/s, 0.5 % loss, loss-based congestion control: 1 stream", "Mbit/s"),
    ("loss_based_32", "32 streams", "Mbit/s"),
    ("stall_to_1", "7 streams to agent beside 1 stalled, of their speed alone", "ratio"),
    ("stall_from_1", "7 streams from agent beside 1 stalled, of their speed alone", "ratio"),
    ("stall_to_16", "the same beside 16 stalled, to agent", "ratio"),
    ("stall_from_16", "the same beside 16 stalled, from agent", "ratio"),
    ("stall_memory_1", "memory for 1 stalled stream, either end", "KiB"),
    ("stall_memory_16", "memory for 16 stalled streams, either end", "KiB"),
    ("hub_rss", "RSS at rest, hub", "MiB"),
    ("agent_rss", "RSS at rest, agent", "MiB"),
    ("idle1k_hub", "1,000 idle streams, a stream at the hub", "KiB PSS"),
    ("idle1k_agent", "1,000 idle streams, a stream at the agent", "KiB PSS"),
    ("idle10k_hub", "10,000 idle streams, a stream at the hub", "KiB PSS"),
    ("idle10k_agent", "10,000 idle streams, a stream at the agent", "KiB PSS"),
    ("swarm_hub", "an idle agent of 2,000 at the hub", "KiB PSS"),
    ("swarm_cpu", "CPU of the hub to take one in (dial, log in)", "ms"),
    ("swarm_idle", "CPU of the hub, all idle", "% of a core"),
    ("errors", "failed streams and exchanges, all rounds", ""),
]


def versus(row, peer, ours=WARREN):
    """Ratio to a peer in the same round."""
    def values(samples):
        return [w / p for w, p in zip(samples.get(row, {}).get(ours, []),
                                      samples.get(row, {}).get(peer, [])) if p]
    return values


def own(row, ours=WARREN):
    return lambda samples: samples.get(row, {}).get(ours, [])


def added(row, before, after):
    """What `after` has more than `before` in the same round."""
    def values(samples):
        return [b - a for a, b in zip(samples.get(row, {}).get(before, []),
                                      samples.get(row, {}).get(after, []))]
    return values


def quotients(over, under):
    return lambda samples: [a / b for a, b in zip(over(samples), under(samples)) if b > 0]


def hop_targets():
    """Each with a twin, for a machine where one more process costs more even if it only copies bytes."""
    for n, d in hop.BULK:
        row, text = f"hop_bulk{n}_{d}", f"{n} stream{'s' * (n > 1)}, {d} agent"
        yield f"other hub / same hub: {text}", versus(row, hop.SAME, hop.OTHER), ">=", 0.7
        ours, floor = versus(row, hop.SAME, hop.HOP), versus(row, hop.TWO_TLS, hop.THREE_TLS)
        yield f"one hop / same hub, of what a third TLS copy leaves: {text}", quotients(ours, floor), ">=", 0.9
    for row, text in ("hop_rr1_p50", "round trip p50"), ("hop_rr1_awake_p50", "p50 while no core sleeps"):
        yield f"an other hub adds to {text}, us", added(row, hop.SAME, hop.OTHER), "<=", 25
        ours, floor = added(row, hop.SAME, hop.HOP), added(row, hop.TWO, hop.THREE)
        yield f"one hop adds to {text}, of what a third plain copy adds", quotients(ours, floor), "<=", 1.25
    for peer in hop.OTHER, hop.HOP:
        yield f"{peer}: failed streams and exchanges", own("hop_errors", peer), "<=", 0


def mount_targets():
    bulk = [(f"mount_bulk{n}_{d}", f"{n} stream{'s' * (n > 1)} {d} the target")
            for n in (1, 8) for d in ("to", "from")]
    for peer, bound in (mount.PASTA, 1), (mount.SLIRP, 2):
        yield from ((f"mount leg, {text} / {peer}", versus(row, peer, mount.LEG), ">=", bound)
                    for row, text in bulk)
    for row, text in bulk:
        yield f"mount, whole path, {text}, Gbit/s", own(row, mount.WHOLE), ">=", 8
        # For a machine of another speed: 8 Gbit/s beside the 41 that pasta had where that was set.
        yield f"mount, whole path, {text} / pasta", versus(row, mount.PASTA, mount.WHOLE), ">=", 0.2
        for peer in mount.WIREGUARD, mount.NEBULA:
            yield f"mount, whole path, {text} / {peer}", versus(row, peer, mount.WHOLE), ">=", 4
    for ours in mount.LEG, mount.WHOLE:
        yield f"{ours}: new connections a second", own("mount_conn16_rate", ours), ">=", 10_000
        yield f"{ours}: scan probes a second", own("mount_scan_rate", ours), ">=", 40_000
    for row, rtt_ms in ("mount_walk", mount.WALK_RTT_MS), ("mount_walk_far", mount.WALK_FAR_RTT_MS):
        yield f"SNMP walk through {rtt_ms} ms / on the LAN", versus(row, mount.NATIVE, mount.WHOLE), "<=", 2
    yield "10,000 idle flows of a mount, MiB", own("mount_idle", mount.WHOLE), "<=", 10
    for ours in mount.LEG, mount.WHOLE:
        yield f"{ours}: failed streams and exchanges", own("mount_errors", ours), "<=", 0


# (text, how it is computed, ">=" or "<=", bound)
TARGETS = [
    ("bulk, 1 stream to agent / haproxy pair", versus("bulk1_to", HAPROXY), ">=", 1.25),
    ("bulk, 1 stream from agent / haproxy pair", versus("bulk1_from", HAPROXY), ">=", 1.25),
    ("bulk, 1 stream to agent / ssh", versus("bulk1_to", SSH), ">=", 0.95),
    ("bulk, 1 stream from agent / ssh", versus("bulk1_from", SSH), ">=", 0.95),
    ("bulk, 8 streams to agent / ssh", versus("bulk8_to", SSH), ">=", 1.1),
    ("bulk, 8 streams from agent / ssh", versus("bulk8_from", SSH), ">=", 1.1),
    ("CPU s/GiB, 1 stream to agent", own("cpu1_to"), "<=", 0.85),
    ("CPU s/GiB, 1 stream from agent", own("cpu1_from"), "<=", 0.85),
    # The same two bounds for a machine of another speed: 0.85 beside the 0.75 s/GiB that ssh took
    # where the bound was set, and 200 beside its 168 us.
    ("CPU s/GiB, 1 stream to agent / ssh", versus("cpu1_to", SSH), "<=", 1.13),
    ("CPU s/GiB, 1 stream from agent / ssh", versus("cpu1_from", SSH), "<=", 1.13),
    ("round trip p50 / ssh", versus("rr1_p50", SSH), "<=", 0.85),
    ("round trip p50 while no core sleeps / ssh", versus("rr1_awake_p50", SSH), "<=", 0.85),
    ("round trip p50 / plain copy", versus("rr1_p50", COPY), "<=", 1.1),
    ("round trip p50 while no core sleeps / plain copy", versus("rr1_awake_p50", COPY), "<=", 1.1),
    ("64 round trips at a time, rate / ssh", versus("rr64_rate", SSH), ">=", 2),
    ("new connections a second / ssh", versus("conn16_rate", SSH), ">=", 1.3),
    ("round trip p50 beside bulk to agent / ssh", versus("beside_to_p50", SSH), "<=", 1.19),
    ("round trip p50 beside bulk from agent / ssh", versus("beside_from_p50", SSH), "<=", 1.19),
    ("round trip p50 beside bulk to agent, us", own("beside_to_p50"), "<=", 200),
    ("round trip p50 beside bulk from agent, us", own("beside_from_p50"), "<=", 200),
    ("idle stream at the hub, KiB (1,000)", own("idle1k_hub"), "<=", 1),
    ("idle stream at the agent, KiB (1,000)", own("idle1k_agent"), "<=", 1),
    ("idle stream at the hub, KiB (10,000)", own("idle10k_hub"), "<=", 1),
    ("idle stream at the agent, KiB (10,000)", own("idle10k_agent"), "<=", 1),
    ("idle agent at the hub, KiB", own("swarm_hub"), "<=", 40),
    ("idle agent process, MiB RSS", own("agent_rss"), "<=", 8),
    ("others' speed beside 1 stalled reader, to agent", own("stall_to_1"), ">=", 0.85),
    ("others' speed beside 1 stalled reader, from agent", own("stall_from_1"), ">=", 0.85),
    ("memory for 1 stalled reader, KiB (its window: 1 MiB)", own("stall_memory_1"), "<=", 1024),
    ("50 ms, 200 Mbit/s: bulk to agent / direct", versus("wan50_bulk_to", DIRECT), ">=", 0.95),
    ("50 ms, 200 Mbit/s: bulk from agent / direct", versus("wan50_bulk_from", DIRECT), ">=", 0.95),
    ("with 0.5 % loss: bulk to agent / direct", versus("wan50_loss_to", DIRECT), ">=", 0.95),
    ("with 0.5 % loss: bulk from agent / direct", versus("wan50_loss_from", DIRECT), ">=", 0.95),
    ("50 ms: 1-byte p50 beside bulk, ms", own("wan50_beside_p50"), "<=", 60),
    ("50 ms: 1-byte p50 beside bulk / direct", versus("wan50_beside_p50", DIRECT), "<=", 1.15),
    ("50 ms: that bulk stream / direct", versus("wan50_beside_bulk", DIRECT), ">=", 0.9),
    ("50 ms: datagram p50 beside bulk / direct", versus("wan50_udp_beside_p50", DIRECT), "<=", 1.15),
    ("50 ms: answer on a new connection, round trips", own("wan50_first"), "<=", 1.2),
    ("100 ms, 1 % loss: 32 streams / direct", versus("wan100_lossy_bulk", DIRECT), ">=", 0.9),
    ("100 ms, 1 % loss: 1-byte p99 beside them, ms", own("wan100_lossy_p99"), "<=", 300),
    ("100 ms, 1 % loss: 1-byte p99 beside them / direct", versus("wan100_lossy_p99", DIRECT), "<=", 1),
    ("failed streams and exchanges", own("errors"), "<=", 0),
    *mount_targets(),
    *hop_targets(),
]


def judge(samples):
    """[{target, bound, median, min, max, verdict}] with verdict PASS, MISS or "not measured"."""
    result = []
    for text, compute, sense, bound in TARGETS:
        values = compute(samples)
        row = {"target": text, "bound": f"{sense} {bound:g}", "verdict": "not measured"}
        if values:
            m = median(values)
            passed = m >= bound if sense == ">=" else m <= bound
            row.update(median=round(m, 3), min=round(min(values), 3), max=round(max(values), 3),
                       verdict="PASS" if passed else "MISS")
        result.append(row)
    return result


def number(x):
    if abs(x) >= 1000:
        return f"{x:,.0f}"
    return f"{x:.3g}"


def spread(values):
    if not values:
        return "-"
    if len(values) == 1 or min(values) == max(values):
        return number(values[0])
    return f"{number(median(values))} ({number(min(values))}-{number(max(values))})"


def print_table(heads, rows):
    widths = [max(len(r[i]) for r in [heads] + rows) for i in range(len(heads))]
    line = lambda cells: "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths)) + " |"
    print(line(heads))
    print("|" + "|".join("-" * (w + 2) for w in widths) + "|")
    for row in rows:
        print(line(row))
    print()


def print_samples(heading, table, samples, peers):
    rows = [[text + (f", {unit}" if unit else "")] +
            [spread(samples.get(key, {}).get(peer, [])) for peer in peers]
            for key, text, unit in table if key in samples]
    if rows:
        print(f"\n## {heading}\n")
        print_table([""] + peers, rows)


def print_report(samples, peers, notes):
    print_samples("Measured: median (min-max) of the rounds", ROWS, samples, peers)
    measured = {peer for row in samples.values() for peer in row}
    print_samples("A mount and other ways for a program into a network", mount.ROWS, samples,
                  [peer for peer in mount.PEERS if peer in measured])
    print_samples("Client and agent at different hubs, or at one", hop.ROWS, samples,
                  [peer for peer in hop.PEERS if peer in measured])
    if measured & {WARREN, mount.LEG, mount.WHOLE, hop.HOP}:
        judged = judge(samples)
        print("## Targets: ratios are made within each round\n")
        print_table(["", "target", "measured", "verdict"],
                    [[t["target"], t["bound"],
                      f"{t['median']:g} ({t['min']:g}-{t['max']:g})",
                      t["verdict"]] for t in judged if "median" in t])
        unmeasured = sum("median" not in t for t in judged)
        notes = notes + ([f"{unmeasured} targets were not measured"] if unmeasured else [])
    for note in notes:
        print(f"- {note}")
