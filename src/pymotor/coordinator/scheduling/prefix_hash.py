"""The key of how a request's prompt begins: what prompts have to share to go to one endpoint."""

from __future__ import annotations

import msgspec
import xxhash

from pymotor.coordinator.api.request_view import RequestView

PREFIX_BYTES = 4096
"""About 1,024 tokens. The 256 that vllm-router and smg take are often one system prompt, the same for all: on the trace
of benchmarks/results/prefix_routing that finds less than half as much."""
_PROMPT_FIELDS = ("messages", "prompt", "input")
_CONTEXT_FIELDS = ("system", "instructions", "tools")
"""What engines put before the messages."""


def prefix_key(view: RequestView, prefix_bytes: int = PREFIX_BYTES) -> int:
    """64 bits of the first `prefix_bytes` of the request's prompt, as the JSON text that the client wrote: without
    tokens, and without reading it again. Requests for different models have different keys."""
    fields = view.fields
    found = xxhash.xxh3_64(view.model.encode("utf-8", "surrogatepass"))
    left = prefix_bytes
    for name in _CONTEXT_FIELDS:
        if name in fields:
            left -= _add(found, fields[name], left)
    for name in _PROMPT_FIELDS:
        if name in fields:
            left -= _add(found, fields[name], left)
    return found.intdigest()


def session_key(session: bytes) -> int:
    """64 bits of a session's name."""
    return xxhash.xxh3_64_intdigest(session)


def _add(digest: xxhash.xxh3_64, raw: msgspec.Raw, most: int) -> int:
    beginning = memoryview(raw)[: max(0, most)]
    digest.update(beginning)
    return len(beginning)
