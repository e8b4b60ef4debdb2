"""What a Coordinator and the KV Conductor tell each other, in frames over one TCP connection or local socket.

The connection begins with `PREFACE`, which no HTTP request begins with: the conductor's one port serves both. A frame
is its length in bytes (4, little endian) and a msgpack array that begins with its kind. The Coordinator says `Hello`
first; then the conductor says `Followed`, and again whenever that changes, always before the first `PrefixMatches`
that is written by the new list. Questions may be asked without waiting; answers come in the order of the questions.
"""

from __future__ import annotations

import msgspec

PREFACE = b"\x00PYMOTOR-KV\x01\n"
LENGTH_BYTES = 4
LONGEST_FRAME = 64 * 1024 * 1024
"""Bytes; `MOST_TOKENS` have 4 MB."""
MOST_TOKENS = 1 << 20
"""Of a prompt, that are compared. Later ones need not be told."""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """Coordinator: who asks. Without the cluster's token, where there is one, the conductor closes the connection."""

    token: str = ""


class Followed(msgspec.Struct, frozen=True, array_like=True, tag="followed"):
    """Conductor: the endpoints whose events it follows now. A slot is a place in this list."""

    endpoints: list[str]
    """Ids as in the fleet snapshot; an empty text is a slot that nobody has now."""
    revision: int
    """Grows with every change; which list an answer's slots mean."""


class PrefixQuery(msgspec.Struct, frozen=True, array_like=True, tag="query"):
    """Coordinator: who holds the beginning of this prompt?"""

    number: int
    """Of the question, chosen by who asks; one connection uses none twice."""
    model: str
    tokens: memoryview
    """The prompt's token ids, 4 bytes each, little endian; a media item is its one placeholder token."""
    media: list[tuple[int, str]] = []
    """The place of each item's placeholder in `tokens`, ascending, and the item's identifier at the engines."""
    adapter: str = ""
    """Name of the LoRA adapter; empty: the model itself."""
    salt: str = ""
    """`cache_salt` of the request."""


class PrefixMatches(msgspec.Struct, frozen=True, array_like=True, tag="matches"):
    """Conductor: tokens of the prompt's beginning that each endpoint holds; endpoints that hold nothing are not named.

    The first two are what engines told, and may be less than is there, never more. The last also counts prompts that
    were sent there a moment ago and that no event has told of yet.
    """

    number: int
    """Of the question."""
    revision: int
    """Of the `Followed` that the slots mean."""
    slots: bytes
    """2 bytes each, little endian, ascending."""
    on_device: bytes
    """For each slot 4 bytes, little endian: tokens in the accelerator's KV cache."""
    in_any_tier: bytes
    """Likewise, wherever the endpoint itself finds them: accelerator, CPU or storage. Never less than `on_device`."""
    expected: bytes
    """Likewise, with what was just sent there. Never less than `in_any_tier`."""


class PrefixRouted(msgspec.Struct, frozen=True, array_like=True, tag="routed"):
    """Coordinator: the prompt of that question was sent to this endpoint; said again when it fails there and goes
    elsewhere. No answer; an unknown number is passed over."""

    number: int
    endpoint: str
    in_vain: bool = False
    """Said after that: the endpoint refused it or failed before it answered, and holds nothing of it."""


FromCoordinator = Hello | PrefixQuery | PrefixRouted
FromConductor = Followed | PrefixMatches
