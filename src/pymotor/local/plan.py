"""What `pymotor up` starts: a Controller, a Coordinator, a KV Conductor where the configuration has one, and for each
engine instance a NodeManager."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pymotor.config import EnvConfig, UserConfig
from pymotor.config.user import ROLES
from pymotor.control_plane.tls import ClientTLS, TLSError, tls_files
from pymotor.control_plane.token import TOKEN_FILE_VARIABLE
from pymotor.engines import HostResources, InstancePlan, NoPortLeftError, PlanError, ServerPlan, plan_instance
from pymotor.engines.tls import engine_tls
from pymotor.engines.vllm_python import NoVllmError, VllmPython, find_vllm_python
from pymotor.fleet import Endpoint, Role
from pymotor.local.accelerators import Accelerators
from pymotor.local.certificates import check_certificates
from pymotor.local.fleet_ports import FleetPorts
from pymotor.local.request import LOOPBACK
from pymotor.local.state import FleetDirectory, FleetError

CONTROLLER = "controller"
COORDINATOR = "coordinator"
KV_CONDUCTOR = "kv-conductor"
KV_CONDUCTOR_VARIABLE = "PYMOTOR_KV_CONDUCTOR"
"""Tells a Coordinator where the conductor is: `host:port`."""
COORDINATOR_GRACE = 5.0
"""Seconds that running requests get when the fleet is stopped."""
NODE_GRACE = 15.0
"""Seconds that a NodeManager gets to end its engines, which it gives 10."""


@dataclass(frozen=True)
class NodePlan:
    """One NodeManager: the stand-in for a node or pod of a cluster."""

    role: Role
    number: int
    """Of the instance that it is to run."""
    server: ServerPlan
    devices: tuple[int, ...] = ()
    """The accelerators that are its own."""


@dataclass(frozen=True, kw_only=True)
class FleetPlan:
    """Everything that runs."""

    ports: FleetPorts
    controller: ServerPlan
    coordinator: ServerPlan
    conductor: ServerPlan | None
    """The KV Conductor; None where none is configured."""
    nodes: tuple[NodePlan, ...]
    further_node: Callable[[Role, int], NodePlan]
    """The plan of one more node, by role and number."""
    give_back: Callable[[NodePlan], None]
    """Takes what a node had that has ended, for those that come after it."""
    instances: tuple[InstancePlan, ...]
    """What the nodes will run, but for ports and identities, which each NodeManager takes itself."""
    client_tls: ClientTLS | None = None
    """What the Coordinator is asked with at the inference port; None: plain HTTP."""
    asks_for_key: bool = False
    """Whether clients need an API key."""
    has_dashboard: bool = True
    """Whether the management port serves it."""

    @property
    def models(self) -> tuple[str, ...]:
        """The names clients may ask for."""
        return tuple(dict.fromkeys(model for plan in self.instances for model in plan.instance.models))

    @property
    def takes_images(self) -> bool:
        """Whether the fleet was laid out for media."""
        return any(plan.instance.role is Role.ENCODE for plan in self.instances)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the planner had to leave out or change."""
        return tuple(f"{plan.instance.name}: {warning}" for plan in self.instances for warning in plan.warnings)


def plan_fleet(
    user: UserConfig,
    env: EnvConfig,
    ports: FleetPorts,
    directory: FleetDirectory,
    working_directory: Path,
    start_deadline: float,
) -> FleetPlan:
    """Plan the processes of the configuration.

    `start_deadline`: seconds that each engine may take to become ready. Raises `FleetError` for a configuration that
    cannot become processes here.
    """
    require_models(user)
    check_certificates(user, ("mgmt_tls_config", "observability_tls_config"))
    vllm = _vllm_for(user, working_directory)
    host = HostResources(
        LOOPBACK,
        python=vllm.python,
        engine_version=vllm.version,
        shared_directory=directory.embeddings,
        port_is_free=lambda address, port: True,  # noqa: ARG005  nothing is started with these plans
        tls=engine_tls(user, working_directory),
    )
    wanted = [(Role(role), index) for role in ROLES for index in range(user.instance_count(role))]
    try:
        instances = [plan_instance(user, env, role, index, host) for role, index in wanted]
    except (PlanError, NoPortLeftError) as error:
        raise FleetError(str(error)) from error
    if not wanted:
        raise FleetError(
            "the configuration asks for no instance: set p_instances_num and d_instances_num, or "
            "hybrid_instances_num, in motor_deploy_config"
        )
    accelerators = Accelerators(user)
    node = functools.partial(_node, ports, directory, start_deadline, accelerators)
    return FleetPlan(
        ports=ports,
        controller=_controller(env, ports, directory),
        coordinator=_coordinator(env, ports, directory),
        conductor=_conductor(env, ports, ports.conductor, directory) if ports.conductor is not None else None,
        nodes=tuple(node(role, index) for role, index in wanted),
        further_node=node,
        give_back=lambda ended: accelerators.give_back(ended.devices),
        instances=tuple(instances),
        client_tls=_client_tls(user, working_directory),
        asks_for_key=user.motor_coordinator_config.api_key_config.enable_api_key,
        has_dashboard=user.motor_coordinator_config.dashboard_config.enable,
    )


def _client_tls(user: UserConfig, directory: Path) -> ClientTLS | None:
    """Raises `FleetError`."""
    block = user.motor_deploy_config.tls_config.infer_tls_config
    files = tls_files(block, directory)
    try:
        return ClientTLS(files, peer_name=block.peer_name) if files is not None else None
    except TLSError as error:
        raise FleetError(f"infer_tls_config: {error}") from error


def require_models(user: UserConfig) -> None:
    """Raises `FleetError` when an engine is to load a model from a directory that is not there."""
    for role in ROLES:
        section = user.engine_section(role)
        if section is None or section.engine_type == "sim" or user.instance_count(role) == 0:
            continue
        model = section.options.get("model") or section.options.get("model_path")
        looks_like_path = isinstance(model, str) and model.startswith(("/", "./", "../", "~"))
        if looks_like_path and not Path(str(model)).expanduser().exists():
            raise FleetError(
                f"$.motor_engine_{role}_config.engine_config.model: there is no {model}. Put the model there, name "
                "another directory, or run the configuration without it: --engine sim, or --engine vllm-cpu"
            )


def _vllm_for(user: UserConfig, working_directory: Path) -> VllmPython:
    sections = [user.engine_section(role) for role in ROLES if user.instance_count(role) > 0]
    if any(section is not None and section.engine_type == "vllm" for section in sections):
        try:
            return find_vllm_python(working_directory)
        except NoVllmError as error:
            raise FleetError(str(error)) from error
    return VllmPython("", "")


def _controller(env: EnvConfig, ports: FleetPorts, directory: FleetDirectory) -> ServerPlan:
    argv = (
        *(sys.executable, "-m", "pymotor", "controller"),
        *("--user_config_path", str(directory.config_file)),
        *("--host", LOOPBACK),
        *("--port", str(ports.controller)),
        *("--state-dir", str(directory.controller_state)),
        *("--name", CONTROLLER),
    )
    return ServerPlan(
        name=CONTROLLER,
        endpoint=Endpoint(id=CONTROLLER, url=ports.url(ports.controller)),
        argv=argv,
        env=env.variables(CONTROLLER) | token_file(directory),
        health_path="/liveness",
        tls=ports.known,
    )


def _coordinator(env: EnvConfig, ports: FleetPorts, directory: FleetDirectory) -> ServerPlan:
    argv = (
        *(sys.executable, "-m", "pymotor", "coordinator"),
        *("--user_config_path", str(directory.config_file)),
        *("--controller", ports.url(ports.controller)),
        *("--host", ports.host),
        *("--port", str(ports.inference)),
        *("--management-port", str(ports.management)),
        *("--observability-port", str(ports.observability)),
        *("--server-timing", "on"),
        *("--grace", str(COORDINATOR_GRACE)),
    )
    return ServerPlan(
        name=COORDINATOR,
        endpoint=Endpoint(id=COORDINATOR, url=ports.url(ports.management)),
        argv=argv,
        env=env.variables(COORDINATOR) | token_file(directory) | _conductor_address(ports),
        health_path="/health",
        tls=ports.known,
    )


def _conductor(env: EnvConfig, ports: FleetPorts, port: int, directory: FleetDirectory) -> ServerPlan:
    argv = (
        *(sys.executable, "-m", "pymotor", "kv-conductor"),
        *("--user_config_path", str(directory.config_file)),
        *("--controller", ports.url(ports.controller)),
        *("--host", LOOPBACK),
        *("--port", str(port)),
    )
    return ServerPlan(
        name=KV_CONDUCTOR,
        endpoint=Endpoint(id=KV_CONDUCTOR, url=ports.url(port)),
        argv=argv,
        env=env.variables("kv_conductor") | token_file(directory),
        health_path="/health",
        tls=ports.known,
    )


def _conductor_address(ports: FleetPorts) -> dict[str, str]:
    return {} if ports.conductor is None else {KV_CONDUCTOR_VARIABLE: f"{LOOPBACK}:{ports.conductor}"}


def _node(
    ports: FleetPorts,
    directory: FleetDirectory,
    start_deadline: float,
    accelerators: Accelerators,
    role: Role,
    number: int,
) -> NodePlan:
    name = f"node-{role.value}-{number}"
    devices = accelerators.take(role)
    argv = (
        *(sys.executable, "-m", "pymotor", "node-manager"),
        *("--user_config_path", str(directory.config_file)),
        *("--env_config_path", str(directory.env_file)),
        *("--role", role.value),
        *("--job", f"{directory.name}-{role.value}"),
        *("--node", name),
        *("--number", str(number)),
        *("--address", LOOPBACK),
        *("--controller", ports.url(ports.controller)),
        *("--log-dir", str(directory.logs)),
        *("--store", str(directory.embeddings)),
        *("--port", "none"),
        # The Coordinator ends before it, so there is nothing to drain.
        *("--grace", "0"),
        *("--start-timeout", str(start_deadline)),
        *(("--devices", ",".join(map(str, devices))) if devices else ()),
    )
    # The engines' own environment is planned by the NodeManager, from env.json.
    plan = ServerPlan(
        name=name, endpoint=Endpoint(id=name, url=""), argv=argv, env=token_file(directory), headless=True
    )
    return NodePlan(role, number, plan, devices)


def token_file(directory: FleetDirectory) -> dict[str, str]:
    """The environment that tells a process where the fleet's token is."""
    return {TOKEN_FILE_VARIABLE: str(directory.token_file)}
