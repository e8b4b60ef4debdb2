"""Chats whose answers are known, sent by users who take their turns for as long as a test needs load.

A user connects again where nobody listens: such a request was never sent. One whose connection breaks after it was
sent is noted with the moment when it was begun, for the test to judge. Some answers are compared with what the
Coordinator had been told of the engine that gave them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import httpx
import plain_http
from answers import CHAT, Answer, Asked, ask_one, read_stream, read_whole
from fleet_under_test import MODEL
from processes import wait_until

LONGEST = 60.0
"""Seconds after which a request counts as one that never ends."""
USERS = 5
PAUSE = 0.1
"""Mean seconds between a user's turns."""
_BETWEEN_CONNECTING = 0.05


@dataclass(frozen=True)
class Turn:
    """One request and its right answer."""

    asked: Asked
    right: Answer


@dataclass(frozen=True)
class Failed:
    """A request without a right answer."""

    begin: float
    """`monotonic()`, of its last connection."""
    end: float
    what: str
    broken: bool = False
    """Whether its connection broke: the process that had it may be gone."""
    answered: bool = False
    """Whether its answer had begun."""


@dataclass(frozen=True)
class Predicted:
    """What the Coordinator had been told, and what there was."""

    engine: str
    told: int
    """Tokens of the prompt that the engine held, as the conductor had answered."""
    cached: int
    """Tokens that it found, as its answer says."""


@dataclass
class Told:
    """What became of the requests so far."""

    right: int = 0
    streamed: int = 0
    failed: list[Failed] = field(default_factory=list)
    predicted: list[Predicted] = field(default_factory=list)


def chats(url: str, count: int, turns: int) -> list[list[Turn]]:
    """Chats that begin alike in fours, with the answers of the engine at `url`; every other turn is streamed."""
    found = []
    for number in range(count):
        system = f"You are assistant {number // 4}. " + "Say what is known and nothing else. " * 10
        messages = [{"role": "system", "content": system}]
        chat = []
        for turn in range(turns):
            messages.append({"role": "user", "content": f"Chat {number}, question {turn}: " + "and then what? " * 8})
            body: dict[str, Any] = {
                "model": MODEL,
                "messages": list(messages),
                "max_tokens": 24,
                "temperature": 0,
                "ignore_eos": True,
            }
            if (number + turn) % 2:
                body |= {"stream": True, "stream_options": {"include_usage": True}}
            right = ask_one(url, body)
            assert right.error is None, right.error
            chat.append(Turn(Asked(CHAT, body), right))
            messages.append({"role": "assistant", "content": right.choices[0].text})
        found.append(chat)
    return found


class Load:
    """Sends from entering to leaving, in a thread of its own; `told` may be read meanwhile."""

    def __init__(self, url: str, management: str, known: Sequence[Sequence[Turn]], chance: random.Random) -> None:
        """`management`: where some requests are asked about; empty: none are."""
        self.told = Told()
        self._url = url
        self._management = management
        self._known = known
        self._chance = chance
        self._ended = threading.Event()
        self._paused = threading.Event()
        self._in_hand = 0
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Returns when every request has ended."""
        self._ended.set()
        self._thread.join()

    def wait_answered(self, count: int = 12) -> None:
        """Wait until so many more requests got the right answer."""
        wanted = self.told.right + count
        wait_until(lambda: self.told.right >= wanted, f"{count} more answers; failed: {self.told.failed[-3:]}", LONGEST)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Nothing is sent within the block."""
        self._paused.set()
        wait_until(lambda: not self._in_hand, "the last answers", LONGEST)
        yield
        self._paused.clear()

    async def _run(self) -> None:
        async with httpx.AsyncClient(verify=plain_http.CONTEXT, timeout=LONGEST) as client:
            await asyncio.gather(*(self._user(client) for _ in range(USERS)))

    async def _user(self, client: httpx.AsyncClient) -> None:
        while not self._ended.is_set():
            for turn in self._chance.choice(self._known):
                if self._ended.is_set():
                    return
                if not self._paused.is_set():
                    self._in_hand += 1
                    try:
                        await self._take(client, turn)
                    finally:
                        self._in_hand -= 1
                await asyncio.sleep(PAUSE * 2 * self._chance.random())

    async def _take(self, client: httpx.AsyncClient, turn: Turn) -> None:
        name = uuid.uuid4().hex
        give_up = time.monotonic() + LONGEST
        while True:
            begin = time.monotonic()
            try:
                asked = client.build_request(
                    "POST", self._url + turn.asked.path, json=turn.asked.body, headers={"X-Request-Id": name}
                )
                answering = False
                reply = await client.send(asked, stream=True)
                answering = True
                await reply.aread()
            except httpx.ConnectError as error:
                # Nobody listens: nothing was sent.
                if begin > give_up:
                    self._fail(begin, f"nobody listens: {error!r}")
                    return
                await asyncio.sleep(_BETWEEN_CONNECTING)
                continue
            except httpx.TransportError as error:
                broken = not isinstance(error, httpx.TimeoutException)
                self._fail(begin, repr(error), broken=broken, answered=answering)
                return
            break
        stream = reply.headers["content-type"].startswith("text/event-stream")
        answer = read_stream(reply.text, reply.headers) if stream else read_whole(reply)
        if answer.error is not None:
            self._fail(begin, f"{answer.status} {answer.error}")
        elif not answer.done or answer.comparable != turn.right.comparable:
            self._fail(begin, f"wrong: {answer.comparable} instead of {turn.right.comparable}; {answer.legs}")
        else:
            self.told.right += 1
            self.told.streamed += stream
            if self._management and self._chance.random() < 0.3:
                await self._compare(client, name, reply, answer)

    async def _compare(self, client: httpx.AsyncClient, name: str, reply: httpx.Response, answer: Answer) -> None:
        """Note what was told of the engine, where that engine alone has answered."""
        cached = cached_in(reply.text)
        if len(answer.legs) != 1 or cached is None:
            return
        with contextlib.suppress(httpx.TransportError):
            found = await client.get(f"{self._management}/explain", params={"request_id": name})
            if found.status_code != 200 or found.json()["found"] != "answered":
                return
            legs = found.json()["legs"]
            chosen = [one for leg in legs for one in leg["endpoints"] if one["chosen"]]
            if len(chosen) == 1 and "match_any" in chosen[0]:
                self.told.predicted.append(Predicted(answer.legs[0][1], chosen[0]["match_any"], cached))

    def _fail(self, begin: float, what: str, *, broken: bool = False, answered: bool = False) -> None:
        self.told.failed.append(Failed(begin, time.monotonic(), what, broken, answered))


def cached_in(text: str) -> int | None:
    """Tokens of the prompt that were cached, as an answer in JSON or its events say; None where they do not."""
    _, found, rest = text.rpartition('"cached_tokens":')
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return int(digits) if found and digits else None
