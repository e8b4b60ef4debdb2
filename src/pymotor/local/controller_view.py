"""What the Controller of a local fleet says of its engines, as it changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import httpx
import msgspec

from pymotor.fleet import EndpointState, InstanceState, Role

INTERVAL = 0.25
"""Seconds between two looks."""
_TIMEOUT = 5.0


class SeenServer(msgspec.Struct, frozen=True, kw_only=True):
    """One engine server."""

    name: str
    state: EndpointState
    url: str = ""
    process_id: int | None = None
    detail: str = ""
    restarts: int = 0


class SeenNode(msgspec.Struct, frozen=True, kw_only=True):
    """One NodeManager and what it runs."""

    node: str
    heard_seconds: float = 0.0
    """Since it was last heard of."""
    problem: str = ""
    servers: tuple[SeenServer, ...] = ()


class SeenInstance(msgspec.Struct, frozen=True, kw_only=True):
    """One instance."""

    name: str
    role: Role
    state: InstanceState
    fault: str = ""
    nodes: tuple[SeenNode, ...] = ()

    @property
    def servers(self) -> tuple[SeenServer, ...]:
        """Of all its nodes."""
        return tuple(server for node in self.nodes for server in node.servers)

    @property
    def restarts(self) -> int:
        """How often its servers were started again and did not serve for long."""
        return max((server.restarts for server in self.servers), default=0)


class SeenRole(msgspec.Struct, frozen=True, kw_only=True):
    """How many instances of a role there are, and are wanted."""

    role: Role
    wanted: int
    nodes_missing: int = 0
    """Nodes that have to be started for that."""


class SeenFleet(msgspec.Struct, frozen=True, kw_only=True):
    """The fleet at one moment."""

    epoch: int
    version: int
    instances: tuple[SeenInstance, ...] = ()
    unassigned: tuple[SeenNode, ...] = ()
    """Nodes without an instance."""
    roles: tuple[SeenRole, ...] = ()

    @property
    def nodes(self) -> tuple[SeenNode, ...]:
        """All that the Controller knows."""
        return tuple(node for instance in self.instances for node in instance.nodes) + self.unassigned


class ControllerView:
    """Asks the Controller again and again."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        """`headers` show the cluster's token."""
        self._url = f"{url}/fleet"
        self._headers = headers

    async def changes(self) -> AsyncGenerator[SeenFleet, None]:
        """What it says, as often as it answers; never ends by itself, and passes over its absence."""
        async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False, headers=self._headers) as client:
            while True:
                with contextlib.suppress(httpx.HTTPError, msgspec.DecodeError):
                    reply = await client.get(self._url)
                    if reply.status_code == 200:
                        yield msgspec.json.decode(reply.content, type=SeenFleet)
                await asyncio.sleep(INTERVAL)
