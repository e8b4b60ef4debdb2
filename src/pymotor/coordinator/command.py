"""`pymotor coordinator`: run the gateway in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import socket
import sys
from functools import partial
from pathlib import Path

from pymotor.config import LiveConfig, Part, Problem, UserConfig, load_config
from pymotor.config.access import APIKeyConfig
from pymotor.control_plane import ClusterToken, TokenError
from pymotor.control_plane.arguments import add_parent_pipe, at_least_one, controllers, port, seconds, some_seconds
from pymotor.control_plane.asking import PlainURLError, refuse_plain
from pymotor.control_plane.controllers import ControllerURLError, controller_urls
from pymotor.control_plane.foreground import announce_url, failed
from pymotor.control_plane.plane import PlaneTLS
from pymotor.control_plane.ports import PortError, http_url
from pymotor.control_plane.tls import TLSError
from pymotor.coordinator.fleet_source import FileFleetSource, FleetSource
from pymotor.coordinator.fleet_watch import ControllerFleetSource
from pymotor.coordinator.keys.key_source import KeySource
from pymotor.coordinator.keys.keys_file import KeysFileError
from pymotor.coordinator.live_settings import LiveSettings, SettingsWatch
from pymotor.coordinator.own_checks import check_files, check_settings
from pymotor.coordinator.pairing import is_wildcard
from pymotor.coordinator.settings import Settings, settings_from, worker_count
from pymotor.coordinator.supervisor import CoordinatorOptions, supervise
from pymotor.coordinator.worker_pool import WorkerStartError
from pymotor.telemetry.logs import LEVELS, configure_logging

SERVICE_VARIABLE = "CONTROLLER_SERVICE"
"""The name of the Controller, in pods."""

_PROGRAM = "coordinator"
WORKER_MODULE = "pymotor.coordinator.worker_control"

_LOOPBACK = "127.0.0.1"

_EPILOG = """\
It prints one line to standard output, `pymotor coordinator ready on http://HOST:PORT`, when it accepts
requests, and its log to standard error. SIGTERM or Ctrl-C ends it when running requests are done, at most
--grace seconds later; a second signal ends it at once. Exit status: 0 ended as asked, 1 failed, 2 wrong usage.

Dashboard (loopback unless --host says otherwise):    http://127.0.0.1:1026/dashboard
Management, at the same port:                         curl http://127.0.0.1:1026/instances
Metrics for Prometheus:                               curl http://127.0.0.1:1027/metrics
From other machines all need an API key (`pymotor api-key`) or the cluster's token; probes need nothing.
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
        type=controllers,
        metavar="URL[,URL]",
        help="the Controllers that tell of the fleet, of which one leads; default, without --fleet:"
        f" controller_api_dns or ${SERVICE_VARIABLE} at controller_api_port of motor_controller_config",
    )
    ports = parser.add_argument_group("where it listens (default: api_config of user_config.json)")
    ports.add_argument("--host", help=f"address of all three ports; {_LOOPBACK} where the config has none")
    ports.add_argument("--port", type=port, help="clients' requests; 1025 where the config has none, 0: any free one")
    ports.add_argument("--management-port", type=port, metavar="PORT", help="instances and probes; 1026 likewise")
    ports.add_argument("--observability-port", type=port, metavar="PORT", help="metrics; 1027 likewise")
    running = parser.add_argument_group("how it runs")
    running.add_argument(
        "--workers",
        type=at_least_one,
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
        type=seconds,
        default=20.0,
        metavar="SECONDS",
        help="time that running requests have when it is to end (default: %(default)g)",
    )
    running.add_argument(
        "--worker-timeout",
        type=some_seconds,
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
    add_parent_pipe(running)


def run(arguments: argparse.Namespace, worker_module: str = WORKER_MODULE) -> int:
    """Run until it is told to end, with workers that are processes of `worker_module`; returns the exit status."""
    loaded = load_config(arguments.user_config_path, arguments.env_config_path, strict=False)
    problems = list(loaded.problems)
    if loaded.user is not None:
        file = str(arguments.user_config_path)
        problems += [*_own_problems(loaded.user, file), *check_files(loaded.user, file, os.environ)]
    for problem in problems:
        print(problem, file=sys.stderr)
    if loaded.user is None or any(problem.severity == "error" for problem in problems):
        return failed(_PROGRAM, "the configuration has errors; mend what is listed above")
    live = SettingsWatch(
        LiveConfig(arguments.user_config_path, None, loaded, Part.COORDINATOR, check=_own_problems),
        partial(_live_settings, arguments),
    )
    try:
        options = _options(arguments, loaded.user, worker_module)
        source = _source(arguments, loaded.user)
    except (ControllerURLError, PlainURLError) as error:
        return failed(_PROGRAM, str(error), 2)
    except (TokenError, TLSError) as error:
        return failed(_PROGRAM, str(error))
    configure_logging(options.log_level, process="coordinator")
    try:
        asyncio.run(supervise(options, source, partial(announce_url, _PROGRAM), live=live))
    except (PortError, WorkerStartError, KeysFileError, TLSError) as error:
        return failed(_PROGRAM, str(error))
    return 0


def _own_problems(user: UserConfig, file: str) -> list[Problem]:
    """What the Coordinator itself has to say against it. Not its keys and certificates: those are followed by who uses
    them."""
    return check_settings(user, file, os.environ)


def _live_settings(arguments: argparse.Namespace, user: UserConfig) -> LiveSettings:
    return LiveSettings(_settings(arguments, user), _log_level(arguments, user))


def _settings(arguments: argparse.Namespace, user: UserConfig) -> Settings:
    timing = None if arguments.server_timing is None else arguments.server_timing == "on"
    configured = user.motor_coordinator_config.api_config.coordinator_api_host
    callback_host = _dialled_at(_host(arguments, user), configured, os.environ.get("POD_IP"))
    management = _management(arguments, user)
    return settings_from(
        user,
        server_timing=timing,
        callback_host=callback_host,
        conductor_tls=management,
        directory=arguments.user_config_path.parent,
    )


def _host(arguments: argparse.Namespace, user: UserConfig) -> str:
    return str(arguments.host or user.motor_coordinator_config.api_config.coordinator_api_host or _LOOPBACK)


def _log_level(arguments: argparse.Namespace, user: UserConfig) -> str:
    return str(arguments.log_level or user.motor_coordinator_config.logging_config.log_level)


def _options(arguments: argparse.Namespace, user: UserConfig, worker_module: str) -> CoordinatorOptions:
    """The command line where it says something, the config elsewhere. Raises `TokenError`."""
    coordinator = user.motor_coordinator_config
    api = coordinator.api_config

    def stated(value: int | None, configured: int) -> int:
        return configured if value is None else value

    return CoordinatorOptions(
        settings=_settings(arguments, user),
        host=_host(arguments, user),
        port=stated(arguments.port, api.coordinator_api_infer_port),
        management_port=stated(arguments.management_port, api.coordinator_api_mgmt_port),
        observability_port=stated(arguments.observability_port, api.coordinator_obs_port),
        workers=stated(arguments.workers, worker_count(user)),
        log_level=_log_level(arguments, user),
        grace=arguments.grace,
        worker_timeout=arguments.worker_timeout,
        parent_pipe=arguments.parent_pipe,
        key_source=_key_source(coordinator.api_key_config, arguments.user_config_path.parent),
        door_token=ClusterToken.from_environment(),
        open_doors=tuple(coordinator.api_key_config.open_doors),
        worker_module=worker_module,
        management_tls=_management(arguments, user),
        observability_tls=PlaneTLS.of(
            user.motor_deploy_config.tls_config.observability_tls_config, arguments.user_config_path.parent
        ),
    )


def _management(arguments: argparse.Namespace, user: UserConfig) -> PlaneTLS | None:
    return PlaneTLS.of(user.motor_deploy_config.tls_config.mgmt_tls_config, arguments.user_config_path.parent)


def _key_source(config: APIKeyConfig, directory: Path) -> KeySource | None:
    if not config.enable_api_key:
        return None
    return KeySource(config.valid_keys, directory / config.keys_file if config.keys_file else None)


def _source(arguments: argparse.Namespace, user: UserConfig) -> FleetSource:
    """Who tells of the fleet. Raises `ControllerURLError` when nobody is named, `PlainURLError`, `TokenError`,
    `TLSError`."""
    if arguments.fleet is not None:
        return FileFleetSource(arguments.fleet)
    management = _management(arguments, user)
    urls = arguments.controller
    if urls is None:
        api = user.motor_controller_config.api_config
        service = api.controller_api_dns or os.environ.get(SERVICE_VARIABLE, "")
        if not service:
            raise ControllerURLError(
                f"nobody tells of the fleet: give --controller URL or --fleet FILE, or set {SERVICE_VARIABLE}"
            )
        urls = controller_urls(http_url(service, api.controller_api_port, secure=management is not None))
    elif management is not None:
        refuse_plain(urls)
    # Several Coordinators may be on one machine, and one may be started again at once.
    name = f"{socket.gethostname()}-{secrets.token_hex(8)}"
    tls = management.client() if management is not None else None
    return ControllerFleetSource(urls, ClusterToken.from_environment(), name, tls)


def _dialled_at(*hosts: str | None) -> str:
    """The first address that others can dial; empty when all of them stand for every interface."""
    return next((host for host in hosts if host and not is_wildcard(host)), "")
