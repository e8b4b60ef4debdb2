"""What the flows of one worker share, and what belongs to one request on its way through them."""

from __future__ import annotations

import asyncio
import binascii
import os
from time import monotonic

import msgspec

from pymotor.coordinator.admission import Admission
from pymotor.coordinator.api.request_view import RequestView
from pymotor.coordinator.flows.responses import ResponseHeads
from pymotor.coordinator.http.client_request import ClientRequest
from pymotor.coordinator.http.framing import chunk
from pymotor.coordinator.http.server import ClientConnection
from pymotor.coordinator.instruments import Instruments
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.coordinator.scheduling.target import Group, Policy, Reservation, Target
from pymotor.coordinator.settings import Settings


class Encoded(msgspec.Struct, frozen=True):
    """What an encoder said of a media item."""

    identifier: str
    """Of the item's content, computed by the encoder; the name of the embeddings in the store."""
    metadata: msgspec.Raw | None
    """What a later stage needs to know in place of the media, or None when the encoder does not say."""


class RequestIds:
    """Ids that nobody can guess, from a stock of random bytes: a call for each request would cost more."""

    __slots__ = ("_position", "_stock")

    def __init__(self) -> None:
        self._stock = b""
        self._position = 0

    def next(self) -> bytes:
        """32 hexadecimal digits."""
        if self._position >= len(self._stock):
            self._stock = binascii.hexlify(os.urandom(4096))
            self._position = 0
        start = self._position
        self._position = start + 32
        return self._stock[start : start + 32]


class Services:
    """What every request of a worker uses."""

    __slots__ = ("admission", "heads", "ids", "instruments", "ledger", "loop", "policy", "settings")

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        admission: Admission,
        settings: Settings,
        ledger: Ledger,
        policy: Policy,
        instruments: Instruments,
        heads: ResponseHeads,
    ) -> None:
        self.loop = loop
        self.admission = admission
        self.settings = settings
        self.ledger = ledger
        self.policy = policy
        self.instruments = instruments
        self.heads = heads
        self.ids = RequestIds()

    def choose(self, group: Group, avoid: frozenset[str]) -> Target:
        """By policy; one that failed before only when no other is left. The group is not empty."""
        return self.policy.choose(group, avoid) or self.policy.choose(group, frozenset()) or group.targets[0]


class Context:
    """One client's request on its way."""

    __slots__ = (
        "answering",
        "avoid",
        "client",
        "committed",
        "encoded",
        "engine_path",
        "forwarded",
        "label",
        "legs",
        "opened",
        "request",
        "services",
        "started_at",
        "status",
        "view",
        "whole_by",
        "without_decode",
    )

    def __init__(
        self,
        services: Services,
        client: ClientConnection,
        request: ClientRequest,
        view: RequestView,
    ) -> None:
        self.services = services
        self.client = client
        self.request = request
        self.view = view
        self.label = view.surface.label
        """The path as metrics name it."""
        self.engine_path = view.surface.path
        self.forwarded = b""
        """Lines of the client's head that engines get too."""
        self.started_at = request.received_at
        self.whole_by = request.received_at + services.settings.infer_timeout
        self.answering: Reservation | None = None
        """The newest reservation for the leg that generates the answer; what is generated makes it grow."""
        self.avoid: frozenset[str] = frozenset()
        """Endpoints that failed this request."""
        self.encoded: list[Encoded | None] | None = None
        """What is known of the request's media by now, in their order."""
        self.without_decode = False
        """Whether it is too large for the KV cache of any decode endpoint."""
        self.committed = False
        """Whether the client has been sent a response's head."""
        self.opened = False
        """Whether a stream's head went out before any content; see `keepalive`."""
        self.status = 0
        self.legs: list[tuple[str, str, float]] = []
        """Name, instance and milliseconds of each leg so far, for `Server-Timing`."""

    def for_part(self, view: RequestView) -> Context:
        """The same request reduced to one of its several answers; legs are noted together."""
        part = Context(self.services, self.client, self.request, view)
        part.avoid = self.avoid
        part.forwarded = self.forwarded
        part.legs = self.legs
        part.encoded = self.encoded
        return part

    def note_leg(self, leg: str, target: Target, seconds: float) -> None:
        """A leg has got as far as `Server-Timing` tells."""
        self.legs.append((leg, target.instance.name, seconds * 1000))

    def begin_stream(self, content_type: bytes, events: bytes) -> None:
        """The first content of a stream goes to the client, with the head if that is not out yet."""
        self.note_commit()
        framed = chunk(events) if self.request.http_11 else events
        if self.opened:
            self.client.write(framed)
        else:
            self.client.begin_stream(self.services.heads.stream(self.request, content_type, self.legs), framed)

    def end_stream(self, last: bytes = b"") -> None:
        """`last`, whole events or nothing, and the end of the stream go to the client."""
        client = self.client
        client.on_writable = None
        if self.request.http_11:
            client.end_stream(last)
            return
        # HTTP/1.0 has no chunks: the end of the connection is the end of the stream.
        client.responding = False
        self.request.keep_alive = False
        if last:
            client.write(last)

    def note_commit(self) -> None:
        """The first content goes to the client."""
        self.committed = True
        self.services.instruments.first_token(self.label, monotonic() - self.started_at)
