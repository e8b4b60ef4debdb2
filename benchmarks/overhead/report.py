"""The report of a run: a table for people, the raw figures, a plot."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from overhead.gateways import PYTHON
from overhead.measure import Measurement
from overhead.scenarios import SCENARIOS
from overhead.summary import Spread, Verdict, compare, rounds_of, spread

DIRECT = "none"
"""The name under which the clients' direct way to the engine is measured."""
QUIET = 0.1
"""Up to which part of the gateways' core other work may take before the report warns."""


class Run(msgspec.Struct, kw_only=True):
    """All that one run found, as `gateway_overhead.json` holds it."""

    date: str
    machine: dict[str, str]
    versions: dict[str, str]
    what_was_on: dict[str, tuple[str, ...]] = {}
    rounds: int
    seconds: float
    """For which each measurement loaded its gateway, about."""
    measurements: list[Measurement]
    missing: dict[str, str]
    """What could not be measured, and why."""


def describe_machine() -> dict[str, str]:
    """Processor, cores, kernel, Python."""
    model = platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "processor": model,
        "cores": str(os.cpu_count()),
        "kernel": platform.release().partition("-")[0],
        "python": python_version(),
    }


def python_version() -> str:
    """Of the interpreter that runs PyMotor: its version, and the compiler that made it."""
    code = "import platform; print(platform.python_version(), platform.python_build()[0], platform.python_compiler())"
    return subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def write(run: Run, directory: Path) -> list[Path]:
    """Writes `gateway_overhead.{md,json,png}` into `directory`; returns what was written."""
    directory.mkdir(parents=True, exist_ok=True)
    table = directory / "gateway_overhead.md"
    raw = directory / "gateway_overhead.json"
    plot = directory / "gateway_overhead.png"
    table.write_text(as_markdown(run))
    raw.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1))
    written = [table, raw]
    try:
        from overhead.plot import draw
    except ImportError:
        return written
    draw(run.measurements, plot)
    return [*written, plot]


def as_markdown(run: Run) -> str:
    """The report as a page."""
    verdicts = compare(run.measurements)
    parts = ["# CPU time of gateways for a request", _introduction(run)]
    if disturbance(run.measurements) > QUIET:
        parts.append(_warning(run))
    parts += ["## Limits", limits_table(verdicts) if verdicts else "Not measured: this needs PyMotor and vllm-router."]
    parts += ["## CPU time, µs for a request", _cpu_note(), _cpu_tables(run.measurements)]
    parts += ["## Delay of a stream's event, and memory", _delay_note(), _delay_table(run.measurements)]
    parts += ["## What was on", _what_was_on(run)]
    problems = _problems(run)
    if problems:
        parts += ["## What went wrong", problems]
    return "\n\n".join(parts) + "\n"


def limits_table(verdicts: Sequence[Verdict]) -> str:
    """PyMotor against vllm-router."""
    rows = []
    for each in verdicts:
        limit = "" if each.limit is None else f"{each.limit:g}"
        word = {None: "", True: "kept", False: "**not kept**"}[each.kept]
        if each.failed:
            word = "**failed: wrong answers**"
        ratio = f"**{each.ratio.median:.2f}** ({each.ratio.low:.2f}-{each.ratio.high:.2f})"
        ours, theirs = _range(each.ours), _range(each.theirs)
        rows.append((each.gateway, each.scenario.title, f"{each.endpoints:,}", ours, theirs, ratio, limit, word))
    head = ("", "request", "endpoints", "ours, µs", "vllm-router, µs", "ratio (min-max of rounds)", "limit", "")
    return _table(head, rows)


def _introduction(run: Run) -> str:
    machine = run.machine
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    return (
        f"{run.date}. {machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}, "
        f"Python {machine['python']}. {versions}.\n\n"
        "The gateway is pinned to core 0 with all its processes; a fake engine and closed-loop clients, which check "
        "every answer, share core 1. A figure is the CPU time, user and system, of all the gateway's processes "
        f"between two moments without a request under way, divided by the requests between them: about "
        f"{run.seconds:g} s of load after a warm-up. The gateways take turns in {run.rounds} rounds; a cell has the "
        "median, and the least and the greatest round. Ratios are taken round by round."
    )


def disturbance(measurements: Sequence[Measurement]) -> float:
    """The part of the gateways' core that other work took, in the middle of all measurements."""
    return spread([each.others_on_core for each in measurements]).median if measurements else 0.0


def _warning(run: Run) -> str:
    return (
        f"**The machine was busy:** other work took {disturbance(run.measurements):.0%} of the gateways' core in the "
        "middle of all measurements. Shared caches make every figure higher than on a quiet machine; ratios bear it "
        "better, delays do not."
    )


def _cpu_note() -> str:
    return (
        "64 clients at once where nothing else is said. A small body has 600 bytes, no two of 512 alike. A stream has "
        "64 events 2 ms apart; with 2,000 streams at once 50 ms apart (40,000 events a second), since engine and "
        "clients have one core. PD: prefill with one token, its `kv_transfer_params` to decode, the answer from there; "
        "the fake engine refuses a handoff that prefill did not make. Of two endpoints in PD one prefills, of 1,024 "
        "half do."
    )


def _cpu_tables(measurements: Sequence[Measurement]) -> str:
    endpoints = list(dict.fromkeys(each.endpoints for each in measurements))
    gateways = [name for name in dict.fromkeys(each.gateway for each in measurements) if name != DIRECT]
    head = ("request", "endpoints", *gateways)
    rows = []
    for scenario in SCENARIOS.values():
        for count in endpoints:
            cells = [_cell(measurements, gateway, scenario.name, count) for gateway in gateways]
            if any(cells):
                rows.append((scenario.title, f"{count:,}", *cells))
    return _table(head, rows)


def _delay_note() -> str:
    return (
        "Delay: from the engine's write of an event to the client's read, so engine's and clients' own waiting for "
        f"core 1 is in it; `{DIRECT}` is that alone, without a gateway. Time to the whole answer where nothing is "
        "streamed, under a closed loop: who is slower to answer is loaded less. RSS: sum of the processes' peaks in "
        "that measurement, pages they share counted in each; PSS: the same with shared pages divided. In the kernel: "
        "that part of the CPU time. Core busy: how much of its core the gateway used, and in brackets how much of it "
        "others did, benchmark or not. Medians."
    )


def _delay_table(measurements: Sequence[Measurement]) -> str:
    head = (
        "request",
        "endpoints",
        "gateway",
        "event delay p50 / p99, ms",
        "first byte p50 / p99, ms",
        "whole answer p50 / p99, ms",
        "requests/s",
        "peak RSS, MB",
        "PSS, MB",
        "in the kernel",
        "core busy",
        "endpoints used",
    )
    rows = []
    cases = dict.fromkeys((each.scenario, each.endpoints, each.gateway) for each in measurements)
    order = list(SCENARIOS)
    for name, endpoints, gateway in sorted(cases, key=lambda case: (order.index(case[0]), case[1])):
        found = list(rounds_of(measurements, gateway, name, endpoints).values())

        def middle(values: Iterable[float]) -> float:
            return spread(list(values)).median

        rows.append(
            (
                SCENARIOS[name].title,
                f"{endpoints:,}",
                gateway,
                _two_percentiles([each.delay_ms for each in found]),
                _two_percentiles([each.first_byte_ms for each in found]),
                "" if SCENARIOS[name].stream else _two_percentiles([each.latency_ms for each in found]),
                f"{middle(each.requests / each.seconds for each in found):,.0f}",
                f"{middle(each.peak_rss_mb for each in found):.0f}" if gateway != DIRECT else "",
                f"{middle(each.pss_mb for each in found):.0f}" if gateway != DIRECT else "",
                f"{middle(each.system_us / each.cpu_us for each in found):.0%}" if gateway != DIRECT else "",
                f"{middle(each.gateway_core_busy for each in found):.0%} "
                f"({middle(each.others_on_core for each in found):.0%})",
                f"{middle(each.endpoints_used for each in found):,.0f}",
            )
        )
    return _table(head, rows)


def _what_was_on(run: Run) -> str:
    return "\n".join(
        f"- **{name} {version}**: " + "; ".join(run.what_was_on.get(name, ())) + "."
        for name, version in run.versions.items()
    )


def _problems(run: Run) -> str:
    lines = [f"- {what}: {why}" for what, why in run.missing.items()]
    for each in run.measurements:
        for error, count in each.errors.items():
            where = f"{each.gateway}, {SCENARIOS[each.scenario].title}, {each.endpoints:,} endpoints"
            lines.append(f"- {where}, round {each.round}: {error} ({count:,} times)")
    return "\n".join(lines)


def _cell(measurements: Sequence[Measurement], gateway: str, scenario: str, endpoints: int) -> str:
    found = rounds_of(measurements, gateway, scenario, endpoints).values()
    if not found:
        return ""
    if any(each.errors for each in found):
        return "failed"
    return _range(spread([each.cpu_us for each in found]))


def _two_percentiles(found: Sequence[Mapping[str, float] | None]) -> str:
    known = [each for each in found if each]
    if not known:
        return ""
    middle, high = (spread([each[key] for each in known]).median for key in ("p50", "p99"))
    return f"{middle:.2f} / {high:.2f}"


def _range(values: Spread) -> str:
    return f"{values.median:.0f} ({values.low:.0f}-{values.high:.0f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)
