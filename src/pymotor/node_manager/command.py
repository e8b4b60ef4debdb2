"""`pymotor node-manager`: run the engine servers of one node as the Controller orders, in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

from pymotor.config import LiveConfig, LoadedConfig, Part, UserConfig, load_config
from pymotor.control_plane import TokenError, is_loopback
from pymotor.control_plane.arguments import add_parent_pipe, port, seconds
from pymotor.control_plane.foreground import announce, failed
from pymotor.control_plane.tls import ClientTLS, ServerTLS, TLSError, tls_files
from pymotor.engines.tls import engine_tls
from pymotor.fleet import Role
from pymotor.node_manager.live_settings import ConfigWatch
from pymotor.node_manager.manager import NodeManager
from pymotor.node_manager.planning import OrderPlanner
from pymotor.node_manager.settings import NodeSettings, SettingsError, settings_from
from pymotor.telemetry.logs import LEVELS, configure_logging

_PROGRAM = "node-manager"
_EPILOG = """\
It prints one line to standard output, `pymotor node-manager ready, reports to URL`, and its log to standard error.
What to run it hears from the Controller; without one it goes on with what runs. The token of the cluster comes from
PYMOTOR_CLUSTER_TOKEN, or the file that PYMOTOR_CLUSTER_TOKEN_FILE names.

SIGTERM or Ctrl-C lets the Controller drain its instance, at most --grace seconds, then ends the engines; a second
signal ends them at once. Exit status: 0 ended as asked or released, 1 failed, 2 wrong usage.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    config = parser.add_argument_group(
        "configuration (default: USER_CONFIG_PATH, else user_config.json and env.json in the directory CONFIG_PATH)"
    )
    config.add_argument("--config_dir", "--config-dir", type=Path, metavar="DIR", help="directory of both files")
    config.add_argument("--user_config_path", "--user-config-path", type=Path, metavar="FILE", help="user_config.json")
    config.add_argument("--env_config_path", "--env-config-path", type=Path, metavar="FILE", help="env.json")
    node = parser.add_argument_group("this node")
    node.add_argument("--role", choices=[role.value for role in Role], help="what it is for; default: ROLE")
    node.add_argument("--job", metavar="NAME", help="whose nodes form instances; default: JOB_NAME, else job_id")
    node.add_argument("--node", metavar="NAME", help="its name; default: POD_NAME, HOSTNAME, the name of the host")
    node.add_argument("--address", metavar="IP", help="where others reach it; default: POD_IP, pod_ip, 127.0.0.1")
    node.add_argument("--machine", metavar="NAME", help="the Kubernetes node; default: NODE_NAME")
    node.add_argument("--number", type=_whole, metavar="N", help="the instance number it would like to have")
    node.add_argument(
        "--devices", type=_devices, metavar="N,N", help="accelerators to use; default: as many as a pod has, from 0"
    )
    node.add_argument("--store", type=Path, metavar="DIR", help="where engines meet when no directory is configured")
    running = parser.add_argument_group("how it runs")
    running.add_argument(
        "--controller",
        metavar="URL[,URL]",
        help="the Controllers; default: http:// CONTROLLER_SERVICE : controller_api_port, with mgmt_tls_config"
        " https://",
    )
    running.add_argument("--log-dir", type=Path, metavar="DIR", help="logs of the engines; default: a temporary one")
    running.add_argument(
        "--port", type=port_or_none, metavar="N", help="of its probes, none: no port; default: node_manager_port"
    )
    running.add_argument(
        "--grace",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="time that the Controller has to drain its instance when it is to end (default: %(default)g)",
    )
    running.add_argument(
        "--start-timeout",
        type=seconds,
        default=1800.0,
        metavar="SECONDS",
        help="time until an engine answers after its start (default: %(default)g)",
    )
    running.add_argument("--log-level", type=str.upper, choices=LEVELS, help="default: log_level of logging_config")
    add_parent_pipe(running)


def run(arguments: argparse.Namespace) -> int:
    """Run until it is told to end or released; returns the exit status."""
    with contextlib.ExitStack() as held:
        try:
            loaded, user = _config(arguments, os.environ)
            env = loaded.env
            directory = _config_paths(arguments, os.environ)[0].parent
            settings = settings_from(arguments, user, os.environ, directory)
            management = settings.management_tls
            tls = management.client() if management is not None else None
            door = management.server() if management is not None and settings.port is not None else None
            block = user.motor_deploy_config.tls_config.infer_tls_config
            files = tls_files(block, directory)
            to_engines = ClientTLS(files, peer_name=block.peer_name) if files is not None else None
            _make_log_directory(settings.log_directory, stated=arguments.log_dir is not None)
            listening = None if settings.port is None else held.enter_context(_listen(settings.address, settings.port))
        except (SettingsError, TokenError, TLSError, OSError) as error:
            return failed(_PROGRAM, str(error))
        section = user.engine_section(settings.role.value)
        assert section is not None
        level = arguments.log_level or section.motor_nodemanger_config.logging_config.log_level
        configure_logging(level, process="node-manager")
        planner = OrderPlanner(
            *(user, env, settings.job, settings.address, settings.devices, settings.store, settings.ranktable_path),
            tls=engine_tls(user, directory),
        )
        roles = {role.value for role in (settings.role, *settings.roles)}
        config = LiveConfig(*_config_paths(arguments, os.environ), loaded, Part.NODE_MANAGER, roles=roles)
        watch = ConfigWatch(config, user, settings.role, stated_level=arguments.log_level)
        manager = NodeManager(settings, planner, watch.health_of, to_engines, tls)
        asyncio.run(manager.run(_announce, _beside(manager, settings, listening, watch, door)))
    return 0


def _config(arguments: argparse.Namespace, variables: Mapping[str, str]) -> tuple[LoadedConfig, UserConfig]:
    """Load the configuration; problems go to standard error. Raises `SettingsError` when there is an error."""
    user_path, env_path = _config_paths(arguments, variables)
    loaded = load_config(user_path, env_path, strict=False)
    for problem in loaded.problems:
        print(problem, file=sys.stderr)
    if loaded.user is None or not loaded.ok:
        raise SettingsError("the configuration has errors; mend what is listed above")
    return loaded, loaded.user


def _config_paths(arguments: argparse.Namespace, variables: Mapping[str, str]) -> tuple[Path, Path | None]:
    if arguments.user_config_path is not None:
        return arguments.user_config_path, arguments.env_config_path
    stated = variables.get("USER_CONFIG_PATH")
    if stated and arguments.config_dir is None:
        return Path(stated), arguments.env_config_path
    directory = arguments.config_dir or variables.get("CONFIG_PATH")
    if not directory:
        raise SettingsError("nobody says where the configuration is: set --config_dir, or CONFIG_PATH")
    beside = Path(directory) / "env.json"
    return Path(directory) / "user_config.json", arguments.env_config_path or (beside if beside.exists() else None)


def _make_log_directory(path: Path, *, stated: bool) -> None:
    """Raises `SettingsError` where somebody else has made the temporary one before."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not stated and (path.is_symlink() or path.stat().st_uid != os.getuid()):
        raise SettingsError(f"{path} belongs to another user; name a directory of your own with --log-dir")


def _listen(address: str, port: int) -> socket.socket:
    """Raises `OSError` when the port cannot be had."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family)


def _beside(
    manager: NodeManager,
    settings: NodeSettings,
    listening: socket.socket | None,
    watch: ConfigWatch,
    tls: ServerTLS | None,
) -> list[Callable[[], Awaitable[None]]]:
    following = partial(watch.follow, manager)
    if listening is None:
        return [following]
    from pymotor.node_manager.probes import probes_server  # FastAPI takes half a second to import

    token = None if is_loopback(settings.address) else settings.token
    return [following, probes_server(manager, token, listening, lambda: watch.state, tls)]


def _announce(url: str) -> None:
    announce(_PROGRAM, f", reports to {url}")


_GREATEST_NUMBER = 2**31 - 1
"""More than a report can say is refused by every Controller for ever."""


def _whole(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is less than 0")
    if number > _GREATEST_NUMBER:
        raise argparse.ArgumentTypeError(f"{number} is more than {_GREATEST_NUMBER}")
    return number


def port_or_none(text: str) -> int | str:
    if text == "none":
        return text
    return port(text)


def _devices(text: str) -> tuple[int, ...]:
    return tuple(_whole(word) for word in text.split(","))
