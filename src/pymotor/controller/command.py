"""`pymotor controller`: run the Controller in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
import uuid
from functools import partial
from pathlib import Path

from pymotor.config import LiveConfig, LoadedConfig, Part, UserConfig, load_config
from pymotor.control_plane import ClusterToken, TokenError, is_loopback
from pymotor.control_plane.arguments import add_parent_pipe, port
from pymotor.control_plane.foreground import announce_url, failed
from pymotor.control_plane.plane import PlaneTLS
from pymotor.control_plane.ports import PortError
from pymotor.control_plane.tls import TLSError
from pymotor.control_plane.token import TOKEN_PLACE
from pymotor.controller.file_lease import FileLease
from pymotor.controller.kubernetes_lease import KubernetesLease
from pymotor.controller.lease import Lease, LeaseError
from pymotor.controller.live_settings import ConfigWatch
from pymotor.controller.oversight import OversightSettings, oversight_from
from pymotor.controller.running import ControllerError, ControllerOptions, run_controller
from pymotor.controller.settings import ControllerSettings, settings_from
from pymotor.telemetry.logs import LEVELS, configure_logging

_PROGRAM = "controller"
DEFAULT_PORT = 31018
SERVICE_VARIABLE = "CONTROLLER_SERVICE"
"""The name of the Controller, in pods."""
_LOOPBACK = "127.0.0.1"
_WILDCARDS = ("0.0.0.0", "::", "")
_RETRY_ALONE = 0.2
"""Seconds between tries to lead where there is no standby: the last holder is ending."""

_RETRY_STANDBY = 5.0
"""And where there is one, and no configuration that says it."""

_EPILOG = """\
It prints one line to standard output, `pymotor controller ready on http://HOST:PORT`, when it answers, and its
log to standard error. SIGTERM or Ctrl-C ends it at once, handing the lease back; engines go on. Exit status:
0 ended as asked, 1 failed, 2 wrong usage.

All but probes need the cluster token (PYMOTOR_CLUSTER_TOKEN, or a file that PYMOTOR_CLUSTER_TOKEN_FILE names) or,
with mgmt_tls_config, a certificate; without either it listens on loopback only.

pymotor instances   pymotor events --follow   pymotor scale
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument(
        "--user_config_path",
        "--user-config-path",
        type=Path,
        metavar="FILE",
        help="user_config.json; without it everything is as by default",
    )
    parser.add_argument("--host", help=f"address to listen on; default: api_config, else {_LOOPBACK}")
    parser.add_argument(
        "--port",
        type=port,
        help=f"port, 0: any free one; default: api_config.controller_api_port, without a config {DEFAULT_PORT}",
    )
    parser.add_argument(
        "--state-dir", type=Path, metavar="DIR", help="where the file lease is kept; needed with --lease file"
    )
    parser.add_argument(
        "--lease", choices=("file", "kubernetes"), default="file", help="what decides who leads (default: %(default)s)"
    )
    parser.add_argument("--name", help="what it is called in the lease; default: the host's name")
    add_parent_pipe(parser)
    parser.add_argument(
        "--log-level",
        type=str.upper,
        choices=LEVELS,
        help="least level of the log; default: logging_config.log_level of motor_controller_config",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run until it is told to end; returns the exit status."""
    user: UserConfig | None = None
    loaded: LoadedConfig | None = None
    if arguments.user_config_path is not None:
        loaded = load_config(arguments.user_config_path, None, strict=False)
        for problem in loaded.problems:
            print(problem, file=sys.stderr)
        user = loaded.user
        if user is None or any(problem.severity == "error" for problem in loaded.problems):
            return failed(_PROGRAM, "the configuration has errors; mend what is listed above")
    if arguments.lease == "file" and arguments.state_dir is None:
        return failed(_PROGRAM, "--lease file needs --state-dir", 2)
    options = _options(arguments, user)
    try:
        token = ClusterToken.from_environment()
        guarded = options.management_tls is not None and options.management_tls.keeps_strangers_out
        if token is None and not guarded and not is_loopback(options.host):
            told = f"without a cluster token it listens on loopback only, not on {options.host}: set {TOKEN_PLACE}"
            return failed(_PROGRAM, told, 2)
        lease = _lease(arguments, user)
    except (TokenError, LeaseError) as error:
        return failed(_PROGRAM, str(error))
    level = user.motor_controller_config.logging_config.log_level if user is not None else "INFO"
    configure_logging(arguments.log_level or level, process="controller")
    try:
        asyncio.run(
            run_controller(options, lease, token, partial(announce_url, _PROGRAM), _watch(arguments, loaded, options))
        )
    except (ControllerError, LeaseError, PortError, TLSError) as error:
        return failed(_PROGRAM, str(error))
    return 0


def _watch(
    arguments: argparse.Namespace, loaded: LoadedConfig | None, options: ControllerOptions
) -> ConfigWatch | None:
    if loaded is None:
        return None
    config = LiveConfig(arguments.user_config_path, None, loaded, Part.CONTROLLER)
    return ConfigWatch(config, stated_level=arguments.log_level, stands_by=options.standby)


def _options(arguments: argparse.Namespace, user: UserConfig | None) -> ControllerOptions:
    config = user.motor_controller_config if user is not None else None
    host = arguments.host or (config.api_config.controller_api_host if config is not None else None) or _LOOPBACK
    port = config.api_config.controller_api_port if config is not None else DEFAULT_PORT
    standby = config.standby_config if config is not None else None
    stands_by = arguments.lease == "kubernetes" or (standby is not None and standby.enable_master_standby)
    retry = float(standby.master_lock_retry_interval) if standby is not None else _RETRY_STANDBY
    management, observability = _planes(arguments, user)
    return ControllerOptions(
        settings=settings_from(user) if user is not None else ControllerSettings(),
        host=host,
        port=port if arguments.port is None else arguments.port,
        advertised_host=(os.environ.get("POD_IP") or socket.gethostname()) if host in _WILDCARDS else "",
        name=f"{arguments.name or socket.gethostname()} {uuid.uuid4().hex[:12]}",
        standby=stands_by,
        passes_on=arguments.lease == "kubernetes",
        lease_seconds=float(standby.master_lock_ttl) if standby is not None else 10.0,
        retry_seconds=retry if stands_by else _RETRY_ALONE,
        parent_pipe=arguments.parent_pipe,
        oversight=oversight_from(user, stands_by=stands_by) if user is not None else OversightSettings(),
        management_tls=management,
        observability_tls=observability,
        leader_name=(config.api_config.controller_api_dns if config is not None else None)
        or os.environ.get(SERVICE_VARIABLE, ""),
    )


def _planes(arguments: argparse.Namespace, user: UserConfig | None) -> tuple[PlaneTLS | None, PlaneTLS | None]:
    """Of management and of observability."""
    if user is None:
        return None, None
    directory = arguments.user_config_path.parent
    tls = user.motor_deploy_config.tls_config
    return PlaneTLS.of(tls.mgmt_tls_config, directory), PlaneTLS.of(tls.observability_tls_config, directory)


def _lease(arguments: argparse.Namespace, user: UserConfig | None) -> Lease:
    if arguments.lease == "file":
        return FileLease(arguments.state_dir)
    key = user.motor_controller_config.standby_config.master_lock_key if user is not None else "/master_lock"
    return KubernetesLease.in_cluster(key)
