"""The KV Conductor as a process: whom it follows, what it claims, and what becomes of it when something breaks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import psutil
import pytest
from conductor_under_test import MODEL, TOKEN, Asker, ConductorUnderTest, union
from event_publisher import TOPIC, EventPublisher, removed, stored
from processes import wait_until
from scripted_controller import ScriptedController
from tcp_relay import TCPRelay
from telling_engine import TellingEngine

from pymotor.fleet import InstanceState
from pymotor.fleet.prefix_queries import PREFACE, PrefixRouted
from pymotor.kv_conductor.discovery import Discovery

SIZE = 4
"""Tokens of a block."""
PROMPT = list(range(100, 100 + 6 * SIZE))
SOURCE = "union-0/0 0"
ENDPOINT = "union-0/0"


class _Engine(BaseHTTPRequestHandler):
    """An engine of a version that does not say where it publishes."""

    def do_GET(self) -> None:
        """No such path."""
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def telling_engine() -> Iterator[TellingEngine]:
    with TellingEngine() as engine:
        yield engine


@pytest.fixture(scope="module")
def engine_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Engine) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def conductor(tmp_path: Path) -> Iterator[ConductorUnderTest]:
    with ConductorUnderTest(tmp_path) as running:
        yield running


def blocks(first: int, last: int) -> list[dict[str, object]]:
    """That an engine now holds these blocks of the prompt; the parent of the first is the one before it."""
    tokens = PROMPT[first * SIZE : last * SIZE]
    return [stored(range(1000 + first, 1000 + last), tokens, 999 + first if first else None)]


def test_matches_are_what_the_engine_told(conductor: ConductorUnderTest, engine_url: str) -> None:
    with EventPublisher() as publisher, Asker(conductor.port) as asker:
        conductor.tell(union(0, publisher, url=engine_url))
        conductor.wait_standing(SOURCE, "live")
        conductor.wait_applied(SOURCE, publisher.publish(*blocks(0, 4)))
        assert asker.match(PROMPT) == {ENDPOINT: 4 * SIZE}
        conductor.wait_applied(SOURCE, publisher.publish(removed(1003)))
        assert asker.match(PROMPT) == {ENDPOINT: 3 * SIZE}
        conductor.wait_applied(SOURCE, publisher.publish({"type": "AllBlocksCleared"}))
        assert asker.match(PROMPT) == {}


@pytest.mark.parametrize("replayed", [False, True])
def test_questions_come_between_the_events_of_a_large_batch(
    conductor: ConductorUnderTest, engine_url: str, replayed: bool
) -> None:
    number = 20_000
    prompt = list(range(number * SIZE))
    chain = [
        stored([1000 + block], prompt[block * SIZE : (block + 1) * SIZE], 999 + block if block else None)
        for block in range(number)
    ]
    with EventPublisher() as publisher, Asker(conductor.port) as asker:
        if replayed:
            publisher.publish(*chain)
        conductor.tell(union(0, publisher, url=engine_url))
        conductor.wait_standing(SOURCE, "live")
        if not replayed:
            publisher.publish(*chain)
        seen: set[int] = set()
        wait_until(
            lambda: seen.add(asker.match(prompt).get(ENDPOINT, 0)) or number * SIZE in seen, "all of it is there"
        )
        assert replayed or len(seen - {0, number * SIZE}) > 1
        conductor.wait_applied(SOURCE, publisher.publish(removed(1003)))
        assert asker.match(prompt) == {ENDPOINT: 3 * SIZE}


# -- what is missed


def test_what_was_lost_on_the_way_is_replayed(conductor: ConductorUnderTest, engine_url: str) -> None:
    with EventPublisher() as publisher, Asker(conductor.port) as asker:
        conductor.tell(union(0, publisher, url=engine_url))
        conductor.wait_standing(SOURCE, "live")
        publisher.publish(*blocks(0, 3))
        publisher.publish(removed(1002), heard=False)
        publisher.publish(*blocks(0, 1))
        publisher.publish(*blocks(1, 2))
        conductor.wait_applied(SOURCE, publisher.publish(*blocks(0, 2)))
        assert asker.match(PROMPT) == {ENDPOINT: 2 * SIZE}
        # From the newest batch that was known on: that one tells whether it is the same engine.
        assert publisher.asked[-1] == 0
        assert conductor.metric("gaps_total") == 1
        assert conductor.metric("restarts_total") == 0


def test_after_a_gap_without_replay_nothing_old_counts(conductor: ConductorUnderTest, engine_url: str) -> None:
    with EventPublisher(replays=False) as publisher, Asker(conductor.port) as asker:
        conductor.tell(union(0, publisher, url=engine_url))
        conductor.wait_standing(SOURCE, "live")
        publisher.wait_subscribed()
        conductor.wait_applied(SOURCE, publisher.publish(*blocks(0, 3)))
        assert asker.match(PROMPT) == {ENDPOINT: 3 * SIZE}
        publisher.publish(removed(1002), heard=False)
        conductor.wait_applied(SOURCE, publisher.publish(*blocks(3, 4)))
        assert asker.match(PROMPT) == {}
        conductor.wait_applied(SOURCE, publisher.publish(*blocks(0, 2)))
        assert asker.match(PROMPT) == {ENDPOINT: 2 * SIZE}


def test_what_the_replay_has_no_more_is_forgotten(conductor: ConductorUnderTest, engine_url: str) -> None:
    with EventPublisher(buffer=2) as publisher, Asker(conductor.port) as asker:
        conductor.tell(union(0, publisher, url=engine_url))
        conductor.wait_standing(SOURCE, "live")
        conductor.wait_applied(SOURCE, publisher.publish(*blocks(0, 3)))
        publisher.publish(removed(1000), heard=False)
        publisher.publish(*blocks(5, 6), heard=False)
        conductor.wait_applied(SOURCE, publisher.publish(*blocks(0, 1)))
        assert asker.match(PROMPT) == {ENDPOINT: SIZE}
        # It is the same engine, which had no room for the newest batch that was known.
        assert (conductor.metric("gaps_total"), conductor.metric("restarts_total")) == (1, 0)


def test_a_replay_that_loses_something_is_asked_for_again(conductor: ConductorUnderTest, engine_url: str) -> None:
    with EventPublisher(at_most=3) as publisher, Asker(conductor.port) as asker:
        for block in range(6):
            publisher.publish(*blocks(block, block + 1))
        conductor.tell(union(0, publisher, url=engine_url))
        conductor.wait_applied(SOURCE, 5)
        assert asker.match(PROMPT) == {ENDPOINT: 6 * SIZE}
        assert publisher.asked == [0, 2, 4]


def test_engines_that_replay_slowly_keep_no_other_waiting(conductor: ConductorUnderTest, engine_url: str) -> None:
    many = 16
    with contextlib.ExitStack() as running:
        asker = running.enter_context(Asker(conductor.port))
        slow = [running.enter_context(EventPublisher(slowly=True)) for _ in range(many)]
        for publisher in slow:
            for _ in range(200):
                publisher.publish(*blocks(0, 1))
        slowly = [union(1 + number, publisher, url=engine_url) for number, publisher in enumerate(slow)]
        conductor.tell(*slowly)
        wait_until(lambda: all(publisher.asked for publisher in slow), "all are replaying")
        quick = running.enter_context(EventPublisher())
        for block in range(6):
            quick.publish(*blocks(block, block + 1))
        conductor.tell(union(0, quick, url=engine_url), *slowly)
        conductor.wait_applied(SOURCE, 5)
        sources = conductor.sources()
        assert {sources[f"union-{1 + number}/0 0"]["standing"] for number in range(many)} == {"catching up"}
        assert asker.match(PROMPT) == {ENDPOINT: 6 * SIZE}


def test_a_doubled_batch_counts_once(conductor: ConductorUnderTest, engine_url: str) -> None:
    with EventPublisher() as publisher, Asker(conductor.port) as asker:
        conductor.tell(union(0, publisher, url=engine_url))
        conductor.wait_standing(SOURCE, "live")
        publisher.publish(*blocks(0, 3))
        publisher.repeat()
        conductor.wait_applied(SOURCE, publisher.publish(removed(1002)))
        assert asker.match(PROMPT) == {ENDPOINT: 2 * SIZE}
        assert (conductor.metric("gaps_total"), conductor.metric("restarts_total")) == (0, 0)


# -- restarts


@pytest.mark.parametrize("replays", [True, False])
def test_a_new_engine_at_the_same_place_holds_nothing_of_the_old(
    conductor: ConductorUnderTest, engine_url: str, replays: bool
) -> None:
    with EventPublisher(replays=replays) as publisher, Asker(conductor.port) as asker:
        conductor.tell(union(0, publisher, url=engine_url))
        conductor.wait_standing(SOURCE, "live")
        publisher.wait_subscribed()
        conductor.wait_applied(SOURCE, publisher.publish(*blocks(0, 3)))
        publisher.stop()
        conductor.wait_standing(SOURCE, "unreachable")
        assert asker.match(PROMPT) == {}
        publisher.start()
        # As many batches as the old one had, so that the next number tells nothing.
        publisher.publish(*blocks(4, 5), heard=False)
        conductor.wait_standing(SOURCE, "live")
        publisher.wait_subscribed()
        conductor.wait_applied(SOURCE, publisher.publish(*blocks(0, 1)))
        assert asker.match(PROMPT) == {ENDPOINT: SIZE}


@pytest.mark.parametrize("replays", [True, False])
def test_a_smaller_number_is_a_new_engine(conductor: ConductorUnderTest, engine_url: str, replays: bool) -> None:
    with EventPublisher(replays=replays) as publisher, Asker(conductor.port) as asker:
        conductor.tell(union(0, publisher, url=engine_url))
        conductor.wait_standing(SOURCE, "live")
        publisher.wait_subscribed()
        publisher.publish(*blocks(0, 3))
        conductor.wait_applied(SOURCE, publisher.publish(*blocks(3, 6)))
        assert asker.match(PROMPT) == {ENDPOINT: 6 * SIZE}
        publisher.begin_again()
        conductor.wait_applied(SOURCE, publisher.publish(*blocks(0, 1)))
        assert asker.match(PROMPT) == {ENDPOINT: SIZE}
        assert conductor.metric("restarts_total") == 1


def test_a_broken_connection_costs_a_short_replay(conductor: ConductorUnderTest, engine_url: str) -> None:
    with EventPublisher() as publisher, TCPRelay(publisher.port) as relay, Asker(conductor.port) as asker:
        source_port, publisher.port = publisher.port, relay.port
        conductor.tell(union(0, publisher, url=engine_url))
        publisher.port = source_port
        conductor.wait_standing(SOURCE, "live")
        # Behind the relay what it subscribed to may still be on its way.
        publisher.wait_subscribed()
        publisher.publish(*blocks(0, 3))
        conductor.wait_applied(SOURCE, publisher.publish(*blocks(3, 5)))
        relay.close()
        conductor.wait_standing(SOURCE, "unreachable")
        assert asker.match(PROMPT) == {}
        publisher.publish(removed(1004))
        relay.open()
        conductor.wait_applied(SOURCE, 2)
        assert asker.match(PROMPT) == {ENDPOINT: 4 * SIZE}
        assert publisher.asked[-1] == 1
        assert conductor.metric("restarts_total") == 0


def test_a_new_conductor_learns_what_the_old_one_knew(conductor: ConductorUnderTest, engine_url: str) -> None:
    with EventPublisher() as publisher:
        conductor.tell(union(0, publisher, url=engine_url))
        conductor.wait_standing(SOURCE, "live")
        publisher.publish(*blocks(0, 3))
        conductor.wait_applied(SOURCE, publisher.publish(*blocks(3, 5)))
        conductor.process.kill()
        publisher.publish(removed(1004))
        conductor.start()
        conductor.wait_applied(SOURCE, 2)
        with Asker(conductor.port) as asker:
            wait_until(lambda: asker.match(PROMPT) == {ENDPOINT: 4 * SIZE}, "what the engine replays counts again")


@pytest.mark.parametrize("size", [SIZE // 2, 2 * SIZE])
def test_a_new_engine_may_have_blocks_of_another_size(
    conductor: ConductorUnderTest, engine_url: str, size: int
) -> None:
    with EventPublisher() as publisher, Asker(conductor.port) as asker:
        conductor.tell(union(0, publisher, url=engine_url))
        conductor.wait_standing(SOURCE, "live")
        conductor.wait_applied(SOURCE, publisher.publish(*blocks(0, 6)))
        assert asker.match(PROMPT) == {ENDPOINT: 6 * SIZE}
        publisher.stop()
        conductor.wait_standing(SOURCE, "unreachable")
        publisher.start()
        publisher.publish(stored(range(6 * SIZE // size), PROMPT))
        # The new one tells of a block that follows none and of one that has another size, too.
        publisher.publish(stored([2000], PROMPT[:size], parent=1999), stored([3000], PROMPT[:1]))
        conductor.wait_applied(SOURCE, 1)
        assert asker.match(PROMPT) == {ENDPOINT: 6 * SIZE}
        source = conductor.sources()[SOURCE]
        assert (source["block_size"], source["passed_over"]["other_sizes"]) == (size, 1)
        assert conductor.metric('passed_over_total{reason="orphans"}') == 1


# -- who is followed


def test_ranks_that_the_engine_balances_count_as_the_least_of_them(
    conductor: ConductorUnderTest, engine_url: str
) -> None:
    with EventPublisher() as first, EventPublisher(rank=1) as second, Asker(conductor.port) as asker:
        conductor.tell(union(0, first, second, url=engine_url))
        conductor.wait_standing(SOURCE, "live")
        conductor.wait_standing("union-0/0 1", "live")
        conductor.wait_applied(SOURCE, first.publish(*blocks(0, 5)))
        assert asker.match(PROMPT) == {}
        conductor.wait_applied("union-0/0 1", second.publish(*blocks(0, 2)))
        assert asker.match(PROMPT) == {ENDPOINT: 2 * SIZE}
        second.stop()
        conductor.wait_standing("union-0/0 1", "unreachable")
        assert asker.match(PROMPT) == {}


def test_the_fleet_decides_who_is_followed(conductor: ConductorUnderTest, engine_url: str) -> None:
    with EventPublisher() as first, EventPublisher() as second, Asker(conductor.port) as asker:
        one, other = union(0, first, url=engine_url), union(1, second, url=engine_url)
        conductor.tell(one, other)
        for number, publisher in enumerate((first, second)):
            conductor.wait_standing(f"union-{number}/0 0", "live")
            conductor.wait_applied(f"union-{number}/0 0", publisher.publish(*blocks(0, 2)))
        both = {"union-0/0": 2 * SIZE, "union-1/0": 2 * SIZE}
        assert asker.match(PROMPT) == both
        # A Controller that has only begun to listen lets nobody go.
        conductor.tell(other, union(2, url=engine_url), complete=False)
        wait_until(lambda: "union-2/0" in conductor.get("/sources").text, "the incomplete snapshot is taken")
        assert asker.match(PROMPT) == both
        conductor.tell(union(0, first, url=engine_url), union(1, second, url=engine_url, state=InstanceState.DRAINING))
        wait_until(lambda: set(conductor.sources()) == {SOURCE}, "the draining one is left")
        assert asker.match(PROMPT) == {ENDPOINT: 2 * SIZE}
        conductor.tell(one, other)
        conductor.wait_applied("union-1/0 0", 0)
        # An endpoint is counted a moment after its first events are.
        wait_until(lambda: asker.match(PROMPT) == both, "the one that is back counts again")


def test_what_was_sent_somewhere_is_expected_there(conductor: ConductorUnderTest, engine_url: str) -> None:
    prompt = list(range(2000))
    with EventPublisher() as publisher, Asker(conductor.port) as asker, Asker(conductor.port) as other:
        conductor.tell(union(0, publisher, url=engine_url))
        conductor.wait_standing(SOURCE, "live")
        number = asker.query(prompt)
        assert asker.expected(asker.answer(number)) == {}
        asker.send(PrefixRouted(number, ENDPOINT))
        asker.send(PrefixRouted(number + 100, ENDPOINT))
        matches = asker.answer(asker.query(prompt))
        assert asker.expected(matches)[ENDPOINT] > 1500
        assert asker.held(matches) == {}
        # All Coordinators expect it.
        assert other.expected(other.answer(other.query(prompt)))[ENDPOINT] > 1500
        # One question that nobody has asked.
        assert conductor.metric("routed_passed_over_total") == 1


@pytest.mark.parametrize("replays", [True, False])
def test_nothing_is_expected_of_an_engine_that_restarts_before_it_told_anything(
    conductor: ConductorUnderTest, engine_url: str, replays: bool
) -> None:
    # So long that it would be expected for half a minute.
    prompt = list(range(120_000))
    with EventPublisher(replays=replays) as publisher, Asker(conductor.port) as asker:
        conductor.tell(union(0, publisher, url=engine_url))
        conductor.wait_standing(SOURCE, "live")
        number = asker.query(prompt)
        asker.answer(number)
        asker.send(PrefixRouted(number, ENDPOINT))

        def expected() -> int:
            return asker.expected(asker.answer(asker.query(prompt))).get(ENDPOINT, 0)

        # It counts once Coordinators are told of it, a moment later.
        wait_until(lambda: expected() > 100_000, "it is expected there")
        publisher.stop()
        conductor.wait_standing(SOURCE, "unreachable")
        publisher.start()
        conductor.wait_standing(SOURCE, "live")
        publisher.publish(*blocks(0, 4))
        wait_until(lambda: asker.match(PROMPT) == {ENDPOINT: 4 * SIZE}, "the endpoint counts again")
        assert expected() < 100_000


def test_a_name_that_the_engine_calls_an_adapter_holds_nothing_of_the_model(
    conductor: ConductorUnderTest, telling_engine: TellingEngine
) -> None:
    cards = [{"id": MODEL, "parent": None}, {"id": "alias", "parent": None}, {"id": "french", "parent": MODEL}]
    telling_engine.models = {"object": "list", "data": cards}
    with EventPublisher() as publisher, Asker(conductor.port) as asker:
        telling_engine.answer = {"0": {"endpoint": publisher.address, "replay_endpoint": publisher.replay_address}}
        conductor.tell(union(0, url=telling_engine.url, models=(MODEL, "alias", "french", "later")))
        conductor.wait_standing(SOURCE, "live")
        conductor.wait_applied(SOURCE, publisher.publish(*blocks(0, 4)))
        found = {name: asker.match(PROMPT, model=name) for name in (MODEL, "alias", "french", "later")}
        assert found == {MODEL: {ENDPOINT: 4 * SIZE}, "alias": {ENDPOINT: 4 * SIZE}, "french": {}, "later": {}}


def test_an_engine_that_could_not_say_what_its_names_are_is_asked_again(
    conductor: ConductorUnderTest, telling_engine: TellingEngine
) -> None:
    telling_engine.models = {"object": "list", "data": [{"id": "alias", "parent": None}]}
    telling_engine.models_status = 503
    with EventPublisher() as publisher, Asker(conductor.port) as asker:
        telling_engine.answer = {"0": {"endpoint": publisher.address, "replay_endpoint": publisher.replay_address}}
        conductor.tell(union(0, url=telling_engine.url, models=(MODEL, "alias")))
        conductor.wait_standing(SOURCE, "live")
        conductor.wait_applied(SOURCE, publisher.publish(*blocks(0, 4)))
        assert asker.match(PROMPT) == {ENDPOINT: 4 * SIZE}
        assert asker.match(PROMPT, model="alias") == {}
        telling_engine.models_status = 200
        wait_until(lambda: asker.match(PROMPT, model="alias") == {ENDPOINT: 4 * SIZE}, "the alias is one by now")


def test_an_engine_with_a_key_is_asked_with_it(telling_engine: TellingEngine) -> None:
    telling_engine.models = {"object": "list", "data": [{"id": "alias", "parent": None}]}
    telling_engine.key = "engines-own"
    instance = union(0, url=telling_engine.url, models=(MODEL, "alias"))

    async def aliases(key: str) -> frozenset[str]:
        discovery = Discovery(None, engine_key=key)
        try:
            return await discovery.engine(instance, instance.endpoints[0]).aliases()
        finally:
            await discovery.close()

    assert asyncio.run(aliases("engines-own")) == {"alias"}
    assert asyncio.run(aliases("")) == frozenset()


@pytest.mark.parametrize("answered", ["tcp://*:{}", "tcp://192.0.2.1:{}"])
def test_only_the_host_of_the_endpoint_is_connected_to(
    conductor: ConductorUnderTest, telling_engine: TellingEngine, answered: str
) -> None:
    with EventPublisher() as publisher:
        telling_engine.answer = {
            "0": {"endpoint": answered.format(publisher.port), "replay_endpoint": None, "topic": "kv-events"}
        }
        conductor.tell(union(0, url=telling_engine.url))
        source = conductor.wait_standing(SOURCE, "live")
        assert source["events"] == publisher.address


@pytest.mark.parametrize(
    "answer",
    [{"x": {"endpoint": "tcp://*:1"}}, {"0": {"endpoint": "ipc:///tmp/x"}}, {"0": {"endpoint": "tcp://*:99999"}}, []],
)
def test_an_engine_that_tells_nonsense_is_not_followed(
    conductor: ConductorUnderTest, telling_engine: TellingEngine, answer: object
) -> None:
    telling_engine.answer = answer
    conductor.tell(union(0, url=telling_engine.url))
    wait_until(lambda: telling_engine.asked > 1, "it is asked again")
    (described,) = conductor.get("/sources").json()["endpoints"]
    assert not described["live"]
    assert not described["sources"]
    assert described["why"]


def test_the_fleet_comes_from_a_controller(tmp_path: Path, engine_url: str) -> None:
    with ScriptedController(token=TOKEN) as controller, EventPublisher() as publisher:
        with ConductorUnderTest(tmp_path, "--controller", controller.url) as conductor:
            version = controller.tell(union(0, publisher, url=engine_url))
            conductor.wait_standing(SOURCE, "live")
            controller.wait_asked(lambda watch: watch.version == version, "what is new")
            controller.tell()
            wait_until(lambda: not conductor.sources(), "nobody is followed")
        assert controller.coordinators == {""}


# -- those who mean no good


GARBAGE = [
    [TOPIC, (1).to_bytes(8, "big"), b"no msgpack at all"],
    [TOPIC, (1).to_bytes(8, "big"), b"\x93\x00\x91\x81\xa4type\xabBlockStored\x00"],
    [TOPIC, b"no number", b"\x93\x00\x90\x00"],
    [TOPIC],
    [TOPIC, *[b"x"] * 12],
]


@pytest.mark.parametrize("frames", GARBAGE)
def test_a_publisher_of_garbage_harms_only_itself(
    conductor: ConductorUnderTest, engine_url: str, frames: list[bytes]
) -> None:
    with EventPublisher() as good, EventPublisher() as bad, Asker(conductor.port) as asker:
        conductor.tell(union(0, good, url=engine_url), union(1, bad, url=engine_url))
        conductor.wait_standing(SOURCE, "live")
        conductor.wait_standing("union-1/0 0", "live")
        conductor.wait_applied(SOURCE, good.publish(*blocks(0, 2)))
        conductor.wait_applied("union-1/0 0", bad.publish(*blocks(0, 5)))
        bad.send(frames)
        conductor.wait_standing("union-1/0 0", "dropped")
        assert asker.match(PROMPT) == {ENDPOINT: 2 * SIZE}
        conductor.wait_applied(SOURCE, good.publish(*blocks(2, 3)))
        assert asker.match(PROMPT) == {ENDPOINT: 3 * SIZE}


UNREADABLE = stored([2000], [-1, 2, 3, 4])
"""A block whose tokens are none."""


def test_of_a_first_batch_that_cannot_be_read_nothing_stays(conductor: ConductorUnderTest, engine_url: str) -> None:
    with EventPublisher() as publisher, Asker(conductor.port) as asker:
        publisher.publish(*blocks(0, 1), UNREADABLE)
        conductor.tell(union(0, publisher, url=engine_url))
        source = conductor.wait_standing(SOURCE, "dropped")
        assert source["blocks"] == 0
        publisher.stop()
        publisher.start()
        conductor.wait_standing(SOURCE, "live")
        assert asker.match(PROMPT) == {}


@pytest.mark.parametrize("live", [True, False])
def test_what_comes_behind_a_batch_that_cannot_be_read_is_learned(
    conductor: ConductorUnderTest, engine_url: str, live: bool
) -> None:
    with EventPublisher() as publisher, Asker(conductor.port) as asker:
        if live:
            conductor.tell(union(0, publisher, url=engine_url))
            conductor.wait_standing(SOURCE, "live")
        publisher.publish(*blocks(0, 3))
        unreadable = publisher.publish(UNREADABLE)
        if not live:
            conductor.tell(union(0, publisher, url=engine_url))
        conductor.wait_standing(SOURCE, "dropped")
        publisher.publish(*blocks(0, 2))
        # Of what was before nothing is known any more, so this one follows a block that nobody told of.
        last = publisher.publish(*blocks(3, 4))
        conductor.wait_applied(SOURCE, last)
        assert asker.match(PROMPT) == {ENDPOINT: 2 * SIZE}
        assert publisher.asked == [0, unreadable]
        assert conductor.metric("dropped_publishers_total") == 1


def test_an_engine_that_sent_what_cannot_be_read_may_start_anew(conductor: ConductorUnderTest, engine_url: str) -> None:
    with EventPublisher() as publisher, Asker(conductor.port) as asker:
        publisher.publish(UNREADABLE)
        conductor.tell(union(0, publisher, url=engine_url))
        conductor.wait_standing(SOURCE, "dropped")
        publisher.begin_again()
        conductor.wait_applied(SOURCE, publisher.publish(*blocks(0, 2)))
        assert asker.match(PROMPT) == {ENDPOINT: 2 * SIZE}


def test_what_speaks_something_else_is_no_publisher(conductor: ConductorUnderTest, engine_url: str) -> None:
    with EventPublisher() as publisher:
        publisher.stop()
        publisher.port = int(engine_url.rpartition(":")[2])
        conductor.tell(union(0, publisher, url=engine_url))
        conductor.wait_standing(SOURCE, "unreachable", "handshake")


def test_a_client_that_never_reads_keeps_nobody_waiting(conductor: ConductorUnderTest, engine_url: str) -> None:
    with EventPublisher() as publisher, Asker(conductor.port, patience=None) as greedy, Asker(conductor.port) as asker:
        conductor.tell(union(0, publisher, url=engine_url))
        conductor.wait_standing(SOURCE, "live")
        conductor.wait_applied(SOURCE, publisher.publish(*blocks(0, 2)))
        sending = threading.Thread(target=_ask_for_ever, args=(greedy,), daemon=True)
        sending.start()
        for _ in range(50):
            assert asker.match(PROMPT) == {ENDPOINT: 2 * SIZE}
        # It is left in the end, though it never reads.
        wait_until(lambda: not sending.is_alive(), "the greedy client is left", 60)
        assert asker.match(PROMPT) == {ENDPOINT: 2 * SIZE}
        assert psutil.Process(conductor.process.pid).memory_info().rss < 400 * 1024 * 1024


def _ask_for_ever(greedy: Asker) -> None:
    try:
        while True:
            greedy.query(PROMPT)
    except OSError:
        return


@pytest.mark.parametrize(
    "frame",
    [
        b"\xff\xff\xff\xff",
        (3).to_bytes(4, "little") + b"abc",
        (0).to_bytes(4, "little"),
    ],
)
def test_a_frame_that_is_none_ends_the_connection(conductor: ConductorUnderTest, frame: bytes) -> None:
    with Asker(conductor.port) as bad, Asker(conductor.port) as good:
        assert bad.read() is not None
        bad.send_bytes(frame)
        assert bad.read() is None
        assert good.match(PROMPT) == {}


def test_without_the_token_nothing_is_answered(conductor: ConductorUnderTest) -> None:
    for token in ("", "another-token-than-theirs"):
        with Asker(conductor.port, token) as asker:
            assert asker.read() is None


def test_the_preface_may_come_in_pieces(conductor: ConductorUnderTest) -> None:
    with socket.create_connection(("127.0.0.1", conductor.port), 60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(len(PREFACE) - 1):
            connection.sendall(PREFACE[place : place + 1])
        connection.sendall(b"?")
        assert connection.recv(1) == b""


# -- HTTP


def test_the_http_api_answers_as_mooncakes_conductor_does(conductor: ConductorUnderTest) -> None:
    with EventPublisher() as first, EventPublisher(rank=1) as second:
        for rank, publisher in enumerate((first, second)):
            registration = {
                "endpoint": publisher.address,
                "replay_endpoint": publisher.replay_address,
                "type": "vLLM",
                "modelname": MODEL,
                "block_size": SIZE,
                "instance_id": "vllm-prefill-1",
                "dp_rank": rank,
            }
            assert conductor.post("/register", registration).status_code == 200
            assert conductor.post("/register", registration).status_code == 200
        for rank, publisher in enumerate((first, second)):
            conductor.wait_standing(f"vllm-prefill-1/{rank} 0", "live")
            conductor.wait_applied(f"vllm-prefill-1/{rank} 0", publisher.publish(*blocks(0, 3 + rank)))
        question = {"model": MODEL, "block_size": SIZE, "token_ids": PROMPT}
        answer = conductor.post("/query", question).json()
        found = answer["default"]["vllm-prefill-1"]
        assert (found["longest_matched"], found["DP"]) == (4 * SIZE, {"0": 3 * SIZE, "1": 4 * SIZE})
        gone = {"type": "vLLM", "modelname": MODEL, "instance_id": "vllm-prefill-1", "dp_rank": 1}
        assert conductor.post("/unregister", gone).status_code == 200
        assert conductor.post("/unregister", gone).status_code == 404
        found = conductor.post("/query", question).json()["default"]["vllm-prefill-1"]
        assert found["DP"] == {"0": 3 * SIZE}


def registration(publisher: EventPublisher, instance: str) -> dict[str, object]:
    """Of rank 0."""
    return {
        "endpoint": publisher.address,
        "replay_endpoint": publisher.replay_address,
        "modelname": MODEL,
        "instance_id": instance,
    }


def test_of_one_name_the_fleet_wins(conductor: ConductorUnderTest, engine_url: str) -> None:
    with EventPublisher() as registered, EventPublisher() as of_fleet, Asker(conductor.port) as asker:
        registered.publish(*blocks(0, 4))
        of_fleet.publish(*blocks(0, 2))
        assert conductor.post("/register", registration(registered, "union-0")).status_code == 200
        conductor.wait_applied(SOURCE, 0)
        # Coordinators are told of new endpoints together, a moment after those are live; then they count.
        wait_until(lambda: asker.match(PROMPT) == {ENDPOINT: 4 * SIZE}, "what is registered counts")
        conductor.tell(union(0, of_fleet, url=engine_url))
        wait_until(lambda: asker.match(PROMPT) == {ENDPOINT: 2 * SIZE}, "the fleet's own is followed")
        (described,) = conductor.get("/sources").json()["endpoints"]
        assert described["sources"][0]["events"] == of_fleet.address
        assert conductor.post("/register", registration(registered, "union-0")).status_code == 409
        assert conductor.post("/unregister", {"instance_id": "union-0"}).status_code == 404
        assert asker.match(PROMPT) == {ENDPOINT: 2 * SIZE}


def test_one_name_that_comes_and_goes_in_haste_is_followed_in_the_end(
    conductor: ConductorUnderTest, tmp_path: Path
) -> None:
    with EventPublisher() as first, EventPublisher() as second, Asker(conductor.port) as asker:
        second.publish(*blocks(0, 2))

        with httpx.Client(base_url=conductor.url, headers=conductor.headers, trust_env=False, timeout=60) as client:

            def hurry(number: int) -> None:
                if number % 3 == 0:
                    client.post("/unregister", json={"instance_id": "hasty"})
                else:
                    client.post("/register", json=registration((first, second)[number % 2], "hasty"))

            with ThreadPoolExecutor(8) as threads:
                list(threads.map(hurry, range(150)))
            client.post("/register", json=registration(second, "hasty"))
        wait_until(lambda: asker.match(PROMPT) == {"hasty/0": 2 * SIZE}, "it is followed where it is", 20)
    assert "mistake" not in (tmp_path / "conductor.log").read_text()


def test_a_host_that_cannot_be_one_is_no_mistake_of_the_conductor(
    conductor: ConductorUnderTest, tmp_path: Path
) -> None:
    misnamed = {"endpoint": "tcp://a..b:5557", "modelname": MODEL, "instance_id": "misnamed"}
    assert conductor.post("/register", misnamed).status_code == 400
    conductor.tell(union(0, url="http://a..b:8000"))
    wait_until(lambda: "does not answer" in conductor.get("/sources").text, "the one of the fleet was asked")
    log = (tmp_path / "conductor.log").read_text()
    assert "mistake" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("token_ids", "told"),
    [
        (["a"], "Expected `int`, got `str` - at `$.token_ids[0]`"),
        ([1, 2, -1], "Expected `int` >= 0 - at `$.token_ids[2]`"),
        ("many", "Expected `array`, got `str` - at `$.token_ids`"),
        # Read in pieces.
        ([*range(1_000_000_000, 1_000_100_000), 1.5, 3], "Expected `int`, got `float` - at `$.token_ids[100000]`"),
        (["a comma, " * 100_000], "Expected numbers only - at `$.token_ids`"),
    ],
)
def test_a_question_is_told_which_of_its_tokens_is_wrong(
    conductor: ConductorUnderTest, token_ids: object, told: str
) -> None:
    refused = conductor.post("/query", {"model": MODEL, "token_ids": token_ids})
    assert (refused.status_code, refused.json()["error"]) == (400, told)


def test_it_tells_how_many_coordinators_ask_it(conductor: ConductorUnderTest) -> None:
    assert conductor.get("/sources").json()["coordinator_connections"] == 0
    with Asker(conductor.port) as asker:
        asker.answer(asker.query([]))
        assert conductor.get("/sources").json()["coordinator_connections"] == 1


def test_the_http_api_says_what_is_wrong(conductor: ConductorUnderTest) -> None:
    assert conductor.post("/query", {"model": MODEL}).status_code == 400
    assert conductor.post("/query", {"model": MODEL, "token_ids": [-1]}).status_code == 400
    assert conductor.post("/query", {"model": MODEL, "token_ids": []}).json() == {"default": {}, "tokens": 0}
    for address in ("tcp://*:5557", "http://127.0.0.1:1", "tcp://127.0.0.1", "ipc:///x"):
        refused = conductor.post("/register", {"endpoint": address, "modelname": MODEL, "instance_id": "x"})
        assert refused.status_code == 400, address
    nameless = {"endpoint": "tcp://127.0.0.1:1", "modelname": "", "instance_id": "x"}
    refused = conductor.post("/register", nameless)
    assert (refused.status_code, "modelname" in refused.json()["error"]) == (400, True)
    other = nameless | {"modelname": MODEL, "replay_endpoint": "tcp://127.0.0.2:2"}
    assert conductor.post("/register", other).status_code == 400
    named = nameless | {"modelname": MODEL, "type": "another"}
    assert conductor.post("/register", named).status_code == 400
    bare = httpx.Client(base_url=conductor.url, trust_env=False, timeout=60)
    with bare:
        for path in ("/health", "/readiness", "/liveness", "/startup", "/metrics"):
            assert bare.get(path).status_code == 200
        assert bare.get("/sources").status_code == 401
        told = bare.get("/sources").json()["error"]
        assert "PYMOTOR_CLUSTER_TOKEN, or the file that PYMOTOR_CLUSTER_TOKEN_FILE names" in told
        assert "pymotor/NAME/token" in told
        assert bare.post("/query", json={}).status_code == 401
        assert bare.post("/register", json={}, headers={"Authorization": "Bearer not-the-token"}).status_code == 401


@pytest.mark.parametrize(
    "half",
    [
        b"GET /health HTTP/1.1\r\nHost: x\r\n",
        b"POST /register HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Length: 100\r\n\r\n{"
        % TOKEN.encode(),
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /hea",
    ],
)
def test_half_a_request_is_not_waited_for_for_ever(conductor: ConductorUnderTest, half: bytes) -> None:
    with socket.create_connection(("127.0.0.1", conductor.port), 60) as connection:
        connection.sendall(half)
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(4096):
                pass


# -- its end


def test_it_ends_when_told(tmp_path: Path) -> None:
    with ConductorUnderTest(tmp_path) as conductor, Asker(conductor.port) as asker:
        asker.match(PROMPT)
        conductor.process.ask_to_end()
        assert asker.read() is None
        wait_until(lambda: not conductor.process.alive, "it ends")
