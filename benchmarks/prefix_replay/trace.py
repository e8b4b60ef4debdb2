"""The requests of a trace in Mooncake's format: a line of JSON for each, with a hash id for each block of the prompt.

Equal ids are equal blocks with equal beginnings before them. Token ids are made of the hash ids, so that what the trace
calls equal is equal for engines and routers too, and nothing else is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

BLOCK_TOKENS = 512
"""Tokens that a hash id stands for."""


class TraceError(ValueError):
    """A file that is no such trace."""


class _Line(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int]


@dataclass(frozen=True)
class TracedRequest:
    """One line."""

    arrival: float
    """Seconds since the first."""
    prompt_tokens: int
    answer_tokens: int
    blocks: tuple[int, ...]
    """Hash ids; the last block may be cut short."""

    def tokens(self) -> npt.NDArray[np.uint64]:
        """The prompt's token ids."""
        first = np.array(self.blocks, dtype=np.uint64)[:, None] * np.uint64(BLOCK_TOKENS)
        whole: npt.NDArray[np.uint64] = (first + np.arange(BLOCK_TOKENS, dtype=np.uint64)).reshape(-1)
        return whole[: self.prompt_tokens]


def read_trace(path: Path, most: int | None = None) -> list[TracedRequest]:
    """The first `most` requests in the order of their arrival. Raises TraceError with the number of a bad line.

    Times are rounded to a few seconds in such traces: requests of one time are spread evenly until the next one.
    """
    decoder = msgspec.json.Decoder(_Line)
    lines: list[_Line] = []
    for number, text in enumerate(path.read_bytes().splitlines(), 1):
        try:
            line = decoder.decode(text)
        except msgspec.DecodeError as error:
            raise TraceError(f"{path}:{number}: {error}") from error
        if line.input_length < 1 or len(line.hash_ids) != -(-line.input_length // BLOCK_TOKENS):
            raise TraceError(f"{path}:{number}: {len(line.hash_ids)} hash ids for {line.input_length} tokens")
        lines.append(line)
        if len(lines) == most:
            break
    lines.sort(key=lambda line: line.timestamp)
    arrivals = _spread([line.timestamp for line in lines])
    return [
        TracedRequest(arrival, line.input_length, max(1, line.output_length), tuple(line.hash_ids))
        for arrival, line in zip(arrivals, lines, strict=True)
    ]


def shared_tokens(requests: Sequence[TracedRequest]) -> int:
    """Prompt tokens that one cache without end would have had, if each prompt were in it before the next one comes.

    As engines count: whole blocks, and never a prompt's last token.
    """
    seen: set[int] = set()
    total = 0
    for request in requests:
        usable = (request.prompt_tokens - 1) // BLOCK_TOKENS
        found = 0
        while found < usable and request.blocks[found] in seen:
            found += 1
        total += found * BLOCK_TOKENS
        seen.update(request.blocks[: request.prompt_tokens // BLOCK_TOKENS])
    return total


def _spread(milliseconds: Sequence[float]) -> list[float]:
    """Seconds from the first on, with requests of one time evenly between it and the next."""
    times, counts = np.unique(np.array(milliseconds, dtype=float), return_counts=True)
    if not len(times):
        return []
    gaps = np.append(np.diff(times), 0.0)
    steps = [time + gap * np.arange(count) / count for time, gap, count in zip(times, gaps, counts, strict=True)]
    found: list[float] = ((np.concatenate(steps) - times[0]) / 1000).tolist()
    return found
