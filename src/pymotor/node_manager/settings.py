"""What one NodeManager runs with: the command line where it says something, then the environment, then the config."""

from __future__ import annotations

import argparse
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pymotor.config import UserConfig
from pymotor.config.engine import NodeManagerConfig
from pymotor.config.user import ROLES
from pymotor.control_plane import TOKEN_VARIABLE, ClusterToken, is_loopback
from pymotor.control_plane.asking import refuse_plain
from pymotor.control_plane.plane import PlaneTLS
from pymotor.control_plane.ports import http_url
from pymotor.fleet import Role
from pymotor.node_manager.controllers import ControllerList
from pymotor.node_manager.playable import playable_roles

LOOPBACK = "127.0.0.1"


class SettingsError(ValueError):
    """A NodeManager cannot run with this; the message says what to change."""


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """One node."""

    node: str
    """Its name among the nodes of the deployment."""
    job: str
    role: Role
    roles: tuple[Role, ...] = ()
    """What it could be, where the Controller may give it another role; see `playable`."""
    address: str
    """Where other nodes reach it; engines and probes listen there."""
    machine: str
    preferred_number: int | None
    nodes_per_instance: int
    devices: tuple[int, ...] | None
    """Accelerators that engines may be given; None: as many as are wanted."""
    controllers: tuple[str, ...]
    """URLs, at least one."""
    token: ClusterToken | None
    log_directory: Path
    store: Path | None
    port: int | None
    """For probes; None: they are not served."""
    heartbeat_seconds: float
    grace: float
    """Seconds to wait for the Controller's leave when the NodeManager is to end."""
    start_timeout: float
    """Seconds until an engine answers after its start."""
    parent_pipe: int | None
    ranktable: str
    """This node's own device table (JSON text), empty where there is none."""
    ranktable_path: Path | None
    """Where engines look for the table of their whole instance."""
    management_tls: PlaneTLS | None = None
    """Of its own port and of the Controllers; None: plain HTTP."""


def settings_from(
    arguments: argparse.Namespace, user: UserConfig, variables: Mapping[str, str], directory: Path = Path()
) -> NodeSettings:
    """The settings of `arguments` (see `command.configure`), `variables` and `user`, the configuration of `directory`.

    Raises `SettingsError` or `TokenError`.
    """
    role = _role(arguments.role or variables.get("ROLE", ""))
    section = user.engine_section(role.value)
    if section is None:
        raise SettingsError(f"there is no motor_engine_{role.value}_config, so this node has nothing to run")
    manager = section.motor_nodemanger_config
    address = arguments.address or variables.get("POD_IP") or manager.api_config.pod_ip or LOOPBACK
    node = arguments.node or variables.get("POD_NAME") or variables.get("HOSTNAME") or socket.gethostname()
    management = PlaneTLS.of(user.motor_deploy_config.tls_config.mgmt_tls_config, directory)
    controllers = _controllers(arguments.controller, user, variables, management)
    devices = arguments.devices or tuple(range(user.devices_per_pod(role.value))) or None
    own_table, whole_table = variables.get("HCCL_PATH"), variables.get("RANKTABLE_PATH")
    port: int | None = manager.api_config.node_manager_port
    if arguments.port is not None:
        port = None if arguments.port == "none" else int(arguments.port)
    return NodeSettings(
        node=node,
        job=arguments.job or variables.get("JOB_NAME") or user.motor_deploy_config.job_id,
        role=role,
        roles=playable_roles(user, role, devices),
        address=address,
        machine=arguments.machine or variables.get("NODE_NAME", ""),
        preferred_number=arguments.number,
        nodes_per_instance=user.pods_per_instance(role.value),
        devices=devices,
        controllers=controllers,
        token=_token(controllers, variables, management),
        log_directory=arguments.log_dir or Path(tempfile.gettempdir()) / f"pymotor-{node.replace('/', '-')}",
        store=arguments.store,
        port=port,
        heartbeat_seconds=heartbeat_of(manager),
        grace=arguments.grace,
        start_timeout=arguments.start_timeout,
        parent_pipe=arguments.parent_pipe,
        ranktable=_content(Path(own_table)) if own_table else "",
        ranktable_path=Path(whole_table) if whole_table else None,
        management_tls=management,
    )


def heartbeat_of(manager: NodeManagerConfig) -> float:
    """Seconds between two reports, a tenth at least."""
    return max(0.1, float(manager.basic_config.heartbeat_interval_seconds))


def _role(text: str) -> Role:
    try:
        return Role(text)
    except ValueError:
        said = f"{text!r} is no role" if text else "nobody says what this node is for"
        raise SettingsError(f"{said}: set --role, or ROLE, to one of {', '.join(ROLES)}") from None


def _controllers(
    stated: str | None, user: UserConfig, variables: Mapping[str, str], management: PlaneTLS | None
) -> tuple[str, ...]:
    api = user.motor_controller_config.api_config
    service = variables.get("CONTROLLER_SERVICE") or api.controller_api_dns
    if not stated and not service:
        raise SettingsError("nobody says where the Controller is: set --controller URL, or CONTROLLER_SERVICE")
    urls = (
        stated.split(",")
        if stated
        else [http_url(service or "", api.controller_api_port, secure=management is not None)]
    )
    try:
        found = ControllerList(urls).urls
        if management is not None:
            refuse_plain(found)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return found


def _token(
    controllers: tuple[str, ...], variables: Mapping[str, str], management: PlaneTLS | None
) -> ClusterToken | None:
    token = ClusterToken.from_environment(variables)
    if (
        token is None
        and management is None
        and not all(is_loopback(urlsplit(url).hostname or "") for url in controllers)
    ):
        raise SettingsError(
            f"a Controller that is not on this machine wants the cluster token: set {TOKEN_VARIABLE}, or the file "
            f"{TOKEN_VARIABLE}_FILE"
        )
    return token


def _content(path: Path) -> str:
    """A device table that is not there is none: not every generation of devices has one."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"HCCL_PATH names {path}, which cannot be read: {error}") from error
