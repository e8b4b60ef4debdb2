"""`pymotor coordinator`: run the gateway in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import secrets
import socket
import sys
from pathlib import Path

from pymotor.config import UserConfig, load_config
from pymotor.control_plane import ClusterToken, TokenError
from pymotor.coordinator.fleet_source import FileFleetSource, FleetSource
from pymotor.coordinator.fleet_watch import ControllerFleetSource, ControllerURLError, controller_urls
from pymotor.coordinator.forwarding_checks import check_forwarding
from pymotor.coordinator.not_served import not_served
from pymotor.coordinator.pairing import is_wildcard
from pymotor.coordinator.ports import PortError
from pymotor.coordinator.settings import settings_from, worker_count
from pymotor.coordinator.supervisor import CoordinatorOptions, supervise
from pymotor.coordinator.worker_pool import WorkerStartError
from pymotor.telemetry.logs import LEVELS, configure_logging

logger = logging.getLogger(__name__)

SERVICE_VARIABLE = "CONTROLLER_SERVICE"
"""The name of the Controller, in pods."""

WORKER_MODULE = "pymotor.coordinator.worker"

_LOOPBACK = "127.0.0.1"

_EPILOG = """\
It prints one line to standard output, `pymotor coordinator ready on http://HOST:PORT`, when it accepts
requests, and its log to standard error. SIGTERM or Ctrl-C ends it when running requests are done, at most
--grace seconds later; a second signal ends it at once. Exit status: 0 ended as asked, 1 failed, 2 wrong usage.

Management (loopback unless --host says otherwise):   curl http://127.0.0.1:1026/instances
Metrics for Prometheus:                               curl http://127.0.0.1:1027/metrics
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    config = parser.add_argument_group("what it serves")
    config.add_argument(
        "--user_config_path",
        "--user-config-path",
        type=Path,
        required=True,
        metavar="FILE",
        help="user_config.json",
    )
    config.add_argument(
        "--env_config_path", "--env-config-path", type=Path, metavar="FILE", help="env.json, if there is one"
    )
    teller = config.add_mutually_exclusive_group()
    teller.add_argument(
        "--fleet",
        type=Path,
        metavar="FILE",
        help="fleet snapshot (JSON), read again whenever it changes; it may come later",
    )
    teller.add_argument(
        "--controller",
        type=_controllers,
        metavar="URL[,URL]",
        help="the Controllers that tell of the fleet, of which one leads; default, without --fleet:"
        f" controller_api_dns or ${SERVICE_VARIABLE} at controller_api_port of motor_controller_config",
    )
    ports = parser.add_argument_group("where it listens (default: api_config of user_config.json)")
    ports.add_argument("--host", help=f"address of all three ports; {_LOOPBACK} where the config has none")
    ports.add_argument("--port", type=_port, help="clients' requests; 1025 where the config has none, 0: any free one")
    ports.add_argument("--management-port", type=_port, metavar="PORT", help="instances and probes; 1026 likewise")
    ports.add_argument("--observability-port", type=_port, metavar="PORT", help="metrics; 1027 likewise")
    running = parser.add_argument_group("how it runs")
    running.add_argument(
        "--workers",
        type=_at_least_one,
        metavar="N",
        help="processes that serve requests; default: inference_workers_config.num_workers, else one for 2 cores,"
        " at most 4",
    )
    running.add_argument(
        "--server-timing",
        choices=("on", "off"),
        help="whether answers name their legs in a Server-Timing header; default: http_config.server_timing",
    )
    running.add_argument(
        "--grace",
        type=_seconds,
        default=20.0,
        metavar="SECONDS",
        help="time that running requests have when it is to end (default: %(default)g)",
    )
    running.add_argument(
        "--worker-timeout",
        type=_some_seconds,
        default=30.0,
        metavar="SECONDS",
        help="replace a worker process that has not answered the supervisor for so long (default: %(default)g)",
    )
    running.add_argument(
        "--log-level",
        type=str.upper,
        choices=LEVELS,
        help="least level of the log; default: logging_config.log_level of motor_coordinator_config",
    )
    running.add_argument(
        "--parent-pipe",
        type=_descriptor,
        metavar="FD",
        help="end when this inherited descriptor reports end of file, that is when the parent is gone",
    )


def run(arguments: argparse.Namespace, worker_module: str = WORKER_MODULE) -> int:
    """Run until it is told to end, with workers that are processes of `worker_module`; returns the exit status."""
    loaded = load_config(arguments.user_config_path, arguments.env_config_path, strict=False)
    problems = list(loaded.problems)
    if loaded.user is not None:
        problems += not_served(loaded.user, str(arguments.user_config_path))
        problems += check_forwarding(loaded.user, str(arguments.user_config_path), os.environ)
    for problem in problems:
        print(problem, file=sys.stderr)
    if loaded.user is None or any(problem.severity == "error" for problem in problems):
        print("pymotor coordinator: the configuration has errors; mend what is listed above", file=sys.stderr)
        return 1
    options = _options(arguments, loaded.user, worker_module)
    try:
        source = _source(arguments, loaded.user)
    except ControllerURLError as error:
        print(f"pymotor coordinator: {error}", file=sys.stderr)
        return 2
    except TokenError as error:
        print(f"pymotor coordinator: {error}", file=sys.stderr)
        return 1
    configure_logging(options.log_level, process="coordinator")
    try:
        asyncio.run(supervise(options, source, _announce))
    except (PortError, WorkerStartError) as error:
        print(f"pymotor coordinator: {error}", file=sys.stderr)
        return 1
    return 0


def _options(arguments: argparse.Namespace, user: UserConfig, worker_module: str) -> CoordinatorOptions:
    """The command line where it says something, the config elsewhere."""
    coordinator = user.motor_coordinator_config
    api = coordinator.api_config
    timing = None if arguments.server_timing is None else arguments.server_timing == "on"

    def stated(value: int | None, configured: int) -> int:
        return configured if value is None else value

    host = arguments.host or api.coordinator_api_host or _LOOPBACK
    callback_host = _dialled_at(host, api.coordinator_api_host, os.environ.get("POD_IP"))
    return CoordinatorOptions(
        settings=settings_from(user, server_timing=timing, callback_host=callback_host),
        host=host,
        port=stated(arguments.port, api.coordinator_api_infer_port),
        management_port=stated(arguments.management_port, api.coordinator_api_mgmt_port),
        observability_port=stated(arguments.observability_port, api.coordinator_obs_port),
        workers=stated(arguments.workers, worker_count(user)),
        log_level=arguments.log_level or coordinator.logging_config.log_level,
        grace=arguments.grace,
        worker_timeout=arguments.worker_timeout,
        parent_pipe=arguments.parent_pipe,
        worker_module=worker_module,
    )


def _source(arguments: argparse.Namespace, user: UserConfig) -> FleetSource:
    """Who tells of the fleet. Raises `ControllerURLError` when nobody is named, `TokenError`."""
    if arguments.fleet is not None:
        return FileFleetSource(arguments.fleet)
    urls = arguments.controller
    if urls is None:
        api = user.motor_controller_config.api_config
        service = api.controller_api_dns or os.environ.get(SERVICE_VARIABLE, "")
        if not service:
            raise ControllerURLError(
                f"nobody tells of the fleet: give --controller URL or --fleet FILE, or set {SERVICE_VARIABLE}"
            )
        host = f"[{service}]" if ":" in service else service
        urls = controller_urls(f"http://{host}:{api.controller_api_port}")
    # Several Coordinators may be on one machine, and one may be started again at once.
    name = f"{socket.gethostname()}-{secrets.token_hex(8)}"
    return ControllerFleetSource(urls, ClusterToken.from_environment(), name)


def _controllers(text: str) -> tuple[str, ...]:
    try:
        return controller_urls(text)
    except ControllerURLError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _dialled_at(*hosts: str | None) -> str:
    """The first address that others can dial; empty when all of them stand for every interface."""
    return next((host for host in hosts if host and not is_wildcard(host)), "")


def _announce(url: str) -> None:
    try:
        print(f"pymotor coordinator ready on {url}", flush=True)
    except OSError as error:
        logger.warning("standard output is closed, so nobody was told that %s is ready: %s", url, error)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is no port: 0 to 65535")
    return port


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no length of time in seconds")
    return seconds


def _some_seconds(text: str) -> float:
    seconds = _seconds(text)
    if not seconds:
        raise argparse.ArgumentTypeError("it must be more than 0 seconds")
    return seconds


def _descriptor(text: str) -> int:
    descriptor = int(text)
    try:
        os.fstat(descriptor)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"descriptor {descriptor} is not open: {error}") from error
    return descriptor
