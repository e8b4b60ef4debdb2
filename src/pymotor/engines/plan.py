"""What runs for one engine instance: its servers' command lines and environments, and its entry in the fleet."""

from __future__ import annotations

from dataclasses import dataclass

from pymotor.fleet import Endpoint, Instance


class PlanError(ValueError):
    """The configuration cannot become this instance; the message says what to change."""


@dataclass(frozen=True, kw_only=True)
class ServerPlan:
    """One engine server to start."""

    name: str
    """`prefill-0`, or `prefill-0-rank-1` where an instance has several servers."""
    endpoint: Endpoint
    argv: tuple[str, ...]
    env: dict[str, str]
    """What is added to the environment of the process that starts it."""
    health_path: str = "/health"


@dataclass(frozen=True, kw_only=True)
class InstancePlan:
    """One instance: how it stands in the fleet and the servers that make it."""

    instance: Instance
    servers: tuple[ServerPlan, ...]
    warnings: tuple[str, ...] = ()
