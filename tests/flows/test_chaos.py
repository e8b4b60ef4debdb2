"""Load on a fleet whose engines die, hang and lie: every request has a proper end, no token is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
import time
from pathlib import Path

import psutil
import pytest
from chaos import LONGEST, Disturbances, Report, Requests, prepared
from fleet_under_test import FleetUnderTest, Gateway, Role, running_fleet

RATE = 50.0
"""Requests a second."""
CONFIG = {
    "exception_config": {
        "retry_delay": 0.02,
        "first_token_timeout": 3,
        # These engines need a millisecond for a token: a whole answer is known to hang soon enough for further tries.
        "output_token_timeout": 0.1,
        # Every engine is broken at some time, so one request in thousands meets two that are.
        "engine_failure_max_retry": 2,
    },
    "http_config": {"stream_idle_timeout": 2},
}
GROWTH = 1.15
"""How much larger the Coordinator's memory may be at the end than after the first third."""
REPORTS = Path(__file__).parents[2] / "build"


def test_a_minute_of_chaos(tmp_path: Path) -> None:
    _chaos(tmp_path, 60.0)


@pytest.mark.soak
def test_ten_minutes_of_chaos(tmp_path: Path) -> None:
    _chaos(tmp_path, 600.0)


def _chaos(directory: Path, seconds: float) -> None:
    seed = int(os.environ.get("PYMOTOR_CHAOS_SEED", random.randrange(2**32)))
    print(f"chaos: PYMOTOR_CHAOS_SEED={seed}, {seconds:g} s")
    roles = {Role.ENCODE: 2, Role.PREFILL: 2, Role.DECODE: 2}
    with running_fleet(directory, roles, coordinator_config=CONFIG, workers=2) as fleet:
        report = Report()
        known = prepared(fleet.engines, 300, random.Random(seed))
        memory = _run(fleet, known, seconds, report, seed)
        fleet.gateway.wait_until_idle(LONGEST)
        for engine in fleet.engines:
            assert not engine.in_hand().keys() - {"leases", "blocks_used"}, engine.in_hand()
    figures = {"seed": seed, "seconds": seconds, "resident_bytes": memory, **report.as_json()}
    REPORTS.mkdir(exist_ok=True)
    (REPORTS / f"chaos-{seconds:g}.json").write_text(json.dumps(figures, indent=1))
    print(json.dumps(figures, indent=1))
    assert not report.unfinished
    assert not report.wrong
    assert not report.unexcused()
    assert report.outcomes["right"] > 0.8 * seconds * RATE
    third = memory[len(memory) // 3]
    assert memory[-1] < GROWTH * third, f"memory grows: {memory}"


def _run(fleet: FleetUnderTest, known: list, seconds: float, report: Report, seed: int) -> list[int]:  # type: ignore[type-arg]
    ends = time.monotonic() + seconds
    breaking = threading.Thread(target=Disturbances(fleet.gateway, random.Random(seed + 1)).run, args=(ends, report))
    memory: list[int] = []
    watching = threading.Thread(target=_watch, args=(fleet.gateway, ends, memory))
    breaking.start()
    watching.start()
    try:
        asyncio.run(Requests(fleet.url, known, RATE, random.Random(seed + 2)).run(seconds, report))
    finally:
        breaking.join()
        watching.join()
    return memory


def _watch(gateway: Gateway, ends: float, memory: list[int]) -> None:
    """Resident bytes of all the Coordinator's processes, now and then until `ends`."""
    supervisor = psutil.Process(gateway.process.pid)
    while time.monotonic() < ends:
        memory.append(sum(process.memory_info().rss for process in (supervisor, *supervisor.children(recursive=True))))
        time.sleep(2)
