"""The key of how a request's prompt begins: what prompts have to share to go to one endpoint.

A chat that is shorter than what is looked at would have another key with each of its turns. So only what stays is
looked at: all up to the end of the first message of the user, where that is within as many bytes. Its key is the same
when the chat is long, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import msgspec
import xxhash

from pymotor.coordinator.api.request_view import RequestView

PREFIX_BYTES = 4096
"""About 1,024 tokens. The 256 that vllm-router and smg take are often one system prompt, the same for all: on the trace
of benchmarks/results/prefix_routing that finds less than half as much."""
_TURN_FIELDS = ("messages", "input")
_CONTEXT_FIELDS = ("system", "instructions", "tools")
"""What engines put before the messages."""
_LIST = b"["


_BETWEEN_TURNS = re.compile(r"[\s,]*")
_turn_at = json.JSONDecoder().raw_decode


def prefix_key(view: RequestView, prefix_bytes: int = PREFIX_BYTES) -> int:
    """64 bits of the first `prefix_bytes` of the request's prompt, as the JSON text that the client wrote, of a chat
    until its first message of the user ends, if it does before: without tokens. Requests for different models have
    different keys."""
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


def _lasting(raw: msgspec.Raw, most: int) -> Iterator[bytes]:
    """The parts of the messages that each later turn begins with too; all in one where the user's first message has no
    end within so many bytes."""
    beginning = bytes(memoryview(raw)[: max(0, most)])
    if beginning[:1] != _LIST:
        yield beginning
        return
    text = beginning.decode(errors="replace")
    turns: list[bytes] = []
    place = _after(text, 1)
    try:
        while place < len(text):
            turn, end = _turn_at(text, place)
            turns.append(text[place:end].encode())
            if isinstance(turn, dict) and turn.get("role") == "user":
                yield from turns
                return
            place = _after(text, end)
    except (ValueError, RecursionError):
        # Its end is not here; of what is no message at all the engine says what is wrong.
        pass
    yield from turns if len(memoryview(raw)) < most else (beginning,)


def _after(text: str, place: int) -> int:
    found = _BETWEEN_TURNS.match(text, place)
    return found.end() if found else place


def _add(digest: xxhash.xxh3_64, raw: msgspec.Raw | bytes, most: int) -> int:
    beginning = memoryview(raw)[: max(0, most)]
    digest.update(beginning)
    return len(beginning)
