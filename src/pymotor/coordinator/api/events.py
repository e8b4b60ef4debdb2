"""Server-sent events of an answer, looked at only where the gateway has to decide something."""

from __future__ import annotations

import msgspec

from pymotor.coordinator.api.errors import UNREADABLE

DONE = b"data: [DONE]\n\n"
_LAST = b"[DONE]"
_RETURN, _LINE_FEED = b"\r\n"
"""As numbers: for them `in` searches at once; for bytes it raises and drops an error first."""
_DONE_ENDS = (b"[DONE]\n\n", b"[DONE]\r\n\r\n", b"[DONE]\n\r\n", b"[DONE]\r\n\n")


class _Choice(msgspec.Struct):
    delta: dict[str, msgspec.Raw] | None = None
    text: str | None = None
    finish_reason: str | None = None
    token_ids: list[int] | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")


_decoder = msgspec.json.Decoder(_Event)
_EMPTY = frozenset((b"null", b'""', b"[]", b"{}"))


class ErrorEvent(Exception):
    """The engine sent an error object in a stream."""

    def __init__(self, error: bytes) -> None:
        super().__init__(error.decode("utf-8", "replace"))
        self.error = error


def has_content(events: bytes) -> bool:
    """Whether whole events hold something a client waits for: content, a finish reason, usage or the end.

    vLLM sends status 200 and an event that only names the role even for a request that then fails.
    Raises `ErrorEvent` when an error object comes first.
    """
    for event in events_of(events):
        data = data_of(event)
        if not data:
            continue
        if data == _LAST:
            return True
        try:
            parsed = _decoder.decode(data)
        except UNREADABLE:
            return True
        if bytes(parsed.error) != b"null":
            raise ErrorEvent(bytes(parsed.error))
        if not parsed.choices:
            return True
        if any(_choice_matters(choice) for choice in parsed.choices):
            return True
    return False


def _choice_matters(choice: _Choice) -> bool:
    if choice.finish_reason is not None or choice.text or choice.token_ids:
        return True
    if not choice.delta:
        return False
    return any(name != "role" and bytes(value) not in _EMPTY for name, value in choice.delta.items())


def whole_events(data: bytes) -> int:
    """How many bytes of `data`, from its start, are whole events; lines end in LF or CRLF."""
    if data.endswith(b"\n\n"):
        return len(data)
    end = data.rfind(b"\n\n")
    other = data.rfind(b"\n\r\n")
    return other + 3 if other > end else end + 2 if end >= 0 else 0


def events_of(events: bytes) -> list[bytes]:
    """Whole events taken apart, their lines ended by LF."""
    if _RETURN in events:
        events = events.replace(b"\r\n", b"\n")
    return events.split(b"\n\n")


def data_of(event: bytes) -> bytes:
    """The data of one event as `events_of` gives it; empty when it has none."""
    if event.startswith(b"data:") and _LINE_FEED not in event:
        return event[5:].strip()
    lines = [line for line in event.split(b"\n") if line.startswith(b"data:") or line == b"data"]
    return b"\n".join([line[5:].removeprefix(b" ") for line in lines]).strip()


def ends_with_done(events: bytes) -> bool:
    """Whether the last of whole events is OpenAI's end of a stream."""
    return events.endswith(_DONE_ENDS) and data_of(events_of(events)[-2]) == _LAST
