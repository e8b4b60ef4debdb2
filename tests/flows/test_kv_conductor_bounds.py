"""What the KV Conductor refuses and bounds, as a process: of clients, of people and of pages in their browsers."""

from __future__ import annotations

import socket
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from conductor_under_test import MODEL, TOKEN, Asker, ConductorUnderTest
from event_publisher import EventPublisher, stored
from processes import wait_until

from pymotor.fleet.prefix_queries import (
    LENGTH_BYTES,
    LONGEST_BOUNDED,
    LONGEST_NAME,
    MOST_MEDIA,
    MOST_TOKENS,
    PrefixQuery,
    bounded,
)
from pymotor.kv_conductor.http_api import LONGEST_BODY

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
    for address in ("tcp://h:1" + "1" * 1024, f"tcp://{'h.' * 600}:1"):
        refused = conductor.post("/register", {"endpoint": address, "modelname": MODEL, "instance_id": "x"})
        assert refused.status_code == 400
    for name in ("model", "lora_name"):
        refused = conductor.post("/query", question | {name: "n" * (LONGEST_NAME + 1)})
        assert (refused.status_code, name in refused.json()["error"]) == (400, True)


def test_a_prompt_over_http_has_no_more_tokens_than_are_compared(conductor: ConductorUnderTest) -> None:
    def asked(token_ids: str) -> httpx.Response:
        content = f'{{"token_ids" : {token_ids} , "model": "{MODEL}"}}'
        return httpx.post(
            f"{conductor.url}/query", content=content, headers=conductor.headers, timeout=60, trust_env=False
        )

    prompt = [*PROMPT, *[2**32 - 1] * (MOST_TOKENS - len(PROMPT))]
    with EventPublisher() as publisher:
        follow(conductor, publisher, stored(range(6), PROMPT))
        found = asked(str(prompt)).json()
        assert found["tokens"] == MOST_TOKENS
        assert found["default"]["one"]["longest_matched"] == len(PROMPT)
    refused = asked(str([*prompt, 0]))
    assert (refused.status_code, str(MOST_TOKENS) in refused.json()["error"]) == (413, True)
    for wrong in (str([*[0] * 200_000, -1]), str([*[0] * 200_000, [0]]), f'"{"0," * 200_000}"', "{}", "[1.5]"):
        assert asked(wrong).status_code == 400
    assert asked(" " * LONGEST_BODY + "[1]").status_code == 413


@pytest.fixture
def open_conductor(tmp_path: Path) -> Iterator[ConductorUnderTest]:
    with ConductorUnderTest(tmp_path, token="") as found:
        yield found


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "rebound.example"},
        {"Host": "rebound.example:13333", "Origin": "http://rebound.example:13333"},
        {"Host": "rebound.example", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "http://elsewhere.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_without_a_token_no_page_is_answered(open_conductor: ConductorUnderTest, headers: dict[str, str]) -> None:
    """A page may have a name that leads to this machine."""
    with httpx.Client(base_url=open_conductor.url, trust_env=False, timeout=60) as client:
        registration = {"endpoint": "tcp://192.0.2.1:80", "modelname": MODEL, "instance_id": "x"}
        for refused in (
            client.get("/sources", headers=headers),
            client.post("/register", json=registration, headers=headers),
        ):
            assert (refused.status_code, "localhost" in refused.json()["error"]) == (403, True)
        assert client.get("/metrics", headers=headers).status_code == 200
        for host in ("localhost:1", "127.0.0.1", socket.gethostname()):
            assert client.get("/sources", headers={"Host": host}).json()["endpoints"] == []


def test_with_the_token_any_name_leads_here(conductor: ConductorUnderTest) -> None:
    headers = {**conductor.headers, "Host": "kv-conductor.cluster"}
    assert httpx.get(f"{conductor.url}/sources", headers=headers, trust_env=False, timeout=60).status_code == 200


def test_who_leaves_in_the_middle_of_a_request_is_no_mistake(conductor: ConductorUnderTest, tmp_path: Path) -> None:
    head = f"POST /query HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 100\r\n\r\n{{"
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", conductor.port), 60) as client:
            client.sendall(head.encode())
            client.shutdown(socket.SHUT_WR)
            while client.recv(4096):
                pass
    conductor.process.ask_to_end()
    wait_until(lambda: not conductor.process.alive, "it ends")
    log = (tmp_path / "conductor.log").read_text()
    assert "Traceback" not in log
    assert "ERROR" not in log


@pytest.mark.parametrize("host", ["a..b", ".a", "x" * 64, "h\0x", "h x"])
def test_a_name_that_nobody_can_look_for_is_not_registered(conductor: ConductorUnderTest, host: str) -> None:
    address = f"tcp://{host}:5557"
    good = {"endpoint": "tcp://127.0.0.1:1", "modelname": MODEL, "instance_id": "x"}
    for wrong in ({"endpoint": address}, {"endpoint": address, "replay_endpoint": address}):
        refused = conductor.post("/register", good | wrong)
        assert (refused.status_code, "no address" in refused.json()["error"]) == (400, True)
    assert conductor.get("/sources").json()["endpoints"] == []


def test_all_questions_are_counted_and_timed(conductor: ConductorUnderTest) -> None:
    with Asker(conductor.port) as asker:
        for _ in range(3):
            asker.match(PROMPT)
        for _ in range(2):
            assert conductor.post("/query", {"model": MODEL, "token_ids": PROMPT}).status_code == 200
        assert conductor.post("/query", {"model": MODEL, "token_ids": [-1]}).status_code == 400
        assert (conductor.metric("queries_total"), conductor.metric("query_seconds_count")) == (5, 5)
