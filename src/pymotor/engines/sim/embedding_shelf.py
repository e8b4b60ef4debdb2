"""Embeddings an engine keeps outside its encoder cache, for itself or for others: the longest unused go first."""

from __future__ import annotations

from pymotor.engines.sim.model import Words


class EmbeddingShelf:
    """An `EmbeddingStore` in memory with a capacity in tokens."""

    def __init__(self, capacity_tokens: int) -> None:
        self._capacity = capacity_tokens
        self._used = 0
        self._entries: dict[str, Words] = {}

    def load(self, identifier: str) -> Words | None:
        """The embedding, or None when it is not there."""
        entry = self._entries.pop(identifier, None)
        if entry is not None:
            self._entries[identifier] = entry
        return entry

    def save(self, identifier: str, embedding: Words) -> None:
        """Keep an embedding; what was kept under its name stays."""
        if identifier in self._entries:
            return
        while self._entries and self._used + len(embedding) > self._capacity:
            longest_unused = next(iter(self._entries))
            self._used -= len(self._entries.pop(longest_unused))
        self._entries[identifier] = embedding
        self._used += len(embedding)

    def replace(self, identifier: str, embedding: Words) -> None:
        """Keep an embedding in place of what was kept under its name."""
        before = self._entries.pop(identifier, None)
        self._used -= 0 if before is None else len(before)
        self.save(identifier, embedding)
