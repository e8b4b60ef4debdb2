"""Requests sent to a cluster at a steady rate, each judged by what is known of its answer."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import plain_http
from answers import CHAT, COMPLETIONS, Answer, Asked, ask, ask_one
from images import text_chat, vision_chat
from processes import wait_until

LONGEST = 60.0
"""Seconds after which a request counts as one that never ends."""
MOST_UNDER_WAY = 200
"""Requests beyond that are left out: a machine slower than the rate would have them wait until they never end."""


@dataclass(frozen=True)
class Sent:
    """One request that is over."""

    url: str
    begin: float
    end: float
    outcome: str
    """`right`, or what went wrong."""
    instances: tuple[str, ...]


@dataclass
class Sendings:
    """What became of all of them."""

    sent: list[Sent] = field(default_factory=list)

    def lost(self, since: float = 0.0, url: str | None = None) -> list[Sent]:
        """Those without a right answer that were begun or under way after `since`."""
        return [one for one in self.sent if one.outcome != "right" and one.end >= since and url in (None, one.url)]

    def wait_for(self, wanted: Callable[[Sent], bool], since: int = 0) -> None:
        """Wait until such a one is among those after the first `since`."""
        wait_until(lambda: any(map(wanted, self.sent[since:])), "such a request is over")

    @property
    def outcomes(self) -> Counter[str]:
        """Outcomes and how often."""
        return Counter(one.outcome for one in self.sent)


def known_answers(url: str, count: int, chance: random.Random, models: str = "qwenvl") -> list[tuple[Asked, Answer]]:
    """Greedy requests of all kinds with the answers of the undisturbed cluster."""
    found = []
    for number in range(count):
        fields: dict[str, Any] = {"max_tokens": chance.randint(1, 40), "ignore_eos": True, "model": models}
        if chance.random() < 0.6:
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        kind = chance.random()
        if kind < 0.3:
            asked = Asked(CHAT, {**vision_chat(number, text=f"Image {number}?"), **fields})
        elif kind < 0.5:
            asked = Asked(COMPLETIONS, {"temperature": 0, **fields, "prompt": f"Story {number}: "})
        else:
            asked = Asked(CHAT, {**text_chat(f"Story {number}" * chance.randint(1, 20)), **fields})
        answer = ask_one(url, asked.body, asked.path)
        assert answer.error is None, answer
        found.append((asked, answer))
    return found


class Load:
    """Sends in a thread of its own from entering to leaving."""

    def __init__(
        self, urls: Sequence[str], known: Sequence[tuple[Asked, Answer]], rate: float, chance: random.Random
    ) -> None:
        """`rate`: requests a second, over all `urls` in turn."""
        self._urls = list(urls)
        self._known = known
        self._rate = rate
        self._chance = chance
        self._ended = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.sendings = Sendings()

    def __enter__(self) -> Sendings:
        self._thread.start()
        return self.sendings

    def __exit__(self, *_: object) -> None:
        """Returns when every request has ended."""
        self._ended.set()
        self._thread.join()

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        async with httpx.AsyncClient(verify=plain_http.CONTEXT, timeout=LONGEST, limits=limits) as client:
            tasks: set[asyncio.Task[None]] = set()
            began, sent = time.monotonic(), 0
            while not self._ended.is_set():
                while sent < (time.monotonic() - began) * self._rate:
                    if len(tasks) < MOST_UNDER_WAY:
                        task = asyncio.create_task(self._one(client, self._urls[sent % len(self._urls)]))
                        tasks.add(task)
                        task.add_done_callback(tasks.discard)
                    sent += 1
                await asyncio.sleep(0.005)
            await asyncio.gather(*tasks)

    async def _one(self, client: httpx.AsyncClient, url: str) -> None:
        asked, right = self._chance.choice(self._known)
        begin = time.monotonic()
        instances: tuple[str, ...] = ()
        try:
            answer = await ask(client, url, asked)
        except httpx.TimeoutException:
            outcome = "without an end"
        except httpx.TransportError as error:
            outcome = f"connection: {type(error).__name__}"
        else:
            instances = tuple(name for _, name in answer.legs)
            if answer.error is not None:
                outcome = f"{answer.status} {answer.error.get('code')}: {answer.error.get('message')}"
            elif not answer.done or answer.comparable != right.comparable:
                outcome = "wrong"
            else:
                outcome = "right"
        self.sendings.sent.append(Sent(url, begin, time.monotonic(), outcome, instances))
