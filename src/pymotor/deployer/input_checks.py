"""What a configuration may not say when pods are made of it, beyond what is wrong everywhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from pymotor.config import EnvConfig, Problem, UserConfig, json_path
from pymotor.config.user import DEPLOY_LETTER
from pymotor.control_plane import is_loopback
from pymotor.deployer.hardware import hardware_of
from pymotor.deployer.input_directories import (
    certificate_places,
    paths,
    relative_models,
    shared_stores,
    unused_claims,
)
from pymotor.deployer.input_events import event_endpoints
from pymotor.deployer.input_resources import rdma_device, resources
from pymotor.deployer.input_variables import env_values
from pymotor.deployer.naming import ENGINE_ROLES, controller_lease
from pymotor.deployer.services_used import needs_pool, uses_pool

Check = Callable[[UserConfig, str], Iterator[Problem]]

DEPLOY = "$.motor_deploy_config"
_KUBERNETES = f"{DEPLOY}.kubernetes_config"
_IMAGE = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*(:[0-9]+)?(/[A-Za-z0-9._-]+)*(:[A-Za-z0-9._-]{1,128})?(@sha256:[0-9a-f]{64})?"
)
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LONGEST_NAME = 253
_LONGEST_JOB = 40
"""Names such as `<job_id>-coordinator-service` have to fit into 63 characters."""


def check_inputs(user: UserConfig, env: EnvConfig, user_file: str, env_file: str, *, dry_run: bool) -> list[Problem]:
    """Every problem of the two files that only pods have. Without an image they can be looked at, not started."""
    problems = [problem for check in CHECKS for problem in check(user, user_file)]
    problems += image_present(user, user_file, dry_run=dry_run)
    return [*problems, *env_values(env, env_file)]


def image_present(user: UserConfig, file: str, *, dry_run: bool) -> Iterator[Problem]:
    """Pods without an image are good for looking at only."""
    name = user.motor_deploy_config.image_name
    if name:
        if not _IMAGE.fullmatch(name):
            yield Problem.error(
                file,
                f"{DEPLOY}.image_name",
                "no reference to an image",
                value=name,
                allowed="registry/name:tag",
                suggestion="write the name by which nodes pull it",
            )
        return
    make = Problem.warning if dry_run else Problem.error
    yield make(
        file,
        f"{DEPLOY}.image_name",
        "empty: pods cannot start without an image",
        value=name,
        suggestion="name an image that every node has or can pull",
    )


def job(user: UserConfig, file: str) -> Iterator[Problem]:
    """The namespace is a deployment's own."""
    name = user.motor_deploy_config.job_id
    if name == "default" or name.startswith("kube-"):
        yield Problem.error(
            file,
            f"{DEPLOY}.job_id",
            "a namespace that belongs to Kubernetes",
            value=name,
            suggestion="choose a namespace of its own, as mindie-motor",
        )
    elif len(name) > _LONGEST_JOB:
        yield Problem.error(
            file,
            f"{DEPLOY}.job_id",
            "too long: other names are made of it",
            value=name,
            allowed=f"at most {_LONGEST_JOB} characters",
            suggestion="choose a shorter one",
        )


def devices(user: UserConfig, file: str) -> Iterator[Problem]:
    """A pod is on one node, so it has no more devices than a node."""
    most = hardware_of(user).per_node
    for role in ENGINE_ROLES:
        count = user.devices_per_pod(role)
        if most and user.instance_count(role) and count > most:
            yield Problem.error(
                file,
                f"{DEPLOY}.{DEPLOY_LETTER[role]}_pod_npu_num",
                f"a node of {user.motor_deploy_config.hardware_type} has {most} devices, and a pod is on one node",
                value=count,
                allowed=f"at most {most}",
                suggestion=f"spread the instance over several pods: single_{DEPLOY_LETTER[role]}_instance_pod_num",
            )


def pool(user: UserConfig, file: str) -> Iterator[Problem]:
    """Engines that store KV in a pool need its master."""
    if uses_pool(user):
        return
    for role in needs_pool(user):
        yield Problem.error(
            file,
            "$.kv_cache_pool_config",
            f"missing, and the engines of {role} store KV in a pool",
            suggestion='add the section with "eviction_high_watermark_ratio" and "eviction_ratio"',
        )
        return


def conductor(user: UserConfig, file: str) -> Iterator[Problem]:
    """A conductor has to be told of what is cached; without anybody who tells, it is idle."""
    section = user.kv_conductor_config
    if (
        section is not None
        and section.http_server_port
        and not any(
            "kv_events_config" in engine.options
            for role in ENGINE_ROLES
            if user.instance_count(role) and (engine := user.engine_section(role)) is not None
        )
    ):
        yield Problem.warning(
            file,
            "$.kv_conductor_config.http_server_port",
            "a conductor is deployed, and no engine tells it what it caches",
            value=section.http_server_port,
            suggestion="add kv-events-config to the engine sections, or write 0",
        )


def node_ports(user: UserConfig, file: str) -> Iterator[Problem]:
    """Ports of the nodes are told apart."""
    config = user.motor_deploy_config.kubernetes_config
    seen: dict[int, str] = {}
    for key in ("coordinator_node_port", "observability_node_port", "alarm_node_port"):
        number: int = getattr(config, key)
        if number and number in seen:
            yield Problem.error(
                file,
                f"{_KUBERNETES}.{key}",
                f"{seen[number]} is the same port",
                value=number,
                allowed="30000 to 32767, or 0 for any free one",
                suggestion="choose another one",
            )
        seen.setdefault(number, key)


def hosts(user: UserConfig, file: str) -> Iterator[Problem]:
    """What listens on loopback is reached by no other pod."""
    doors = {
        "$.motor_controller_config.api_config.controller_api_host": (
            user.motor_controller_config.api_config.controller_api_host
        ),
        "$.motor_coordinator_config.api_config.coordinator_api_host": (
            user.motor_coordinator_config.api_config.coordinator_api_host
        ),
    }
    if user.motor_deploy_config.deploy_mode == "single_container":
        return
    for path, host in doors.items():
        if host and is_loopback(host):
            yield Problem.error(
                file,
                path,
                "no other pod reaches what listens on loopback",
                value=host,
                suggestion="remove it: pods listen on all their addresses",
            )


def lease(user: UserConfig, file: str) -> Iterator[Problem]:
    """The Lease of the Controllers has the key in its name."""
    key = user.motor_controller_config.standby_config.master_lock_key
    if len(controller_lease(key)) > _LONGEST_NAME:
        yield Problem.error(
            file,
            "$.motor_controller_config.standby_config.master_lock_key",
            "too long for the name of a Lease",
            value=key,
            allowed=f"at most {_LONGEST_NAME - len(controller_lease('')) - 1} characters",
            suggestion="choose a shorter one",
        )


def fault_reports(user: UserConfig, file: str) -> Iterator[Problem]:
    """The Controller is given the right to read in that namespace."""
    faults = user.motor_controller_config.fault_tolerance_config
    if faults.enable_fault_tolerance and not _NAMESPACE.fullmatch(faults.configmap_namespace):
        yield Problem.error(
            file,
            "$.motor_controller_config.fault_tolerance_config.configmap_namespace",
            "no name that a namespace can have",
            value=faults.configmap_namespace,
            allowed="lower-case letters, digits and -, as kube-system",
            suggestion="name the namespace where MindCluster reports",
        )


def labels(user: UserConfig, file: str) -> Iterator[Problem]:
    """Labels of nodes are short words."""
    deploy = user.motor_deploy_config
    pairs = [
        (json_path(("motor_deploy_config", "kubernetes_config", "node_selector", key)), key, value)
        for key, value in deploy.kubernetes_config.node_selector.items()
    ]
    if deploy.enable_pd_heterogeneous:
        key = deploy.pd_heterogeneous_label_key
        for role in ("prefill", "decode"):
            name = f"pd_heterogeneous_{role}_label_value"
            pairs.append((f"{DEPLOY}.{name}", key, getattr(deploy, name)))
    for path, key, value in pairs:
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            yield Problem.error(
                file,
                path,
                f"{key}={value} is no label that a node can have",
                value=value,
                allowed="letters, digits, -, _ and ., at most 63",
                suggestion="look with kubectl get nodes --show-labels",
            )


def single_container(user: UserConfig, file: str) -> Iterator[Problem]:
    """One container is one node."""
    deploy = user.motor_deploy_config
    if deploy.deploy_mode != "single_container":
        return
    for role in ENGINE_ROLES:
        if user.instance_count(role) and user.pods_per_instance(role) > 1:
            yield Problem.error(
                file,
                f"{DEPLOY}.single_{DEPLOY_LETTER[role]}_instance_pod_num",
                "one container is one node",
                value=user.pods_per_instance(role),
                allowed="1",
                suggestion="write 1, or another deploy_mode",
            )
    for part in ("kv_cache_pool_config", "kv_conductor_config"):
        if getattr(user, part) is not None:
            yield Problem.warning(
                file,
                f"$.{part}",
                "not started in a single container",
                suggestion="remove the section, or choose another deploy_mode",
            )
    for name, section in (("controller", user.motor_controller_config), ("coordinator", user.motor_coordinator_config)):
        if section.standby_config.enable_master_standby:
            yield Problem.warning(
                file,
                f"$.motor_{name}_config.standby_config.enable_master_standby",
                "no effect: a single container has one of each",
                value=True,
                suggestion="remove it, or choose another deploy_mode",
            )


CHECKS: tuple[Check, ...] = (
    job,
    paths,
    relative_models,
    devices,
    pool,
    conductor,
    event_endpoints,
    node_ports,
    hosts,
    resources,
    labels,
    single_container,
    shared_stores,
    unused_claims,
    certificate_places,
    rdma_device,
    lease,
    fault_reports,
)
