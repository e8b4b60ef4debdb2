"""The guide's own commands, word for word, against the stand-ins: what a user types by hand shows what the check shows.

The lines are in tests/guides/network_check_guide.txt; /etc/hccn.conf is that of the node, by a `cat` on PATH.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from netcheck_nodes import Console, Fleet

from pymotor.ascend.netcheck.command import configure

GUIDE = Path(__file__).parents[2] / "guides" / "network_check_guide.txt"
CAT = '#!/bin/sh\n[ "$1" != /etc/hccn.conf ] || set -- "$NETCHECK_NODES/node-a/hccn.conf"\nexec /bin/cat "$@"\n'
GOOD = {
    "switch ports": "\tIfname: 400GE1/1/{}:1",
    "link": "link status: UP",
    "health": "net health status: Success",
    "detected addresses": "netdetect address: 29.1.1.1",
    "gateways": "default gateway:29.1.1.1, Iface:eth{0}",
    "configuration": "address_{0}=29.1.1.1{0}",
    "addresses": "ipaddr:29.1.1.1{0}",
    "pings": "3 packets transmitted, 3 received, 0.00% packet loss",
}


def blocks() -> dict[str, str]:
    """The guide's blocks by name."""
    return {
        block.partition("\n")[0]: block.partition("\n")[2]
        for block in ("\n" + GUIDE.read_text(encoding="utf-8")).split("\n>>> ")[1:]
    }


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """Two A2 nodes of eight devices."""
    fleet = Fleet(tmp_path / "fleet", "A2", ("node-a", "node-b"), 8)
    (fleet.bin / "cat").write_text(CAT)
    (fleet.bin / "cat").chmod(0o755)
    return fleet


def typed(fleet: Fleet, name: str) -> list[str]:
    """What a block prints on node-a, once the reader has put an address in as the guide says."""
    block = blocks()[name].replace("x.x.x.x", "29.1.2.13")
    environment = {**os.environ, **fleet.environment()}
    return subprocess.run(
        ["bash", "-c", block], env=environment, check=True, capture_output=True, text=True, timeout=60
    ).stdout.splitlines()


def test_the_guide_is_whole() -> None:
    assert blocks().keys() == GOOD.keys()


def test_each_block_shows_eight_good_devices(fleet: Fleet) -> None:
    fleet.record()
    for name, line in GOOD.items():
        said = typed(fleet, name)
        for device in range(8):
            want = line.format(device + 1 if name == "switch ports" else device)
            assert said.count(want) == (1 if "{" in line else 8), (name, said)


def test_each_block_shows_a_bad_device_and_so_does_the_check(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.break_device(
        "node-a", 5, link="DOWN", health="Unreachable", detect=None, gateway=None, switch_port=None, config=[], ip=None
    )
    fleet.record()
    assert len(typed(fleet, "switch ports")) == 7
    assert "link status: DOWN" in typed(fleet, "link")
    assert "net health status: Unreachable" in typed(fleet, "health")
    assert "netdetect address: 0.0.0.0" in typed(fleet, "detected addresses")
    assert len([line for line in typed(fleet, "gateways") if line.startswith("default gateway:")]) == 7
    assert len([line for line in typed(fleet, "configuration") if line.startswith("address_")]) == 7
    assert len([line for line in typed(fleet, "addresses") if line.startswith("ipaddr:")]) == 7
    assert "3 packets transmitted, 0 received, 100.00% packet loss" in typed(fleet, "pings")
    status, report = Console(fleet, monkeypatch, capsys).check()
    named = {(it["node"], it["device"], it["step"]) for it in report["findings"] if it["verdict"] == "failed"}
    steps = ("lldp", "link", "health", "netdetect", "gateway", "config", "ip", "ping")
    assert (status, named) == (1, {("node-a", 5, step) for step in steps})


@pytest.mark.parametrize("page", ["network-check.md", "zh/network-check.md"])
def test_every_command_of_the_documentation_is_understood(page: str) -> None:
    text = (GUIDE.parents[2] / "docs" / page).read_text(encoding="utf-8")
    typed = re.findall(r"^(pymotor netcheck\b[^#\n]*)|`(pymotor netcheck [^`]*)`", text, re.MULTILINE)
    parser = argparse.ArgumentParser()
    configure(parser)
    for words in typed:
        parser.parse_args(shlex.split("".join(words))[2:])
    assert len(typed) >= 6
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    known = " ".join([parser.format_help(), *(it.format_help() for it in parsers_of(parser))])
    assert {option for option in options if option not in known} == set()


def parsers_of(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Those of `collect` and `judge`."""
    verbs = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return list(verbs.choices.values())
