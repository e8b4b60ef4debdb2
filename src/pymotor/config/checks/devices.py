"""Accelerators: what the pods have against what the parallel sizes need."""

from __future__ import annotations

from collections.abc import Iterator

from pymotor.config.problems import Problem
from pymotor.config.user import DEPLOY_LETTER, ROLES, UserConfig


def enough_devices(user: UserConfig, file: str) -> Iterator[Problem]:
    """An instance's pods have at least the devices that its ranks need; more lie idle."""
    hardware = user.motor_deploy_config.hardware_type
    for role in ROLES:
        if not user.instance_count(role) or user.engine_section(role) is None:
            continue
        if hardware == "cpu":
            yield from _not_on_cpu(user, role, file)
        elif hardware is not None:
            yield from _devices_of(user, role, file)


def _not_on_cpu(user: UserConfig, role: str, file: str) -> Iterator[Problem]:
    if user.devices_per_pod(role):
        yield Problem.warning(
            file,
            _path(role),
            "no effect with hardware_type cpu, which has no accelerators",
            value=user.devices_per_pod(role),
            suggestion="remove it",
        )


def _devices_of(user: UserConfig, role: str, file: str) -> Iterator[Problem]:
    section = user.engine_section(role)
    sizes = section.parallel_sizes() if section is not None else None
    if sizes is None:
        return
    pods, each = user.pods_per_instance(role), user.devices_per_pod(role)
    stated = f"{DEPLOY_LETTER[role]}_pod_npu_num" in user.motor_deploy_config.model_fields_set
    per_pod = -(-sizes.devices // pods)
    need = (
        f"{_an(role)} instance needs {_devices(sizes.devices)} (data parallel {sizes.data} x tensor parallel"
        f" {sizes.tensor} x pipeline parallel {sizes.pipeline}"
        + (f" x prefill context parallel {sizes.prefill_context})" if sizes.prefill_context > 1 else ")")
    )
    if not stated:
        yield Problem.error(
            file, _path(role), f"missing, and {need}", allowed=f"{per_pod} or more", suggestion=f"write {per_pod}"
        )
        return
    have = f"{pods} {'pod has' if pods == 1 else 'pods have'} {_devices(pods * each)}"
    if pods * each < sizes.devices:
        yield Problem.error(
            file,
            _path(role),
            f"too few devices: {need}, its {have}",
            value=each,
            allowed=f"{per_pod} or more",
            suggestion=f"write {per_pod}, or make the parallel sizes smaller",
        )
    elif pods * each > sizes.devices:
        enough = -(-sizes.devices // each)
        key, value, better = _path(role), each, per_pod
        if per_pod == each and enough < pods:
            # a pod cannot have fewer, so there are too many of them
            key, value, better = f"$.motor_deploy_config.single_{DEPLOY_LETTER[role]}_instance_pod_num", pods, enough
        fewer = f"write {better}, or " if better < value else ""
        yield Problem.warning(
            file,
            key,
            f"devices lie idle: {need}, its {have}",
            value=value,
            suggestion=f"{fewer}make the parallel sizes larger",
        )


def _path(role: str) -> str:
    return f"$.motor_deploy_config.{DEPLOY_LETTER[role]}_pod_npu_num"


def _an(role: str) -> str:
    return f"an {role}" if role == "encode" else f"a {role}"


def _devices(number: int) -> str:
    return f"{number} device" if number == 1 else f"{number} devices"
