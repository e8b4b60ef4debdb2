"""A fleet under load whose engines are killed, hung and broken at random.

`Requests` sends prepared requests at a steady rate and compares each answer with the known one. `Disturbances` breaks
one engine after the other, never two at a time, and now and then all of a role at once, and writes down when.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import plain_http
from answers import CHAT, COMPLETIONS, Answer, Asked, ask, ask_one
from fleet_under_test import PLAIN, Engine, Engines, Gateway
from images import text_chat, vision_chat

from pymotor.fleet import Role

LONGEST = 60.0
"""Seconds after which a request counts as one that never ends."""
SETTLING = 0.5
"""Seconds after a disturbance in which its consequences still count as its own."""
FAULTS = (
    "hang", "reset", "error:code=500", "error:code=503", "slow:seconds=0.3", "late_error", "cut:after=3",
    "stall:after=2", "recomputed:after=2", "kv_fail", "split:bytes=5", "merge:events=3",
)  # fmt: skip


@dataclass(frozen=True)
class Disturbed:
    """From when to when (monotonic seconds) something was wrong with these engines."""

    begin: float
    end: float
    engines: tuple[str, ...]
    how: str
    whole_role: bool


@dataclass
class Failure:
    """A request that got no right answer."""

    begin: float
    end: float
    what: str
    body: str


@dataclass
class Report:
    """What happened."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    disturbances: list[Disturbed] = field(default_factory=list)

    def unexcused(self) -> list[Failure]:
        """The failures while no role was gone as a whole."""
        gone = [disturbed for disturbed in self.disturbances if disturbed.whole_role]
        return [
            failure
            for failure in self.failures
            if not any(one.begin <= failure.end and failure.begin <= one.end for one in gone)
        ]

    def _told(self, failure: Failure) -> dict[str, Any]:
        """The failure, and what was wrong meanwhile: seconds from the request's begin."""
        return {
            "what": failure.what,
            "request": failure.body,
            "seconds": round(failure.end - failure.begin, 2),
            "meanwhile": [
                f"{one.how} {' '.join(one.engines)} {one.begin - failure.begin:+.2f} to {one.end - failure.begin:+.2f}"
                for one in self.disturbances
                if one.begin <= failure.end and failure.begin <= one.end
            ],
        }

    def as_json(self) -> dict[str, Any]:
        """Counts, for people and programs."""
        return {
            "requests": sum(self.outcomes.values()),
            "outcomes": dict(self.outcomes),
            "disturbances": Counter(f"{one.how}{' (whole role)' * one.whole_role}" for one in self.disturbances),
            "failures": Counter(failure.what for failure in self.failures),
            "unexcused": [self._told(failure) for failure in self.unexcused()],
            "wrong": self.wrong,
            "unfinished": self.unfinished,
        }


def prepared(engines: Engines, count: int, chance: random.Random) -> list[tuple[Asked, Answer]]:
    """Requests of all kinds, greedy, with the plain engine's answers."""
    found = []
    for number in range(count):
        fields: dict[str, Any] = {"max_tokens": chance.randint(1, 60), "ignore_eos": True, "return_token_ids": False}
        if chance.random() < 0.6:
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        kind = chance.random()
        if kind < 0.3:
            asked = Asked(CHAT, vision_chat(number, text=f"Image {number}?", **fields))
        elif kind < 0.4:
            prompts = [f"Once upon {number}", f"And then {number}"]
            asked = Asked(COMPLETIONS, {"model": "tiny", "temperature": 0, **fields, "prompt": prompts})
        elif kind < 0.6:
            asked = Asked(COMPLETIONS, {"model": "tiny", "temperature": 0, **fields, "prompt": f"Story {number}: "})
        else:
            asked = Asked(CHAT, text_chat(f"Story {number}" * chance.randint(1, 20), **fields))
        found.append((asked, ask_one(engines[PLAIN].url, asked.body, asked.path)))
    return found


class Requests:
    """The load."""

    def __init__(self, url: str, known: Sequence[tuple[Asked, Answer]], rate: float, chance: random.Random) -> None:
        self._url = url
        self._known = known
        self._rate = rate
        self._chance = chance
        self._report: Report
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, seconds: float, report: Report) -> None:
        """Send for so long, then wait for all answers."""
        self._report = report
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
        async with httpx.AsyncClient(verify=plain_http.CONTEXT, timeout=LONGEST, limits=limits) as client:
            begin = time.monotonic()
            sent = 0
            while (now := time.monotonic()) < begin + seconds:
                while sent < (now - begin) * self._rate:
                    sent += 1
                    self._spawn(client)
                await asyncio.sleep(0.005)
            await asyncio.gather(*self._tasks)

    def _spawn(self, client: httpx.AsyncClient) -> None:
        asked, right = self._chance.choice(self._known)
        leaves = self._chance.random() < 0.05
        task = asyncio.create_task(self._leave(client, asked) if leaves else self._one(client, asked, right))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _one(self, client: httpx.AsyncClient, asked: Asked, right: Answer) -> None:
        report = self._report
        begin = time.monotonic()
        body = json.dumps(asked.body)[:200]
        try:
            answer = await ask(client, self._url, asked)
        except httpx.TimeoutException:
            report.unfinished.append(body)
            report.outcomes["unfinished"] += 1
            return
        except httpx.TransportError as error:
            # A worker never breaks off a connection: that would be no proper end.
            report.unfinished.append(f"{error!r} {body}")
            report.outcomes["broken connection"] += 1
            return
        if answer.error is not None:
            what = f"{answer.status} {answer.error.get('code')}"
            report.outcomes[what] += 1
            message = f"{what}: {answer.error.get('message')}"
            report.failures.append(Failure(begin, time.monotonic(), message, body))
            if answer.status == 200 and not answer.done:
                report.unfinished.append(f"no [DONE] {body}")
        elif answer.comparable != right.comparable or not answer.done:
            report.outcomes["wrong"] += 1
            report.wrong.append(f"{body}\nfound {answer.comparable}\nright {right.comparable}\n{answer.legs}")
        else:
            report.outcomes["right"] += 1

    async def _leave(self, client: httpx.AsyncClient, asked: Asked) -> None:
        """A client that goes away before the end."""
        with contextlib.suppress(asyncio.TimeoutError, httpx.TransportError):
            await asyncio.wait_for(ask(client, self._url, asked), self._chance.random() * 0.2)
        self._report.outcomes["left"] += 1


class Disturbances:
    """Breaks engines."""

    def __init__(self, gateway: Gateway, chance: random.Random) -> None:
        self._gateway = gateway
        self._engines = gateway.engines
        self._chance = chance

    def run(self, ends: float, report: Report) -> None:
        """One disturbance after the other until `ends` (monotonic seconds); leaves everything mended."""
        names = self._gateway.names
        while time.monotonic() < ends:
            role = self._chance.choice((Role.ENCODE, Role.PREFILL, Role.DECODE))
            of_role = [self._engines[name] for name in names if self._engines[name].role is role]
            whole = self._chance.random() < 0.1
            struck = of_role if whole else [self._chance.choice(of_role)]
            begin = time.monotonic()
            how = self._disturb(struck)
            for engine in struck:
                engine.mend()
            self._gateway.write_fleet()
            told = tuple(engine.name for engine in struck)
            report.disturbances.append(Disturbed(begin, time.monotonic() + SETTLING, told, how, whole))
            time.sleep(SETTLING)

    def _disturb(self, struck: Sequence[Engine]) -> str:
        seconds = self._chance.uniform(0.2, 2.0)
        if self._chance.random() < 0.4:
            for engine in struck:
                engine.kill()
            noticed = self._chance.random() * seconds
            time.sleep(noticed)
            self._gateway.write_fleet()
            time.sleep(seconds - noticed)
            return "kill"
        fault = self._chance.choice(FAULTS)
        for engine in struck:
            engine.fail(fault)
        time.sleep(seconds)
        return fault.partition(":")[0]
