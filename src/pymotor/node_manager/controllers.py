"""The Controllers a node may report to, and which of them is asked now."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0


class ControllerList:
    """Controllers in the order in which they were given; one of them is `current`."""

    def __init__(self, urls: Sequence[str]) -> None:
        """`urls`: `http://host:port` of each, at least one. Raises `ValueError` for what is no such URL."""
        self._urls = tuple(_without_slash(url) for url in urls)
        if not self._urls:
            raise ValueError("no Controller is named")
        for url in self._urls:
            parts = _parts(url)
            if parts is None or parts.path or parts.query or parts.username:
                raise ValueError(f"{url!r} is no URL of a Controller: http://HOST:PORT")
        self.current = self._urls[0]
        self._next = 1

    @property
    def urls(self) -> tuple[str, ...]:
        """All that were given."""
        return self._urls

    def failed(self, url: str) -> None:
        """`url` did not answer: the next one's turn, unless another is asked already."""
        if url == self.current:
            self.current = self._urls[self._next % len(self._urls)]
            self._next += 1

    def not_leader(self, url: str, leader: str) -> bool:
        """`url` says that it is not the leader but `leader`, empty when it does not know.

        Followed, and True, only where it is a Controller that was given or another port of its host: the token is for
        nobody else. Else the next one's turn.
        """
        if url != self.current:
            return True
        hint = _without_slash(leader)
        if hint != url and self._trusted(hint):
            self.current = hint
            return True
        self.failed(url)
        return False

    def _trusted(self, hint: str) -> bool:
        if hint in self._urls:
            return True
        parts = _parts(hint)
        if parts is None or parts.path or parts.query or parts.username:
            return False
        known = [_parts(url) for url in self._urls]
        return any(one is not None and (one.scheme, one.hostname) == (parts.scheme, parts.hostname) for one in known)


@dataclass
class Pauses:
    """How long to wait after failures in a row: longer each time, never the same twice."""

    chance: Callable[[], float] = random.random
    """A number from 0 to 1."""
    failures: int = 0

    def next(self) -> float:
        """Seconds to wait after one more failure."""
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self.failures, 16))
        self.failures += 1
        return longest * (0.5 + 0.5 * self.chance())

    def reset(self) -> None:
        """Something went well."""
        self.failures = 0


def _without_slash(url: str) -> str:
    return url.strip().rstrip("/")


def _parts(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        return None
    return parts if usable else None
