"""Several streams that become one: the events of each part as they come, with its choice's number and one id.

Not a hot path: every event is read and written again.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from pymotor.coordinator.api.errors import ApiError
from pymotor.coordinator.api.events import DONE, ErrorEvent
from pymotor.coordinator.api.request_view import Fields
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.http.framing import chunk

_EVENT_STREAM = b"text/event-stream; charset=utf-8"
_NULL = msgspec.Raw(b"null")
_fields_decoder = msgspec.json.Decoder(Fields)
_choices_decoder = msgspec.json.Decoder(list[Fields])
_encode = msgspec.json.Encoder().encode


class Usage(msgspec.Struct):
    """Tokens of one answer, as engines tell them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Reading(Protocol):
    """What reads one part's stream."""

    def set_writable(self, writable: bool) -> None:
        """Whether the client takes more at the moment."""


class MergedStream:
    """The one stream toward the client."""

    def __init__(self, context: Context, parts: int, wants_usage: bool) -> None:
        """`wants_usage`: whether the client asked for a last event with the usage of all parts."""
        self._context = context
        self._parts = parts
        self.wants_usage = wants_usage
        """Whether the client asked for a last event with the usage."""
        self._shared: Fields = {}
        self._usages: dict[int, Usage] = {}
        self._finished: set[int] = set()
        self._reading: dict[int, _Reading] = {}
        """What reads the parts that have content, by position."""
        self.begun = False
        """Whether the client has been sent content."""
        self.given_up = False
        """Whether a part has failed for good, so that nothing more of the others is shown."""

    def event(self, position: int, data: bytes) -> bytes:
        """The client's event for `data`, that of an event of the part at `position`; empty for usage, which is told
        at the end. Raises `ErrorEvent` for an error object, `UNREADABLE` for anything else that is no completion."""
        fields = _fields_decoder.decode(data)
        error = fields.get("error", _NULL)
        if bytes(error) != b"null":
            raise ErrorEvent(bytes(error))
        if not self._shared:
            self._shared = {name: fields[name] for name in ("id", "created", "object", "model") if name in fields}
        choices = _choices_decoder.decode(fields.get("choices", msgspec.Raw(b"[]")))
        usage = fields.pop("usage", _NULL)
        if not choices:
            if bytes(usage) != b"null":
                self._usages[position] = msgspec.json.decode(usage, type=Usage)
            return b""
        for choice in choices:
            choice["index"] = msgspec.Raw(b"%d" % position)
            if bytes(choice.get("finish_reason", _NULL)) != b"null":
                self._finished.add(position)
        self._context.events += 1
        fields.update(self._shared)
        fields["choices"] = msgspec.Raw(_encode(choices))
        return b"data: " + _encode(fields) + b"\n\n"

    def is_whole(self, position: int) -> bool:
        """Whether nothing of the part at `position` is missing but the end of its stream."""
        return position in self._finished and (not self.wants_usage or position in self._usages)

    def write(self, events: bytes) -> None:
        """Send whole events to the client; the first of them have content."""
        context = self._context
        if self.given_up or not events:
            return
        if self.begun:
            context.client.write(chunk(events) if context.request.http_11 else events)
            return
        self.begun = True
        context.client.on_writable = self._set_writable
        context.begin_stream(_EVENT_STREAM, events)

    def reads(self, position: int, reading: _Reading) -> None:
        """The part at `position` has content, and more of it only as fast as the client takes it. Until then it is
        read however slow the client is: its silence is the engine's."""
        context = self._context
        self._reading[position] = reading
        if not context.client.writable:
            reading.set_writable(False)
        if self.begun and len(self._reading) == self._parts:
            context.drop_body()

    def _set_writable(self, writable: bool) -> None:
        for reading in self._reading.values():
            reading.set_writable(writable)

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

    def break_off(self, told: ApiError) -> None:
        """A part failed for good after the stream had begun."""
        self._context.end_stream(ApiError(502, told.detail.message, code="stream_interrupted").event() + DONE)
        self._context.status = 502
