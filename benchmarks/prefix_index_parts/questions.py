"""What every index is asked, and what it has to choose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prefix_index_parts.workload import tokens

LENGTHS = (1024, 4096, 16_384, 131_072)
"""Tokens; each is the seed of the prompt that one endpoint holds, too."""
SHARED_TOKENS = 4096


@dataclass(frozen=True)
class Question:
    """A prompt, and how busy everybody is."""

    kind: str
    prompt: list[int]
    loads: npt.NDArray[np.int64]
    """Tenths of a token."""
    holder: int | None
    """Who has to be chosen; None: whoever holds so much."""
    held: int
    """Tokens that the chosen one holds."""

    def check(self, chosen: tuple[int, int]) -> None:
        """Ends the run for a wrong choice."""
        if (self.holder is not None and chosen[0] != self.holder) or chosen[1] != self.held:
            raise SystemExit(f"{self.kind}, {len(self.prompt)} tokens: chose {chosen[0]}, which holds {chosen[1]}")


def questions(endpoints: int) -> Iterator[Question]:
    """All of them, in the same order for everybody."""
    loads = np.random.default_rng(7).integers(0, 200_000, endpoints).astype(np.int64)
    for place, length in enumerate(LENGTHS):
        holder = place % endpoints
        busy = loads + 40 * length
        busy[holder] = 0
        whole = tokens(length, length)
        half = whole[: length // 2] + tokens(3, length - length // 2)
        shared = tokens(2, SHARED_TOKENS)[:length] + tokens(3, max(0, length - SHARED_TOKENS))
        yield Question("one holds all", whole, busy, holder, length)
        yield Question("one holds half", half, busy, holder, length // 2)
        yield Question("nobody holds it", tokens(4, length), loads, None, 0)
        yield Question("all hold 4k", shared, loads, None, min(length, SHARED_TOKENS))
