"""What a Coordinator and the KV Conductor tell each other, in frames over one TCP connection or local socket.

The connection begins with `PREFACE`, which no HTTP request begins with: the conductor's one port serves both. A frame
is its length in bytes (4, little endian) and a msgpack array that begins with its kind. The Coordinator says `Hello`
first; then the conductor says `Followed`, and again whenever that changes, always before the first `PrefixMatches`
that is written by the new list. Questions may be asked without waiting; answers come in the order of the questions.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, TypeAlias

import msgspec

PREFACE_OF_ANY_VERSION = b"\x00PYMOTOR-KV"
PREFACE = PREFACE_OF_ANY_VERSION + b"\x01\n"
LENGTH_BYTES = 4
LONGEST_FRAME = 16 * 1024 * 1024
"""Bytes; `MOST_TOKENS` have 4 MB, and `MOST_MEDIA` one."""
MOST_TOKENS = 1 << 20
"""Of a prompt, that are compared. Later ones need not be told."""
MOST_MEDIA = 4096
"""Items of a prompt. It ends before a later one."""
LONGEST_NAME = 1024
"""Characters of a model's name, or of an adapter's. With a longer one nobody is asked."""
LONGEST_PLAIN = 64
"""Characters of a salt, or of a media item's identifier, up to which it stands for itself; see `bounded`."""
_DIGEST = "sha256:"
LONGEST_BOUNDED = len(_DIGEST) + 64

Name: TypeAlias = Annotated[str, msgspec.Meta(max_length=LONGEST_NAME)]
Bounded: TypeAlias = Annotated[str, msgspec.Meta(max_length=LONGEST_BOUNDED)]
"""What `bounded` has made."""


def bounded(text: str) -> str:
    """What stands for a salt or an identifier that somebody else has chosen, at any length, in questions and where
    events are read: a long text's digest. That is longer than any text that stands for itself, so none is both."""
    if len(text) <= LONGEST_PLAIN:
        return text
    return _DIGEST + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


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
    model: Name
    tokens: memoryview
    """The prompt's token ids, 4 bytes each, little endian; a media item is its one placeholder token."""
    media: Annotated[list[tuple[int, Bounded]], msgspec.Meta(max_length=MOST_MEDIA)] = []
    """The place of each item's placeholder in `tokens`, ascending, and the item's identifier at the engines,
    `bounded`."""
    adapter: Name = ""
    """Name of the LoRA adapter; empty: the model itself."""
    salt: Bounded = ""
    """`cache_salt` of the request, `bounded`."""


def fits(query: PrefixQuery) -> bool:
    """Whether a question whose salt and identifiers are `bounded` has no more of anything else than it may have."""
    longest = max(len(query.model), len(query.adapter))
    return longest <= LONGEST_NAME and len(query.media) <= MOST_MEDIA


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
