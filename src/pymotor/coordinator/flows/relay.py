"""The last leg's stream on its way to the client.

Hot path. Nothing is sent to the client before the engine's first event with content, so that a leg that fails
earlier can be answered with a true status or tried again. After it, whole events go on as they stood on the
wire; they are not parsed, and the connection to the engine passes most of them on by itself. A stream that breaks off
ends with an error event, never as if it were whole.
"""

from __future__ import annotations

import asyncio
from time import monotonic

from pymotor.coordinator.api.errors import ApiError
from pymotor.coordinator.api.events import ErrorEvent, whole_events
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.leg_failures import failed
from pymotor.coordinator.flows.legs import content_came
from pymotor.coordinator.http.exchange import BadReply, EngineStreamError, Headers, InParts, UpstreamError
from pymotor.coordinator.http.framing import chunk
from pymotor.coordinator.http.upstream import UpstreamConnection
from pymotor.coordinator.recovery.recomputed import MARK, Recomputed, events_give_up
from pymotor.coordinator.scheduling.target import Held, Reservation, Target

EVENT_STREAM = b"text/event-stream"
HELD_LIMIT = 16 * 1024 * 1024
GROWTH = 64
"""After so many events the endpoint is charged with the KV cache that they hold; an event is taken for a token."""


class Relay(InParts):
    """Receives one streamed reply and writes it to the client; `done` is set when it is over."""

    __slots__ = (
        "_client",
        "_content_at",
        "_context",
        "_ends_well",
        "_first_content",
        "_framed",
        "_held",
        "_held_size",
        "_last",
        "_later",
        "_leg",
        "_passes_on",
        "_since",
        "_surface",
        "_tail",
        "_target",
        "_ungrown",
        "_write",
        "body",
        "committed",
        "connection",
        "content_type",
        "done",
        "headers",
        "status",
    )
    _plain = True
    """Whether events go on as they are, and nobody looks at each."""

    def __init__(self, context: Context, leg: str, target: Target, first_content: Reservation | Held | None) -> None:
        """`first_content` is a reservation that ends with the first content: prefill's, whose KV was fetched."""
        client = context.client
        self._context = context
        self._client = client
        self._write = client.transport.write
        self._leg = leg
        self._target = target
        self._first_content = first_content
        surface = self._surface = context.view.surface
        self._passes_on = surface.closing is not None
        self._framed = context.request.http_11
        self._held: list[bytes] = []
        self._held_size = 0
        self._tail = b""
        self._last = b""
        """Events that go to the client with the stream's end, which has come with them."""
        self._ends_well = False
        self._ungrown = 0
        self._later = 0
        self._content_at = 0.0
        self._since = monotonic()
        self.committed = False
        self.connection: UpstreamConnection | None = None
        self.content_type = b""
        self.headers: Headers = []
        self.status = 0
        self.body: list[bytes] | None = None
        """The reply's pieces when it turned out to be no stream: an error, or plain JSON."""
        self.done: asyncio.Future[None] = context.services.loop.create_future()

    # -- Receiver

    def on_head(self, status: int, headers: Headers) -> None:
        """See `Receiver`."""
        self.status = status
        self.headers = headers
        for name, value in headers:
            if name == b"content-type":
                self.content_type = value
                break
        if status != 200 or not self.content_type.startswith(EVENT_STREAM):
            self.body = []

    def on_chunk(self, wire: bytes, start: int) -> None:
        """See `Receiver`."""
        # An event that ends in a brace is none of those that end a stream by their words.
        if (
            self._passes_on
            and self.committed
            and self._framed
            and not self._tail
            and wire.endswith(b"}\n\n\r\n")
            and not wire.partition(MARK)[1]
        ):
            self._ends_well = False
            self._on_passed(1)
            self._client.write(wire)
            self._pass_on()
        else:
            self.on_payload(wire[start:-2])

    def on_payload(self, payload: bytes) -> None:
        """See `Receiver`."""
        if self.body is not None:
            self._hold(payload, self.body)
            return
        data = self._tail + payload if self._tail else payload
        end = whole_events(data)
        if end == len(data):
            self._tail = b""
        else:
            self._tail = data[end:]
            data = data[:end]
            if len(self._tail) > HELD_LIMIT:
                self._give_up(BadReply("an event of the stream is larger than 16 MiB"))
                return
        if data:
            self._on_events(data)

    def _on_events(self, data: bytes) -> None:
        """Whole events, at least one."""
        # Not `in`, which raises and drops an error before it looks for bytes.
        if data.partition(MARK)[1] and events_give_up(data, self._context.view.fields):
            self._give_up(Recomputed())
            return
        self._ends_well = self._surface.ends(data)
        if self.committed:
            self._on_passed(data.count(b"\n\n"))
            connection = self.connection
            if self._plain and connection is not None and connection.ending and self._ends_well and not self._tail:
                self._last = data
                return
            self._client.write(chunk(data) if self._framed else data)
            self._pass_on()
            return
        try:
            if self._surface.has_content(data):
                self._commit(data)
            else:
                self._hold(data, self._held)
        except ErrorEvent as error:
            self._give_up(EngineStreamError(error.error))

    def on_complete(self) -> None:
        """See `Receiver`."""
        if self.done.done():
            return
        if self.body is not None:
            self.done.set_result(None)
        elif not self.committed:
            self.done.set_exception(BadReply("the stream ended before any content"))
        elif self._tail or not self._ends_well:
            self._break_off(BadReply("the stream ended before its last event"))
        else:
            self._end()

    def on_failed(self, error: UpstreamError) -> None:
        """See `Receiver`."""
        if self.done.done():
            return
        if self.committed:
            self._break_off(error)
        else:
            self.done.set_exception(error)

    def _pass_on(self) -> None:
        """Have the connection hand events that nobody has to look at straight to the client."""
        connection = self.connection
        if (
            self._plain
            and self._passes_on
            and self._framed
            and connection is not None
            and not self._tail
            and not self._ends_well
        ):
            connection.pass_on(self._write, MARK, self._on_passed)

    def _on_passed(self, events: int) -> int:
        """The client was sent so many events more; returns how many later it matters again."""
        self._ungrown += events
        if self._ungrown >= GROWTH:
            self._grow()
        return GROWTH - self._ungrown

    def _grow(self) -> None:
        context = self._context
        context.events += self._ungrown
        answering = context.answering
        if answering is not None:
            answering.grow(self._ungrown)
        self._later += self._ungrown
        self._ungrown = 0

    # -- toward the client

    def _hold(self, data: bytes, pieces: list[bytes]) -> None:
        pieces.append(data)
        self._held_size += len(data)
        if self._held_size > HELD_LIMIT:
            self._give_up(BadReply("more than 16 MiB came before any content"))

    def _commit(self, data: bytes) -> None:
        context = self._context
        self.committed = True
        if self._first_content is not None:
            self._first_content.end()
        if context.answering is not None:
            context.answering.worked()
            self._ungrown = data.count(b"\n\n")
            self._later = -self._until_content(data)
        content_came(context, self._target, self.connection)
        context.note_handoff(self._target)
        self._content_at = now = monotonic()
        context.note_leg(self._leg, self._target, now - self._since)
        held = self._held
        if held:
            held.append(data)
            data = b"".join(held)
            self._held = []
        client = self._client
        client.on_writable = self._set_writable
        self._begin(data)
        if not client.writable:
            self._set_writable(False)
        self._pass_on()

    def _until_content(self, data: bytes) -> int:
        """Which of these events is the first with content, if that is one of the first two: the one before it names
        the role of who speaks."""
        first = data.find(b"\n\n") + 2
        return 1 if first in (1, len(data)) or self._surface.has_content(data[:first]) else 2

    def _begin(self, data: bytes) -> None:
        """The first of the reply that the client sees."""
        self._context.begin_stream(self.content_type, data)

    def _set_writable(self, writable: bool) -> None:
        """Back-pressure: while the client does not read, neither do we."""
        connection = self.connection
        if connection is None or connection.closed or self.done.done():
            return
        if writable:
            connection.resume()
        else:
            connection.pause()

    def _end(self) -> None:
        context = self._context
        context.events += self._ungrown
        context.count(200)
        context.end_stream(self._last)
        context.status = 200
        # Events behind the first content, without the one that only ends the stream; known without counting each.
        later = self._later + self._ungrown - self._passes_on
        context.answer_events = max(0, later + 1)
        if later > 0 and context.answering is not None:
            seconds = (monotonic() - self._content_at) / later
            context.services.instruments.time_per_output_token(context.label, seconds)
        self.done.set_result(None)

    def _break_off(self, error: UpstreamError) -> None:
        """The stream cannot go on: say so in the stream, and end it properly so that the client gets to see it."""
        context = self._context
        failed(context, self._leg, self._target, error)
        if context.trail is not None:
            context.trail.broke_off(self.connection, error.reason)
        told = ApiError(
            502,
            f"{self._leg} on {self._target.instance.name} broke off: {error}",
            code="stream_interrupted",
        )
        context.end_stream(self._surface.broken_off(told))
        context.status = 502
        self.done.set_result(None)

    def _give_up(self, error: UpstreamError) -> None:
        if self.connection is not None:
            self.connection.abandon(self)
        self.on_failed(error)
