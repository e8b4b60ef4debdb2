"""What runs for one engine instance: its servers' command lines and environments, and its entry in the fleet."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace

from pymotor.engines.tls import KnownTLS
from pymotor.fleet import Endpoint, Instance


class PlanError(ValueError):
    """The configuration cannot become this instance; the message says what to change."""


def new_id() -> str:
    """An identity no other engine has ever had: peers remember engines by it, so each run needs a new one."""
    return uuid.uuid4().hex[:12]


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
    headless: bool = False
    """Whether it has no HTTP endpoint: `endpoint` is then only a name, and it is ready once it runs."""
    tls: KnownTLS | None = None
    """How its endpoint is known; None: it speaks plain HTTP."""


@dataclass(frozen=True, kw_only=True)
class InstancePlan:
    """One instance: how it stands in the fleet and the servers that make it."""

    instance: Instance
    servers: tuple[ServerPlan, ...]
    warnings: tuple[str, ...] = ()
    identity: str = ""
    """By which peers remember this run of the instance; it is in the command lines. Empty where there is none."""

    def renewed(self) -> InstancePlan:
        """The same for another run: peers that know the last one's memory must not take this one for it."""
        if not self.identity:
            return self
        identity = f"{self.instance.name}-{new_id()}"
        servers = tuple(
            replace(server, argv=tuple(word.replace(self.identity, identity) for word in server.argv))
            for server in self.servers
        )
        return replace(self, servers=servers, identity=identity)
