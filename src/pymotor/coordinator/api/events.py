"""Server-sent events of an answer, looked at only where the gateway has to decide something."""

from __future__ import annotations

import msgspec

DONE = b"data: [DONE]\n\n"


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
    for event in events.split(b"\n\n"):
        start = event.find(b"data:")
        if start < 0:
            continue
        data = event[start + 5 :].strip()
        if data == b"[DONE]":
            return True
        try:
            parsed = _decoder.decode(data)
        except msgspec.MsgspecError:
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
    """How many bytes of `data`, from its start, are whole events."""
    end = data.rfind(b"\n\n")
    if end >= 0:
        end += 2
    other = data.rfind(b"\r\n\r\n")
    return max(end, other + 4 if other >= 0 else 0, 0)
