"""Under load the Coordinator's counters are what its clients counted, also when workers die meanwhile."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
import pytest
from answers import CHAT, COMPLETIONS
from fleet_under_test import Engines, Gateway
from images import text_chat, vision_chat
from processes import wait_until

MakeGateway = Callable[..., Gateway]
E2P2D = ("encode-0", "encode-1", "prefill-0", "prefill-1", "decode-0", "decode-1")
CLIENTS = 8
STREAMED = {"stream": True}


@dataclass
class Seen:
    """What clients saw."""

    whole: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Answers that came to their end, by path and status."""
    streams: int = 0
    """Of these, streams with status 200."""
    broken: int = 0
    """Requests that got no answer, or not to its end."""
    turned_away: int = 0
    """Connections that were refused: the worker was gone and its successor not there yet."""

    @property
    def over(self) -> int:
        """Requests that are over, whatever came."""
        return self.whole.total() + self.broken + self.turned_away


def asked(chance: random.Random) -> tuple[str, dict[str, Any]]:
    """A request of any kind."""
    kind = chance.random()
    stream = STREAMED if chance.random() < 0.6 else {}
    if kind < 0.1:
        return CHAT, text_chat(model="nobody")
    if kind < 0.2:
        return COMPLETIONS, {"model": "tiny", "max_tokens": "many"}
    if kind < 0.5:
        return CHAT, vision_chat(chance.randrange(30), max_tokens=chance.randint(1, 20), **stream)
    if kind < 0.7:
        return COMPLETIONS, {"model": "tiny", "prompt": "Once", "max_tokens": chance.randint(2, 40), **stream}
    return CHAT, text_chat(max_tokens=chance.randint(2, 40), **stream)


async def ask(url: str, seen: Seen, path: str, body: dict[str, Any]) -> None:
    """One request on a connection of its own, so that all workers get some."""
    try:
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            reply = await client.post(f"{url}{path}", json=body)
    except httpx.ConnectError:
        seen.turned_away += 1
    except httpx.TransportError:
        seen.broken += 1
    else:
        streamed = reply.headers["content-type"].startswith("text/event-stream")
        assert not streamed or reply.content.endswith(b"data: [DONE]\n\n"), reply.text
        seen.whole[path, reply.status_code] += 1
        seen.streams += streamed


async def load(url: str, seen: Seen, count: int, beside: Callable[[], None]) -> None:
    """`count` requests from some clients at once; `beside` runs in a thread meanwhile."""
    chance = random.Random(count)
    waiting = [asked(chance) for _ in range(count)]

    async def client() -> None:
        while waiting:
            await ask(url, seen, *waiting.pop())

    await asyncio.gather(asyncio.to_thread(beside), *(client() for _ in range(CLIENTS)))


def counted(gateway: Gateway) -> Counter[tuple[str, int]]:
    """What the Coordinator says, by path and status."""
    from prometheus_client.parser import text_string_to_metric_families

    return Counter(
        {
            (sample.labels["path"], int(sample.labels["status"])): int(sample.value)
            for family in text_string_to_metric_families(gateway.metrics())
            for sample in family.samples
            if sample.name == "pymotor_requests_total"
        }
    )


@pytest.mark.parametrize("workers", [1, 4])
async def test_counters_are_what_clients_counted(engines: Engines, make_gateway: MakeGateway, workers: int) -> None:
    gateway = make_gateway(engines, *E2P2D, workers=workers)
    seen = Seen()
    await load(gateway.url, seen, 150, lambda: None)
    assert not seen.broken
    assert counted(gateway) == seen.whole
    good = sum(number for (_, status), number in seen.whole.items() if status == 200)
    assert {status for _, status in seen.whole} == {200, 400, 404}
    assert gateway.count("pymotor_request_seconds_count") == seen.whole.total()
    assert gateway.count("pymotor_time_to_first_token_seconds_count") == good
    assert gateway.count("pymotor_leg_seconds_count", leg="prefill") == good
    assert gateway.count("pymotor_leg_seconds_count", leg="decode") == good
    assert gateway.count("pymotor_handoff_seconds_count") == seen.streams
    # A stream of a single token has nothing between two of them.
    assert 0.8 * seen.streams <= gateway.count("pymotor_time_per_output_token_seconds_count") <= seen.streams
    gateway.wait_until_idle()


@pytest.mark.parametrize("workers", [1, 4])
async def test_the_death_of_workers_loses_no_answer(engines: Engines, make_gateway: MakeGateway, workers: int) -> None:
    gateway = make_gateway(engines, *E2P2D, workers=workers)
    seen = Seen()
    kills = 3

    def kill_some() -> None:
        assert gateway.process.pid is not None
        for number in range(1, kills + 1):
            wait_until(lambda goal=40 * number: seen.over >= goal, "the load goes on", seconds=60)
            random.Random(number).choice(psutil.Process(gateway.process.pid).children()).send_signal(signal.SIGKILL)
            wait_until(lambda wanted=number: gateway.count("pymotor_worker_restarts_total") == wanted, "it is replaced")
            wait_until(lambda: gateway.count("pymotor_workers", state="listening") == workers, "all listen")

    await load(gateway.url, seen, 250 * kills, kill_some)
    known = counted(gateway)
    assert not seen.whole - known, "each answer that a client got whole is counted"
    assert (known - seen.whole).total() <= seen.broken, "nothing else is, but answers that broke off at their very end"
    assert seen.broken <= CLIENTS * kills
    gateway.wait_until_idle()
