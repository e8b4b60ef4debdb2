"""One measurement: a load of known size through a gateway, and what the gateway used for it."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from overhead.gateways import BENCHMARKS, GATEWAYS, EngineFleet
from overhead.processes import Pinned, core_busy
from overhead.scenarios import Scenario

START_DEADLINE = 60.0


class Measurement(msgspec.Struct, kw_only=True):
    """What one gateway did in one round of one scenario."""

    gateway: str
    scenario: str
    endpoints: int
    round: int
    requests: int
    errors: dict[str, int]
    seconds: float
    cpu_us: float
    """CPU time of all the gateway's processes for a request, user and system."""
    system_us: float
    """The part of it in the kernel."""
    processes: int
    peak_rss_mb: float
    pss_mb: float
    latency_ms: dict[str, float] | None
    first_byte_ms: dict[str, float] | None
    delay_ms: dict[str, float] | None
    """Of an event of a stream, from the engine's write to the client's read."""
    endpoints_used: int
    gateway_core_busy: float
    """Part of the time for which the gateway's core worked for the gateway."""
    others_on_core: float
    """Part of the time for which the gateway's core worked for anybody else."""
    load_core_busy: float
    """Part of the time for which the engine's and the clients' core worked."""


@contextmanager
def fake_engines(mode: str, endpoints: int, directory: Path, core: int) -> Iterator[EngineFleet]:
    """Runs the fake engine with so many endpoints, on `core`."""
    counts = {"union": endpoints} if mode == "union" else {"prefill": endpoints // 2, "decode": endpoints // 2}
    if mode == "epd":
        counts["encode"] = endpoints // 2
    argv = [sys.executable, str(BENCHMARKS / "fake_engine.py")]
    for role, count in counts.items():
        argv += [f"--{role}", str(count)]
    process = Pinned("fake engine", argv, core, directory / "fake_engine.log", piped=True)
    try:
        ports = json.loads(process.read_line(START_DEADLINE))
        yield EngineFleet(
            prefill=tuple(ports["prefill"]),
            decode=tuple(ports["decode"]),
            union=tuple(ports["union"]),
            encode=tuple(ports["encode"]),
            control=ports["control"],
        )
    finally:
        process.stop()


@contextmanager
def warm_load(
    scenario: Scenario, endpoints: int, port: int, directory: Path, core: int
) -> Iterator[tuple[Pinned, float]]:
    """Clients of `scenario` that have warmed up the gateway at `port`, and how many requests it served a second."""
    warm_up = warm_up_requests(scenario, endpoints)
    argv = [sys.executable, str(BENCHMARKS / "load_generator.py"), "--port", str(port), "--body", scenario.body]
    argv += ["--connections", str(scenario.connections), "--distinct", str(scenario.distinct)]
    argv += ["--warm-up", str(warm_up), "--ramp", str(scenario.ramp)]
    if scenario.stream:
        argv.append("--stream")
    process = Pinned("load generator", argv, core, directory / "load_generator.log", piped=True)
    try:
        warm = json.loads(process.read_line(180))["warm"]
        yield process, max(warm["requests"], 1) / warm["seconds"]
    finally:
        process.stop()


def measure(
    name: str,
    gateway: Pinned | None,
    port: int,
    fleet: EngineFleet,
    scenario: Scenario,
    round_number: int,
    seconds: float,
    directory: Path,
    cores: tuple[int, int],
) -> Measurement:
    """Loads the gateway for about `seconds` with a whole number of requests for each client.

    `gateway` None: the clients talk to the engine itself, for what the benchmark's own parts delay.
    Raises ProcessError when the load generator ends or hangs.
    """
    gateway_core, load_core = cores
    control(fleet, "/pace", str(scenario.pace).encode())
    with warm_load(scenario, fleet.endpoints, port, directory, load_core) as (load, rate):
        rounds = max(2, round(rate * seconds / scenario.connections))
        requests = rounds * scenario.connections
        control(fleet, "/counters")
        if gateway is not None:
            gateway.reset_peaks()
        busy = core_busy(gateway_core), core_busy(load_core)
        before = gateway.cost() if gateway is not None else None
        load.write_line(str(requests))
        result = json.loads(load.read_line(240))
        after = gateway.cost() if gateway is not None else None
        busy = core_busy(gateway_core) - busy[0], core_busy(load_core) - busy[1]
        memory = gateway.memory() if gateway is not None else None
    counters = control(fleet, "/counters")
    errors = {**result["errors"], **wrong_legs(stages(name, fleet.mode), requests, counters)}
    cpu = after.cpu - before.cpu if after and before else 0.0
    return Measurement(
        gateway=name,
        scenario=scenario.name,
        endpoints=fleet.endpoints,
        round=round_number,
        requests=result["requests"],
        errors=errors,
        seconds=result["seconds"],
        cpu_us=cpu / requests * 1e6,
        system_us=(after.system - before.system) / requests * 1e6 if after and before else 0.0,
        processes=after.processes if after else 0,
        peak_rss_mb=memory.peak_rss / 1e6 if memory else 0.0,
        pss_mb=memory.pss / 1e6 if memory else 0.0,
        latency_ms=result["latency_ms"],
        first_byte_ms=result["first_byte_ms"],
        delay_ms=result["delay_ms"],
        endpoints_used=counters["endpoints"],
        gateway_core_busy=cpu / result["seconds"],
        others_on_core=max(0.0, busy[0] - cpu) / result["seconds"],
        load_core_busy=busy[1] / result["seconds"],
    )


def warm_up_requests(scenario: Scenario, endpoints: int) -> int:
    """How many requests each client sends before anything is measured, all together: enough for every pool of
    connections to be filled as far as it is going to be."""
    if scenario.connections > 64:
        return scenario.connections
    least = 4 if scenario.stream or scenario.body != "small" else 40
    return max(least * scenario.connections, 2 * endpoints)


def stages(gateway: str, mode: str) -> tuple[str, ...]:
    """The roles that get a leg for each request."""
    if mode == "union":
        return ("union",)
    encodes = mode == "epd" and gateway in GATEWAYS and GATEWAYS[gateway].encodes
    return ("encode", "prefill", "decode") if encodes else ("prefill", "decode")


def wrong_legs(expected: Sequence[str], requests: int, counters: dict[str, Any]) -> dict[str, int]:
    """What the engines saw that a right gateway would not have sent, as errors with their number."""
    wrong = {f"the engine refused: {why}": count for why, count in counters["refused"].items()}
    for role, count in counters["legs"].items():
        right = requests if role in expected else 0
        if count != right:
            wrong[f"{count} {role} legs instead of {right}"] = abs(count - right)
    return wrong


def control(fleet: EngineFleet, path: str, body: bytes | None = None) -> dict[str, Any]:
    """Asks or tells the fake engine."""
    request = urllib.request.Request(f"http://127.0.0.1:{fleet.control}{path}", data=body)
    with urllib.request.urlopen(request, timeout=10) as answer:
        counters: dict[str, Any] = json.load(answer)
    return counters
