"""What the KV Conductor refuses and bounds, as a process: of clients, of people and of pages in their browsers."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conductor_under_test import MODEL, Asker, ConductorUnderTest
from event_publisher import EventPublisher, stored

from pymotor.fleet.prefix_queries import LENGTH_BYTES, LONGEST_BOUNDED, LONGEST_NAME, MOST_MEDIA, PrefixQuery, bounded

SIZE = 4
PROMPT = list(range(100, 100 + 6 * SIZE))


@pytest.fixture
def conductor(tmp_path: Path) -> Iterator[ConductorUnderTest]:
    with ConductorUnderTest(tmp_path) as found:
        yield found


def follow(conductor: ConductorUnderTest, publisher: EventPublisher, *events: dict[str, Any]) -> None:
    """Register a publisher and wait until its events count."""
    registration = {"endpoint": publisher.address, "modelname": MODEL, "instance_id": "one"}
    assert conductor.post("/register", registration).status_code == 200
    conductor.wait_standing("one/0 0", "live")
    conductor.wait_applied("one/0 0", publisher.publish(*events))


def test_a_salt_of_any_length_is_asked_for_in_both_ways(conductor: ConductorUnderTest) -> None:
    salt = "a tenant" * 100_000
    with EventPublisher() as publisher, Asker(conductor.port) as asker:
        follow(conductor, publisher, stored(range(6), PROMPT, extra_keys=[[salt], *[None] * 5]))
        assert asker.match(PROMPT, salt=bounded(salt)) == {"one/0": len(PROMPT)}
        assert asker.match(PROMPT) == {}
        question = {"model": MODEL, "token_ids": PROMPT}
        found = conductor.post("/query", question | {"cache_salt": salt}).json()["default"]
        assert found["one"]["longest_matched"] == len(PROMPT)
        assert conductor.post("/query", question | {"cache_salt": salt + "!"}).json()["default"] == {}


@pytest.mark.parametrize(
    "more",
    [
        {"salt": "s" * (LONGEST_BOUNDED + 1)},
        {"media": [(0, "i" * (LONGEST_BOUNDED + 1))]},
        {"media": [(place, "i") for place in range(MOST_MEDIA + 1)]},
        {"adapter": "a" * (LONGEST_NAME + 1)},
        {"model": "m" * (LONGEST_NAME + 1)},
    ],
)
def test_who_asks_more_than_a_question_may_have_is_left(conductor: ConductorUnderTest, more: dict[str, Any]) -> None:
    tokens = memoryview(array("I", PROMPT)).cast("B")
    content = msgspec.msgpack.encode(PrefixQuery(**{"number": 1, "model": MODEL, "tokens": tokens, **more}))
    with Asker(conductor.port) as bad, Asker(conductor.port) as good:
        assert bad.read() is not None
        bad.send_bytes(len(content).to_bytes(LENGTH_BYTES, "little") + content)
        assert bad.read() is None
        assert good.match(PROMPT) == {}


def test_over_http_names_are_bounded_too(conductor: ConductorUnderTest) -> None:
    question = {"model": MODEL, "token_ids": PROMPT}
    for name in ("model", "lora_name"):
        refused = conductor.post("/query", question | {name: "n" * (LONGEST_NAME + 1)})
        assert (refused.status_code, name in refused.json()["error"]) == (400, True)
