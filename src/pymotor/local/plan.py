"""What `pymotor up` starts: the engines of a configuration and their Coordinator, on ports that are free here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pymotor.config import EnvConfig, UserConfig
from pymotor.config.user import ROLES
from pymotor.engines import HostResources, InstancePlan, NoPortLeftError, PlanError, ServerPlan, plan_instance
from pymotor.engines.port_claims import PortClaims
from pymotor.engines.vllm_python import NoVllmError, VllmPython, find_vllm_python
from pymotor.fleet import Endpoint, Role
from pymotor.local.state import FleetDirectory, FleetError

LOOPBACK = "127.0.0.1"
COORDINATOR = "coordinator"
COORDINATOR_GRACE = 5.0
"""Seconds that running requests get when the fleet is stopped."""


@dataclass(frozen=True)
class FleetPorts:
    """Where the Coordinator listens: inference, management and observability, one after the other."""

    inference: int

    @property
    def management(self) -> int:
        """The port after the first."""
        return self.inference + 1

    @property
    def observability(self) -> int:
        """The port after that."""
        return self.inference + 2

    def url(self, port: int) -> str:
        """The URL of one of them."""
        return f"http://{LOOPBACK}:{port}"


@dataclass(frozen=True, kw_only=True)
class FleetPlan:
    """Everything that runs."""

    ports: FleetPorts
    instances: tuple[InstancePlan, ...]
    coordinator: ServerPlan

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


def claim_coordinator_ports(ports: FleetPorts, claims: PortClaims) -> None:
    """Take the three ports. Raises `FleetError` when one is not to be had."""
    for port in (ports.inference, ports.management, ports.observability):
        if not claims.claim(LOOPBACK, port):
            raise FleetError(
                f"port {port} is in use. Stop what listens there (`pymotor down`, if it is a fleet of yours), or "
                f"choose three other ports with --port N (N, N+1 and N+2)."
            )


def plan_fleet(
    user: UserConfig,
    env: EnvConfig,
    ports: FleetPorts,
    directory: FleetDirectory,
    claim: Callable[[str, int], bool],
    working_directory: Path,
) -> FleetPlan:
    """Plan all instances of the configuration and the Coordinator before them.

    `claim` says whether a port may be used, and then keeps it. Raises `FleetError` for a configuration that
    cannot become processes here.
    """
    require_models(user)
    vllm = _vllm_for(user, working_directory)
    host = HostResources(
        LOOPBACK,
        python=vllm.python,
        engine_version=vllm.version,
        shared_directory=directory.embeddings,
        port_is_free=claim,
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
    return FleetPlan(ports=ports, instances=tuple(instances), coordinator=_coordinator(env, ports, directory))


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


def _coordinator(env: EnvConfig, ports: FleetPorts, directory: FleetDirectory) -> ServerPlan:
    argv = (
        *(sys.executable, "-m", "pymotor", "coordinator"),
        *("--user_config_path", str(directory.config_file)),
        *("--fleet", str(directory.snapshot_file)),
        *("--host", LOOPBACK),
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
        env=env.variables(COORDINATOR),
        health_path="/health",
    )
