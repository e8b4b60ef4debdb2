"""Media through encoders in every EC dialect: the answer is the plain engine's, whatever fails on the way."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import plain_http
import pytest
from answers import CHAT, Asked, ask_all, ask_one, assert_equal_answers
from fleet_under_test import PLAIN, Engines, Gateway, Role
from images import data_url, image_part, vision_chat
from processes import wait_until

from pymotor.operate.explain_command import lines_of

JSON = {"Content-Type": "application/json"}
MakeGateway = Callable[..., Gateway]
CONNECTORS = {"store": "ECExampleConnector", "pull": "ECCPUConnector", "push": "ECMooncakeConnector"}
EPD = ("encode-0", "encode-1", "prefill-0", "prefill-1", "decode-0", "decode-1")
WAYS = {"E+U": ("encode-0", "encode-1", "union-0", "union-1"), "E+P+D": EPD}
QUICK: dict[str, object] = {"exception_config": {"retry_delay": 0.02}}
AT_ONCE = 16
seeds = itertools.count(1000, 4)
"""Images that no other test here has: what an engine remembers of another test decides nothing."""


@pytest.fixture(scope="module", params=CONNECTORS)
def dialect(request: pytest.FixtureRequest) -> str:
    """The way embeddings go."""
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def fleet(dialect: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Two engines of each role; a test leaves them as it likes."""
    roles = {Role.ENCODE: 2, Role.PREFILL: 2, Role.DECODE: 2, Role.UNION: 2}
    with Engines(tmp_path_factory.mktemp(dialect), roles, ec_connector=CONNECTORS[dialect]) as running:
        yield running


@pytest.fixture
def engines(fleet: Engines) -> Engines:
    """All running and without faults."""
    fleet.restore()
    return fleet


def media_requests(number: int) -> list[Asked]:
    """Chats with images, videos and sounds: some shared between requests, some twice in one, streamed and whole."""
    asked = []
    first = next(seeds)
    video = {"type": "video_url", "video_url": {"url": data_url(b"frames of a film", "video/mp4")}}
    sound = {"type": "input_audio", "input_audio": {"data": "c291bmQ=", "format": "wav"}}
    for index in range(number):
        body: dict[str, Any] = vision_chat(*(first + index // 3 + step for step in range(index % 4)))
        content = body["messages"][0]["content"]
        if index % 3 == 0:
            content.insert(0, image_part(first + 1))
        if index % 5 == 1:
            content.insert(index % 2, video)
        if index % 7 == 1:
            content.append(sound)
        if index % 4 == 3:
            body["messages"].append({"role": "assistant", "content": "A picture."})
            body["messages"].append({"role": "user", "content": [content[0], {"type": "text", "text": "And this?"}]})
        body |= {"stream": index % 2 == 1, "ignore_eos": index % 3 == 2}
        asked.append(Asked(CHAT, body))
    return asked


def assert_as_plain(gateway: Gateway, engines: Engines, requests: list[Asked], way: str) -> None:
    """The answers are the plain engine's. Raises `AssertionError`."""

    async def both() -> None:
        answers = await ask_all(gateway.url, requests, AT_ONCE)
        assert_equal_answers(requests, answers, await ask_all(engines[PLAIN].url, requests, AT_ONCE), way)

    asyncio.run(both())
    gateway.wait_until_idle()


def outcomes(gateway: Gateway) -> dict[str, int]:
    """`pymotor_media_items_total` by outcome."""
    names = ("encoded", "shared", "joined", "reused", "inline")
    counts = {name: int(gateway.count("pymotor_media_items_total", outcome=name)) for name in names}
    return {name: count for name, count in counts.items() if count}


def encode_legs(gateway: Gateway) -> int:
    """How many ended well."""
    return int(gateway.count("pymotor_leg_seconds_count", leg="encode"))


@pytest.mark.parametrize(("way", "forward_media"), [("E+U", "never"), ("E+P+D", "prefill"), ("E+P+D", "never")])
def test_answers_are_the_plain_engines(
    engines: Engines, make_gateway: MakeGateway, dialect: str, way: str, forward_media: str
) -> None:
    gateway = make_gateway(engines, *WAYS[way], config={"encode_config": {"forward_media": forward_media}})
    assert_as_plain(gateway, engines, media_requests(24), f"{way}, {dialect}, {forward_media}")
    found = outcomes(gateway)
    assert found["encoded"] == encode_legs(gateway)
    assert found["shared"] > 0
    assert not found.get("inline")
    assert ("reused" in found) == (dialect == "store" and forward_media != "never")
    for name in WAYS[way]:
        wait_until(lambda name=name: engines[name].in_hand().keys() <= {"leases"}, f"{name} is idle")  # type: ignore[misc]


def test_several_answers_to_one_request(engines: Engines, make_gateway: MakeGateway) -> None:
    """Each answer is a handoff of its own, so each consumer needs the embeddings."""
    gateway = make_gateway(engines, *EPD)
    requests = [
        Asked(CHAT, vision_chat(next(seeds), n=3, seed=5, temperature=1.0, stream=stream)) for stream in (False, True)
    ]
    assert_as_plain(gateway, engines, requests, "n = 3")


def test_twenty_requests_at_once_with_one_image(engines: Engines, make_gateway: MakeGateway, dialect: str) -> None:
    gateway = make_gateway(engines, "encode-0", "encode-1", "prefill-0", "decode-0")
    for name in ("encode-0", "encode-1"):
        engines[name].fail("slow:seconds=0.5")
    seed = next(seeds)
    requests = [Asked(CHAT, vision_chat(seed, text=f"Question {number}?")) for number in range(20)]

    async def both() -> None:
        answers = await ask_all(gateway.url, requests, 20)
        assert_equal_answers(requests, answers, await ask_all(engines[PLAIN].url, requests, 20), "20 at once")

    asyncio.run(both())
    gateway.wait_until_idle()
    if dialect == "store":
        assert encode_legs(gateway) == 1
    found = outcomes(gateway)
    assert found["encoded"] == encode_legs(gateway)
    assert sum(found.values()) == 20
    assert (found.get("joined", 0) > 0) == (dialect != "push")


def test_a_chat_that_sends_its_image_again(engines: Engines, make_gateway: MakeGateway, dialect: str) -> None:
    gateway = make_gateway(engines, *EPD, config={"inference_workers_config": {"num_workers": 1}})
    body = vision_chat(next(seeds), max_tokens=4)
    for turn in range(4):
        answer = ask_one(gateway.url, body)
        assert answer.comparable == ask_one(engines[PLAIN].url, body).comparable
        body["messages"] += [  # type: ignore[operator]
            {"role": "assistant", "content": answer.choices[0].text or "-"},
            {"role": "user", "content": f"And then, {turn}?"},
        ]
    assert encode_legs(gateway) == (1 if dialect == "store" else 4)


def test_explain_has_the_encoder_of_each_item(engines: Engines, make_gateway: MakeGateway, dialect: str) -> None:
    gateway = make_gateway(engines, *EPD, config={"inference_workers_config": {"num_workers": 1}})
    first = next(seeds)
    body = vision_chat(first, first + 1, first)

    def explained() -> dict[str, Any]:
        asked = plain_http.post(f"{gateway.management_url}/explain", json={"path": CHAT, "body": body}, timeout=60)
        found: dict[str, Any] = asked.raise_for_status().json()
        return found

    before = explained()
    legs = [leg for leg in before["legs"] if leg["role"] == "encode"]
    assert [(leg["item"], leg["by"]) for leg in legs] == [(0, "item"), (1, "item")], "equal items are one"
    assert [leg["role"] for leg in before["legs"]] == ["encode", "encode", "prefill", "decode"]
    chosen = [one["endpoint"] for leg in legs for one in leg["endpoints"] if one["chosen"]]
    for leg in legs:
        assert {one["endpoint"].partition("/")[0] for one in leg["endpoints"]} == {"encode-0", "encode-1"}
        assert sorted(one["place"] for one in leg["endpoints"]) == [1, 2]
        assert all(one["chosen"] == (one["place"] == 1) or one.get("excluded") for one in leg["endpoints"])
    assert "encode, media item 1, by item, no load above" in "\n".join(lines_of(before))
    answer = ask_one(gateway.url, body)
    encoders = sorted(name for leg, name in answer.legs if leg == "encode")
    assert encoders == sorted(endpoint.partition("/")[0] for endpoint in chosen)
    after = explained()["legs"][:2]
    assert [leg["by"] for leg in after] == ["store" if dialect == "store" else "item"] * 2
    if dialect == "store":
        assert [leg["note"].partition(" ")[0] for leg in after] == [one.partition("/")[0] for one in chosen]
        assert "it is not encoded again" in "\n".join(lines_of(explained()))


def test_explain_sends_a_file_as_it_is(engines: Engines, make_gateway: MakeGateway, tmp_path: Path) -> None:
    gateway = make_gateway(engines, *EPD, config={"scheduler_config": {"scheduler_type": "prefix_hash"}})
    spaced, compact = tmp_path / "spaced.json", tmp_path / "compact.json"
    body = vision_chat(next(seeds))
    spaced.write_text(json.dumps(body, indent=4))
    compact.write_text(json.dumps(body, separators=(",", ":")))

    def explained(file: Path) -> Any:
        argv = [sys.executable, "-m", "pymotor", "explain", "--management", gateway.management_url, "--json"]
        done = subprocess.run([*argv, "--body", file], capture_output=True, timeout=60, check=True)
        return json.loads(done.stdout)

    for file in (spaced, compact):
        asked = b'{"body":' + file.read_bytes() + b"}"
        answer = plain_http.post(f"{gateway.management_url}/explain", content=asked, timeout=60)
        assert explained(file) == answer.raise_for_status().json()
    encoders = [
        [one for leg in explained(file)["legs"] if leg["role"] == "encode" for one in leg["endpoints"]]
        for file in (spaced, compact)
    ]
    assert encoders[0] == encoders[1], "the same picture has the same encoder however its JSON is written"


def test_two_writers_of_one_picture_have_it_encoded_once(
    engines: Engines, make_gateway: MakeGateway, dialect: str
) -> None:
    gateway = make_gateway(engines, *EPD, config={"inference_workers_config": {"num_workers": 1}})
    part = json.dumps(image_part(next(seeds)))
    compact = part.replace(": ", ":").replace(", ", ",")
    content = f"[{part}, {compact}, {part.replace('/', chr(92) + '/')}]"
    text = json.dumps({**vision_chat(), "messages": [{"role": "user", "content": []}]}).replace("[]", content)
    answer = plain_http.post(gateway.url + CHAT, content=text.encode(), headers=JSON, timeout=60)
    assert answer.status_code == 200, answer.text
    gateway.wait_until_idle()
    assert outcomes(gateway) == {"encoded": 1, "shared": 2}


def test_an_encoder_that_fails_once(engines: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(engines, *EPD, config=QUICK)
    faults = ("error:code=500,count=1", "error:code=503,count=1", "reset:count=1", "cut:after=1,count=1", "die")
    for fault in faults:
        engines["encode-0"].fail(fault)
        requests = [Asked(CHAT, vision_chat(next(seeds), stream=bool(n % 2))) for n in range(6)]
        assert_as_plain(gateway, engines, requests, fault)
    # A reset of an idle connection that is used again is none.
    assert gateway.count("pymotor_leg_failures_total", leg="encode") >= len(faults) - 1
    assert outcomes(gateway) == {"encoded": 30}


@pytest.mark.parametrize("fallback", ["inline", "fail"])
def test_when_no_encoder_can(engines: Engines, make_gateway: MakeGateway, dialect: str, fallback: str) -> None:
    """A consumer that is pushed to waits for every item and encodes none itself: nothing can go to it as media."""
    config = {"exception_config": {"retry_delay": 0.02, "first_token_timeout": 3}}
    gateway = make_gateway(engines, *EPD, config={**config, "encode_config": {"fallback": fallback}})
    encoders = [engines["encode-0"], engines["encode-1"]]
    for number, fault in enumerate(("error:code=500", "reset", "hang", "kill")):
        for engine in encoders:
            engine.kill() if fault == "kill" else engine.fail(fault)
        body = vision_chat(next(seeds), next(seeds), stream=bool(number % 2))
        answer = ask_one(gateway.url, body)
        if fallback == "inline" and dialect != "push":
            assert answer.comparable == ask_one(engines[PLAIN].url, body).comparable
        else:
            assert answer.status == 502
            assert answer.error is not None
            assert answer.error["code"] == "encode_failed"
            assert "127.0.0.1" not in answer.error["message"]
    gateway.wait_until_idle()


@pytest.mark.parametrize("forward_media", ["prefill", "never"])
def test_one_item_of_several_fails(
    engines: Engines, make_gateway: MakeGateway, dialect: str, forward_media: str
) -> None:
    """Media and metadata of one modality never mix: engines refuse that."""
    config = {**QUICK, "encode_config": {"forward_media": forward_media}}
    gateway = make_gateway(engines, "encode-0", "prefill-0", "decode-0", config=config)
    engines["encode-0"].fail("error:code=500,count=1")
    body = vision_chat(next(seeds), next(seeds), next(seeds))
    answer = ask_one(gateway.url, body)
    if dialect == "push":
        assert answer.status == 502
        return
    assert answer.comparable == ask_one(engines[PLAIN].url, body).comparable
    assert outcomes(gateway) == {"encoded": 2, "inline": 1}


def test_a_later_leg_that_is_tried_again_has_its_embeddings(
    engines: Engines, make_gateway: MakeGateway, dialect: str
) -> None:
    gateway = make_gateway(engines, *EPD, config=QUICK)
    for number, leg in enumerate(("prefill", "decode"), 1):
        engines[f"{leg}-0"].fail("error:code=500,count=1")
        requests = [Asked(CHAT, vision_chat(next(seeds), stream=bool(n % 2))) for n in range(6)]
        assert_as_plain(gateway, engines, requests, f"{leg} fails once")
        assert gateway.count("pymotor_leg_failures_total", leg=leg) == 1
        assert encode_legs(gateway) == (6 if dialect == "store" else 7) * number


def test_a_lost_embedding_is_made_good(engines: Engines, make_gateway: MakeGateway, dialect: str) -> None:
    """With the media at hand the stage that reads encodes again. Who is pushed to waits in vain, and fails."""
    gateway = make_gateway(engines, *EPD, config=QUICK)
    for name in ("encode-0", "encode-1"):
        engines[name].fail("ec_push_lost:count=1" if dialect == "push" else "ec_drop:count=1")
    requests = [Asked(CHAT, vision_chat(next(seeds), stream=bool(n % 2))) for n in range(4)]
    assert_as_plain(gateway, engines, requests, "lost embeddings")
    failed = gateway.count("pymotor_leg_failures_total", leg="prefill")
    assert (failed > 0) == (dialect == "push")
    assert encode_legs(gateway) == 4 + failed


def test_a_silent_encoder_is_not_waited_for_alone(engines: Engines, make_gateway: MakeGateway, dialect: str) -> None:
    """A push is not hedged: the one that loses would hold its place in the consumer's memory."""
    hedges = dialect != "push"
    config = {**QUICK, "encode_config": {"hedge_after": 0.1}}
    if not hedges:
        config["exception_config"] = {"first_token_timeout": 3}
    gateway = make_gateway(engines, *EPD, config=config)
    engines["encode-0"].fail("hang")
    requests = [Asked(CHAT, vision_chat(next(seeds), stream=bool(n % 2))) for n in range(6)]
    assert_as_plain(gateway, engines, requests, "a silent encoder")
    assert outcomes(gateway) == {"encoded": 6}
    assert (gateway.count("pymotor_hedged_legs_total") > 0) == hedges
    assert (gateway.count("pymotor_leg_failures_total", leg="encode") == 0) == hedges
