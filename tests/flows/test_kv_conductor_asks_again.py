"""The KV Conductor asks engines again where and what they are: nothing counts for an engine that came from another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conductor_under_test import MODEL, Asker, ConductorUnderTest, union
from event_publisher import EventPublisher, stored
from processes import wait_until
from telling_engine import TellingEngine

from free_ports import free_port
from pymotor.fleet import FleetSnapshot
from pymotor.kv_conductor import followed_endpoint
from pymotor.kv_conductor.following import Following
from pymotor.kv_conductor.instruments import Figures

SIZE = 4
PROMPT = list(range(100, 100 + 6 * SIZE))
OTHER = list(range(500, 500 + 6 * SIZE))
SOURCE = "union-0/0 0"
ENDPOINT = "union-0/0"


@pytest.fixture
def conductor(tmp_path: Path) -> Iterator[ConductorUnderTest]:
    with ConductorUnderTest(tmp_path) as running:
        yield running


def blocks(tokens: list[int]) -> dict[str, object]:
    """That an engine now holds all blocks of a prompt."""
    return stored(range(tokens[0], tokens[0] + len(tokens) // SIZE), tokens)


@pytest.mark.parametrize("replays", [True, False])
def test_a_port_that_was_another_engines_counts_for_its_new_owner_only(
    conductor: ConductorUnderTest, replays: bool
) -> None:
    with (
        EventPublisher(replays=replays) as first,
        EventPublisher(replays=replays) as second,
        TellingEngine(first) as one,
        TellingEngine(second) as other,
        Asker(conductor.port) as asker,
    ):
        conductor.tell(union(0, url=one.url), union(1, url=other.url))
        for number, publisher in enumerate((first, second)):
            conductor.wait_standing(f"union-{number}/0 0", "live")
            publisher.wait_subscribed()
            conductor.wait_applied(f"union-{number}/0 0", publisher.publish(blocks(PROMPT)))
        # Both start again, and the system gives the ports of the first to the second.
        first.stop()
        second.stop()
        second.port, second.replay_port = first.port, first.replay_port
        first.port, first.replay_port = free_port(), free_port() if replays else None
        one.publish_at(first)
        other.publish_at(second)
        second.start()
        first.start()
        conductor.wait_standing("union-1/0 0", "live")
        second.wait_subscribed()
        claimed: set[str] = set()

        def followed_where_it_is() -> bool:
            second.publish(blocks(OTHER))
            claimed.update(asker.match(OTHER))
            return conductor.sources().get(SOURCE, {}).get("events") == first.address

        wait_until(followed_where_it_is, "the first engine is followed at its new port")
        wait_until(lambda: asker.match(OTHER) == {"union-1/0": len(OTHER)}, "what the second engine holds counts")
        assert ENDPOINT not in claimed


def test_an_engine_that_came_back_as_another_one_is_followed_as_that(conductor: ConductorUnderTest) -> None:
    with (
        EventPublisher() as first,
        EventPublisher(rank=1) as second,
        TellingEngine(first) as engine,
        Asker(conductor.port) as asker,
    ):
        engine.serve_names(MODEL, "french")
        conductor.tell(union(0, url=engine.url, models=(MODEL, "french")))
        conductor.wait_standing(SOURCE, "live")
        conductor.wait_applied(SOURCE, first.publish(blocks(PROMPT)))
        assert asker.match(PROMPT, model="french") == {ENDPOINT: len(PROMPT)}
        first.stop()
        conductor.wait_standing(SOURCE, "unreachable")
        engine.serve_names(MODEL, adapters=("french",))
        engine.publish_at(first, second)
        first.start()
        first.publish(blocks(PROMPT), heard=False)
        conductor.wait_standing(SOURCE, "live")
        # Of two ranks both have to hold what counts.
        assert asker.match(PROMPT) == {}
        conductor.wait_applied("union-0/0 1", second.publish(blocks(PROMPT)))
        wait_until(lambda: asker.match(PROMPT) == {ENDPOINT: len(PROMPT)}, "what both hold counts")
        assert asker.match(PROMPT, model="french") == {}


def test_after_a_break_nothing_counts_before_the_engine_has_answered(conductor: ConductorUnderTest) -> None:
    with EventPublisher() as publisher, TellingEngine(publisher) as engine, Asker(conductor.port) as asker:
        conductor.tell(union(0, url=engine.url))
        conductor.wait_standing(SOURCE, "live")
        engine.status = 503
        publisher.stop()
        conductor.wait_standing(SOURCE, "unreachable")
        publisher.start()
        publisher.publish(blocks(PROMPT), heard=False)
        conductor.wait_standing(SOURCE, "catching up", "asked again")
        asked = engine.asked
        wait_until(lambda: engine.asked > asked + 1, "it is asked until it answers")
        (described,) = conductor.get("/sources").json()["endpoints"]
        assert "503" in described["why"]
        assert asker.match(PROMPT) == {}
        engine.status = 200
        conductor.wait_applied(SOURCE, 0)
        assert asker.match(PROMPT) == {ENDPOINT: len(PROMPT)}


@pytest.mark.parametrize("replays", [True, False])
def test_numbers_that_begin_again_are_a_reason_to_ask(conductor: ConductorUnderTest, replays: bool) -> None:
    with (
        EventPublisher(replays=replays) as former,
        EventPublisher(replays=replays) as present,
        TellingEngine(former) as engine,
        Asker(conductor.port) as asker,
    ):
        conductor.tell(union(0, url=engine.url))
        conductor.wait_standing(SOURCE, "live")
        former.wait_subscribed()
        former.publish(blocks(PROMPT))
        conductor.wait_applied(SOURCE, former.publish(blocks(PROMPT)))
        engine.publish_at(present)
        former.begin_again()
        former.publish(blocks(OTHER))
        present.wait_subscribed()
        conductor.wait_standing(SOURCE, "live")
        conductor.wait_applied(SOURCE, present.publish(blocks(PROMPT)))
        wait_until(lambda: asker.match(PROMPT) == {ENDPOINT: len(PROMPT)}, "what it holds where it is counts")
        assert asker.match(OTHER) == {}


@pytest.mark.parametrize("live", [True, False])
def test_nothing_counts_of_batches_that_name_another_rank(conductor: ConductorUnderTest, live: bool) -> None:
    with (
        EventPublisher(rank=0) as own,
        EventPublisher(rank=1) as others,
        TellingEngine(others) as engine,
        Asker(conductor.port) as asker,
    ):
        if not live:
            others.publish(blocks(PROMPT))
        conductor.tell(union(0, url=engine.url))
        if live:
            conductor.wait_standing(SOURCE, "live")
            others.wait_subscribed()
            others.publish(blocks(PROMPT))
        dropped = conductor.wait_standing(SOURCE, "dropped", "rank 1")
        assert dropped["blocks"] == 0
        assert asker.match(PROMPT) == {}
        engine.publish_at(own)
        own.wait_subscribed()
        conductor.wait_applied(SOURCE, own.publish(blocks(OTHER)))
        wait_until(lambda: asker.match(OTHER) == {ENDPOINT: len(OTHER)}, "what it holds where it is counts")
        assert asker.match(PROMPT) == {}


# -- within this process, where waiting can be shortened


async def until(condition: Callable[[], bool]) -> None:
    """Raises `asyncio.TimeoutError`."""

    async def look() -> None:
        while not condition():  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(0.01)

    await asyncio.wait_for(look(), 60)


def test_an_engine_that_is_live_is_asked_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed_endpoint, "AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(followed_endpoint, "LIVE_SECONDS", 0.05)
    with (
        EventPublisher() as former,
        EventPublisher() as present,
        TellingEngine(former) as engine,
    ):

        def followed_at(following: Following, publisher: EventPublisher) -> bool:
            (described,) = following.described()
            return described["live"] and described["sources"][0]["events"] == publisher.address

        async def moves() -> None:
            following = Following(None, Figures(), lambda: None)
            try:
                following.take_fleet(FleetSnapshot(instances=(union(0, url=engine.url),)))
                await until(lambda: followed_at(following, former))
                engine.publish_at(present)
                await until(lambda: followed_at(following, present))
                # One that does not answer is followed all the same, as long as nothing breaks.
                engine.status, asked = 503, engine.asked
                await until(lambda: engine.asked > asked + 2)
                assert followed_at(following, present)
            finally:
                await following.close()

        asyncio.run(moves())
