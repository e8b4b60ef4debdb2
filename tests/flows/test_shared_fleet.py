"""Two Coordinators before the same engines: each sees in the engines' figures what the other sent."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fleet_under_test import Engines, Gateway, Role
from images import text_chat
from processes import wait_until
from raw_client import RawConnection, post

SHORT = {"scheduler_config": {"engine_load_interval": 1.0}}
LONG = {"scheduler_config": {"engine_load_interval": 3.0}}
"""So long that a busy machine does not make a reading old: it counts for nothing after three of them."""
NAMES = ("union-0", "union-1")


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Engines]:
    """Two union engines whose steps take a tenth of a second: what runs there stays for the length of a test."""
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"step_base_us": 100_000}))
    flags = ["--sim-speed", "1", "--sim-profile", str(profile)]
    with Engines(tmp_path, {Role.UNION: 2}, flags=flags, plain=False) as running:
        yield running


def begin(gateway: Gateway, clients: ExitStack) -> None:
    """A stream that runs until its client leaves."""
    connection = clients.enter_context(RawConnection(gateway.port))
    connection.send(post(json.dumps(text_chat("hold", stream=True, max_tokens=20_000, ignore_eos=True)).encode()))
    assert connection.socket.recv(1), "the stream has begun"


def in_flight(gateway: Gateway) -> list[int]:
    """How many of a Coordinator's own requests are at each engine."""
    loads = gateway.loads()
    return [loads[f"{name}/0"][1] for name in NAMES]


def others_load(gateway: Gateway) -> list[float]:
    """Tokens that a Coordinator charges each engine for requests of others."""
    return [
        endpoint["others_load_tokens"]
        for instance in gateway.fleet()["instances"]
        for endpoint in instance["endpoints"]
    ]


def others(gateway: Gateway) -> list[bool]:
    """Whether a Coordinator believes that each engine has requests of others."""
    return [load > 0 for load in others_load(gateway)]


def priced_alike(gateway: Gateway) -> bool:
    """Whether a reading since its own requests began charges the others' six as much as six of the own five."""
    own = gateway.loads()[f"{NAMES[1]}/0"][0] / 5
    return others_load(gateway) == [pytest.approx(6 * own, rel=0.01), 0]


def test_a_gateway_sends_its_requests_where_another_sent_none(slow: Engines) -> None:
    with ExitStack() as opened:
        one = opened.enter_context(Gateway(slow, ["union-0"], label="one"))
        both = opened.enter_context(Gateway(slow, NAMES, config=LONG, label="both", workers=2))
        clients = opened.enter_context(ExitStack())
        for _ in range(6):
            begin(one, clients)
        wait_until(lambda: others(both) == [True, False], "the others' requests are seen")
        for _ in range(5):
            begin(both, clients)
        assert in_flight(both) == [0, 5]
        # Its own requests are not taken for others'.
        seen = slow["union-1"].metric("vllm:num_requests_running")
        assert seen == 5
        wait_until(lambda: priced_alike(both), "the others' requests are charged like its own")
        for _ in range(5):
            begin(both, clients)
        assert sorted(in_flight(both)) in ([2, 8], [3, 7], [1, 9]), "beyond that both engines get some"
        clients.close()
        for gateway in (one, both):
            gateway.wait_until_idle()
        wait_until(lambda: others(both) == [False, False], "nothing is left of the others")


def test_what_an_engine_said_long_ago_counts_for_nothing(slow: Engines) -> None:
    with ExitStack() as opened:
        one = opened.enter_context(Gateway(slow, ["union-0"], label="one"))
        both = opened.enter_context(Gateway(slow, NAMES, config=SHORT, label="both"))
        clients = opened.enter_context(ExitStack())
        begin(one, clients)
        wait_until(lambda: others(both) == [True, False], "the other's request is seen")
        engine = slow["union-0"].process
        assert engine is not None
        os.kill(engine.pid, signal.SIGSTOP)
        try:
            wait_until(lambda: others(both) == [False, False], "an old figure is forgotten")
        finally:
            os.kill(engine.pid, signal.SIGCONT)
