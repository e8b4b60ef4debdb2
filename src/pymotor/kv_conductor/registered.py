"""Publishers that no fleet names: who registers them says where they are, in the words of Mooncake's conductor."""

from __future__ import annotations

from typing import Annotated, TypeAlias
from urllib.parse import urlsplit

import msgspec

from pymotor.fleet.prefix_queries import LONGEST_NAME
from pymotor.kv_conductor.sources import EventSource

MOST_REGISTERED = 4096
_WILDCARDS = ("*", "0.0.0.0", "::")
_Address: TypeAlias = Annotated[str, msgspec.Meta(max_length=1024)]


class RegistrationError(Exception):
    """What cannot be registered; the message says why."""


class MalformedRegistrationError(RegistrationError):
    """What nobody could register."""


class NotRegisteredError(Exception):
    """Nobody registered it."""


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /register`: one rank of an instance, which has an endpoint of its own."""

    endpoint: _Address
    """`tcp://host:port` of its events, with the rank's own port."""
    modelname: Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_NAME)]
    instance_id: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    dp_rank: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    replay_endpoint: _Address | None = None
    topic: Annotated[str, msgspec.Meta(max_length=LONGEST_NAME)] = ""
    type: str = "vLLM"
    block_size: int | None = None
    """Not needed: events tell it."""
    tenant_id: str | None = None
    """Not used."""

    def source(self) -> EventSource:
        """Where to connect. Raises `MalformedRegistrationError`."""
        if self.type != "vLLM":
            raise MalformedRegistrationError(f"events of type {self.type!r} are not followed here; vLLM's are")
        host, port = _address(self.endpoint)
        replay_host, replay_port = _address(self.replay_endpoint) if self.replay_endpoint else (host, None)
        if replay_host != host:
            raise MalformedRegistrationError("endpoint and replay_endpoint are to be on one host")
        return EventSource(
            endpoint=f"{self.instance_id}/{self.dp_rank}",
            rank=0,
            host=host,
            port=port,
            replay_port=replay_port,
            topic=self.topic,
        )


class Unregistration(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /unregister`."""

    instance_id: str
    dp_rank: int = 0

    @property
    def endpoint_id(self) -> str:
        """As `Registration.source` names it."""
        return f"{self.instance_id}/{self.dp_rank}"


def _address(text: str) -> tuple[str, int]:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise MalformedRegistrationError(f"{text[:200]!r} is no address: {error}") from error
    if parts.scheme != "tcp" or not host or host in _WILDCARDS or not port or parts.path or not _is_name(host):
        raise MalformedRegistrationError(f"{text[:200]!r} is no address; one looks like tcp://10.0.0.7:5557")
    return host, port


def _is_name(host: str) -> bool:
    """Whether an address can be looked for by this name."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return host.isprintable() and " " not in host
