"""`pymotor kv-conductor`: run the KV Conductor in the foreground."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import msgspec
import uvloop

from pymotor.config import UserConfig, load_config
from pymotor.control_plane import ClusterToken, TokenError, is_loopback
from pymotor.control_plane.arguments import add_parent_pipe, controllers, port
from pymotor.control_plane.asking import PlainURLError, refuse_plain
from pymotor.control_plane.controllers import ControllerURLError, controller_urls
from pymotor.control_plane.foreground import announce_url, failed
from pymotor.control_plane.open_files import allow_many_files
from pymotor.control_plane.plane import PlaneTLS
from pymotor.control_plane.ports import PortError, http_url
from pymotor.control_plane.tls import ClientTLS, TLSError, tls_files
from pymotor.control_plane.token import LOCAL_TOKEN_FILE, TOKEN_PLACE
from pymotor.kv_conductor.fleet_watch import ControllerWatch, FileWatch, FleetTeller, NoFleet
from pymotor.kv_conductor.running import ConductorError, ConductorOptions, run_conductor
from pymotor.telemetry.logs import LEVELS, configure_logging

_PROGRAM = "kv-conductor"
DEFAULT_PORT = 13333
CONFIG_VARIABLE = "CONDUCTOR_CONFIG_PATH"
"""The file of `kv_conductor_config` by itself, in pods."""
CONFIG_DIRECTORY_VARIABLE = "CONFIG_PATH"
"""The directory of user_config.json, in pods."""
SERVICE_VARIABLE = "CONTROLLER_SERVICE"
"""The name of the Controller, in pods."""
_LOOPBACK = "127.0.0.1"

_EPILOG = f"""\
It follows the KV events of every ready prefill, decode and union engine of the fleet and says, for the tokens of
a prompt, how much of its beginning each of them holds. Coordinators ask in frames and people over HTTP, on the
same port. It prints one line to standard output, `pymotor kv-conductor ready on http://HOST:PORT`, when it
answers, and its log to standard error. SIGTERM or Ctrl-C ends it; what it knew it learns again from the engines
when it starts. Exit status: 0 ended as asked, 1 failed, 2 wrong usage.

Who is followed, and how it stands with each:   curl -H "Authorization: Bearer $TOKEN" http://127.0.0.1:13333/sources
Metrics for Prometheus:                         curl http://127.0.0.1:13333/metrics

{DEFAULT_PORT} is the port where nothing says another; `pymotor status` shows the address of a local fleet's.

All but probes and metrics need the cluster token or, with mgmt_tls_config, a certificate; without either it
listens on loopback only. The token is in {TOKEN_PLACE}.
A fleet of `pymotor up` has one of its own, with the name that `pymotor status` shows:
TOKEN=$(cat {LOCAL_TOKEN_FILE}), or $PYMOTOR_HOME/NAME/token where that is set.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    config = parser.add_mutually_exclusive_group()
    config.add_argument(
        "--user_config_path",
        "--user-config-path",
        type=Path,
        metavar="FILE",
        help="user_config.json; without it everything is as by default",
    )
    config.add_argument(
        "--config_dir",
        "--config-dir",
        type=Path,
        metavar="DIR",
        help=f"the directory of user_config.json; default: ${CONFIG_DIRECTORY_VARIABLE} where that has one",
    )
    teller = parser.add_mutually_exclusive_group()
    teller.add_argument(
        "--controller",
        type=controllers,
        metavar="URL[,URL]",
        help="the Controllers that tell of the fleet, of which one leads; default, without --fleet:"
        f" controller_api_dns or ${SERVICE_VARIABLE} at controller_api_port of motor_controller_config; where none of"
        " these is there, only what is registered over HTTP is followed",
    )
    teller.add_argument(
        "--fleet",
        type=Path,
        metavar="FILE",
        help="fleet snapshot (JSON), read again whenever it changes; it may come later",
    )
    parser.add_argument("--host", help=f"address to listen on (default: {_LOOPBACK})")
    parser.add_argument(
        "--port",
        type=port,
        help="port, 0: any free one; default: kv_conductor_config.http_server_port, where that says nothing"
        f" {DEFAULT_PORT}",
    )
    add_parent_pipe(parser)
    parser.add_argument(
        "--log-level", type=str.upper, choices=LEVELS, default="INFO", help="least level of the log (default: INFO)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run until it is told to end; returns the exit status."""
    path = _config_path(arguments, os.environ)
    user: UserConfig | None = None
    if path is not None:
        loaded = load_config(path, None, strict=False)
        for problem in loaded.problems:
            print(problem, file=sys.stderr)
        user = loaded.user
        if user is None or any(problem.severity == "error" for problem in loaded.problems):
            return failed(_PROGRAM, "the configuration has errors; mend what is listed above")
    try:
        options = ConductorOptions(
            host=arguments.host or _LOOPBACK,
            port=_port(arguments, user, os.environ),
            parent_pipe=arguments.parent_pipe,
            management_tls=_management(user, path),
            to_engines=_to_engines(user, path.parent) if user is not None and path is not None else None,
        )
        management = options.management_tls
        guarded = management is not None and management.keeps_strangers_out
        token = ClusterToken.from_environment()
        if token is None and not guarded and not is_loopback(options.host):
            told = f"without a cluster token it listens on loopback only, not on {options.host}: set {TOKEN_PLACE}"
            return failed(_PROGRAM, told, 2)
        fleet = _fleet(arguments, user, token, management)
    except (ControllerURLError, PlainURLError) as error:
        return failed(_PROGRAM, str(error), 2)
    except (TokenError, ConductorError, TLSError) as error:
        return failed(_PROGRAM, str(error))
    configure_logging(arguments.log_level, process="kv-conductor")
    allow_many_files()
    try:
        uvloop.run(run_conductor(options, fleet, user, token, partial(announce_url, _PROGRAM)))
    except (PortError, TLSError) as error:
        return failed(_PROGRAM, str(error))
    return 0


def _config_path(arguments: argparse.Namespace, variables: Mapping[str, str]) -> Path | None:
    if arguments.user_config_path is not None:
        return Path(arguments.user_config_path)
    if arguments.config_dir is not None:
        return Path(arguments.config_dir) / "user_config.json"
    directory = variables.get(CONFIG_DIRECTORY_VARIABLE)
    found = Path(directory) / "user_config.json" if directory else None
    return found if found is not None and found.exists() else None


def _management(user: UserConfig | None, path: Path | None) -> PlaneTLS | None:
    if user is None or path is None:
        return None
    return PlaneTLS.of(user.motor_deploy_config.tls_config.mgmt_tls_config, path.parent)


def _to_engines(user: UserConfig, directory: Path) -> ClientTLS | None:
    """Raises `TLSError`."""
    block = user.motor_deploy_config.tls_config.infer_tls_config
    files = tls_files(block, directory)
    return ClientTLS(files, peer_name=block.peer_name) if files is not None else None


class _OwnConfig(msgspec.Struct):
    """`kv_conductor_config` by itself."""

    http_server_port: int = 0


def _port(arguments: argparse.Namespace, user: UserConfig | None, variables: Mapping[str, str]) -> int:
    """Raises `ConductorError` for a file of `CONFIG_VARIABLE` that cannot be read."""
    if arguments.port is not None:
        return int(arguments.port)
    own = user.kv_conductor_config if user is not None else None
    if own is not None and own.http_server_port:
        return own.http_server_port
    path = variables.get(CONFIG_VARIABLE)
    if path:
        try:
            return msgspec.json.decode(Path(path).read_bytes(), type=_OwnConfig).http_server_port or DEFAULT_PORT
        except (OSError, msgspec.DecodeError) as error:
            raise ConductorError(f"{CONFIG_VARIABLE} names {path}, which cannot be read: {error}") from error
    return DEFAULT_PORT


def _fleet(
    arguments: argparse.Namespace, user: UserConfig | None, token: ClusterToken | None, management: PlaneTLS | None
) -> FleetTeller:
    """Who tells of the fleet. Raises `ControllerURLError`, `PlainURLError`, `TLSError`."""
    if arguments.fleet is not None:
        return FileWatch(arguments.fleet)
    tls = management.client() if management is not None else None
    if arguments.controller is not None:
        if management is not None:
            refuse_plain(arguments.controller)
        return ControllerWatch(arguments.controller, token, tls)
    api = user.motor_controller_config.api_config if user is not None else None
    service = (api.controller_api_dns if api is not None else None) or os.environ.get(SERVICE_VARIABLE, "")
    if not service or api is None:
        return NoFleet()
    urls = controller_urls(http_url(service, api.controller_api_port, secure=management is not None))
    return ControllerWatch(urls, token, tls)
