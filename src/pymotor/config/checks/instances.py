"""How many instances of each role, and what they need to be there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from pymotor.config.deploy import HardwareType
from pymotor.config.problems import Problem
from pymotor.config.user import DEPLOY_LETTER, ROLES, UserConfig

DEPLOY = "$.motor_deploy_config"


def counts(user: UserConfig, file: str) -> Iterator[Problem]:
    """Prefill and decode need each other; what is described must be counted."""
    stated = {
        role for role in ROLES if f"{DEPLOY_LETTER[role]}_instances_num" in user.motor_deploy_config.model_fields_set
    }
    described = {role: _description(user, role) for role in ROLES}
    if not stated and not any(described.values()):
        yield Problem.error(
            file,
            DEPLOY,
            "no instances are asked for",
            allowed="p_instances_num and d_instances_num, or hybrid_instances_num, or all three",
            suggestion="give the numbers of instances",
        )
        return
    for role in ("prefill", "decode", "union", "encode"):
        if role in stated:
            continue
        key = f"{DEPLOY_LETTER[role]}_instances_num"
        partner = {"prefill": "decode", "decode": "prefill"}.get(role)
        if partner in stated:
            reason = f"{DEPLOY_LETTER[partner]}_instances_num is given, and prefill and decode need each other"
        elif described[role]:
            reason = f"{described[role]} is given"
        else:
            continue
        if role == "encode":
            yield Problem.warning(
                file,
                f"{DEPLOY}.{key}",
                f"missing although {reason}: no encode instance is started",
                allowed="0 to 16",
            )
        else:
            yield Problem.error(
                file,
                f"{DEPLOY}.{key}",
                f"missing although {reason}",
                allowed="1 to 16",
                suggestion=f"give {key}, or remove what belongs to {role}",
            )
    if stated == {"encode"}:
        yield Problem.error(
            file,
            DEPLOY,
            "encode instances alone answer nothing",
            allowed="p_instances_num and d_instances_num, or hybrid_instances_num, beside e_instances_num",
        )


def _description(user: UserConfig, role: str) -> str:
    """The first thing that is said of a role beside its number; empty when nothing is."""
    letter = DEPLOY_LETTER[role]
    for key in (f"{letter}_pod_npu_num", f"single_{letter}_instance_pod_num"):
        if key in user.motor_deploy_config.model_fields_set:
            return key
    return f"motor_engine_{role}_config" if user.engine_section(role) is not None else ""


def sections(user: UserConfig, file: str) -> Iterator[Problem]:
    """Each role that has instances has an engine section."""
    for role in ROLES:
        count = user.instance_count(role)
        if count and user.engine_section(role) is None:
            key = f"{DEPLOY_LETTER[role]}_instances_num"
            yield Problem.error(
                file,
                f"$.motor_engine_{role}_config",
                f"missing, and {key} asks for {count}",
                allowed="an object with engine_type and engine_config",
                suggestion=f"add the section, or remove {key}",
            )


def hardware(user: UserConfig, file: str) -> Iterator[Problem]:
    """What the engines run on cannot be guessed."""
    if user.motor_deploy_config.hardware_type is None:
        yield Problem.error(
            file,
            f"{DEPLOY}.hardware_type",
            "missing",
            allowed="one of " + ", ".join(get_args(HardwareType)),
            suggestion="name the hardware; cpu assumes no accelerator",
        )


def mixed_fleet(user: UserConfig, file: str) -> Iterator[Problem]:
    """Union beside prefill and decode is right on purpose and wrong by accident."""
    if user.instance_count("union") and user.instance_count("prefill") and user.instance_count("decode"):
        yield Problem.warning(
            file,
            f"{DEPLOY}.hybrid_instances_num",
            "union instances are asked for beside prefill and decode: short prompts go to union, prompts of"
            " scheduler_config.prefill_threshold tokens or more to prefill and decode",
            value=user.motor_deploy_config.hybrid_instances_num,
            suggestion="if you want one kind only, remove the other's keys and engine sections",
        )


def image(user: UserConfig, file: str) -> Iterator[Problem]:
    """Pods need an image; processes of one machine do not."""
    deploy = user.motor_deploy_config
    if not deploy.image_name and deploy.hardware_type != "cpu":
        yield Problem.warning(
            file,
            f"{DEPLOY}.image_name",
            "empty: pods cannot start without an image",
            value=deploy.image_name,
            suggestion="name an image that every node can pull before you deploy on Kubernetes",
        )


def request_order(user: UserConfig, file: str) -> Iterator[Problem]:
    """A forced order of prefill and decode needs the instances for it."""
    mode = user.motor_coordinator_config.scheduler_config.deploy_mode
    path = "$.motor_coordinator_config.scheduler_config.deploy_mode"
    if mode == "single_node" and not user.instance_count("union"):
        yield Problem.error(
            file,
            path,
            "single_node sends requests to union instances, and none is asked for",
            value=mode,
            suggestion="remove the key: the order follows from the instances",
        )
    elif mode not in (None, "single_node") and user.instance_count("union") and not user.instance_count("prefill"):
        yield Problem.warning(
            file,
            path,
            "no effect: there are only union instances",
            value=mode,
            suggestion="remove the key: the order follows from the instances",
        )
