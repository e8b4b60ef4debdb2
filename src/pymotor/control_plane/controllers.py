"""The Controllers of a list: their URLs, whom to ask next, and how long to wait when nobody answers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from urllib.parse import urlsplit

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0


class ControllerURLError(ValueError):
    """What should be the URL of a Controller is none; the message says what is expected."""


def controller_urls(text: str) -> tuple[str, ...]:
    """The URLs of a list with commas, each once. Raises `ControllerURLError`."""
    urls = [plain_url(part.strip()) for part in text.split(",") if part.strip()]
    for url in urls:
        try:
            parts = urlsplit(url)
            sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            sound = sound and not (parts.path or parts.query or parts.fragment)
        except ValueError:
            sound = False
        if not sound or "@" in url or any(map(str.isspace, url)):
            raise ControllerURLError(f"{url!r} is no URL of a Controller; one looks like http://controller:1026")
    if not urls:
        raise ControllerURLError("no Controller is named; one looks like http://controller:1026")
    return tuple(dict.fromkeys(urls))


def plain_url(url: str) -> str:
    """Without a slash at its end."""
    return url.rstrip("/")


class Candidates:
    """Whom to ask next."""

    def __init__(self, urls: Sequence[str]) -> None:
        """`urls`: at least one; the first is asked first."""
        self.urls = tuple(urls)
        """All of them."""
        self._position = 0
        self._asked: set[str] = set()

    @property
    def current(self) -> str:
        """Who is asked."""
        return self.urls[self._position]

    def go_on(self, leader: str = "") -> bool:
        """The current one has not answered as it should: on to the `leader` it named where that is one of the list
        that was not asked in this round, else to the next such. Returns whether all were asked: then a new round
        begins."""
        self._asked.add(self.current)
        leader = plain_url(leader)
        if leader in self.urls and leader not in self._asked:
            self._position = self.urls.index(leader)
            return False
        following = [*self.urls[self._position + 1 :], *self.urls[: self._position + 1]]
        left = [url for url in following if url not in self._asked]
        self._position = self.urls.index((left or following)[0])
        if not left:
            self._asked.clear()
        return not left

    def answered(self) -> None:
        """The current one has answered as it should: a new round begins with it."""
        self._asked.clear()


class Pause:
    """How long to wait when nobody answers: 0.1, 0.2 … 2 s, each less up to its half, so that many do not come
    back in the same moment."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._next = _FIRST_PAUSE

    def take(self) -> float:
        """Seconds."""
        longest = self._next
        self._next = min(_LONGEST_PAUSE, 2 * longest)
        return longest * self._chance.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Somebody has answered."""
        self._next = _FIRST_PAUSE
