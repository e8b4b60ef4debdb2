"""Answers that cannot be carried on from token ids but come out the same when they are asked for again.

That is so for greedy answers and those with a seed: with media, stop strings, penalties, structured output. The whole
request goes to another engine, and what the client has of the answer already is left out, after it was compared: an
engine that says anything else ends the stream with an error, since its answer cannot follow the beginning of another.

The engine's events are kept as they came and read only when the stream breaks off.
"""

from __future__ import annotations

import msgspec

from pymotor.coordinator.api.errors import UNREADABLE
from pymotor.coordinator.api.events import data_of
from pymotor.coordinator.http.exchange import BadReply, EngineStreamError, UpstreamError
from pymotor.coordinator.recovery.answer_so_far import Choice, Event, Fields, separate
from pymotor.coordinator.recovery.recomputed import MARK, RECOMPUTED, Recomputed

KEPT_BYTES = 4 * 1024 * 1024
"""Events of one answer that are kept; a longer one is not repeated."""

_CHOICES = b'"choices":['
_IDENTITY = ("id", "object", "created", "model")
_EMPTY = frozenset((b"null", b'""', b"[]", b"{}"))
_PLAIN_DELTA = frozenset(("role", "content"))
_NULL = msgspec.Raw(b"null")

_event_decoder = msgspec.json.Decoder(Event)
_fields_decoder = msgspec.json.Decoder(Fields)
_choices_decoder = msgspec.json.Decoder(list[Fields])
_encode = msgspec.json.Encoder().encode


class RepeatableAnswer:
    """What the client has of an answer; see the module. The same uses as `AnswerSoFar`."""

    __slots__ = (
        "_finished",
        "_kept",
        "_size",
        "_usage_wanted",
        "identity",
        "impossible",
        "said",
        "shows_ids",
        "usage_sent",
        "verdict",
    )

    def __init__(self, *, usage_wanted: bool) -> None:
        """`usage_wanted`: whether the client asked for a last event with the usage."""
        self._kept: list[bytes] = []
        self._size = 0
        self._usage_wanted = usage_wanted
        self._finished = False
        self.said = ""
        """The answer's text, as far as the client has it; true after `rewind`."""
        self.identity: Fields = {}
        """`id`, `object`, `created` and `model` of the events."""
        self.impossible = ""
        """Why the answer cannot be repeated; empty while it can."""
        self.verdict: UpstreamError | None = None
        """What the newest events said of the stream's end: an error, or that the answer was given up."""
        self.usage_sent = False
        self.shows_ids = True
        """Events go to the client as they are."""

    def anew(self) -> RepeatableAnswer:
        """For the same request tried again from its beginning."""
        return RepeatableAnswer(usage_wanted=self._usage_wanted)

    @property
    def finished(self) -> bool:
        """Whether the client has all but the stream's last event."""
        self._read_kept()
        return self._finished and (self.usage_sent or not self._usage_wanted)

    @property
    def has_finish_reason(self) -> bool:
        """Whether the client has the finish reason; true after `rewind`."""
        return self._finished

    def take_single(self, wire: bytes, start: int, stop: int) -> bytes | None:
        """The one whole event `wire[start:stop]`, kept; None for `take` to look at it. Hot path."""
        # Not `in`, which raises and drops an error before it looks for bytes.
        if not wire.partition(_CHOICES)[1] or wire.partition(MARK)[1] or wire.find(b"\n\n", start) != stop - 2:
            return None
        event = wire[start:stop]
        self.keep(event)
        return event

    def take(self, events: bytes) -> bytes:
        """Whole events, kept, as far as the client is to see them: all before an error or a giving up, of which
        `verdict` then tells."""
        shown = []
        for event in separate(events):
            parsed = read_event(event)
            self.verdict = verdict_of(parsed)
            if self.verdict is not None:
                break
            shown.append(event)
            if parsed is not None:
                self.keep(event)
        return b"".join(shown)

    def keep(self, event: bytes) -> None:
        """An event goes to the client."""
        self._size += len(event)
        if self._size > KEPT_BYTES:
            self.impossible = "the answer is too long to be kept"
            self._kept.clear()
        else:
            self._kept.append(event)

    def rewind(self) -> None:
        """Read what was kept, and forget how the last stream ended."""
        self.verdict = None
        self._read_kept()

    def _read_kept(self) -> None:
        for event in separate(b"".join(self._kept)):
            parsed = read_event(event)
            if parsed is None:
                self.impossible = "an event is not a completion"
            elif not parsed.choices:
                self.usage_sent = True
            else:
                self._read(parsed, event)
        self._kept.clear()

    def _read(self, parsed: Event, event: bytes) -> None:
        choice = parsed.choices[0]
        if not self.identity:
            fields = _fields_decoder.decode(data_of(event.strip()))
            self.identity = {name: msgspec.Raw(bytes(fields[name])) for name in _IDENTITY if name in fields}
        if len(parsed.choices) > 1:
            self.impossible = "there are several answers"
        if not is_plain(choice):
            self.impossible = "the answer is not only text"
            return
        self.said += choice.said()
        self._finished = self._finished or choice.finish_reason is not None


class RepeatedAnswer:
    """Turns the events of an engine that gives the whole answer again into what the client lacks of it."""

    __slots__ = ("_already", "_length", "_so_far")

    def __init__(self, so_far: RepeatableAnswer) -> None:
        self._so_far = so_far
        self._already = so_far.said
        self._length = 0

    @property
    def verdict(self) -> UpstreamError | None:
        """See `RepeatableAnswer.verdict`."""
        return self._so_far.verdict

    def take(self, events: bytes) -> bytes:
        """What the client is to see of whole events; see `RepeatableAnswer.take`."""
        so_far = self._so_far
        shown = []
        for event in separate(events):
            parsed = read_event(event)
            so_far.verdict = verdict_of(parsed)
            if so_far.verdict is not None:
                break
            if parsed is None:
                shown.append(event)
                continue
            rest = self._usage(event) if not parsed.choices else self._content(parsed.choices, event)
            if so_far.verdict is not None:
                break
            if rest:
                so_far.keep(rest)
                shown.append(rest)
        return b"".join(shown)

    def _usage(self, event: bytes) -> bytes:
        return b"" if self._so_far.usage_sent else self._written(event, None)

    def _content(self, choices: list[Choice], event: bytes) -> bytes:
        choice = choices[0]
        if len(choices) > 1 or not is_plain(choice):
            self._so_far.verdict = BadReply("the repeated answer is not only text")
            return b""
        text = choice.said()
        known = self._already[self._length : self._length + len(text)]
        self._length += len(text)
        if not text.startswith(known) or (choice.finish_reason is not None and self._length < len(self._already)):
            self._so_far.verdict = BadReply("another engine gives another answer to the same request")
            return b""
        rest = text[len(known) :]
        if self._so_far.has_finish_reason or (not rest and choice.finish_reason is None):
            return b""
        return self._written(event, rest if known else None)

    def _written(self, event: bytes, text: str | None) -> bytes:
        """The event under the answer's own id, and with `text` where a part of its own is left out."""
        fields = _fields_decoder.decode(data_of(event.strip()))
        fields.update(self._so_far.identity)
        if text is not None:
            (choice,) = _choices_decoder.decode(fields["choices"])
            told = msgspec.Raw(_encode(text))
            if "delta" in choice:
                choice["delta"] = msgspec.Raw(_encode({"content": told}))
            else:
                choice["text"] = told
            for name in ("logprobs", "token_ids"):
                if bytes(choice.get(name, _NULL)) == b"null":
                    continue
                if text:
                    self._so_far.verdict = BadReply(f"{name} of a part of an event cannot be told apart")
                    return b""
                choice[name] = _NULL
            fields["choices"] = msgspec.Raw(_encode([choice]))
        return b"data: " + _encode(fields) + b"\n\n"


def is_plain(choice: Choice) -> bool:
    """Whether there is nothing in it but text."""
    return not choice.delta or all(
        name in _PLAIN_DELTA or bytes(value) in _EMPTY for name, value in choice.delta.items()
    )


def read_event(event: bytes) -> Event | None:
    """What matters of one event; None where there is no data in it, or `[DONE]`, or nothing that is understood."""
    data = data_of(event.replace(b"\r\n", b"\n").rstrip(b"\n"))
    if not data or data == b"[DONE]":
        return None
    try:
        return _event_decoder.decode(data)
    except UNREADABLE:
        return None


def verdict_of(parsed: Event | None) -> UpstreamError | None:
    """How an event ends its stream before the answer is whole; None where it does not."""
    if parsed is None:
        return None
    if bytes(parsed.error) != b"null":
        return EngineStreamError(bytes(parsed.error))
    if any(choice.stop_reason == RECOMPUTED for choice in parsed.choices):
        return Recomputed()
    return None
