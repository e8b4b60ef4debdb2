"""Which pings are sent, and whom failed ones are ascribed to."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymotor.ascend.netcheck.findings import Finding, Verdict
from pymotor.ascend.netcheck.judge_pings import judge_pings
from pymotor.ascend.netcheck.pairs import Peer, PingMode, choose_pairs
from pymotor.ascend.netcheck.readings import DeviceReadings, NodeReadings, Outcome, PingReading

PASSED = Outcome("3 packets transmitted, 3 received, 0.00% packet loss\n", 0)
LOST = Outcome("recv time out seq=0\n3 packets transmitted, 0 received, 100.00% packet loss\n", 0)
Way = tuple[tuple[str, int], tuple[str, int]]


def pinged(mode: PingMode, sizes: dict[str, int], broken: set[tuple[str, int]], ways: set[Way]) -> list[NodeReadings]:
    """All nodes' readings where the devices `broken` and the ways `ways` pass nothing."""
    fleet = {name: [Peer(name, number, f"{name}.{number}") for number in range(size)] for name, size in sizes.items()}
    nodes = []
    for name, own in fleet.items():
        pings = []
        for device, peer in choose_pairs(mode, name, [it.device or 0 for it in own], fleet):
            ends = ((name, device), (peer.node, peer.device or 0))
            lost = ends in ways or bool(broken & set(ends))
            pings.append(PingReading(device, peer.node, peer.device, peer.address, LOST if lost else PASSED))
        devices = tuple(DeviceReadings(it.device or 0, {}) for it in own)
        nodes.append(NodeReadings(name, devices=devices, pings=tuple(pings)))
    return nodes


def failed(nodes: list[NodeReadings]) -> list[Finding]:
    return [finding for finding in judge_pings(nodes, set()).findings if finding.verdict is Verdict.FAILED]


def names(sizes: list[int]) -> dict[str, int]:
    return {f"n{number}": size for number, size in enumerate(sizes)}


@given(st.lists(st.integers(1, 16), min_size=2, max_size=6))
def test_a_sample_reaches_every_device_and_grows_with_their_number_only(sizes: list[int]) -> None:
    nodes = pinged("sample", names(sizes), set(), set())
    reached = Counter((ping.to_node, ping.to_device) for node in nodes for ping in node.pings)
    for name, size in names(sizes).items():
        # By two, so that a device that nobody reaches can be told from one that does not reach it.
        least = 2 if len(set(sizes)) == 1 and size > 1 else 1
        assert all(reached[name, device] >= least for device in range(size))
    assert sum(reached.values()) <= 3 * sum(sizes) + 2 * sum(sizes)
    assert nodes == pinged("sample", names(sizes), set(), set())


def test_all_pairs_are_of_different_nodes() -> None:
    nodes = pinged("all", {"a": 3, "b": 2, "c": 1}, set(), set())
    pairs = [(node.node, ping.device, ping.to_node, ping.to_device) for node in nodes for ping in node.pings]
    assert len(set(pairs)) == len(pairs) == 3 * 3 + 2 * 4 + 1 * 5
    assert all(source != target for source, _, target, _ in pairs)


@given(
    st.sampled_from(["all", "sample"]),
    st.lists(st.sampled_from([4, 8, 16]), min_size=2, max_size=5).filter(lambda sizes: len(set(sizes)) == 1),
    st.data(),
)
def test_one_dead_device_is_named_and_no_other(mode: PingMode, sizes: list[int], data: st.DataObject) -> None:
    dead = data.draw(st.sampled_from([(name, device) for name, size in names(sizes).items() for device in range(size)]))
    nodes = pinged(mode, names(sizes), {dead}, set())
    assert [(finding.node, finding.device) for finding in failed(nodes)] == [dead]
    assert judge_pings(nodes, set()).passing == {
        (name, device) for name, size in names(sizes).items() for device in range(size)
    } - {dead}


@given(st.sets(st.tuples(st.sampled_from(["n0", "n1", "n2"]), st.integers(0, 7)), min_size=1, max_size=5))
def test_several_dead_devices_are_named_and_no_other(dead: set[tuple[str, int]]) -> None:
    nodes = pinged("all", names([8, 8, 8]), dead, set())
    assert {(finding.node, finding.device) for finding in failed(nodes)} == dead


def test_two_nodes_that_do_not_reach_each_other_are_one_line_each_way() -> None:
    cut = {((a, i), (b, j)) for a, b in (("n0", "n1"), ("n1", "n0")) for i in range(8) for j in range(8)}
    found = failed(pinged("all", names([8, 8, 8]), set(), cut))
    assert [(finding.node, finding.device) for finding in found] == [("n0", None), ("n1", None)]
    assert "n1" in found[0].seen
    assert not judge_pings(pinged("all", names([8, 8]), set(), cut), set()).passing


def test_one_way_that_is_broken_is_named_with_both_ends() -> None:
    (found,) = failed(pinged("all", names([8, 8]), set(), {(("n0", 3), ("n1", 5))}))
    assert (found.node, found.device) == ("n0", 3)
    assert "device 5 of n1 (n1.5): 0 of 3 answered: recv time out seq=0" in found.seen


def test_a_single_failed_ping_is_ascribed_to_the_end_where_something_else_is_wrong() -> None:
    nodes = pinged("all", {"a": 1, "b": 1}, {("b", 0)}, set())
    found = judge_pings(nodes, {("b", 0)}).findings
    assert [(it.node, it.device) for it in found if it.verdict is Verdict.FAILED] == [("b", 0)]


def test_a_single_failed_ping_is_of_both_ends_where_nothing_else_is_wrong() -> None:
    found = failed(pinged("all", {"a": 1, "b": 1}, set(), {(("a", 0), ("b", 0))}))
    assert [(it.node, it.device, it.seen.partition(":")[0]) for it in found] == [("a", 0, "to device 0 of b (b.0)")]


@pytest.mark.parametrize("text", ["This device does not support this function\n"])
def test_pings_that_a_machine_does_not_have_are_not_checked(text: str) -> None:
    ping = PingReading(0, "b", 0, "10.0.0.1", Outcome(text, 1))
    node = NodeReadings("a", devices=(DeviceReadings(0, {}),), pings=(ping,))
    (found,) = judge_pings([node], set()).findings
    assert found.verdict is Verdict.NOT_CHECKED
    assert "does not support" in found.seen
