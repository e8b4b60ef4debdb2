"""What gateways cost: CPU time for a request, PyMotor's Coordinator beside vllm-router and HAProxy in one run.

The gateway runs pinned to one core, a fake engine (in this directory, as fast as Python allows) and closed-loop
clients that check every answer to another. All processes of a gateway count. Results go to `benchmarks/results/`:
a table, the raw figures, a plot. What gateways are compared, and what is on in them, is in overhead/gateways.py.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType

from overhead.gateways import DEFAULT_GATEWAYS, GATEWAYS, Gateway
from overhead.limits import raise_open_files
from overhead.measure import Measurement, fake_engines, measure
from overhead.processes import Pinned, ProcessError
from overhead.profile import profile
from overhead.report import DIRECT, Run, describe_machine, limits_table, write
from overhead.scenarios import ENDPOINTS, SCENARIOS, Scenario
from overhead.summary import compare

RESULTS = Path(__file__).resolve().parent / "results"
CORES = (0, 1)
logger = logging.getLogger("gateway_overhead")

EPILOG = """\
First `benchmarks/setup.sh`: it installs vllm-router and py-spy into a virtual environment of their own. HAProxy is
measured when it is installed. `--quick` is for trying out: its figures are not for quoting.

  python benchmarks/gateway_overhead.py
  python benchmarks/gateway_overhead.py --quick --only pd pd_stream --endpoints 2
  python benchmarks/gateway_overhead.py --profile pd_stream

Exit status: 0 all measured and every limit kept, 1 a limit not kept, a wrong answer or a gateway that did not start,
2 wrong usage.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--gateways", nargs="+", choices=list(GATEWAYS), metavar="NAME", help=f"of: {', '.join(GATEWAYS)}"
    )
    what.add_argument("--only", nargs="+", choices=list(SCENARIOS), metavar="NAME", help=f"of: {', '.join(SCENARIOS)}")
    what.add_argument("--endpoints", nargs="+", type=int, default=list(ENDPOINTS), metavar="N", help="default: 2 1024")
    how = parser.add_argument_group("how")
    how.add_argument("--rounds", type=int, default=3, metavar="N", help="for each gateway, in turns (default: 3)")
    how.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of load in a round (default: 5)")
    how.add_argument("--quick", action="store_true", help="one round of 2 s: to see whether all works")
    how.add_argument("--results", type=Path, default=RESULTS, metavar="DIRECTORY", help="default: benchmarks/results")
    how.add_argument("--keep", type=Path, metavar="DIRECTORY", help="keep the gateways' configuration and logs there")
    parser.add_argument(
        "--profile", choices=list(SCENARIOS), metavar="NAME", help="profile PyMotor's worker in a scenario instead"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    configure(parser)
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 2.0
    if any(count < 2 or count % 2 for count in arguments.endpoints):
        parser.error("--endpoints: an even number each, since in PD half of them prefill")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    signal.signal(signal.SIGTERM, _end)
    raise_open_files()
    with ExitStack() as stack:
        if arguments.keep:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            directory = arguments.keep
        else:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-overhead-")))
        try:
            if arguments.profile:
                return _profile(arguments, directory)
            return _benchmark(arguments, directory)
        except KeyboardInterrupt:
            return 130


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _benchmark(arguments: argparse.Namespace, directory: Path) -> int:
    gateways, versions, missing = _installed(arguments.gateways)
    if not gateways:
        logger.error("no gateway is installed: %s", missing)
        return 1
    run = Run(
        date=f"{datetime.now(timezone.utc):%Y-%m-%d}",
        machine=describe_machine(),
        versions=versions,
        what_was_on={gateway.name: gateway.what_is_on for gateway in gateways},
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        measurements=[],
        missing=missing,
    )
    scenarios = [SCENARIOS[name] for name in arguments.only or SCENARIOS]
    try:
        for mode in ("union", "pd", "epd"):
            wanted = [scenario for scenario in scenarios if scenario.mode == mode]
            for endpoints in arguments.endpoints if wanted else ():
                _stage(run, mode, endpoints, wanted, gateways, directory)
    finally:
        if run.measurements:
            for path in write(run, arguments.results):
                logger.info("wrote %s", path.name)
    verdicts = compare(run.measurements)
    if verdicts:
        print(limits_table(verdicts))
    good = not run.missing and not any(each.errors for each in run.measurements)
    return 0 if good and all(each.kept is not False for each in verdicts) else 1


def _installed(names: Sequence[str] | None) -> tuple[list[Gateway], dict[str, str], dict[str, str]]:
    """The gateways to measure with their versions, and those that are asked for and not there."""
    versions: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name in names or DEFAULT_GATEWAYS:
        version = GATEWAYS[name].version()
        if version is not None:
            versions[name] = version
        elif names or name != "haproxy":
            missing[name] = "not installed; see benchmarks/README.md"
            logger.warning("%s is not installed", name)
    return [GATEWAYS[name] for name in versions], versions, missing


def _stage(
    run: Run, mode: str, endpoints: int, scenarios: Sequence[Scenario], gateways: Sequence[Gateway], directory: Path
) -> None:
    """All scenarios of one mode before one fleet of fake engines; gateways stay up and take turns."""
    with ExitStack() as stack:
        fleet = stack.enter_context(fake_engines(mode, endpoints, directory, CORES[1]))
        running: dict[str, tuple[Pinned | None, int]] = {}
        for gateway in gateways:
            if mode not in gateway.modes:
                continue
            logger.info("starting %s before %d endpoints (%s)", gateway.name, endpoints, mode)
            try:
                process, port = gateway.start(fleet, directory, CORES[0])
            except ProcessError as error:
                run.missing[f"{gateway.name} with {endpoints} endpoints ({mode})"] = str(error)
                logger.warning("%s", error)
                continue
            stack.callback(process.stop)
            running[gateway.name] = process, port
        if mode == "union":
            running[DIRECT] = None, fleet.union[0]
        for scenario in scenarios:
            for number in range(run.rounds):
                order = list(running)
                turn = number % len(order)
                for name in order[turn:] + order[:turn]:
                    process_or_none, port = running[name]
                    found = measure(
                        name,
                        process_or_none,
                        port,
                        fleet,
                        scenario,
                        number + 1,
                        run.seconds,
                        directory,
                        CORES,
                    )
                    run.measurements.append(found)
                    _tell(found)


def _tell(found: Measurement) -> None:
    logger.info(
        "%-18s %4d endpoints, round %d, %-24s %7.1f µs, %6d requests in %5.1f s%s",
        found.scenario,
        found.endpoints,
        found.round,
        found.gateway,
        found.cpu_us,
        found.requests,
        found.seconds,
        f", ERRORS {found.errors}" if found.errors else "",
    )


def _profile(arguments: argparse.Namespace, directory: Path) -> int:
    scenario = SCENARIOS[arguments.profile]
    name = (arguments.gateways or ["pymotor"])[0]
    with ExitStack() as stack:
        fleet = stack.enter_context(fake_engines(scenario.mode, arguments.endpoints[0], directory, CORES[1]))
        process, port = GATEWAYS[name].start(fleet, directory, CORES[0])
        stack.callback(process.stop)
        report = profile(name, process, port, fleet, scenario, arguments.seconds, directory, CORES[1])
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / f"profile_{scenario.name}.md"
    path.write_text(report)
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
