"""Several streams that become one: the events of each part as they come, with its choice's number and one id.

Not a hot path: every event is read and written again.
"""

from __future__ import annotations

import asyncio
from time import monotonic

import msgspec

from pymotor.coordinator.api.errors import UNREADABLE, ApiError
from pymotor.coordinator.api.events import (
    DONE,
    ErrorEvent,
    data_of,
    ends_with_done,
    events_of,
    has_content,
    whole_events,
)
from pymotor.coordinator.api.request_view import Fields
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.legs import Buffers, LegFailed, exchange, leg_succeeded, refused
from pymotor.coordinator.http.exchange import BadReply, EngineStreamError, Headers, UpstreamError
from pymotor.coordinator.http.framing import chunk
from pymotor.coordinator.http.upstream import UpstreamConnection
from pymotor.coordinator.recovery.recomputed import MARK, Recomputed, events_give_up
from pymotor.coordinator.recovery.repeated_answer import RepeatableAnswer, RepeatedAnswer
from pymotor.coordinator.scheduling.target import Reservation, Target

_EVENT_STREAM = b"text/event-stream; charset=utf-8"
_fields_decoder = msgspec.json.Decoder(Fields)
_choices_decoder = msgspec.json.Decoder(list[Fields])
_encode = msgspec.json.Encoder().encode


class Usage(msgspec.Struct):
    """Tokens of one answer, as engines tell them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class MergedStream:
    """The one stream toward the client."""

    def __init__(self, context: Context, wants_usage: bool) -> None:
        """`wants_usage`: whether the client asked for a last event with the usage of all parts."""
        self._context = context
        self.fields = context.view.fields
        self.wants_usage = wants_usage
        """Whether the client asked for a last event with the usage."""
        self._held: list[bytes] = []
        self._shared: Fields = {}
        self._usages: dict[int, Usage] = {}
        self.begun = False

    def take(self, position: int, event: bytes) -> None:
        """An event of the part at `position`. Raises `ErrorEvent` when it is an error object."""
        data = data_of(event)
        if data in (b"", b"[DONE]"):
            return
        matters = has_content(event)
        fields = _fields_decoder.decode(data)
        if not self._shared:
            self._shared = {name: fields[name] for name in ("id", "created", "object", "model") if name in fields}
        choices = _choices_decoder.decode(fields.get("choices", msgspec.Raw(b"[]")))
        usage = fields.pop("usage", msgspec.Raw(b"null"))
        if not choices:
            if bytes(usage) != b"null":
                self._usages[position] = msgspec.json.decode(usage, type=Usage)
            return
        for choice in choices:
            choice["index"] = msgspec.Raw(b"%d" % position)
        fields.update(self._shared)
        fields["choices"] = msgspec.Raw(_encode(choices))
        self._write(b"data: " + _encode(fields) + b"\n\n", matters)

    def _write(self, event: bytes, matters: bool) -> None:
        client = self._context.client
        if self.begun:
            client.write(chunk(event) if self._context.request.http_11 else event)
            return
        self._held.append(event)
        if not matters:
            return
        self.begun = True
        self._context.begin_stream(_EVENT_STREAM, b"".join(self._held))

    def end(self, answers_a_prompt: int) -> None:
        """All parts are whole."""
        last = DONE
        if self.wants_usage:
            prompt = sum(u.prompt_tokens for position, u in self._usages.items() if position % answers_a_prompt == 0)
            completion = sum(usage.completion_tokens for usage in self._usages.values())
            totals = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
            last = b"data: " + _encode({**self._shared, "choices": [], "usage": totals}) + b"\n\n" + DONE
        self._context.end_stream(last)
        self._context.status = 200

    def break_off(self, failure: LegFailed) -> None:
        """A part failed after the stream had begun."""
        told = failure.as_api_error()
        self._context.end_stream(ApiError(502, told.detail.message, code="stream_interrupted").event() + DONE)
        self._context.status = 502


class _PartReceiver:
    """Receives one part's stream; `done` is set when it is over."""

    def __init__(
        self,
        merged: MergedStream,
        position: int,
        done: asyncio.Future[None],
        charge: Reservation | None,
        answer: RepeatableAnswer | RepeatedAnswer | None,
    ) -> None:
        self._merged = merged
        self._position = position
        self._charge = charge
        self._answer = answer
        self._tail = b""
        self._ends_well = False
        self.done = done
        self.connection: UpstreamConnection | None = None
        self.status = 0
        self.error_body: list[bytes] = []

    def on_head(self, status: int, headers: Headers) -> None:  # noqa: ARG002  Receiver's signature
        """See `Receiver`."""
        self.status = status

    def on_chunk(self, wire: bytes, start: int) -> None:
        """See `Receiver`."""
        self.on_payload(wire[start:-2])

    def on_payload(self, payload: bytes) -> None:
        """See `Receiver`."""
        if self.done.done():
            return
        if self.status != 200:
            self.error_body.append(payload)
            return
        data = self._tail + payload
        end = whole_events(data)
        self._tail = data[end:]
        self._ends_well = ends_with_done(data[:end])
        if MARK in data and events_give_up(data[:end], self._merged.fields):
            self.done.set_exception(Recomputed())
            return
        seen, verdict = data[:end], None
        if self._answer is not None:
            seen = self._answer.take(seen)
            verdict = self._answer.verdict
        try:
            for event in events_of(seen):
                if event:
                    self._merged.take(self._position, event)
        except ErrorEvent as error:
            self.done.set_exception(EngineStreamError(error.error))
        except UNREADABLE as error:
            self.done.set_exception(BadReply(f"an event is not a completion: {error}"))
        else:
            if verdict is not None:
                self.done.set_exception(verdict)
            if self._charge is not None and self._charge.open and self._merged.begun:
                self._charge.end()

    def on_complete(self) -> None:
        """See `Receiver`."""
        if self.done.done():
            return
        if self.status == 200 and (self._tail or not self._ends_well):
            self.done.set_exception(BadReply("the stream ended before its last event"))
        else:
            self.done.set_result(None)

    def on_failed(self, error: UpstreamError) -> None:
        """See `Receiver`."""
        if not self.done.done():
            self.done.set_exception(error)


class PartStream:
    """Runs decode for one part of a merged stream: a `Finish` of the pull flow."""

    def __init__(
        self,
        merged: MergedStream,
        position: int,
        kept: RepeatableAnswer | None,
        repeated: RepeatedAnswer | None,
    ) -> None:
        """`kept` is what the client has of this part, None where that is not kept; `repeated` leaves it out of an
        answer that is given again."""
        self._merged = merged
        self._position = position
        self._answer = kept if repeated is None else repeated

    async def __call__(
        self,
        context: Context,
        leg: str,
        target: Target,
        body: Buffers,
        leg_id: bytes,
        charge: Reservation | None,
        fetch_by: float | None,
    ) -> None:
        """Send the part's request and merge its events. Raises `LegFailed`."""
        since = monotonic()
        loop = context.services.loop
        receiver = await exchange(
            context,
            leg,
            target,
            body,
            leg_id,
            lambda: _PartReceiver(self._merged, self._position, loop.create_future(), charge, self._answer),
            send_by=fetch_by,
        )
        if receiver.status != 200:
            raise refused(context, leg, target, receiver.status, b"".join(receiver.error_body))
        leg_succeeded(context, leg, target, since)
