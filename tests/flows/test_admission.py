"""Limits at endpoints, and the line of those that wait: its order, its end, its deadline, and who leaves it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import plain_http
import psutil  # type: ignore[import-untyped]
import pytest
from fleet_under_test import MODEL, Engine, Engines, Gateway, Role
from images import text_chat, vision_chat
from processes import wait_until
from raw_client import RawConnection, post

ONE_AT_A_TIME = {"max_running": {"union": 1}, "max_queued": 4, "queue_timeout": 600.0}
LONGEST = 180.0
"""Seconds that a request may wait in the line and for its answer."""
BLOCKS, BLOCK = 40, 16


@pytest.fixture(scope="module")
def union(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """One union engine."""
    with Engines(tmp_path_factory.mktemp("limited"), {Role.UNION: 1}, plain=False) as running:
        yield running


@pytest.fixture
def limited(union: Engines) -> Iterator[Gateway]:
    """Three workers that let one request at a time through."""
    union.restore()
    with Gateway(union, config={"request_limit": ONE_AT_A_TIME}, workers=3) as running:
        yield running
    union.restore()


def queued(gateway: Gateway) -> float:
    """How many requests wait."""
    return gateway.count("pymotor_queue_length")


def held(engines: Engines, name: str, gateway: Gateway) -> RawConnection:
    """A stream that the engine keeps silent after its first event; it holds its place until it is closed."""
    engines[name].fail("stall:after=2,count=1")
    connection = RawConnection(gateway.port)
    connection.send(post(json.dumps(text_chat("hold", stream=True, max_tokens=50, ignore_eos=True)).encode()))
    assert connection.socket.recv(1), "the stream has begun"
    return connection


async def ask(gateway: Gateway, name: str, **fields: object) -> httpx.Response:
    """A whole answer. Each is a connection of its own, so that workers share them; the id of its trace is its name."""
    async with httpx.AsyncClient(timeout=LONGEST, verify=plain_http.CONTEXT) as client:
        body = {"model": MODEL, "prompt": name, "max_tokens": 2, **fields}
        headers = {"traceparent": f"00-{name.encode().hex():0>32}-{1:016x}-00"}
        return await client.post(f"{gateway.url}/v1/completions", json=body, headers=headers)


def served(engine: Engine) -> list[str]:
    """The names of requests in the order in which they came to the engine. Clients may read their ends in another one:
    each worker sends its own."""
    requests = plain_http.get(f"{engine.url}/sim/traces").raise_for_status().json()["requests"]
    return [bytes.fromhex(one["traceparent"].split("-")[1]).lstrip(b"\0").decode() for one in requests]


async def until_queued(gateway: Gateway, count: int) -> None:
    """Wait until so many wait."""
    await asyncio.to_thread(wait_until, lambda: queued(gateway) == count, f"{count} wait")


async def test_those_who_wait_go_by_priority_then_by_arrival(union: Engines, limited: Gateway) -> None:
    holder = await asyncio.to_thread(held, union, "union-0", limited)
    tasks = []
    for count, (name, priority) in enumerate((("late", 7), ("first", 0), ("second", 0), ("urgent", -1)), start=1):
        tasks.append(asyncio.ensure_future(ask(limited, name, priority=priority)))
        await until_queued(limited, count)
    full = await ask(limited, "one too many")
    assert full.status_code == 429
    assert full.json()["error"]["code"] == "queue_full"
    assert int(full.headers["retry-after"]) >= 1
    assert [in_flight for _, in_flight in limited.loads().values()] == [1]
    holder.socket.close()
    answers = await asyncio.gather(*tasks)
    assert [answer.status_code for answer in answers] == [200] * 4
    assert served(union["union-0"])[-4:] == ["urgent", "first", "second", "late"]
    limited.wait_until_idle()
    assert queued(limited) == 0
    assert limited.count("pymotor_queue_seconds_count") == 4
    assert limited.count("pymotor_rejections_total", reason="queue_full") == 1


async def test_who_leaves_makes_room_in_the_line_at_once(union: Engines, limited: Gateway) -> None:
    holder = await asyncio.to_thread(held, union, "union-0", limited)
    leaving = [asyncio.ensure_future(ask(limited, f"leaves {number}")) for number in range(4)]
    await until_queued(limited, 4)
    for task in leaving:
        task.cancel()
    await until_queued(limited, 0)
    staying = asyncio.ensure_future(ask(limited, "stays"))
    await until_queued(limited, 1)
    holder.socket.close()
    assert (await staying).status_code == 200
    limited.wait_until_idle()


async def test_a_deadline_is_told_with_503(union: Engines) -> None:
    union.restore()
    limits = {"max_running": {"union": 1}, "queue_timeout": 0.2}
    with Gateway(union, config={"request_limit": limits}) as impatient:
        holder = await asyncio.to_thread(held, union, "union-0", impatient)
        late = await ask(impatient, "late")
        assert late.status_code == 503
        assert late.json()["error"]["code"] == "queue_timeout"
        assert int(late.headers["retry-after"]) >= 1
        assert impatient.count("pymotor_rejections_total", reason="queue_timeout") == 1
        wrong = await ask(impatient, "wrong", priority="high")
        assert wrong.status_code == 400
        holder.socket.close()
        impatient.wait_until_idle()
    union.restore()


async def test_many_at_once_are_all_answered_within_the_limit(union: Engines) -> None:
    """Also those that no worker's own waiter freed a place for: nobody is forgotten."""
    union.restore()
    limits = {"max_running": {"union": 2}, "max_queued": 200, "queue_timeout": 600.0}
    with Gateway(union, config={"request_limit": limits}, workers=3) as gateway:
        answers = await asyncio.gather(*(ask(gateway, f"{number}", max_tokens=8) for number in range(80)))
        assert [answer.status_code for answer in answers] == [200] * 80
        gateway.wait_until_idle()
        assert queued(gateway) == 0


def worker_of(gateway: Gateway, connection: RawConnection) -> int:
    """The process id of the worker that has this client."""
    port = connection.socket.getsockname()[1]
    found: list[int] = []

    def is_found() -> bool:
        # The kernel's table is read in pieces: of one that changes meanwhile a line may be missed.
        found.extend(
            process.pid
            for process in psutil.Process(gateway.process.pid).children(recursive=True)
            if any(known.raddr and known.raddr.port == port for known in process.net_connections("tcp"))
        )
        return bool(found)

    wait_until(is_found, "a worker has the client's connection")
    return found[0]


def at_another_worker(gateway: Gateway, worker: int, clients: ExitStack) -> RawConnection:
    """A connection that another worker has; the kernel spreads them."""
    for _ in range(100):
        connection = clients.enter_context(RawConnection(gateway.port))
        connection.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.reply().status == 200
        if worker_of(gateway, connection) != worker:
            return connection
    raise AssertionError("all connections went to one worker")


def test_a_worker_that_dies_gives_its_places_and_its_place_in_line_back(union: Engines, limited: Gateway) -> None:
    with ExitStack() as clients:
        holder = clients.enter_context(held(union, "union-0", limited))
        doomed = worker_of(limited, holder)
        waiting = at_another_worker(limited, doomed, clients)
        # First in line is one of the worker that dies.
        earlier = clients.enter_context(RawConnection(limited.port))
        while worker_of(limited, earlier) != doomed:
            earlier = clients.enter_context(RawConnection(limited.port))
        for count, connection in enumerate((earlier, waiting), start=1):
            connection.send(post(json.dumps(text_chat("waits", max_tokens=2)).encode()))
            wait_until(lambda count=count: queued(limited) == count, f"{count} wait")  # type: ignore[misc]
        os.kill(doomed, signal.SIGKILL)
        assert waiting.reply().status == 200
        limited.wait_until_idle()
        wait_until(lambda: limited.fleet()["workers_listening"] == 3, "another worker listens")
        assert queued(limited) == 0
        again = clients.enter_context(RawConnection(limited.port))
        again.send(post(json.dumps(text_chat("again", max_tokens=2)).encode()))
        assert again.reply().status == 200


def test_an_endpoints_charge_grows_with_the_answer(union: Engines) -> None:
    union.restore()
    with Gateway(union) as gateway, ExitStack() as clients:
        charges: list[float] = []
        lengths = (5, 5 + 64, 5 + 256)
        for events in lengths:
            before = sum(load for load, _ in gateway.loads().values())
            union["union-0"].fail(f"stall:after={events},count=1")
            connection = clients.enter_context(RawConnection(gateway.port))
            body = text_chat("grows", stream=True, max_tokens=400, ignore_eos=True)
            connection.send(post(json.dumps(body).encode()))
            received = b""
            while received.count(b"data: ") < events:
                piece = connection.socket.recv(65536)
                assert piece, "the stream goes on"
                received += piece
            charges.append(sum(load for load, _ in gateway.loads().values()) - before)
        # Each token is 0.3; at most 64 of them, and the few events without one, are not counted yet.
        for charge, events in zip(charges, lengths, strict=True):
            assert 0.3 * (events - 64 - 5) - 0.01 <= charge - charges[0] <= 0.3 * events + 0.01, charges
        assert charges[2] > charges[0]
        clients.close()
        gateway.wait_until_idle()


def vision_body(seed: int, tokens: int) -> bytes:
    """A stream with one image that may generate `tokens`."""
    return post(json.dumps(vision_chat(seed, stream=True, max_tokens=tokens, ignore_eos=True)).encode())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Engines whose KV cache is 40 blocks of 16 tokens."""
    flags = ["--num-gpu-blocks-override", str(BLOCKS), "--block-size", str(BLOCK), "--max-model-len", "512"]
    roles = {Role.ENCODE: 1, Role.PREFILL: 1, Role.DECODE: 1, Role.UNION: 1}
    with Engines(tmp_path_factory.mktemp("small"), roles, flags=flags, plain=False) as running:
        yield running


@pytest.mark.parametrize("told", [True, False], ids=["in the snapshot", "read from the engine"])
def test_a_request_with_media_waits_for_room_for_all_its_kv(small: Engines, told: bool) -> None:
    small.restore()
    gateway = Gateway(small, ["encode-0", "prefill-0", "decode-0"], workers=2)
    gateway.changes["decode-0"] = {"kv_capacity_tokens": BLOCKS * BLOCK if told else None}
    with gateway:
        if not told:
            wait_until(lambda: capacity(gateway, "decode-0/0") == BLOCKS * BLOCK, "the capacity is known")
        small["decode-0"].fail("stall:after=2,count=1")
        with RawConnection(gateway.port) as first, RawConnection(gateway.port) as second:
            first.send(vision_body(1, 350))
            assert first.socket.recv(1), "the stream has begun"
            second.send(vision_body(2, 350))
            wait_until(lambda: queued(gateway) == 1, "the second waits")
            text = plain_http.post(f"{gateway.url}/v1/chat/completions", json=text_chat("text", max_tokens=4))
            assert text.status_code == 200, "text does not wait for it"
            first.socket.close()
            assert second.reply().status == 200
        gateway.wait_until_idle()
        assert small["decode-0"].metric("vllm:num_preemptions_total") == 0


def capacity(gateway: Gateway, endpoint: str) -> int | None:
    """What the Coordinator knows of an endpoint's KV cache, in tokens."""
    for instance in gateway.fleet()["instances"]:
        for found in instance["endpoints"]:
            if found["id"] == endpoint:
                known: int | None = found["kv_capacity_tokens"]
                return known
    return None


def test_what_fits_into_no_decode_endpoint_goes_to_union_or_is_refused(small: Engines, tmp_path: Path) -> None:
    small.restore()
    names = ["encode-0", "prefill-0", "decode-0"]
    for extra, status in (([], 400), (["union-0"], 200)):
        config = {"scheduler_config": {"prefill_threshold": 0}}
        gateway = Gateway(small, [*names, *extra], config=config)
        gateway.changes["decode-0"] = {"kv_capacity_tokens": 64}
        with gateway:
            body = vision_chat(3, max_tokens=200)
            answer = plain_http.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=60)
            assert answer.status_code == status, answer.text
            if status == 400:
                assert answer.json()["error"]["code"] == "kv_cache_too_small"
            gateway.wait_until_idle()
