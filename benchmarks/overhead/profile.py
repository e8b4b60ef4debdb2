"""Where PyMotor's worker spends its time in one scenario: py-spy's samples, added up by function."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from overhead.gateways import PEERS, EngineFleet
from overhead.measure import control, warm_load
from overhead.processes import Pinned, ProcessError
from overhead.scenarios import Scenario

SAMPLES_PER_SECOND = 400
TOP = 30
MORE_THAN_IS_WAITED_FOR = 10**9
"""Requests: the load lasts until the profilers are done."""
_SCAFFOLD = ("_run_module_as_main ", "_run_code ", "<module> ", "main ", "run ", "Runner.run ")
"""Frames in which a process spends all its life."""
_FRAME = re.compile(r"^(?P<function>.*) \((?P<file>.*?)(?::\d+)?\)$")


def profile(
    name: str,
    gateway: Pinned,
    port: int,
    fleet: EngineFleet,
    scenario: Scenario,
    seconds: float,
    directory: Path,
    load_core: int,
) -> str:
    """Loads the gateway and samples its busiest process for about `seconds`; returns the report.

    Raises ProcessError when py-spy is not there or fails.
    """
    program = shutil.which("py-spy") or shutil.which("py-spy", path=PEERS / "bin")
    if program is None:
        raise ProcessError("py-spy is not installed; benchmarks/setup.sh installs it")
    control(fleet, "/pace", str(scenario.pace).encode())
    folded = directory / "profile.folded"
    with warm_load(scenario, fleet.endpoints, port, directory, load_core) as (load, _):
        load.write_line(str(MORE_THAN_IS_WAITED_FOR))
        worker = gateway.busiest()
        control(fleet, "/counters")
        since = time.monotonic()
        argv = [program, "record", "--pid", str(worker), "--rate", str(SAMPLES_PER_SECOND), "--nonblocking"]
        argv += ["--duration", str(max(1, round(seconds))), "--format", "raw", "--output", str(folded)]
        said = subprocess.run(argv, capture_output=True, text=True, check=False)
        if said.returncode:
            raise ProcessError(f"py-spy failed: {said.stderr.strip()}")
        libraries = by_library(worker, seconds, directory)
        legs = control(fleet, "/counters")["legs"]
        rate = (legs["union"] + legs["decode"]) / (time.monotonic() - since)
    own, within, total = add_up(folded.read_text().splitlines())
    return "\n".join(
        [
            f"# Where {name} spends its time: {scenario.title}",
            "",
            f"{fleet.endpoints:,} endpoints, {scenario.connections:,} "
            f"clients, {rate:,.0f} requests a second; {total:,} samples of the "
            "busiest worker while it was not idle. Time in C (parser, event loop, system calls) counts for the Python "
            "function that called it.",
            "",
            "## By library, as the kernel samples it",
            "",
            libraries or "Not measured: this needs `perf` and the right to use it.",
            "",
            "## Itself",
            "",
            _table(own, total),
            "",
            "## With what it calls",
            "",
            _table(within, total),
            "",
        ]
    )


def by_library(worker: int, seconds: float, directory: Path) -> str | None:
    """A table of the shares of kernel, interpreter, event loop and so on; None where `perf` is not to be had."""
    perf = shutil.which("perf")
    if perf is None:
        return None
    data = str(directory / "perf.data")
    record = [perf, "record", "--quiet", "--freq", "999", "--pid", str(worker), "--output", data]
    record += ["--", "sleep", f"{max(1.0, seconds):.0f}"]
    if subprocess.run(record, capture_output=True, check=False).returncode:
        return None
    report = [perf, "report", "--stdio", "--sort", "dso", "--input", data]
    said = subprocess.run(report, capture_output=True, text=True, check=False)
    shares = [line.split() for line in said.stdout.splitlines() if line.strip() and not line.startswith("#")]
    if said.returncode or not shares:
        return None
    lines = ["| share | library |", "|---|---|"]
    lines += [f"| {share} | {library} |" for share, library in (each[:2] for each in shares[:8])]
    return "\n".join(lines)


def add_up(folded: Iterable[str]) -> tuple[Counter[str], Counter[str], int]:
    """Samples by function: at the end of the stack, anywhere in it, and all together.

    `folded`: lines of frames from the outermost, `;` between them, with the number of samples behind.
    """
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    total = 0
    for line in folded:
        stack, _, number = line.rpartition(" ")
        if not stack or not number.isdigit():
            continue
        frames = [_function(frame) for frame in stack.split(";")]
        own[frames[-1]] += int(number)
        within.update(dict.fromkeys((frame for frame in frames if not frame.startswith(_SCAFFOLD)), int(number)))
        total += int(number)
    return own, within, total


def _function(frame: str) -> str:
    match = _FRAME.match(frame)
    if match is None:
        return frame
    file = match["file"]
    for root in ("site-packages/", "src/"):
        file = file.rpartition(root)[2]
    return f"{match['function']} ({file})"


def _table(counted: Counter[str], total: int) -> str:
    lines = ["| share | function |", "|---|---|"]
    lines += [f"| {count / max(total, 1):.1%} | `{name}` |" for name, count in counted.most_common(TOP)]
    return "\n".join(lines)
