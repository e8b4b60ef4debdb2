"""Where texts that begin alike were sent of late: what is known of caches when nobody knows tokens or events.

A worker's own memory, an approximation in every respect: it counts bytes of JSON text for tokens, knows nothing of
what engines evict, and nothing of what other workers sent. A text is a chain of blocks, each of which has a hash
of all before it; behind each stands who was sent it last. The least recently seen blocks are forgotten, and what was
sent to an endpoint as soon as the fleet says that it does not serve: when it does again, its engine may be another.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from pymotor.coordinator.api.request_view import RequestView
from pymotor.coordinator.api.without_media import messages_without_media
from pymotor.coordinator.scheduling.kv_affinity import Figures
from pymotor.coordinator.scheduling.target import Group

_BLOCK_BYTES = 256
_MOST_BLOCKS = 131072
"""32 MiB of text."""
_HOLDERS = 4
"""Endpoints that are remembered of a block, the latest last."""
_CONTEXT_FIELDS = (
    "system", "instructions", "tools", "documents", "chat_template_kwargs", "reasoning_effort",
    "truncate_prompt_tokens", "cache_salt",
)  # fmt: skip


class _Holder:
    """An endpoint for as long as it serves."""

    __slots__ = ("endpoint_id", "gone")

    def __init__(self, endpoint_id: str) -> None:
        self.endpoint_id = endpoint_id
        self.gone = False
        """What it was sent counts no more. It is not looked for in all blocks, but passed over in each."""


_NO_HOLDERS: tuple[_Holder, ...] = ()


class TextTrail(msgspec.Struct, frozen=True):
    """The blocks of one request's text."""

    hashes: list[int]
    tokens_a_block: float
    """Estimated."""


class TextMatches:
    """Tokens that endpoints are expected to hold, by their ids; see `Expected`."""

    __slots__ = ("_tokens", "number")

    def __init__(self, tokens: dict[str, int]) -> None:
        self._tokens = tokens
        self.number = 0

    def expected(self, group: Group) -> npt.NDArray[np.int64]:
        """See `Expected`."""
        tokens = self._tokens
        return np.array([tokens.get(target.endpoint_id, 0) for target in group.targets], dtype=np.int64)

    def holding(self, group: Group) -> tuple[Figures, Figures]:
        """See `Expected`."""
        found = [
            (place, tokens)
            for endpoint, tokens in self._tokens.items()
            if (place := group.place_of(endpoint)) is not None
        ]
        return [place for place, _ in found], [tokens for _, tokens in found]


class TextPrefixes:
    """The memory of one worker."""

    def __init__(self, most_blocks: int = _MOST_BLOCKS) -> None:
        self._blocks: OrderedDict[int, tuple[_Holder, ...]] = OrderedDict()
        self._holders: dict[str, _Holder] = {}
        """Those that are not gone, by endpoint id."""
        self._most = most_blocks

    def trail(self, view: RequestView) -> TextTrail:
        """The blocks of the request's text; media count by what they are, not by their bytes."""
        fields = view.fields
        beginning = xxhash.xxh3_64_intdigest(view.model.encode("utf-8", "surrogatepass"))
        for place, name in enumerate(_CONTEXT_FIELDS, 1):
            if name in fields:
                # Which field it is counts, and where it ends; none is like a block of the text.
                beginning = xxhash.xxh3_64_intdigest(memoryview(fields[name]), beginning ^ place)
        text = _text(view)
        hashes = [beginning]
        for start in range(0, len(text) - _BLOCK_BYTES + 1, _BLOCK_BYTES):
            hashes.append(xxhash.xxh3_64_intdigest(text[start : start + _BLOCK_BYTES], hashes[-1]))
        return TextTrail(hashes, view.prompt_tokens * _BLOCK_BYTES / max(len(text), _BLOCK_BYTES))

    def matches(self, trail: TextTrail) -> TextMatches:
        """What endpoints are expected to hold of a text."""
        blocks = self._blocks
        found: dict[str, int] = {}
        for place, block in enumerate(trail.hashes):
            holders = blocks.get(block)
            if holders is None:
                break
            if place:
                tokens = int(place * trail.tokens_a_block)
                for holder in holders:
                    if not holder.gone:
                        found[holder.endpoint_id] = tokens
        return TextMatches(found)

    def routed(self, trail: TextTrail, endpoint_id: str) -> None:
        """The text was sent to this endpoint."""
        blocks = self._blocks
        holder = self._holders.get(endpoint_id)
        if holder is None:
            holder = self._holders[endpoint_id] = _Holder(endpoint_id)
        # The end of a text goes first when there is no more room: without its beginning it would be of no use.
        for block in reversed(trail.hashes):
            former = blocks.pop(block, _NO_HOLDERS)
            if not former or former[-1] is not holder:
                former = (*[one for one in former if one is not holder and not one.gone], holder)[-_HOLDERS:]
            blocks[block] = former
        while len(blocks) > self._most:
            blocks.popitem(last=False)

    def fleet_changed(self, serving: frozenset[str]) -> None:
        """Only the endpoints with these ids serve now: what was sent to others counts no more."""
        for endpoint_id in self._holders.keys() - serving:
            self._holders.pop(endpoint_id).gone = True


def _text(view: RequestView) -> bytes | memoryview:
    fields = view.fields
    if "messages" in fields:
        return messages_without_media(view)
    raw = fields.get("prompt") or fields.get("input")
    return memoryview(raw) if raw is not None else b""
