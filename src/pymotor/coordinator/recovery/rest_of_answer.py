"""The events of a carried-on answer as the client expects them.

The rest comes as a completion of its own, under another id and with a prompt that holds the answer's beginning. Its
events are written anew: as deltas where the client asked in a chat, with the first id, and with the usage of the
whole. Not a hot path.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pymotor.coordinator.http.exchange import UpstreamError
from pymotor.coordinator.recovery.answer_so_far import AnswerSoFar, Choice, Event, separate

_encode = msgspec.json.Encoder().encode
_NULL = msgspec.Raw(b"null")


class _Usage(msgspec.Struct):
    completion_tokens: int = 0


class RestOfAnswer:
    """Turns the events of one engine that carries an answer on into the client's."""

    __slots__ = ("_before", "_chat", "_so_far")

    def __init__(self, so_far: AnswerSoFar, *, chat: bool) -> None:
        self._so_far = so_far
        self._chat = chat
        self._before = len(so_far.tokens())

    @property
    def verdict(self) -> UpstreamError | None:
        """See `AnswerSoFar.verdict`."""
        return self._so_far.verdict

    def take(self, events: bytes) -> bytes:
        """What the client is to see of whole events; see `AnswerSoFar.take`."""
        shown = []
        for event in separate(events):
            parsed = self._so_far.read(event)
            if self.verdict is not None:
                break
            if parsed is None:
                shown.append(event)
            elif not parsed.choices:
                shown.append(self._usage(parsed))
            else:
                shown.append(self._content(parsed))
        return b"".join(shown)

    def _content(self, parsed: Event) -> bytes:
        so_far = self._so_far
        choice = parsed.choices[0]
        token_ids = choice.token_ids if so_far.shows_ids else None
        members = self._delta(choice) if self._chat else self._text(choice)
        body: dict[str, Any] = {**so_far.identity, "choices": [{"index": 0, **members, "token_ids": token_ids}]}
        if choice.finish_reason is not None and bytes(parsed.system_fingerprint) != b"null":
            body["system_fingerprint"] = parsed.system_fingerprint
        event = b"data: " + _encode(body) + b"\n\n"
        return so_far.hold_back(event) if so_far.shows_ids else event

    @staticmethod
    def _delta(choice: Choice) -> dict[str, Any]:
        members: dict[str, Any] = {
            "delta": {"content": choice.said()},
            "logprobs": None,
            "finish_reason": choice.finish_reason,
        }
        if choice.finish_reason is not None:
            members["stop_reason"] = choice.stop_reason
        return members

    @staticmethod
    def _text(choice: Choice) -> dict[str, Any]:
        return {
            "text": choice.said(),
            "logprobs": None,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
            "prompt_token_ids": None,
        }

    def _usage(self, parsed: Event) -> bytes:
        so_far = self._so_far
        so_far.usage_sent = True
        rest = msgspec.json.decode(parsed.usage, type=_Usage | None) or _Usage()
        return usage_event(so_far, self._before + rest.completion_tokens, parsed.system_fingerprint)


def usage_event(so_far: AnswerSoFar, completion_tokens: int, fingerprint: msgspec.Raw = _NULL) -> bytes:
    """The event with the usage of the whole answer."""
    prompt_tokens = len(msgspec.json.decode(so_far.prompt or b"[]", type=list[int]))
    body: dict[str, Any] = {
        **so_far.identity,
        "choices": [],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "completion_tokens": completion_tokens,
        },
    }
    if bytes(fingerprint) != b"null":
        body["system_fingerprint"] = fingerprint
    return b"data: " + _encode(body) + b"\n\n"
