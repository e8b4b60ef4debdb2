"""Embeddings an engine holds in its memory: a capacity in tokens, users, eviction of the longest unused."""

from __future__ import annotations

from pymotor.engines.sim.model import Words


class EncoderCache:
    """Embeddings by identifier. An entry with users stays; others go when room is needed."""

    def __init__(self, capacity_tokens: int) -> None:
        self.capacity_tokens = capacity_tokens
        self._entries: dict[str, Words] = {}
        self._users: dict[str, set[str]] = {}
        self.used_tokens = 0
        self.queries = 0
        self.hits = 0

    def get(self, identifier: str) -> Words | None:
        """The embedding, or None; counts as a use for eviction and for the hit rate."""
        self.queries += 1
        entry = self._entries.pop(identifier, None)
        if entry is not None:
            self._entries[identifier] = entry
            self.hits += 1
        return entry

    def __contains__(self, identifier: object) -> bool:
        return identifier in self._entries

    def put(self, identifier: str, embedding: Words) -> bool:
        """Keep an embedding; False when entries in use leave no room.

        An item larger than the whole cache is let in while nothing else is in use, so that each fits at last.
        """
        if identifier in self._entries:
            return True
        needed = len(embedding)
        unused = [name for name in self._entries if not self._users.get(name)]
        room = self.capacity_tokens - self.used_tokens
        evictable = sum(len(self._entries[name]) for name in unused)
        if needed > room + evictable and self._users:
            return False
        for name in unused:
            if room >= needed:
                break
            room += len(self._entries[name])
            self._remove(name)
        self._entries[identifier] = embedding
        self.used_tokens += needed
        return True

    def hold(self, identifier: str, user: str) -> None:
        """`user` needs the entry until it lets go."""
        self._users.setdefault(identifier, set()).add(user)

    def let_go(self, identifier: str, user: str) -> None:
        """`user` needs the entry no longer; nothing happens when it did not hold it."""
        users = self._users.get(identifier)
        if users is None:
            return
        users.discard(user)
        if not users:
            del self._users[identifier]

    @property
    def held(self) -> int:
        """Entries with users."""
        return len(self._users)

    def _remove(self, identifier: str) -> None:
        self.used_tokens -= len(self._entries.pop(identifier))
