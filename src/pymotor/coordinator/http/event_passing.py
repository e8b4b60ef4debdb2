"""What a connection to an engine does by itself with the events of a stream: it writes them to the client.

Hot path. Here is what is done once for many events, or for several that came together; what each event costs stands in
`UpstreamConnection.data_received`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pymotor.coordinator.http.framing import are_events


class EventPassing(asyncio.Protocol):
    """The part of a connection that passes events on, while `_pass_on` says to whom."""

    __slots__ = ("_event_lines", "_left", "_lot", "_pass_on", "_swept_left", "_tell_passed", "_unless", "stirred")

    def __init__(self, event_lines: list[tuple[bytes, int]]) -> None:
        self._event_lines = event_lines
        self._pass_on: Callable[[bytes], None] | None = None
        self._tell_passed: Callable[[int], int] | None = None
        self._unless = b""
        self._lot = 0
        self._left = 0
        """Events until the next call of `_tell_passed`."""
        self._swept_left = 0
        self.stirred = False

    def _begin_passing(self, write: Callable[[bytes], None], unless: bytes, tell: Callable[[int], int]) -> None:
        self._unless = unless
        self._lot = self._left = self._swept_left = tell(0)
        self._tell_passed = tell
        self._pass_on = write

    def _pass_several(self, data: bytes, write: Callable[[bytes], None]) -> bool:
        """Pass `data` on if it is whole chunks which all may be; returns whether they were."""
        if not are_events(data) or data.partition(self._unless)[1]:
            return False
        self._left -= data.count(b"\n\n")
        if self._left <= 0:
            self._next_lot()
        try:
            write(data)
        except RuntimeError:
            # As for a single one.
            return True
        return True

    def _next_lot(self) -> None:
        self.stirred = True
        if self._tell_passed is not None:
            self._lot = self._left = self._tell_passed(self._lot - self._left)

    def _stop_passing(self) -> None:
        tell = self._tell_passed
        self._swept_left = self._left
        self._pass_on = self._tell_passed = None
        if tell is not None:
            tell(self._lot - self._left)

    def _stirred_lately(self) -> bool:
        """Whether the engine has said something since this was asked last."""
        left = self._left
        stirred = self.stirred or left != self._swept_left
        self.stirred = False
        self._swept_left = left
        return stirred
