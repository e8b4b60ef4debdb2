"""Whether several workers balance as one does and what they cost: CPU time for a request, largest over mean load.

PyMotor's Coordinator with one and with several worker processes stands in turns before the same fake engines
(`fake_engine.py`); clients (`load_generator.py`) stream through prefill and decode. CPU time is taken with 384 streams
at once, for which one takes several workers, and with 64 beside it: there one worker serves many streams each time it
wakes up, where several wake up more often for fewer, so that they cost more. How even the load is, is taken in a run of
its own with 64 streams: the loads of all endpoints are read from `GET /instances` all the time.

  python benchmarks/worker_balance.py
  python benchmarks/worker_balance.py --workers 1 4 --rounds 5 --json results.json

Exit status: 0 both limits are kept (CPU time and decode's unevenness at most 1.1 times one worker's), 1 they are not
or an answer was wrong, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import psutil  # type: ignore[import-untyped]
from overhead.gateways import EngineFleet, PyMotor
from overhead.limits import raise_open_files
from overhead.measure import fake_engines, measure
from overhead.processes import Pinned, ProcessError
from overhead.scenarios import SCENARIOS

LIMIT = 1.1
FEW = SCENARIOS["pd_stream"]
MANY = replace(FEW, connections=384)
ROLES = ("prefill", "decode")
UNLIMITED = frozenset({"cpu with few streams", "prefill balance"})
"""Figures that are told without a limit: the fake prefill is so quick that it has a request or two at a time."""
CORES = (0, 1)


class Round(msgspec.Struct, kw_only=True):
    """One gateway, once through both runs."""

    workers: int
    round: int
    cpu_us: float
    """CPU time of all processes for a request, in microseconds, with `MANY` streams at once."""
    cpu_us_few: float
    """The same with `FEW`."""
    unevenness: dict[str, float]
    """By role: the largest endpoint's load over the mean of all, averaged over time."""
    samples: int
    errors: dict[str, int]


class LoadSampler:
    """Reads the loads of all endpoints for as long as the block runs."""

    def __init__(self, gateway: Pinned) -> None:
        argv = psutil.Process(gateway.pid).cmdline()
        self._url = f"http://127.0.0.1:{argv[argv.index('--management-port') + 1]}/instances"
        self._found: dict[str, list[float]] = {role: [] for role in ROLES}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> LoadSampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def samples(self) -> int:
        """How often loads were read."""
        return max(map(len, self._found.values()))

    def unevenness(self) -> dict[str, float]:
        """See `Round`."""
        return {role: statistics.fmean(found) for role, found in self._found.items() if found}

    def _run(self) -> None:
        while not self._over.wait(0.02):
            with urllib.request.urlopen(self._url, timeout=10) as answer:
                instances: list[dict[str, Any]] = json.load(answer)["instances"]
            for role, found in self._found.items():
                loads = [instance["load_tokens"] for instance in instances if instance["role"] == role]
                if sum(loads):
                    found.append(max(loads) * len(loads) / sum(loads))


def one_round(workers: int, number: int, fleet: EngineFleet, seconds: float, directory: Path) -> Round:
    """Starts the gateway, loads it twice and ends it. Raises ProcessError."""
    here = directory / f"{workers}-workers-{number}"
    here.mkdir()
    name = "pymotor" if workers == 1 else f"pymotor-{workers}-workers"
    gateway, port = PyMotor(workers=workers, name=name).start(fleet, here, CORES[0])
    try:
        many = measure(name, gateway, port, fleet, MANY, number, seconds, here, CORES)
        few = measure(name, gateway, port, fleet, FEW, number, seconds, here, CORES)
        with LoadSampler(gateway) as sampler:
            sampled = measure(name, gateway, port, fleet, FEW, number, seconds, here, CORES)
    finally:
        gateway.stop()
    return Round(
        workers=workers,
        round=number,
        cpu_us=many.cpu_us,
        cpu_us_few=few.cpu_us,
        unevenness=sampler.unevenness(),
        samples=sampler.samples,
        errors={**many.errors, **few.errors, **sampled.errors},
    )


def compare(rounds: Sequence[Round], workers: int) -> dict[str, float]:
    """By figure: so many workers' median over one worker's."""
    ones = [found for found in rounds if found.workers == 1]
    many = [found for found in rounds if found.workers == workers]

    def ratio(values: Sequence[float], base: Sequence[float]) -> float:
        return statistics.median(values) / statistics.median(base)

    found = {
        "cpu": ratio([each.cpu_us for each in many], [each.cpu_us for each in ones]),
        "cpu with few streams": ratio([each.cpu_us_few for each in many], [each.cpu_us_few for each in ones]),
    }
    for role in ROLES:
        found[f"{role} balance"] = ratio(
            [each.unevenness[role] for each in many], [each.unevenness[role] for each in ones]
        )
    return found


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument("--workers", nargs="+", type=int, default=[4], metavar="N", help="beside 1 (default: 4)")
    parser.add_argument("--endpoints", type=int, default=16, metavar="N", help="half of them prefill (default: 16)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="in turns (default: 3)")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of each run (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there; - is standard output")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    configure(parser)
    arguments = parser.parse_args(argv)
    counts = [1, *(count for count in arguments.workers if count > 1)]
    raise_open_files()
    rounds: list[Round] = []
    try:
        with (
            tempfile.TemporaryDirectory() as scratch,
            fake_engines("pd", arguments.endpoints, Path(scratch), CORES[1]) as fleet,
        ):
            for number in range(arguments.rounds):
                for workers in counts:
                    found = one_round(workers, number, fleet, arguments.seconds, Path(scratch))
                    rounds.append(found)
                    told = ", ".join(f"{role} {value:.3f}" for role, value in found.unevenness.items())
                    print(
                        f"{workers} workers: {found.cpu_us:.0f} us ({found.cpu_us_few:.0f}); largest/mean: {told}",
                        file=sys.stderr,
                    )
    except ProcessError as error:
        print(f"worker_balance: {error}", file=sys.stderr)
        return 1
    ratios = {workers: compare(rounds, workers) for workers in counts[1:]}
    report = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_average": os.getloadavg()[0],
        "endpoints": arguments.endpoints,
        "limit": LIMIT,
        "ratios": ratios,
        "rounds": msgspec.to_builtins(rounds),
    }
    if arguments.json is not None:
        text = json.dumps(report, indent=2) + "\n"
        if str(arguments.json) == "-":
            print(text, end="")
        else:
            arguments.json.write_text(text)
    for workers, figures in ratios.items():
        for name, value in figures.items():
            limit = "no limit" if name in UNLIMITED else f"limit {LIMIT}"
            print(f"{workers} workers / 1: {name} {value:.3f} ({limit})", file=sys.stderr)
    wrong = any(found.errors for found in rounds)
    limited = [value for figures in ratios.values() for name, value in figures.items() if name not in UNLIMITED]
    return int(wrong or any(value > LIMIT for value in limited))


if __name__ == "__main__":
    sys.exit(main())
