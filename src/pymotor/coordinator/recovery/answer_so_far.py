"""What of a streamed answer has come by now, kept so that it can be carried on elsewhere.

The engine is asked for token ids (`return_token_ids`). They are cut out of its events by a search for bytes, kept as
they stood there, and read only when the stream breaks off. An unescaped `"token_ids":[` cannot stand inside of a JSON
string, so what is found is the member.

Tokens of events without text are kept apart until text comes: the engine's detokenizer holds back bytes that are no
whole character yet, and who carries on behind such a token would begin in the midst of one. They are generated again.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from pymotor.coordinator.api.errors import UNREADABLE
from pymotor.coordinator.api.events import data_of
from pymotor.coordinator.http.exchange import EngineStreamError, UpstreamError
from pymotor.coordinator.recovery.recomputed import RECOMPUTED, Recomputed

Fields = dict[str, msgspec.Raw]

_NULL = msgspec.Raw(b"null")
_EVENT_END = re.compile(rb"\r?\n\r?\n")
_EMPTY = frozenset((b"null", b'""', b"[]", b"{}"))
_PLAIN_DELTA = frozenset(("role", "content"))
_IDENTITY = ("id", "object", "created", "model")
_ID_KEYS = ("token_ids", "prompt_token_ids")
_LEFT_OVER = (b'token_ids":[', b'token_ids": [')

# An ordinary event as vLLM writes it: up to its text, from its text to the token ids, and from there to its end.
_CHAT_FIRST = b'"choices":[{"index":0,"delta":{"content":"'
_CHAT_THEN = b'"},"logprobs":null,"finish_reason":null,"token_ids":['
_TEXT_FIRST = b'"choices":[{"index":0,"text":"'
_TEXT_THEN = b'","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":['
_LAST = b"]}]}\n\n"


class Choice(msgspec.Struct):
    """What matters of one choice in an event."""

    delta: Fields | None = None
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: msgspec.Raw = _NULL
    prompt_token_ids: msgspec.Raw = _NULL

    def said(self) -> str:
        """Its text. Raises `msgspec.MsgspecError` where that is not a text."""
        if self.text is not None or self.delta is None:
            return self.text or ""
        content = self.delta.get("content")
        return "" if content is None else msgspec.json.decode(content, type=str | None) or ""


class Event(msgspec.Struct):
    """What matters of one event."""

    choices: list[Choice] = []
    error: msgspec.Raw = _NULL
    usage: msgspec.Raw = _NULL
    prompt_token_ids: msgspec.Raw = _NULL
    system_fingerprint: msgspec.Raw = _NULL


_event_decoder = msgspec.json.Decoder(Event)
_fields_decoder = msgspec.json.Decoder(Fields)


def separate(events: bytes) -> list[bytes]:
    """Whole events taken apart, each with the empty line that ends it; together they are `events`."""
    found = []
    start = 0
    for match in _EVENT_END.finditer(events):
        found.append(events[start : match.end()])
        start = match.end()
    return found


class AnswerSoFar:
    """The tokens of one answer and how its events look; see the module.

    One engine after another gives its events to `take`, or to `take_single` where that is enough.
    """

    __slots__ = (
        "_begin",
        "_chat",
        "_first",
        "_held",
        "_ids",
        "_sure",
        "_then",
        "done",
        "finished",
        "identity",
        "impossible",
        "prompt",
        "shows_ids",
        "usage_sent",
        "verdict",
    )

    def __init__(self, *, chat: bool, shows_ids: bool) -> None:
        """`chat`: whether events hold deltas, not texts. `shows_ids`: whether the client asked for token ids."""
        self._chat = chat
        self._first, self._then = (_CHAT_FIRST, _CHAT_THEN) if chat else (_TEXT_FIRST, _TEXT_THEN)
        self._begin = b""
        """What every event of this answer begins with, up to its text; empty until it is known."""
        self._held = b""
        self._ids = bytearray()
        self._sure = 0
        self.shows_ids = shows_ids
        self.prompt: bytes | None = None
        """The prompt's token ids, JSON text."""
        self.identity: Fields = {}
        """`id`, `object`, `created` and `model` of the events."""
        self.impossible = ""
        """Why the answer cannot be carried on exactly; empty while it can."""
        self.verdict: UpstreamError | None = None
        """What the newest events said of the stream's end: an error, or that the answer was given up."""
        self.finished = False
        """Whether the answer is whole: its finish reason has come."""
        self.usage_sent = False
        self.done = False
        """Whether the stream's last event has come."""

    def anew(self) -> AnswerSoFar:
        """For the same request tried again from its beginning."""
        return AnswerSoFar(chat=self._chat, shows_ids=self.shows_ids)

    def take_single(self, wire: bytes, start: int, stop: int) -> bytes | None:
        """What the client is to see of one whole event, `wire[start:stop]`; None for `take` to look at it.

        Hot path: an event with text and token ids, which is no end, as vLLM writes it.
        """
        begin, then = self._begin, self._then
        if not begin or self._held or not wire.startswith(begin, start):
            return None
        # Behind the last of these there is no text, so it is none; before it no raw line feed, so it is one event.
        text_end = wire.rfind(then, start, stop)
        if text_end <= start + len(begin) or wire.find(b"\n", start, text_end) >= 0:
            return None
        ids = text_end + len(then)
        end = stop - len(_LAST)
        if wire.find(b"]", ids) != end or not wire.endswith(_LAST, ids, stop):
            return None
        self._ids += wire[ids : end + 1]
        self._sure = len(self._ids)
        if self.shows_ids:
            return wire[start:stop]
        return wire[start : ids - 1] + b"null" + wire[end + 1 : stop]

    def take(self, events: bytes) -> bytes:
        """What the client is to see of whole events of the engine that began the answer. Where they tell of its
        end before it is whole, `verdict` says so and what follows is dropped."""
        shown = []
        for event in separate(events):
            seen = self._take(event)
            if self.verdict is not None:
                break
            shown.append(seen)
        return b"".join(shown)

    def read(self, event: bytes) -> Event | None:
        """Note what one event says; None when there is nothing in it to be shown or changed: no data, the last
        event, nothing that is understood, or an end before the answer is whole (see `verdict`)."""
        data = data_of(event.replace(b"\r\n", b"\n").rstrip(b"\n"))
        if not data:
            return None
        if data == b"[DONE]":
            self.done = True
            return None
        try:
            parsed = _event_decoder.decode(data)
            if bytes(parsed.error) != b"null":
                self.verdict = EngineStreamError(bytes(parsed.error))
                return None
            if parsed.choices:
                self._note(parsed, data)
        except UNREADABLE:
            self.impossible = "an event is not a completion"
            return None
        return None if self.verdict is not None else parsed

    def _note(self, parsed: Event, data: bytes) -> None:
        choice = parsed.choices[0]
        text = choice.said()
        if choice.stop_reason == RECOMPUTED:
            # Whatever it still says is generated again.
            self.verdict = Recomputed()
            return
        if not self.identity:
            fields = _fields_decoder.decode(data)
            self.identity = {name: msgspec.Raw(bytes(fields[name])) for name in _IDENTITY if name in fields}
        if self.prompt is None:
            prompt = next((raw for raw in (parsed.prompt_token_ids, choice.prompt_token_ids) if _is_list(raw)), None)
            self.prompt = bytes(prompt) if prompt is not None else None
        if len(parsed.choices) > 1:
            self.impossible = "there are several answers"
        if choice.delta and any(
            name not in _PLAIN_DELTA and bytes(value) not in _EMPTY for name, value in choice.delta.items()
        ):
            self.impossible = "the answer is not only text"
        if _is_list(choice.token_ids):
            self._ids += bytes(choice.token_ids)[1:]
        elif text:
            self.impossible = "the engine does not tell token ids"
        if text:
            self._sure = len(self._ids)
        self.finished = self.finished or choice.finish_reason is not None

    def _take(self, event: bytes) -> bytes:
        parsed = self.read(event)
        if parsed is None:
            return event
        if not self._begin:
            self._begin = event[: event.find(self._first) + len(self._first)] if self._first in event else b""
        if not parsed.choices:
            self.usage_sent = True
        if self.shows_ids:
            return self.hold_back(event) if parsed.choices else event
        return without_token_ids(event, parsed)

    def hold_back(self, event: bytes) -> bytes:
        """`event`, which shows the newest ids, behind what was held back; nothing while its tokens are not sure."""
        self._held += event
        if self._sure < len(self._ids) and not self.finished:
            return b""
        shown, self._held = self._held, b""
        return shown

    def tokens(self, *, all_of_them: bool = False) -> list[int]:
        """The tokens generated that nobody has to generate again."""
        text = bytes(self._ids if all_of_them else self._ids[: self._sure])
        return [int(one) for one in text.replace(b"]", b",").split(b",") if one.strip()]

    @property
    def generated(self) -> int:
        """How many tokens have come."""
        # Lists of numbers without their opening brackets: each number ends in a comma or a bracket.
        return self._ids.count(b",") + self._ids.count(b"]")

    def rewind(self) -> None:
        """Forget the tokens that will be generated again, and how the last stream ended."""
        del self._ids[self._sure :]
        self._held = b""
        self.verdict = None


def _is_list(raw: msgspec.Raw) -> bool:
    return memoryview(raw)[0] == 0x5B


def without_token_ids(event: bytes, parsed: Event) -> bytes:
    """The event as it had been if nobody had asked for token ids."""
    raws = [(b"prompt_token_ids", parsed.prompt_token_ids)]
    for choice in parsed.choices:
        raws += [(b"prompt_token_ids", choice.prompt_token_ids), (b"token_ids", choice.token_ids)]
    for name, raw in raws:
        if not _is_list(raw):
            continue
        for colon in (b'":', b'": '):
            event = event.replace(b'"' + name + colon + bytes(raw), b'"' + name + colon + b"null", 1)
    if any(left in event for left in _LEFT_OVER):
        return b"data: " + body_without_token_ids(data_of(event.strip())) + b"\n\n"
    return event


def body_without_token_ids(body: bytes) -> bytes:
    """The same of a whole reply, which is returned as it is where it cannot be read."""
    try:
        return msgspec.json.encode(_nulled(msgspec.json.decode(body)))
    except UNREADABLE:
        return body


def _nulled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: None if key in _ID_KEYS else _nulled(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_nulled(inner) for inner in value]
    return value
