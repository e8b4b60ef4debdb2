"""The limits by which a Controller judges nodes, instances and Coordinators."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pymotor.config import UserConfig
from pymotor.fleet import Role


class ControllerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Times are in seconds."""

    heartbeat: float = 3.0
    """By when a node should report again."""
    node_timeout: float = 10.0
    """A node that was not heard of for so long is silent."""
    silent_grace: float = 1.0
    """And one whose waiting report broke, when nothing else came for so long."""
    gone_timeout: float = 300.0
    """A silent node's instance is given up after so long."""
    listen_seconds: float = 9.0
    """How long a new leader listens before it orders anything: three heartbeats."""
    drain_limit: float = 300.0
    """How long running requests may take when an instance is drained, where nobody says otherwise."""
    coordinator_timeout: float = 10.0
    """A Coordinator that was not heard of for so long is not waited for."""
    assemble_timeout: float = 600.0
    """How long an instance waits for its missing nodes."""
    wanted: Mapping[Role, int] = {}
    """Not a time: instances of each role by the configuration, where it says so."""
    configured: frozenset[Role] | None = None
    """Nor this: the roles whose engines the configuration describes; None: it is not known."""


def settings_from(user: UserConfig) -> ControllerSettings:
    """What the configuration says."""
    instance = user.motor_controller_config.instance_config
    return ControllerSettings(
        node_timeout=float(instance.node_timeout),
        silent_grace=float(instance.silent_grace),
        gone_timeout=float(instance.gone_timeout),
        listen_seconds=float(instance.listen_seconds),
        drain_limit=float(instance.drain_limit),
        coordinator_timeout=float(instance.coordinator_timeout),
        assemble_timeout=float(instance.instance_assemble_timeout),
        wanted=wanted_instances(user),
        configured=frozenset(role for role in Role if user.engine_section(role.value) is not None),
    )


def wanted_instances(user: UserConfig) -> dict[Role, int]:
    """How many instances of each role the configuration asks for; roles of which it asks for none are left out."""
    return {role: user.instance_count(role.value) for role in Role if user.instance_count(role.value)}
