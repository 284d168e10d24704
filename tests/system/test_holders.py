"""The checkers of the fault tests themselves: histories that they must refuse, and such that they must not."""

from lib.holders import Served, Target, ask, epochs_taken_twice, leases_taken, turns, two_at_once
from lib.ledger import Entry, wrongly_lost
from lib.process import wait_until
from lib.service import connect


def history(*served):
    return [Served(*s.split("@")) for s in served]


def test_holders_that_follow_each_other_are_right():
    seen = history("a@h1", "a@h2", "b@h2", "b@h1", "c@h1")
    assert two_at_once(seen) == []
    assert turns(seen) == ["a", "b", "c"]
    assert two_at_once([]) == []


def test_two_that_serve_at_once_at_two_hubs_are_found():
    found = two_at_once(history("a@h1", "b@h2", "a@h1", "b@h2"))
    assert len(found) == 1 and "stream 2, by h1: a serves, which b had replaced" in found[0]


def test_a_single_stream_of_a_hub_that_woke_late_is_found():
    assert two_at_once(history(*["a@h1"] * 50, *["b@h2"] * 50, "a@h1", *["b@h2"] * 50))


def test_a_replaced_holder_is_found_when_yet_another_serves():
    assert two_at_once(history("a@h1", "b@h2", "c@h3", "a@h1"))
    assert two_at_once(history("a@h1", "b@h2", "c@h3", "b@h2"))


def test_an_epoch_has_one_owner_only():
    assert epochs_taken_twice({"a": [("t", 1), ("u", 1)], "b": [("t", 2), ("u", 3)]}) == []
    assert epochs_taken_twice({"a": [("t", 1), ("t", 2)], "b": [("t", 2)]}) == ["epoch 2 of t: a and b"]
    assert epochs_taken_twice({"a": [("t", 1), ("t", 1)]}) == ["epoch 1 of t: a and a"]


def test_an_agents_log_is_read():
    log = ("2026-11-21T20:00:00.000Z INFO  lease taken tunnel=tun_1 epoch=7\n"
           "2026-11-21T20:00:01.000Z INFO  lease ended tunnel=tun_1 epoch=7 why=x streams=0\n"
           "2026-11-21T20:00:02.000Z INFO  lease taken tunnel=tun_2 epoch=1048577\n")
    assert leases_taken(log) == [("tun_1", 7), ("tun_2", 1048577)]


def test_what_was_acknowledged_and_is_gone_is_found():
    entries = [Entry("t1", 1.0, 1.5), Entry("t2", 2.0, 2.5)]
    assert wrongly_lost(entries, {"t1", "t2", "t3"}) == []
    assert wrongly_lost(entries, {"t1"}) == [entries[1]]


def test_a_fail_over_may_lose_what_was_acknowledged_behind_the_replicas_back_only():
    before, during, across, after = entries = [
        Entry("before", 1, 2), Entry("during", 4, 5), Entry("across", 8, 10.5), Entry("after", 11, 12)]
    window = (3, 10)  # since the replica was cut, until it was promoted
    assert wrongly_lost(entries, {"before", "across", "after"}, window) == []
    assert wrongly_lost(entries, {"before", "during", "across", "after"}, window) == []
    assert wrongly_lost(entries, set(), window) == [before, across, after]
    assert wrongly_lost([during], set()) == [during]


def test_the_target_keeps_the_order_in_which_agents_connected(bench):
    """Not that of what was said, and nothing of who says nothing."""
    target = bench.keep(Target())
    with connect(target.address) as late, connect(target.address):
        assert ask(target.address, "h2") == "127.0.0.1"
        late.sendall(b"h1\n")
        wait_until(lambda: len(target.history) == 2, "both to be kept")
    assert target.history == [Served("127.0.0.1", "h1"), Served("127.0.0.1", "h2")]
