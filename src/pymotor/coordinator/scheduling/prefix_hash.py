"""The key of how a request's prompt begins: what prompts have to share to go to one endpoint.

A prompt that is shorter than what is looked at would have another key with each turn of its chat. So of a short chat
only what stays is looked at: all up to the first message of the user. Its key changes once, when it is long enough.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import xxhash

from pymotor.coordinator.api.errors import UNREADABLE
from pymotor.coordinator.api.request_view import RequestView

PREFIX_BYTES = 4096
"""About 1,024 tokens. The 256 that vllm-router and smg take are often one system prompt, the same for all: on the trace
of benchmarks/results/prefix_routing that finds less than half as much."""
_TURN_FIELDS = ("messages", "input")
_CONTEXT_FIELDS = ("system", "instructions", "tools")
"""What engines put before the messages."""
_BRACKET = ord("[")


class _Turn(msgspec.Struct):
    role: object = None


_turns_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_turn_decoder = msgspec.json.Decoder(_Turn)


def prefix_key(view: RequestView, prefix_bytes: int = PREFIX_BYTES) -> int:
    """64 bits of the first `prefix_bytes` of the request's prompt, as the JSON text that the client wrote, of a shorter
    chat until its first message of the user ends: without tokens. Requests for different models have different
    keys."""
    fields = view.fields
    found = xxhash.xxh3_64(view.model.encode("utf-8", "surrogatepass"))
    left = prefix_bytes
    for name in _CONTEXT_FIELDS:
        if name in fields:
            left -= _add(found, fields[name], left)
    for name in _TURN_FIELDS:
        if name in fields:
            for part in _lasting(fields[name], left):
                left -= _add(found, part, left)
    if "prompt" in fields:
        _add(found, fields["prompt"], left)
    return found.intdigest()


def session_key(session: bytes) -> int:
    """64 bits of a session's name."""
    return xxhash.xxh3_64_intdigest(session)


def _lasting(raw: msgspec.Raw, most: int) -> Iterator[msgspec.Raw]:
    """The parts of the messages that each later turn begins with too; all in one where they are long enough."""
    text = memoryview(raw)
    if len(text) >= most or text[0] != _BRACKET:
        yield raw
        return
    try:
        for turn in _turns_decoder.decode(raw):
            yield turn
            if _turn_decoder.decode(turn).role == "user":
                return
    except UNREADABLE:
        # The engine says what is wrong with it.
        return


def _add(digest: xxhash.xxh3_64, raw: msgspec.Raw, most: int) -> int:
    beginning = memoryview(raw)[: max(0, most)]
    digest.update(beginning)
    return len(beginning)
