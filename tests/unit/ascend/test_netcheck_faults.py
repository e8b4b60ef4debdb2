"""Two nodes of 16 devices, twelve faults: each is found and named, alone and all together, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from netcheck_nodes import Console, Fleet, Place, bad

NODES = ("node-a", "node-b")
ADDRESS = {"A2": "ip", "A3": "vnic"}


class Fault(NamedTuple):
    """What is broken where, and what has to be named for it: steps of that device (and a second one's, if any)."""

    node: str
    device: int
    broken: Callable[[str], dict[str, Any]]
    steps: tuple[str, ...]
    second: str = ""
    verdict_on_a3: str = "failed"


def address_of(generation: str, node: int, device: int) -> str:
    """The addresses that the stand-ins give out."""
    return f"192.168.{node}.{199 - device}" if generation == "A3" else f"29.1.{node}.{10 + device}"


FAULTS = {
    "no neighbour at the switch": Fault("node-a", 1, lambda _: {"switch_port": None}, ("lldp",)),
    # On A3 pings take another way than the port that is down.
    "link down": Fault("node-b", 2, lambda _: {"link": "DOWN"}, ("link", "ping"), verdict_on_a3="warning"),
    "sick": Fault("node-a", 3, lambda _: {"health": "Receive timeout"}, ("health",)),
    "nothing to detect": Fault("node-b", 4, lambda _: {"detect": None}, ("netdetect",)),
    "no gateway": Fault("node-a", 5, lambda _: {"gateway": None}, ("gateway",)),
    "forgotten in hccn.conf": Fault("node-b", 6, lambda _: {"config": []}, ("config",)),
    "no address": Fault("node-a", 7, lambda _: {"ip": None, "vnic": None}, ("address", "ping")),
    "TLS at one end": Fault("node-b", 8, lambda _: {"tls": 1}, ("tls", "ping")),
    "one way is broken": Fault("node-a", 9, lambda it: {"lost": {address_of(it, 2, 9): 3}}, ("ping",)),
    "a packet is lost": Fault("node-b", 10, lambda it: {"lost": {address_of(it, 1, 10): 1}}, ("ping",)),
    "gibberish": Fault(
        "node-a", 11, lambda _: {"answers": {"-net_health -g": {"text": "\x00\x1b[2J%$ segfault at 0\n"}}}, ("health",)
    ),
    "an address twice": Fault(
        "node-b",
        12,
        lambda it: {"ip": address_of(it, 1, 12), "vnic": address_of(it, 1, 12)},
        ("address",),
        second="node-a",
    ),
}


def expected(fault: Fault, generation: str) -> dict[Place, str]:
    """What the check has to name."""
    if generation == "A3" and fault.verdict_on_a3 == "warning":
        return {(fault.node, fault.device, fault.steps[0]): "warning"}
    places = [fault.node, *([fault.second] if fault.second else [])]
    steps = [ADDRESS[generation] if step == "address" else step for step in fault.steps]
    return {(node, fault.device, step): "failed" for node in places for step in steps}


DIFFERENT_ON_A2 = ("link down", "no address", "TLS at one end", "an address twice", "one way is broken")
"""Alone, all faults are tried on A3 and these on A2 too; all together, all are tried on both."""


@pytest.fixture(params=["A2", "A3"])
def console(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Console:
    """A console of node-a, 16 devices on each node."""
    return Console(Fleet(tmp_path / "fleet", request.param, NODES, 16), monkeypatch, capsys)


def generation(console: Console) -> str:
    said: str = console.fleet.description["nodes"]["node-a"]["generation"]
    return said


def test_nothing_is_named_where_all_is_well(console: Console) -> None:
    console.fleet.record()
    status, report = console.check("--ping", "all")
    assert (status, bad(report), report["ok"]) == (0, {}, True)
    counts = report["counts"]
    # Seven steps that are commands, the file and the pings, of 2 x 16 devices.
    assert counts == {"failed": 0, "warning": 0, "not checked": 0, "good": 2 * 16 * 9}
    pings = [found["seen"] for found in report["findings"] if found["step"] == "ping"]
    assert all(seen.startswith("16 of 16 reached") for seen in pings)


@pytest.mark.parametrize(
    ("console", "name"),
    [*(("A3", name) for name in FAULTS), *(("A2", name) for name in DIFFERENT_ON_A2)],
    indirect=["console"],
)
def test_each_fault_is_named_and_nothing_else(console: Console, name: str) -> None:
    fault = FAULTS[name]
    console.fleet.break_device(fault.node, fault.device, **fault.broken(generation(console)))
    console.fleet.record()
    status, report = console.check("--ping", "sample")
    want = expected(fault, generation(console))
    assert bad(report) == want
    assert status == (1 if "failed" in want.values() else 0)
    assert report["ok"] == (status == 0)
    for found in report["findings"]:
        assert found["seen"]
        assert bool(found["advice"]) == (found["verdict"] in ("failed", "warning"))


def test_all_faults_at_once_are_named_and_nothing_else(console: Console) -> None:
    want: dict[Place, str] = {}
    for fault in FAULTS.values():
        console.fleet.break_device(fault.node, fault.device, **fault.broken(generation(console)))
        want |= expected(fault, generation(console))
    console.fleet.record()
    status, report = console.check("--ping", "all")
    assert bad(report) == want
    assert status == 1
