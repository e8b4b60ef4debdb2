"""OpenAI's Responses API: requests read, streams told apart, and the ids by which stored responses are found again.

Sources: platform.openai.com/docs, "Responses" and "Streaming events"; vLLM's `entrypoints/openai/responses` for what an
engine takes and sends.

An engine keeps what `store`, `background` and `previous_response_id` need in its own memory. The gateway gives each
response its id (`request_id` of the body) and puts the endpoint that will hold it into it: `resp_`, 32 hexadecimal
digits that nobody can guess, 16 that stand for the endpoint. So any worker, of any gateway before the same fleet, finds
it, remembers nothing and asks nobody else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
import xxhash

from pymotor.coordinator.api.errors import UNREADABLE, ApiError, invalid
from pymotor.coordinator.api.events import ErrorEvent, data_of, ends_with_done, events_of
from pymotor.coordinator.api.media import BARRED_PART_KEYS, MediaItem, barred, media_kind
from pymotor.coordinator.api.media_meaning import Part
from pymotor.coordinator.api.prompt_length import text_tokens
from pymotor.coordinator.api.request_view import RequestView, read_fields, read_limit, with_member
from pymotor.coordinator.api.surface import Surface

_ONE_TOKEN = b'"stream":false,"store":false,"background":false,"ignore_eos":true,"max_output_tokens":1'
_PREFILL_WITHOUT = frozenset((
    "stream", "stream_options", "store", "background", "ignore_eos", "max_output_tokens", "stop", "stop_token_ids",
    "include", "include_stop_str_in_output", "top_logprobs", "enable_response_messages", "kv_transfer_params",
))  # fmt: skip
_HISTORY = "previous_input_messages"
"""vLLM's own: messages that reach the chat template unchecked."""
_SILENT = frozenset((
    "response.created", "response.in_progress", "response.queued", "response.content_part.added",
    "response.reasoning_part.added", "response.reasoning_summary_part.added",
))  # fmt: skip
_LAST = ("response.completed", "response.incomplete", "response.failed")
_LAST_LINES = tuple(f"event: {name}\n".encode() for name in _LAST)
_CLIENTS_TOOLS = frozenset(("function", "custom", "namespace"))
"""Kinds of tools that the client runs; an engine runs the others itself."""
_ID = re.compile(r"resp_[0-9a-f]{32}([0-9a-f]{16})")


class _Tool(msgspec.Struct):
    type: str = ""


class _Item(msgspec.Struct):
    content: msgspec.Raw = msgspec.Raw(b"null")
    output: msgspec.Raw = msgspec.Raw(b"null")


_tools = msgspec.json.Decoder(list[_Tool] | None)
_items = msgspec.json.Decoder(list[_Item])
_parts = msgspec.json.Decoder(list[Part | str])
_strings = msgspec.json.Decoder(str | None)
_BRACKET, _QUOTE = b'["'


class ResponseImage(MediaItem):
    """An `input_image` part."""

    __slots__ = ()

    @property
    def chat_part(self) -> Part:
        """See `MediaItem`."""
        url = b"".join([b'{"url":', memoryview(self.part["image_url"]), b"}"])
        return {"type": msgspec.Raw(b'"image_url"'), "image_url": msgspec.Raw(url)}


def read_response(surface: Surface, body: bytes, trusted: bool) -> RequestView:
    """Read a Responses body. Raises `ApiError` (400).

    Media are found wherever an engine takes them: in a message and in the output of a function.
    """
    view = read_fields(surface, body, trusted)
    fields = view.fields
    if _HISTORY in fields and not trusted:
        raise barred(_HISTORY)
    read_limit(view, "max_output_tokens")
    if "previous_response_id" in fields:
        try:
            view.previous = _strings.decode(fields["previous_response_id"]) or ""
        except UNREADABLE as error:
            raise invalid("previous_response_id must be a string", "previous_response_id") from error
    view.alone = "tools" in fields and _runs_tools(fields["tools"])
    raw = fields.get("input")
    if raw is None:
        raise invalid("input is required", "input")
    text = memoryview(raw)
    if text[0] != _QUOTE:
        _read_items(view, raw, trusted, body)
    media_bytes = media_tokens = 0
    for item in view.media:
        media_tokens += item.tokens
        media_bytes += item.size
    texts = [fields[name] for name in ("input", "instructions", "tools") if name in fields]
    view.prompt_tokens = text_tokens(texts, media_bytes) + media_tokens
    return view


def _runs_tools(raw: msgspec.Raw) -> bool:
    """Whether the engine may run tools and go on by itself. vLLM then takes the handoff's parameters for each of its
    turns, when the blocks they name are long another request's."""
    try:
        return any(tool.type not in _CLIENTS_TOOLS for tool in _tools.decode(raw) or ())
    except UNREADABLE as error:
        raise invalid(f"tools must be a list of objects with a type: {error}", "tools") from error


def _read_items(view: RequestView, raw: msgspec.Raw, trusted: bool, body: bytes) -> None:
    try:
        for index, item in enumerate(_items.decode(raw)):
            for value in (item.content, item.output):
                if memoryview(value)[0] == _BRACKET:
                    _read_parts(view.media, index, _parts.decode(value), trusted, body)
    except UNREADABLE as error:
        raise invalid(f"input must be a string or a list of items: {error}", "input") from error


def _read_parts(found: list[MediaItem], index: int, parts: list[Part | str], trusted: bool, body: bytes) -> None:
    for position, part in enumerate(parts):
        if isinstance(part, str):
            continue
        if not trusted and not BARRED_PART_KEYS.isdisjoint(part):
            raise barred(next(name for name in part if name in BARRED_PART_KEYS))
        kind = media_kind(part, trusted)
        if kind == "input_image":
            found.append(ResponseImage(index, position, kind, part, body))
        elif kind is not None:
            found.append(MediaItem(index, position, kind, part, body))


class _Delta(msgspec.Struct):
    type: str = ""


class _Response(msgspec.Struct):
    error: msgspec.Raw = msgspec.Raw(b"null")


class _Event(msgspec.Struct):
    type: str = ""
    delta: msgspec.Raw = msgspec.Raw(b"null")
    item: _Delta | None = None
    response: _Response | None = None


_event = msgspec.json.Decoder(_Event)


def _matters(event: _Event) -> bool:
    if event.type in _SILENT:
        return False
    if event.type == "response.output_item.added":
        return event.item is not None and event.item.type not in ("message", "reasoning")
    return not event.type.endswith(".delta") or bytes(event.delta) != b'""'


class ResponsesSurface(Surface):
    """A path whose streams are those of the Responses API."""

    closing: bytes | None = None
    names_answers = True

    def has_content(self, events: bytes) -> bool:
        """See `Surface`. An engine sends `response.created` before it has computed anything."""
        for text in events_of(events):
            data = data_of(text)
            if not data:
                continue
            try:
                event = _event.decode(data)
            except UNREADABLE:
                return True
            if event.type == "error":
                raise ErrorEvent(data)
            if event.type == "response.failed":
                raise ErrorEvent(bytes(event.response.error) if event.response is not None else b"null")
            if _matters(event):
                return True
        return False

    def ends(self, events: bytes) -> bool:
        """See `Surface`."""
        if b"\r" in events:
            events = events.replace(b"\r\n", b"\n")
        before = events.rfind(b"\n\n", 0, len(events.rstrip(b"\n")))
        start = before + 2 if before >= 0 else 0
        if events.startswith(b"event:", start):
            return events.startswith(_LAST_LINES, start)
        if ends_with_done(events):
            return True
        try:
            return _event.decode(data_of(events[start:].strip(b"\n"))).type in _LAST
        except UNREADABLE:
            return False

    def named(
        self, view: RequestView, body: Sequence[bytes | memoryview], leg_id: bytes, endpoint_id: str
    ) -> Sequence[bytes | memoryview]:
        """See `Surface`."""
        if "request_id" in view.fields:
            return body
        return with_member(body, b'"request_id":"%b"' % response_id(leg_id, endpoint_id))

    def broken_off(self, error: ApiError) -> bytes:
        """See `Surface`. The API's own error event has no `error`; the SDKs raise when there is one."""
        told = error.detail
        event = {"type": "error", "code": told.code, "message": told.message, "param": told.param, "error": told}
        return b"event: error\ndata: %b\n\n" % msgspec.json.encode(event)


def response_id(leg_id: bytes, endpoint_id: str) -> bytes:
    """The id of a response that `endpoint_id` will hold; `leg_id` are 32 hexadecimal digits."""
    return b"resp_%b%b" % (leg_id, holder_mark(endpoint_id).encode())


def holder_mark(endpoint_id: str) -> str:
    """The 16 hexadecimal digits that stand for an endpoint in the ids of what it holds."""
    return xxhash.xxh3_64_hexdigest(endpoint_id.encode())


def mark_in(found: str) -> str | None:
    """Those digits in a response's id; None when no gateway made it."""
    match = _ID.fullmatch(found)
    return match[1] if match is not None else None


RESPONSES = ResponsesSurface("/v1/responses", read_response, one_token=_ONE_TOKEN, prefill_without=_PREFILL_WITHOUT)
