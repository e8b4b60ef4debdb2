"""What a full block is remembered by in the prefix cache."""

from __future__ import annotations

import numpy as np
import xxhash

from pymotor.engines.sim.requests import ExtraKeys, Request


def extend_keys(request: Request, blocks: int, block_size: int) -> None:
    """Add to `request.keys` until there are `blocks` of them: prompt first, then output.

    A key is made of the key before it, the block's tokens and its extra keys: nothing of the engine itself, so that
    all engines name equal blocks alike, as vLLM's sha256 does by default. All of these blocks must be full.
    """
    known = len(request.keys)
    if known >= blocks:
        return
    parent = request.keys[-1] if request.keys else b""
    data = _tokens(request, known * block_size, blocks * block_size).tobytes()
    plain = request.scope.plain and not request.media
    size = block_size * 8
    for index in range(known, blocks):
        digest = xxhash.xxh3_128(parent)
        start = (index - known) * size
        digest.update(data[start : start + size])
        extra = None if plain else extra_keys(request, index, block_size)
        if extra is not None:
            digest.update(repr(extra).encode())
        parent = digest.digest()
        request.keys.append(parent)


def extra_keys(request: Request, index: int, block_size: int) -> ExtraKeys:
    """What the key of a block depends on besides tokens, in vLLM's order and form; None for nothing.

    The name of the adapter, for each media item in the block its identifier and where it begins, counted from the
    block's first token (negative for one that began earlier), and for the first block the salt. Identifiers, not
    contents: whoever names two items alike shares their KV, as in vLLM.
    """
    start, scope = index * block_size, request.scope
    keys: list[str | tuple[str, int]] = [] if scope.adapter is None else [scope.adapter.name]
    keys.extend(
        (item.identifier, item.offset - start)
        for item in request.media
        if item.offset < start + block_size and item.offset + item.tokens > start
    )
    if index == 0 and scope.salt is not None:
        keys.append(scope.salt)
    return tuple(keys) or None


def block_tokens(request: Request, first: int, last: int, block_size: int) -> tuple[int, ...]:
    """The token ids of the blocks from `first` up to but without `last`."""
    return tuple(_tokens(request, first * block_size, last * block_size).tolist())


def _tokens(request: Request, start: int, stop: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    prompt = len(request.tokens)
    if stop <= prompt:
        return request.tokens[start:stop]
    output = np.array(request.output[max(0, start - prompt) : stop - prompt], dtype=np.uint64)
    return np.concatenate((request.tokens[start:], output)) if start < prompt else output
