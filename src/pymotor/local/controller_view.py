"""What the Controller of a local fleet says of its engines, as it changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import httpx
import msgspec

from pymotor.control_plane.asking import asking_client
from pymotor.control_plane.tls import ClientTLS
from pymotor.fleet import EndpointState, InstanceState, Role

INTERVAL = 0.25
"""Seconds between two looks."""
_TIMEOUT = 5.0


class SeenServer(msgspec.Struct, frozen=True, kw_only=True):
    """One engine server."""

    name: str
    state: EndpointState
    endpoint_id: str = ""
    process_id: int | None = None
    detail: str = ""
    restarts: int = 0


class SeenNode(msgspec.Struct, frozen=True, kw_only=True):
    """One NodeManager and what it runs."""

    name: str
    instance: str = ""
    """Empty: none."""
    heard_seconds_ago: float = 0.0
    silent: bool = False
    leaving: bool = False
    released: bool = False
    problem: str = ""
    servers: tuple[SeenServer, ...] = ()

    @property
    def is_former(self) -> bool:
        """Whether nothing more is to be expected of the NodeManager that this was heard of."""
        return not self.instance and (self.silent or self.leaving or self.released)

    @property
    def is_busy(self) -> bool:
        """Whether it has an instance, or is ending by itself."""
        return bool(self.instance or self.servers) or self.leaving or self.released


class SeenEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server answers."""

    id: str
    url: str


class SeenInstance(msgspec.Struct, frozen=True, kw_only=True):
    """One instance."""

    name: str
    role: Role
    state: InstanceState
    number: int = 0
    fault: str = ""
    endpoints: tuple[SeenEndpoint, ...] = ()


class SeenRole(msgspec.Struct, frozen=True, kw_only=True):
    """How many instances of a role there are and should be."""

    role: Role
    target: int | None = None
    """None: nobody asked for a number."""
    present: int = 0
    """Those that are to stay."""
    missing_nodes: int = 0
    """Nodes that have to be started."""


class SeenFleet(msgspec.Struct, frozen=True, kw_only=True):
    """The fleet at one moment."""

    epoch: int
    version: int
    complete: bool = True
    """False while a Controller that has just begun still listens who is there."""
    instances: tuple[SeenInstance, ...] = ()
    nodes: tuple[SeenNode, ...] = ()
    roles: tuple[SeenRole, ...] = ()

    @property
    def servers(self) -> tuple[SeenServer, ...]:
        """Of all nodes."""
        return tuple(server for node in self.nodes for server in node.servers)

    def restarts(self, instance: str) -> int:
        """How often its servers were started again."""
        nodes = (node for node in self.nodes if node.instance == instance)
        return max((server.restarts for node in nodes for server in node.servers), default=0)

    def url_of(self, endpoint_id: str) -> str:
        """Where an endpoint answers, or an empty string."""
        endpoints = (endpoint for instance in self.instances for endpoint in instance.endpoints)
        return next((endpoint.url for endpoint in endpoints if endpoint.id == endpoint_id), "")


class ControllerView:
    """Asks the Controller again and again."""

    def __init__(self, url: str, headers: dict[str, str], tls: ClientTLS | None = None) -> None:
        """`headers` show the cluster's token; `tls`: None for plain HTTP."""
        self._tls = tls
        self._url = f"{url}/fleet"
        self._headers = headers

    async def changes(self) -> AsyncGenerator[SeenFleet, None]:
        """What it says, as often as it answers; never ends by itself, and passes over its absence."""
        async with asking_client(self._tls, timeout=_TIMEOUT, headers=self._headers) as client:
            while True:
                with contextlib.suppress(httpx.HTTPError, msgspec.DecodeError):
                    reply = await client.get(self._url)
                    if reply.status_code == 200:
                        yield msgspec.json.decode(reply.content, type=SeenFleet)
                await asyncio.sleep(INTERVAL)
