"""The fleet as a Controller tells it: the supervisor asks for the next snapshot and waits for it.

Each question says which snapshot the workers route by, and what is under way at instances that are draining in it:
the Controller ends those when every Coordinator says that nothing is. docs/fleet.md has the protocol.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import AsyncGenerator, Sequence
from time import monotonic
from urllib.parse import urlsplit

import httpx
import msgspec

from pymotor.control_plane import ClusterToken
from pymotor.control_plane.token import TOKEN_FILE_VARIABLE, TOKEN_VARIABLE
from pymotor.coordinator.fleet_source import FleetSource, Progress, SourceState
from pymotor.fleet import FleetSnapshot, decode_snapshot
from pymotor.fleet.reports import ControllerRefusal, FleetWatch, decode_message, encode_message

logger = logging.getLogger(__name__)

WAIT_SECONDS = 5.0
"""How long a Controller may hold its answer back while there is nothing newer."""
DRAINING_SECONDS = 0.4
"""Likewise while an instance is draining, so that it is told soon when nothing is under way there any more."""
LONGEST_BODY = 64 * 1024 * 1024
"""Bytes of an answer; 8192 endpoints are about 3 MB."""
_TAKING_SECONDS = 0.5
"""How long the workers have to take a snapshot over before the next question says that they have not."""
_CONNECT_SECONDS = 2.0
_SPARE_SECONDS = 5.0
"""What an answer may take beyond the time that it was allowed to wait."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
_LONGEST_REASON = 200


class ControllerURLError(ValueError):
    """What should be the URL of a Controller is none; the message says what is expected."""


def controller_urls(text: str) -> tuple[str, ...]:
    """The URLs of a list with commas, each once. Raises `ControllerURLError`."""
    urls = [_plain(part.strip()) for part in text.split(",") if part.strip()]
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


def _plain(url: str) -> str:
    return url.rstrip("/")


class _NotToldError(Exception):
    """A Controller did not answer as it should; the message says how, in the same words each time."""

    def __init__(self, reason: str, leader: str = "") -> None:
        super().__init__(reason)
        self.leader = leader
        """Whom it names as the leader."""


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
        leader = _plain(leader)
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
    """How long to wait when nobody answers: 0.1, 0.2 … 2 s, each less up to its half, so that many Coordinators do not
    come back in the same moment."""

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


class ControllerFleetSource(FleetSource):
    """Asks the Controllers of a list, of which one is the leader."""

    def __init__(self, urls: Sequence[str], token: ClusterToken | None, coordinator: str) -> None:
        """`urls` as of `controller_urls`; `coordinator` names this start of this Coordinator and no other."""
        self._candidates = Candidates(urls)
        self._token = token
        self._coordinator = coordinator
        self._progress: Progress | None = None
        self._pause = Pause(random.Random())
        self._heard_at: float | None = None
        self._connected = False
        self._leader = ""
        self._epoch = -1
        self._last: FleetSnapshot | None = None
        self._reasons: dict[str, str] = {}
        self._complaint = ""

    @property
    def state(self) -> SourceState:
        """Who is asked, and since when nothing was heard."""
        heard = None if self._heard_at is None else monotonic() - self._heard_at
        return SourceState(connected=self._connected, url=self._candidates.current, last_heard_seconds=heard)

    def follow(self, progress: Progress) -> None:
        """What the questions say of this Coordinator comes from `progress`."""
        self._progress = progress

    async def snapshots(self) -> AsyncGenerator[FleetSnapshot, None]:
        """Each snapshot that differs from the one before; see `FleetSource`."""
        async with self._client() as client:
            while True:
                began = monotonic()
                question = self._question()
                try:
                    snapshot = await self._ask(client, question)
                except _NotToldError as error:
                    if self._refused(error):
                        await asyncio.sleep(self._pause.take())
                    continue
                self._heard()
                if snapshot is None or snapshot == self._last:
                    # A Controller that does not wait is not asked again and again for it.
                    await self._settle(question.wait_seconds / 2 - (monotonic() - began))
                    continue
                self._last = snapshot
                self._epoch = snapshot.epoch
                yield snapshot
                await self._settle(_TAKING_SECONDS, at_most=True)

    async def _settle(self, seconds: float, *, at_most: bool = False) -> None:
        """Let `seconds` pass before the next question; where the workers have not taken the last snapshot over yet,
        `at_most` that long, until they have."""
        progress, last = self._progress, self._last
        age = None if last is None else (last.epoch, last.version)
        if progress is not None and age is not None and (progress.age is None or progress.age < age):
            await progress.reached(age, max(_TAKING_SECONDS, seconds))
        elif not at_most:
            await asyncio.sleep(max(0.0, seconds))

    # -- one question

    def _client(self) -> httpx.AsyncClient:
        # Connections are not kept: behind one name may be several Controllers, of which another is the leader by now,
        # and one that was kept breaks without meaning anything.
        limits = httpx.Limits(max_keepalive_connections=0)
        timeout = httpx.Timeout(WAIT_SECONDS + _SPARE_SECONDS, connect=_CONNECT_SECONDS)
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        if self._token is not None:
            headers |= self._token.header
        return httpx.AsyncClient(limits=limits, timeout=timeout, trust_env=False, headers=headers, verify=self._trust())

    def _trust(self) -> ssl.SSLContext:
        # Reading the system's certificates takes longer than everything else here.
        encrypted = any(url.startswith("https:") for url in self._candidates.urls)
        return ssl.create_default_context() if encrypted else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def _question(self) -> FleetWatch:
        progress = self._progress
        age = None if progress is None else progress.age
        if progress is None or age is None:
            return FleetWatch(coordinator=self._coordinator, wait_seconds=WAIT_SECONDS)
        return FleetWatch(
            coordinator=self._coordinator,
            epoch=age[0],
            version=age[1],
            in_flight=progress.in_flight(),
            wait_seconds=DRAINING_SECONDS if progress.draining else WAIT_SECONDS,
        )

    async def _ask(self, client: httpx.AsyncClient, question: FleetWatch) -> FleetSnapshot | None:
        """The answer; None: nothing newer. Raises `_NotToldError`."""
        url = f"{self._candidates.current}/fleet/watch"
        content = encode_message(question)
        try:
            async with client.stream("POST", url, content=content) as reply:
                body = await _body_of(reply, monotonic() + question.wait_seconds + _SPARE_SECONDS)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _NotToldError(f"does not answer ({type(error).__name__})") from error
        if reply.status_code == 204:
            return None
        if reply.status_code != 200:
            raise self._refusal(reply.status_code, body)
        try:
            snapshot = decode_snapshot(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _NotToldError("answers with something that is no snapshot") from error
        if snapshot.epoch < self._epoch:
            raise _NotToldError(
                f"tells of epoch {snapshot.epoch}, but a leader of epoch {self._epoch} was heard: it leads no more"
            )
        return snapshot

    def _refusal(self, status: int, body: bytes) -> _NotToldError:
        try:
            told = decode_message(body, ControllerRefusal)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            told = ControllerRefusal(error="")
        if status == 401:
            ours = "refuses this Coordinator's cluster token" if self._token is not None else "wants a cluster token"
            return _NotToldError(
                f"{ours}: set {TOKEN_VARIABLE} or {TOKEN_FILE_VARIABLE} to the same token here and there, then start "
                "this Coordinator again"
            )
        if status == 503 and told.leader:
            return _NotToldError(f"is not the leader and names {_shown(told.leader)}", told.leader)
        return _NotToldError(f"answers with status {status}" + (f": {_shown(told.error)}" if told.error else ""))

    # -- what the log says, once for each state

    def _refused(self, error: _NotToldError) -> bool:
        """Whether all were asked by now."""
        self._reasons[self._candidates.current] = str(error)
        if not self._candidates.go_on(error.leader):
            return False
        self._connected = False
        reasons = "; ".join(f"{url} {reason}" for url, reason in sorted(self._reasons.items()))
        self._reasons.clear()
        if reasons != self._complaint:
            self._complaint = reasons
            logger.warning("no Controller tells of the fleet, the last known one stands: %s", reasons)
        return True

    def _heard(self) -> None:
        self._heard_at = monotonic()
        self._pause.reset()
        self._candidates.answered()
        url = self._candidates.current
        if not self._connected or url != self._leader:
            logger.info("the Controller %s tells of the fleet", url)
        for other, reason in self._reasons.items():
            # Where one of them leads and another does not there is nothing to mend; what was heard is said once.
            logger.info("the Controller %s %s", other, reason)
        self._reasons.clear()
        self._connected, self._leader, self._complaint = True, url, ""


async def _body_of(reply: httpx.Response, deadline: float) -> bytes:
    """Raises `_NotToldError` for one that is too long or does not end by `deadline` (`monotonic()`)."""
    pieces: list[bytes] = []
    size = 0
    async for piece in reply.aiter_raw():
        pieces.append(piece)
        size += len(piece)
        if size > LONGEST_BODY:
            raise _NotToldError(f"answers with more than {LONGEST_BODY} bytes")
        if monotonic() > deadline:
            raise _NotToldError("does not come to the end of its answer")
    return b"".join(pieces)


def _shown(text: str) -> str:
    """Words of another program for a log: on one line, and not too many."""
    return " ".join(text.split())[:_LONGEST_REASON]
