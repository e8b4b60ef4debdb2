"""The stream of one of several answers on its way into the merged one."""

from __future__ import annotations

import asyncio
from time import monotonic

from pymotor.coordinator.api.errors import UNREADABLE
from pymotor.coordinator.api.events import ErrorEvent, data_of, ends_with_done, events_of, has_content, whole_events
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.legs import content_came
from pymotor.coordinator.flows.relay import EVENT_STREAM, GROWTH, HELD_LIMIT
from pymotor.coordinator.flows.several_stream import MergedStream
from pymotor.coordinator.http.exchange import BadReply, EngineStreamError, Headers, InParts, UpstreamError
from pymotor.coordinator.http.upstream import UpstreamConnection
from pymotor.coordinator.recovery.recomputed import MARK, Recomputed, events_give_up
from pymotor.coordinator.recovery.repeated_answer import RepeatableAnswer, RepeatedAnswer
from pymotor.coordinator.scheduling.target import Held, Reservation, Target


class PartReceiver(InParts):
    """Receives one part's stream; `done` is set when it is over."""

    __slots__ = (
        "_answer",
        "_context",
        "_ends_well",
        "_first_content",
        "_held",
        "_held_size",
        "_leg",
        "_merged",
        "_position",
        "_since",
        "_tail",
        "_target",
        "_ungrown",
        "body",
        "connection",
        "done",
        "status",
    )

    def __init__(
        self,
        context: Context,
        leg: str,
        target: Target,
        first_content: Reservation | Held | None,
        merged: MergedStream,
        position: int,
        answer: RepeatableAnswer | RepeatedAnswer | None,
    ) -> None:
        """`context` is that of the part's try, and is `committed` with the first content that the client is shown of
        it; `first_content` is a reservation that ends then. `answer` keeps what is shown, or leaves out what was."""
        self._context = context
        self._leg = leg
        self._target = target
        self._first_content = first_content
        self._merged = merged
        self._position = position
        self._answer = answer
        self._held: list[bytes] = []
        """Data of the events before any content."""
        self._held_size = 0
        self._tail = b""
        self._ends_well = False
        self._ungrown = 0
        self._since = monotonic()
        self.connection: UpstreamConnection | None = None
        self.status = 0
        self.body: list[bytes] | None = None
        """The reply's pieces when it turned out to be no stream."""
        self.done: asyncio.Future[None] = context.services.loop.create_future()

    # -- Receiver

    def on_head(self, status: int, headers: Headers) -> None:
        """See `Receiver`."""
        self.status = status
        content_type = next((value for name, value in headers if name == b"content-type"), b"")
        if status != 200 or not content_type.startswith(EVENT_STREAM):
            self.body = []

    def on_chunk(self, wire: bytes, start: int) -> None:
        """See `Receiver`."""
        self.on_payload(wire[start:-2])

    def on_payload(self, payload: bytes) -> None:
        """See `Receiver`."""
        if self.done.done() or self._merged.given_up:
            return
        if self.body is not None:
            self._hold(payload, self.body)
            return
        data = self._tail + payload if self._tail else payload
        end = whole_events(data)
        self._tail = data[end:]
        if len(self._tail) > HELD_LIMIT:
            self._give_up(BadReply("an event of the stream is larger than 16 MiB"))
        elif end:
            self._on_events(data[:end])

    def _on_events(self, events: bytes) -> None:
        """Whole events, at least one."""
        if MARK in events and events_give_up(events, self._context.view.fields):
            self._give_up(Recomputed())
            return
        self._ends_well = ends_with_done(events)
        seen, verdict = events, None
        if self._answer is not None:
            seen = self._answer.take(events)
            verdict = self._answer.verdict
        try:
            for event in events_of(seen):
                data = data_of(event)
                if data not in (b"", b"[DONE]"):
                    self._on_data(data, event)
        except ErrorEvent as error:
            verdict = EngineStreamError(error.error)
        except UNREADABLE as error:
            verdict = BadReply(f"an event is not a completion: {error}")
        if verdict is not None and not self.done.done():
            self._give_up(verdict)

    def _on_data(self, data: bytes, event: bytes) -> None:
        """One event with something in it. Raises `ErrorEvent`, `UNREADABLE`."""
        if self._context.committed:
            self._ungrown += 1
            if self._ungrown >= GROWTH:
                self._grow()
            self._merged.write(self._merged.event(self._position, data))
        elif has_content(event):
            self._begin(data)
        else:
            self._hold(data, self._held)

    def on_complete(self) -> None:
        """See `Receiver`."""
        if self.done.done():
            return
        if self.body is not None:
            self.done.set_result(None)
        elif not self._context.committed:
            self.done.set_exception(BadReply("the stream ended before any content"))
        elif self._tail or not self._ends_well:
            self.done.set_exception(BadReply("the stream ended before its last event"))
        else:
            self.done.set_result(None)

    def on_failed(self, error: UpstreamError) -> None:
        """See `Receiver`."""
        if not self.done.done():
            self.done.set_exception(error)

    def _grow(self) -> None:
        answering = self._context.answering
        if answering is not None:
            answering.grow(self._ungrown)
        self._ungrown = 0

    def _give_up(self, error: UpstreamError) -> None:
        if self.connection is not None:
            self.connection.abandon(self)
        self.on_failed(error)

    # -- toward the client

    def _hold(self, data: bytes, pieces: list[bytes]) -> None:
        pieces.append(data)
        self._held_size += len(data)
        if self._held_size > HELD_LIMIT:
            self._give_up(BadReply("more than 16 MiB came before any content"))

    def _begin(self, data: bytes) -> None:
        """The first content. Raises `ErrorEvent`, `UNREADABLE`, and then nothing was shown."""
        context, merged = self._context, self._merged
        events = b"".join([merged.event(self._position, one) for one in (*self._held, data)])
        self._held = []
        context.committed = True
        if self._first_content is not None and self._first_content.open:
            self._first_content.end()
        if context.answering is not None:
            context.answering.worked()
            self._ungrown = 1
        content_came(context, self._target, self.connection)
        context.note_handoff(self._target)
        context.note_leg(self._leg, self._target, monotonic() - self._since)
        merged.write(events)
        merged.reads(self._position, self)

    def set_writable(self, writable: bool) -> None:
        """Back-pressure: while the client does not read, neither do we."""
        connection = self.connection
        if connection is None or connection.closed or self.done.done():
            return
        if writable:
            connection.resume()
        else:
            connection.pause()
