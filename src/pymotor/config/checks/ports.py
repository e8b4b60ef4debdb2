"""Ports: what listens in one pod must not want the same."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pymotor.config.engine import EngineSection, positive_integer
from pymotor.config.problems import Problem
from pymotor.config.user import ROLES, UserConfig

COORDINATOR = "$.motor_coordinator_config"
CONTROLLER = "$.motor_controller_config"
MOST_WORKERS = 4
"""How many workers there are at most where the number is left to PyMotor."""
FIRST_LOCAL_PORT = 31015
"""Of the four that `pymotor up` takes where `--port` says nothing else."""
_LOCAL = ("Coordinator's port for clients", "Coordinator's management", "Coordinator's metrics", "Controller")
_CONDUCTOR = "$.kv_conductor_config.http_server_port"
_ENDPOINT_PORT = re.compile(r":(\d{1,5})$")


class Claim(NamedTuple):
    """Ports that one server wants."""

    what: str
    path: str
    first: int
    number: int = 1

    @property
    def last(self) -> int:
        return self.first + self.number - 1

    def __str__(self) -> str:
        ports = f"port {self.first}" if self.number == 1 else f"ports {self.first} to {self.last}"
        return f"{ports} ({self.what}, {self.path})"


def collisions(user: UserConfig, file: str) -> Iterator[Problem]:
    """Two servers of one pod that want the same port; a port that is suggested is nobody's, also in another pod."""
    taken = [claim for claims in _hosts(user) for claim in claims]
    told = set()
    for claims in _hosts(user):
        for position, claim in enumerate(claims):
            for earlier in claims[:position]:
                if _overlap(claim, earlier) and (claim.path, earlier.path) not in told:
                    told.add((claim.path, earlier.path))
                    another = claim._replace(first=_free(taken, claim.number))
                    taken.append(another)
                    yield Problem.error(
                        file,
                        claim.path,
                        f"the {claim.what} wants what runs in the same pod wants too: {earlier}",
                        value=claim.first,
                        suggestion=f"choose another port, as {another.first}",
                    )


def conductor_elsewhere(user: UserConfig, file: str) -> Iterator[Problem]:
    """A KV Conductor that wants a port of Coordinator or Controller, in another pod than these: on one machine not
    all of them would start."""
    if user.motor_deploy_config.deploy_mode == "single_container":
        return
    local = [Claim(what, "pymotor up", FIRST_LOCAL_PORT + place) for place, what in enumerate(_LOCAL)]
    others = [*_coordinator(user), *_controller(user), *local]
    for claim in _conductor(user):
        for other in others:
            if _overlap(claim, other):
                yield Problem.warning(
                    file,
                    claim.path,
                    f"the {claim.what} wants a port that another server wants: {other}",
                    value=claim.first,
                    suggestion="choose another port, as 13333, or start with another --port"
                    if other in local
                    else "choose another port, as 13333; only in pods of their own both can have it",
                )


def ranges(user: UserConfig, file: str) -> Iterator[Problem]:
    """Ports counted up from a first one end at 65535."""
    for claims in _hosts(user):
        for claim in claims:
            if claim.last > 65535:
                yield Problem.error(
                    file,
                    claim.path,
                    f"the {claim.what} needs {claim.number} ports from here, and 65535 is the last",
                    value=claim.first,
                    allowed=f"at most {65536 - claim.number}",
                )


def _hosts(user: UserConfig) -> Iterator[list[Claim]]:
    """The claims of each pod."""
    if user.motor_deploy_config.deploy_mode == "single_container":
        managers = [
            _node_manager(section, f"$.motor_engine_{role}_config")
            for role in ROLES
            if user.instance_count(role) and (section := user.engine_section(role)) is not None
        ]
        shared = [*_coordinator(user), *_controller(user), *_conductor(user)]
        # NodeManagers of one container count up from the same port, so they do not collide with each other
        yield [*shared, *managers[:1]]
        for manager in managers[1:]:
            if manager.first != managers[0].first:
                yield [*shared, manager]
    else:
        shared = []
        yield _coordinator(user)
        yield _controller(user)
        yield _conductor(user)
    for role in ROLES:
        section = user.engine_section(role)
        if user.instance_count(role) and section is not None:
            manager, *servers = _engine_pod(section, f"$.motor_engine_{role}_config", user.pods_per_instance(role))
            yield [manager, *servers]
            if shared:
                yield [*shared, *servers]


def _coordinator(user: UserConfig) -> list[Claim]:
    api = user.motor_coordinator_config.api_config
    workers = user.motor_coordinator_config.inference_workers_config
    path = f"{COORDINATOR}.api_config"
    claims = [
        Claim("Coordinator's port for clients", f"{path}.coordinator_api_infer_port", api.coordinator_api_infer_port),
        Claim("Coordinator's management", f"{path}.coordinator_api_mgmt_port", api.coordinator_api_mgmt_port),
        Claim("Coordinator's metrics", f"{path}.coordinator_obs_port", api.coordinator_obs_port),
    ]
    if workers.worker_metaserver_base_port:
        base = f"{COORDINATOR}.inference_workers_config.worker_metaserver_base_port"
        count = workers.num_workers or MOST_WORKERS
        claims.append(Claim("workers' callback servers", base, workers.worker_metaserver_base_port, count))
    return claims


def _controller(user: UserConfig) -> list[Claim]:
    api = user.motor_controller_config.api_config
    path = f"{CONTROLLER}.api_config"
    return [
        Claim("Controller", f"{path}.controller_api_port", api.controller_api_port),
        Claim("Controller's inventory", f"{path}.observability_api_port", api.observability_api_port),
    ]


def _conductor(user: UserConfig) -> list[Claim]:
    conductor = user.kv_conductor_config
    if conductor is None or not conductor.http_server_port:
        return []
    return [Claim("KV Conductor", _CONDUCTOR, conductor.http_server_port)]


def _node_manager(section: EngineSection, path: str) -> Claim:
    port = section.motor_nodemanger_config.api_config.node_manager_port
    return Claim("NodeManager", f"{path}.motor_nodemanger_config.api_config.node_manager_port", port)


def _engine_pod(section: EngineSection, path: str, pods: int) -> list[Claim]:
    options = section.options
    sizes = section.parallel_sizes()
    several = options.get("enable_multi_endpoints", section.engine_type != "sglang")
    endpoints = -(-sizes.data // pods) if sizes is not None and several else 1
    manager = section.motor_nodemanger_config
    claims = [_node_manager(section, path)]
    base = manager.endpoint_config.base_port
    if base:
        # each engine server has a port for requests and the next one for management
        where = f"{path}.motor_nodemanger_config.endpoint_config.base_port"
        claims.append(Claim("engine servers", where, base, 2 * endpoints))
    faults = manager.fault_tolerance_config
    if faults.enable_fault_tolerance and faults.zmq_pub_port:
        where = f"{path}.motor_nodemanger_config.fault_tolerance_config.zmq_pub_port"
        claims.append(Claim("engines' fault announcements", where, faults.zmq_pub_port, endpoints))
    claims.extend(_option_claims(section, path, endpoints))
    return claims


def _option_claims(section: EngineSection, path: str, endpoints: int) -> Iterator[Claim]:
    options = section.options
    for name in ("data_parallel_rpc_port", "disaggregation_bootstrap_port"):
        port = positive_integer(options.get(name))
        if port is not None:
            yield Claim(name, _option_path(section, path, name), port)
    transfer = options.get("kv_transfer_config")
    if isinstance(transfer, Mapping):
        port = positive_integer(transfer.get("kv_port"))
        if port is not None:
            yield Claim("kv_port", f"{_option_path(section, path, 'kv_transfer_config')}.kv_port", port)
    events = options.get("kv_events_config")
    if isinstance(events, Mapping):
        for key in ("endpoint", "replay_endpoint"):
            match = _ENDPOINT_PORT.search(str(events.get(key, "")))
            if match is not None:
                where = f"{_option_path(section, path, 'kv_events_config')}.{key}"
                yield Claim(f"KV events' {key}", where, int(match[1]), endpoints)


def _option_path(section: EngineSection, path: str, name: str) -> str:
    return f"{path}.engine_config.{section.written(name)}"


def _overlap(one: Claim, other: Claim) -> bool:
    return one.first <= other.last and other.first <= one.last


def _free(claims: list[Claim], count: int) -> int:
    """A port above all that servers want, or below where there is no room."""
    above = max(claim.last for claim in claims) + 1000
    return above if above + count <= 65536 else 2026
