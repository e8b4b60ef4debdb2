"""An endpoint that is followed, by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from pymotor.kv_conductor.followed_endpoint import FollowedEndpoint
from pymotor.kv_conductor.sources import EventSource
from pymotor.kv_conductor.subscriber import Subscriber


@contextlib.contextmanager
def subscribe(*_: object) -> Iterator[tuple[Subscriber, ...]]:
    yield ()


async def looked_for_again() -> str:
    """After a mistake; returns why it was not followed in between."""
    reasons: list[str] = []
    again = asyncio.Event()

    async def find() -> tuple[EventSource, ...]:
        reasons.append(followed.why)
        if len(reasons) == 1:
            raise ZeroDivisionError("a mistake")
        again.set()
        return ()

    followed = FollowedEndpoint("union-0/0", "union-0", ("a-model",), find, subscribe, asyncio.Lock())
    await asyncio.wait_for(again.wait(), 60)
    ended = asyncio.Event()
    followed.cancel(ended.set)
    await asyncio.wait_for(ended.wait(), 60)
    return reasons[1]


def test_a_mistake_is_no_reason_to_follow_an_endpoint_never_again(caplog: pytest.LogCaptureFixture) -> None:
    assert "a mistake of the conductor" in asyncio.run(looked_for_again())
    assert "ZeroDivisionError" in caplog.text


async def waits_for_its_place() -> None:
    place = asyncio.Lock()
    await place.acquire()
    looked = asyncio.Event()

    async def find() -> tuple[EventSource, ...]:
        looked.set()
        return ()

    impatient, patient = (FollowedEndpoint("u/0", "u", ("m",), find, subscribe, place) for _ in range(2))
    ended = asyncio.Event()
    impatient.cancel(ended.set)
    await asyncio.wait_for(ended.wait(), 60)
    assert not looked.is_set(), "one that ends while it waits makes no room for the next"
    place.release()
    await asyncio.wait_for(looked.wait(), 60)
    patient.cancel(lambda: None)
    await patient.wait_ended()


def test_nobody_is_followed_before_the_former_has_ended() -> None:
    asyncio.run(waits_for_its_place())
