"""Anthropic's Messages API: requests read, streams told apart, errors in Anthropic's form.

Sources: platform.claude.com/docs, "Messages", "Streaming messages", "Errors"; vLLM's `entrypoints/anthropic` for what
an engine takes and sends.
"""

from __future__ import annotations

import msgspec

from pymotor.coordinator.api.errors import UNREADABLE, ApiError, invalid, message_of
from pymotor.coordinator.api.events import ErrorEvent, data_of, events_of
from pymotor.coordinator.api.media import SNIFFED_BYTES, MediaItem
from pymotor.coordinator.api.media_meaning import Part, plain
from pymotor.coordinator.api.prompt_length import text_tokens
from pymotor.coordinator.api.request_view import Fields, RequestView, read_fields, read_limit
from pymotor.coordinator.api.surface import Surface

_ONE_TOKEN = b'"stream":false,"max_tokens":1'
_PREFILL_WITHOUT = frozenset(("stream", "max_tokens", "stop_sequences", "kv_transfer_params"))
_DEFAULT_MEDIA_TYPE = msgspec.Raw(b'"image/jpeg"')
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_LAST_EVENT_BYTES = 64
_SILENT = frozenset(("message_start", "ping", "content_block_stop"))


class _InnerBlock(msgspec.Struct):
    type: str | None = None
    source: Part | str | None = None


class _Block(msgspec.Struct):
    type: str | None = None
    source: Part | str | None = None
    content: str | list[_InnerBlock] | None = None


class _Message(msgspec.Struct):
    content: str | list[_Block]


_messages = msgspec.json.Decoder(list[_Message])
_strings = msgspec.json.Decoder(str)


class MessageImage(MediaItem):
    """An image block; its `part` is the block's source."""

    __slots__ = ()

    @property
    def source(self) -> msgspec.Raw:
        name = "url" if self._is_link else "data"
        source = self.part.get(name)
        if source is None:
            raise invalid(f"an image's source must have the key {name}", "messages")
        return source

    @property
    def _is_link(self) -> bool:
        stated = self.part.get("type")
        return stated is not None and _text(stated, "type") == "url"

    def _read(self, body: bytes | None) -> tuple[bytes | None, Part]:
        meaning = {name: plain(raw, body) for name, raw in self.part.items()}
        if self._is_link:
            return _text(self.source, "url").encode(), meaning
        data = memoryview(meaning["data"])
        start = bytes(data[1 : min(len(data) - 1, SNIFFED_BYTES)])
        if data[0] != ord('"') or b"\\" in start:
            start = _text(self.source, "data").encode()[:SNIFFED_BYTES]
        return b"data:%b;base64,%b" % (_text(self._media_type, "media_type").encode(), start), meaning

    @property
    def _media_type(self) -> msgspec.Raw:
        return self.part.get("media_type", _DEFAULT_MEDIA_TYPE)

    @property
    def chat_part(self) -> Part:
        """See `MediaItem`. An engine makes the same URL of the block, so it finds what an encoder made of it."""
        if self._is_link:
            url: list[bytes | memoryview] = [memoryview(self.part["url"])]
        else:
            # Joined as they stand in JSON, escapes and all.
            url = [b'"data:', memoryview(self._media_type)[1:-1], b";base64,", memoryview(self.part["data"])[1:]]
        return {
            "type": msgspec.Raw(b'"image_url"'),
            "image_url": msgspec.Raw(b"".join([b'{"url":', *url, b"}"])),
        }


def _text(raw: msgspec.Raw, name: str) -> str:
    try:
        return _strings.decode(raw)
    except UNREADABLE as error:
        raise invalid(f"{name} of an image's source must be a string", "messages") from error


def read_messages(surface: Surface, body: bytes, trusted: bool) -> RequestView:
    """Read a Messages body, or one of `count_tokens`. Raises `ApiError` (400).

    Media are found wherever an engine takes them: in a message and in the result of a tool.
    """
    view = read_fields(surface, body, trusted)
    fields = view.fields
    read_limit(view, "max_tokens")
    raw = fields.get("messages")
    if raw is None:
        raise invalid("messages is required", "messages")
    try:
        messages = _messages.decode(raw)
    except UNREADABLE as error:
        raise invalid(f"messages must be a list of objects with text or content blocks: {error}", "messages") from error
    if not messages:
        raise invalid("messages must not be empty", "messages")
    media_bytes = media_tokens = 0
    for index, message in enumerate(messages):
        if isinstance(message.content, list):
            _collect(view.media, index, message.content, body)
    for item in view.media:
        media_tokens += item.tokens
        media_bytes += item.size
    texts = [fields[name] for name in ("messages", "system", "tools") if name in fields]
    view.prompt_tokens = text_tokens(texts, media_bytes) + media_tokens
    return view


def _collect(found: list[MediaItem], message: int, blocks: list[_Block], body: bytes) -> None:
    for position, block in enumerate(blocks):
        if block.type == "image":
            found.append(_image(message, position, block, body))
        elif isinstance(block.content, list):
            found += [_image(message, position, inner, body) for inner in block.content if inner.type == "image"]


def _image(message: int, position: int, block: _Block | _InnerBlock, body: bytes) -> MessageImage:
    if not isinstance(block.source, dict):
        raise invalid("an image block's source must be an object", "messages")
    return MessageImage(message, position, "image", block.source, body)


class _Delta(msgspec.Struct):
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None


class _ContentBlock(msgspec.Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None


class _Event(msgspec.Struct):
    type: str = ""
    delta: _Delta | None = None
    content_block: _ContentBlock | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")


_event = msgspec.json.Decoder(_Event)


def _matters(event: _Event) -> bool:
    if event.type in _SILENT:
        return False
    if event.type == "content_block_start" and event.content_block is not None:
        block = event.content_block
        return bool(block.type not in ("text", "thinking") or block.text or block.thinking)
    if event.type == "content_block_delta" and event.delta is not None:
        delta = event.delta
        return delta.text != "" and delta.thinking != "" and delta.partial_json != ""
    return True


class MessagesSurface(Surface):
    """A path whose streams and errors are Anthropic's."""

    closing: bytes | None = None

    def has_content(self, events: bytes) -> bool:
        """See `Surface`. An engine sends `message_start` before it has computed anything."""
        for text in events_of(events):
            data = data_of(text)
            if not data:
                continue
            try:
                event = _event.decode(data)
            except UNREADABLE:
                return True
            if event.type == "error":
                raise ErrorEvent(bytes(event.error))
            if _matters(event):
                return True
        return False

    def ends(self, events: bytes) -> bool:
        """See `Surface`. Engines before vLLM 0.13 send OpenAI's `[DONE]` behind `message_stop`."""
        last = events[-_LAST_EVENT_BYTES:]
        if b"message_stop" not in last and b"[DONE]" not in last:
            return False
        data = data_of(events_of(events.rstrip())[-1])
        if data == b"[DONE]":
            return True
        try:
            return _event.decode(data).type == "message_stop"
        except UNREADABLE:
            return False

    def broken_off(self, error: ApiError) -> bytes:
        """See `Surface`."""
        return b"event: error\ndata: %b\n\n" % self.refusal(error)

    def prefill_alone(self, fields: Fields) -> bytes:
        """See `Surface`. vLLM wants `max_tokens` above the budget for thinking, but for a prefill it knows as one."""
        return b'"kv_transfer_params":{"do_remote_decode":true},' if "thinking" in fields else b""

    def refusal(self, error: ApiError) -> bytes:
        """See `Surface`."""
        return _error_body(error.status, error.detail.message)

    def engines_refusal(self, status: int, body: bytes) -> bytes:
        """See `Surface`. vLLM answers some mistakes in OpenAI's form, others in Anthropic's with types of its own."""
        return _error_body(status, message_of(body) or "the engine refused the request")


def _error_body(status: int, message: str) -> bytes:
    kind = _ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message}})


MESSAGES = MessagesSurface("/v1/messages", read_messages, one_token=_ONE_TOKEN, prefill_without=_PREFILL_WITHOUT)
COUNT_TOKENS = MessagesSurface("/v1/messages/count_tokens", read_messages, staged=False)
