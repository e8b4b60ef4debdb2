"""Where texts that begin alike were sent of late: what is known of caches when nobody knows tokens or events.

A worker's own memory, an approximation in every respect: it counts bytes of JSON text for tokens, knows nothing of
what engines evict, and nothing of what other workers sent. A text is a chain of blocks, each of which has a hash
of all before it; behind each stands who was sent it last. The least recently seen blocks are forgotten, and what was
sent to an endpoint as soon as the fleet says that it does not serve: when it does again, its engine may be another.
"""

from __future__ import annotations

import struct
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
_CONTEXT_SET = frozenset(_CONTEXT_FIELDS)


class _Holder:
    """An endpoint for as long as it serves."""

    __slots__ = ("alone", "endpoint_id", "gone")

    def __init__(self, endpoint_id: str) -> None:
        self.alone: tuple[_Holder, ...] = (self,)
        """The holders of each block that only this one was sent."""
        self.endpoint_id = endpoint_id
        self.gone = False
        """What it was sent counts no more. It is not looked for in all blocks, but passed over in each."""


_digest = xxhash.xxh3_64_intdigest
_pieces = struct.Struct(f"{_BLOCK_BYTES}s").iter_unpack
_NO_HOLDERS: tuple[_Holder, ...] = ()
_NOTHING: tuple[int, ...] = ()


class TextTrail(msgspec.Struct, frozen=True):
    """The blocks of one request's text."""

    hashes: list[int]
    tokens_a_block: float
    """Estimated."""


class TextMatches(msgspec.Struct, eq=False):
    """What endpoints are expected to hold; see `Expected`."""

    tokens: dict[str, int]
    """By their ids; who holds nothing is not named."""
    number: int = 0

    def expected(self, group: Group) -> npt.NDArray[np.int64]:
        """See `Expected`."""
        tokens = self.tokens
        return np.array([tokens.get(target.endpoint_id, 0) for target in group.targets], dtype=np.int64)

    def holding(self, group: Group) -> tuple[Figures, Figures]:
        """See `Expected`."""
        if not self.tokens:
            return _NOTHING, _NOTHING
        places: list[int] = []
        held: list[int] = []
        for endpoint, tokens in self.tokens.items():
            place = group.place_of(endpoint)
            if place is not None:
                places.append(place)
                held.append(tokens)
        return places, held


class TextPrefixes:
    """The memory of one worker."""

    def __init__(self, most_blocks: int = _MOST_BLOCKS) -> None:
        self._blocks: OrderedDict[int, tuple[_Holder, ...]] = OrderedDict()
        self._holders: dict[str, _Holder] = {}
        """Those that are not gone, by endpoint id."""
        self._most = most_blocks

    def trail(self, view: RequestView) -> TextTrail:
        """The blocks of the request's text; media count by what they are, not by their bytes."""
        text = _text(view)
        length = len(text)
        block = _beginning(view)
        hashes = [block]
        for (piece,) in _pieces(text[: length - length % _BLOCK_BYTES]):
            block = _digest(piece, block)
            hashes.append(block)
        return TextTrail(hashes, view.prompt_tokens * _BLOCK_BYTES / max(length, _BLOCK_BYTES))

    def matches(self, trail: TextTrail) -> TextMatches:
        """What endpoints are expected to hold of a text."""
        look_up = self._blocks.get
        found: dict[str, int] = {}
        # Blocks that follow each other mostly have the same holders, of whom only the last block need be known.
        same = _NO_HOLDERS
        known = 0
        for block in trail.hashes:
            holders = look_up(block)
            if holders is None:
                break
            if holders is not same:
                _note(found, same, known - 1, trail)
                same = holders
            known += 1
        _note(found, same, known - 1, trail)
        return TextMatches(found)

    def routed(self, trail: TextTrail, endpoint_id: str) -> None:
        """The text was sent to this endpoint."""
        blocks = self._blocks
        holder = self._holders.get(endpoint_id)
        if holder is None:
            holder = self._holders[endpoint_id] = _Holder(endpoint_id)
        same = _NO_HOLDERS
        now = holder.alone
        # The end of a text goes first when there is no more room: without its beginning it would be of no use.
        for block in reversed(trail.hashes):
            former = blocks.get(block)
            if former is None:
                blocks[block] = holder.alone
                continue
            if former[-1] is not holder:
                if former is not same:
                    same, now = former, _with(former, holder)
                blocks[block] = now
            blocks.move_to_end(block)
        while len(blocks) > self._most:
            blocks.popitem(last=False)

    def fleet_changed(self, serving: frozenset[str]) -> None:
        """Only the endpoints with these ids serve now: what was sent to others counts no more."""
        for endpoint_id in self._holders.keys() - serving:
            self._holders.pop(endpoint_id).gone = True


def _note(found: dict[str, int], holders: tuple[_Holder, ...], place: int, trail: TextTrail) -> None:
    """They hold the blocks up to this place. The first is none of the text's own."""
    if place > 0:
        tokens = int(place * trail.tokens_a_block)
        for holder in holders:
            if not holder.gone:
                found[holder.endpoint_id] = tokens


def _with(former: tuple[_Holder, ...], holder: _Holder) -> tuple[_Holder, ...]:
    """Who holds a block that was sent to `holder` now."""
    others = [one for one in former if one is not holder and not one.gone]
    return (*others, holder)[-_HOLDERS:] if others else holder.alone


def _beginning(view: RequestView) -> int:
    """The hash of what texts have to share before they are compared."""
    fields = view.fields
    beginning = _digest(view.model.encode("utf-8", "surrogatepass"))
    if _CONTEXT_SET.isdisjoint(fields):
        return beginning
    for place, name in enumerate(_CONTEXT_FIELDS, 1):
        if name in fields:
            # Which field it is counts, and where it ends; none is like a block of the text.
            beginning = _digest(memoryview(fields[name]), beginning ^ place)
    return beginning


def _text(view: RequestView) -> bytes | memoryview:
    fields = view.fields
    if "messages" in fields:
        return messages_without_media(view) if view.media else memoryview(fields["messages"])
    raw = fields.get("prompt") or fields.get("input")
    return memoryview(raw) if raw is not None else b""
