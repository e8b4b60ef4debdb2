"""Every line of `failure_table.txt`: what a client sees when a stage of a flow fails."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import plain_http
import pytest
from answers import Answer, ask_one
from failure_cells import FAULTS, FLOWS, STAGES, Cell, read_table
from fleet_under_test import PLAIN, Engine, FleetUnderTest
from images import text_chat, vision_chat
from processes import wait_until

CELLS = read_table()
TURNS = 40
"""Requests until the endpoint with the fault has had its turn."""
CONFIG: dict[str, Any] = {
    "exception_config": {
        "max_retry": 2, "retry_delay": 0.01, "first_token_timeout": 2, "output_token_timeout": 0.02,
        "circuit_failures": 0, "retry_budget_floor": 1000,
    },
    "http_config": {"stream_idle_timeout": 2},
    "encode_config": {"reuse_seconds": 0},
}  # fmt: skip
_seeds = itertools.count(10_000)


@pytest.fixture(scope="module")
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetUnderTest]:
    """Two engines of each role of a flow, the plain engine, and a gateway."""
    flow = FLOWS[request.param]
    with FleetUnderTest(
        tmp_path_factory.mktemp(request.param),
        dict.fromkeys(flow.roles, 2),
        coordinator_config=CONFIG,
        kv_connector=flow.kv_connector or "NixlConnector",
    ) as running:
        yield running


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each cell, those of a flow one after the other."""
    if "cell" in metafunc.fixturenames:
        metafunc.parametrize(
            ("fleet", "cell"),
            [pytest.param(cell.flow, cell, id=cell.name) for cell in CELLS],
            indirect=["fleet"],
            scope="module",
        )


def test_a_failed_stage(fleet: FleetUnderTest, cell: Cell) -> None:
    engines = [engine for engine in fleet.engines if engine.role is STAGES[cell.stage]]
    struck = engines if cell.everywhere else engines[:1]
    try:
        for engine in struck:
            _strike(engine, cell)
        _ask_until_it_strikes(fleet, cell, engines[0])
    finally:
        for engine in struck:
            engine.mend()
    fleet.gateway.wait_until_idle()
    for engine in fleet.engines:
        wait_until(partial(_idle, engine), f"{engine.name} has nothing in hand")


def _strike(engine: Engine, cell: Cell) -> None:
    fault = FAULTS[cell.fault]
    if not fault:
        engine.kill()
    elif cell.everywhere:
        engine.fail(fault)
    else:
        engine.fail(f"{fault}{',' if ':' in fault else ':'}count=1")


def _ask_until_it_strikes(fleet: FleetUnderTest, cell: Cell, engine: Engine) -> None:
    for _ in range(TURNS):
        body = _body(cell)
        failures = fleet.gateway.count("pymotor_leg_failures_total")
        inline = fleet.gateway.count("pymotor_media_items_total", outcome="inline")
        answer = ask_one(fleet.url, body)
        failures = fleet.gateway.count("pymotor_leg_failures_total") - failures
        inline = fleet.gateway.count("pymotor_media_items_total", outcome="inline") - inline
        right = ask_one(fleet.engines[PLAIN].url, body)
        if cell.everywhere or failures or not _pending(engine):
            _check(cell, answer, right, int(failures), int(inline))
            _check_route(cell, answer, engine)
            return
        _check_right(answer, right)
    raise AssertionError(f"the fault did not strike in {TURNS} requests")


def _body(cell: Cell) -> dict[str, Any]:
    seed = next(_seeds)
    fields: dict[str, Any] = {"stream": cell.stream, "max_tokens": 24, "ignore_eos": True, "return_token_ids": False}
    if cell.stream:
        fields["stream_options"] = {"include_usage": True}
    if FLOWS[cell.flow].media:
        return vision_chat(seed, text=f"What is in image {seed}?", **fields)
    return text_chat(f"Tell me story {seed}.", **fields)


def _check(cell: Cell, answer: Answer, right: Answer, failures: int, inline: int) -> None:
    kind, _, detail = cell.expected.partition("/" if "/" in cell.expected else " ")
    shown = f"{answer.status} {answer.error} {answer.legs} failures={failures} inline={inline}"
    if kind == "broken":
        _check_broken(answer, right)
    elif kind in ("right", "inline"):
        _check_right(answer, right)
        if detail == "+":
            assert failures, shown
        elif cell.fault == "reset" and not cell.everywhere:
            # A kept connection that is reset before the reply's first byte is replaced, which is no failure.
            assert failures <= int(detail or 0), shown
        else:
            assert failures == int(detail or 0), shown
        assert inline == (kind == "inline"), shown
    else:
        assert answer.status == int(kind), shown
        assert answer.error is not None, shown
        assert answer.error["message"]
        if detail:
            assert answer.error["code"] == detail, shown


def _check_route(cell: Cell, answer: Answer, struck: Engine) -> None:
    """The legs that brought the answer, one of each stage, none of them at an endpoint that failed."""
    if not cell.expected.startswith(("right", "inline")):
        return
    stages = {role.value for role in FLOWS[cell.flow].roles}
    if cell.expected.startswith("inline"):
        stages -= {"encode"}
    found = [leg for leg, _ in answer.legs]
    if cell.stream and "prefill" not in found and FLOWS[cell.flow].together:
        # The stream's head went out before prefill had answered.
        found.append("prefill")
    assert sorted(found) == sorted(stages), answer.legs
    begun_before = cell.stream and cell.fault in ("cut", "stall", "recomputed")
    if cell.expected != "right" and not begun_before:
        assert struck.name not in {name for _, name in answer.legs}, answer.legs


def _check_right(answer: Answer, right: Answer) -> None:
    assert answer.comparable == right.comparable, f"{answer.error} {answer.legs}"
    assert answer.done


def _check_broken(answer: Answer, right: Answer) -> None:
    assert answer.status == 200
    assert answer.error is not None
    assert answer.error["code"] == "stream_interrupted"
    assert answer.done
    assert answer.choices[0].finish_reason is None
    assert answer.choices[0].text
    assert right.choices[0].text.startswith(answer.choices[0].text)
    assert len(answer.choices[0].text) < len(right.choices[0].text)


def _pending(engine: Engine) -> bool:
    """Whether the fault has still to strike."""
    if not engine.alive:
        return True
    faults = plain_http.get(f"{engine.url}/sim/faults", timeout=60).raise_for_status().json()["faults"]
    return bool(faults)


def _idle(engine: Engine) -> bool:
    """Whether it has nothing in hand; a lease that nobody came for ends by itself."""
    return not engine.in_hand().keys() - {"leases", "blocks_used"}
