"""The connections that clients have open, bounded by what the process may open.

Whoever opens connections and does nothing with them must not keep others out: at the bound, the oldest connection
without a request in hand makes room for a new one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymotor.coordinator.http.server import ClientConnection

_LOOKED_AT = 256
_UNBOUNDED = 65536


def connections_within(files: int) -> int:
    """How many clients' connections leave enough of `files` for those to the engines."""
    return max(1, files - max(64, files // 4))


class OpenConnections:
    """A set in the order of opening; `limit` is how many there may be."""

    __slots__ = ("_open", "limit")

    def __init__(self, limit: int = _UNBOUNDED) -> None:
        self._open: dict[ClientConnection, None] = {}
        self.limit = limit

    def add(self, connection: ClientConnection) -> None:
        """A connection has been opened. At the limit another one is closed; when all that are looked at have a
        request in hand, this one."""
        if len(self._open) >= self.limit:
            self._make_room(connection)
        self._open[connection] = None

    def discard(self, connection: ClientConnection) -> None:
        """It is closed."""
        self._open.pop(connection, None)

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[ClientConnection]:
        """Those open now; they may close meanwhile."""
        return iter(tuple(self._open))

    def _make_room(self, newest: ClientConnection) -> None:
        candidates = iter(self._open)
        for _ in range(min(_LOOKED_AT, len(self._open))):
            oldest = next(candidates)
            if oldest.idle:
                break
        else:
            oldest = newest
        self._open.pop(oldest, None)
        oldest.transport.abort()
