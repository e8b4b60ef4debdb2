"""Responses that engines keep: found by their id whichever worker is asked, gone on from, cancelled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import plain_http
import pytest
from fleet_under_test import MODEL, PLAIN, Engines, Gateway, Role
from openai import OpenAI
from processes import wait_until

PATH = "/v1/responses"
TEXT = "Tell me about the sea, and of what is in it. " * 3


@pytest.fixture(scope="module")
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Engines that keep responses, slow enough for one to be cancelled."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLLM_ENABLE_RESPONSES_API_STORE", "1")
        roles = {Role.PREFILL: 1, Role.DECODE: 2, Role.UNION: 1}
        with Engines(tmp_path_factory.mktemp("keeping"), roles, flags=("--sim-speed", "0.5")) as running:
            yield running


@pytest.fixture(scope="module")
def gateway(keeping: Engines) -> Iterator[Gateway]:
    """Two workers before prefill and two decode engines."""
    with Gateway(keeping, ["prefill-0", "decode-0", "decode-1"], workers=2) as running:
        yield running


def create(url: str, **fields: object) -> dict[str, Any]:
    """A response object."""
    body = {"model": MODEL, "input": TEXT, "max_output_tokens": 6, "temperature": 0, **fields}
    reply = plain_http.post(url + PATH, json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def get(url: str, response_id: str, query: str = "") -> httpx.Response:
    """By a connection of its own, so by any worker."""
    return plain_http.get(f"{url}{PATH}/{response_id}{query}", timeout=60)


def text_of(response: dict[str, Any]) -> str:
    """What it says."""
    return "".join(part["text"] for item in response["output"] for part in item["content"])


def test_every_worker_finds_every_response(gateway: Gateway) -> None:
    created = [create(gateway.url) for _ in range(6)]
    assert len({response["id"] for response in created}) == 6
    for response in created:
        for _ in range(4):
            assert get(gateway.url, response["id"]).json() == response
    gateway.wait_until_idle()


def test_a_conversation_goes_on_at_its_holder(keeping: Engines, gateway: Gateway) -> None:
    said: dict[str, list[str]] = {}
    for url in (gateway.url, keeping[PLAIN].url):
        first = create(url)
        second = create(url, previous_response_id=first["id"], input="And of the fish?")
        third = create(url, previous_response_id=second["id"], input="And of the ships?")
        assert third["previous_response_id"] == second["id"]
        said[url] = [text_of(response) for response in (first, second, third)]
        assert third["usage"]["input_tokens"] > second["usage"]["input_tokens"] > first["usage"]["input_tokens"]
    assert said[gateway.url] == said[keeping[PLAIN].url]


def test_going_on_takes_one_leg_to_the_engine_that_holds_it(gateway: Gateway) -> None:
    def legs(**fields: object) -> tuple[str, str]:
        body = {"model": MODEL, "input": TEXT, "max_output_tokens": 3, **fields}
        reply = plain_http.post(gateway.url + PATH, json=body, timeout=60)
        return reply.json()["id"], reply.headers["server-timing"]

    for _ in range(4):
        first, timing = legs()
        holder = timing.split('"')[-2]
        assert timing.startswith("prefill")
        second, timing = legs(previous_response_id=first)
        assert timing.startswith(f'decode;desc="{holder}"')
        assert "," not in timing
        assert second[-16:] == first[-16:]


def test_one_in_the_background_is_polled_and_cancelled(gateway: Gateway) -> None:
    running = create(gateway.url, background=True, max_output_tokens=8000, ignore_eos=True)
    assert running["status"] in ("queued", "in_progress")
    assert get(gateway.url, running["id"]).json()["status"] in ("queued", "in_progress")
    cancelled = plain_http.post(f"{gateway.url}{PATH}/{running['id']}/cancel", timeout=60)
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert get(gateway.url, running["id"]).json()["status"] == "cancelled"

    short = create(gateway.url, background=True)
    wait_until(lambda: get(gateway.url, short["id"]).json()["status"] in ("completed", "incomplete"), "it is done")
    assert text_of(get(gateway.url, short["id"]).json()) == text_of(create(gateway.url))
    gateway.wait_until_idle()


def test_a_stream_in_the_background_is_taken_up_again(gateway: Gateway) -> None:
    # An answer that ends with its first token has no events behind the third, and an engine then waits for them.
    asked = {"model": MODEL, "input": TEXT, "max_output_tokens": 6, "ignore_eos": True}
    body = {**asked, "background": True, "stream": True}
    events = plain_http.post(gateway.url + PATH, json=body, timeout=60).text.strip().split("\n\n")
    response_id = json.loads(events[0].partition("data: ")[2])["response"]["id"]
    again = get(gateway.url, response_id, "?stream=true")
    assert again.headers["content-type"].startswith("text/event-stream")
    assert again.text.strip().split("\n\n") == events
    later = get(gateway.url, response_id, "?stream=true&starting_after=3")
    assert later.text.strip().split("\n\n") == events[4:]
    gateway.wait_until_idle()


def test_what_is_not_kept_is_not_found(gateway: Gateway) -> None:
    kept = create(gateway.url)["id"]
    forgotten = create(gateway.url, store=False)["id"]
    for response_id in (forgotten, "resp_" + "0" * 48, "resp_1", "x" * 200, kept[:-1] + "g", kept.upper()):
        reply = get(gateway.url, response_id)
        assert reply.status_code == 404, response_id
        assert reply.json()["error"]["message"]
    assert get(gateway.url, "..%2f..%2fhealth").status_code == 404
    assert get(gateway.url, "a/b").status_code == 404
    finished = plain_http.post(f"{gateway.url}{PATH}/{kept}/cancel", timeout=60)
    assert finished.status_code == 400


@pytest.mark.parametrize(("method", "tail", "allowed"), [
    ("PUT", "", "GET, DELETE"), ("POST", "", "GET, DELETE"), ("HEAD", "", "GET, DELETE"), ("GET", "/cancel", "POST"),
])  # fmt: skip
def test_other_methods_are_not_allowed(gateway: Gateway, method: str, tail: str, allowed: str) -> None:
    reply = plain_http.request(method, f"{gateway.url}{PATH}/resp_1{tail}", timeout=60)
    assert (reply.status_code, reply.headers["allow"]) == (405, allowed)


def test_a_holder_that_is_gone(keeping: Engines) -> None:
    with Gateway(keeping, ["prefill-0", "decode-0", "union-0"]) as gateway:
        gateway.use("union-0")
        wait_until(lambda: "union-0" in plain_http.post(
            gateway.url + PATH, json={"model": MODEL, "input": "x"}, timeout=60
        ).headers.get("server-timing", ""), "union answers")  # fmt: skip
        kept = create(gateway.url)["id"]
        assert get(gateway.url, kept).status_code == 200
        gateway.use("prefill-0", "decode-0")
        wait_until(lambda: get(gateway.url, kept).status_code == 404, "nobody looks for it any more")


def test_the_sdk(gateway: Gateway) -> None:
    client = OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0, timeout=60)
    created = client.responses.create(model=MODEL, input=TEXT, max_output_tokens=5, temperature=0)
    assert created.output_text
    assert client.responses.retrieve(created.id).output_text == created.output_text
    going_on = client.responses.create(model=MODEL, input="Go on.", previous_response_id=created.id)
    assert going_on.previous_response_id == created.id
    with client.responses.stream(model=MODEL, input=TEXT, max_output_tokens=5, temperature=0) as stream:
        assert stream.get_final_response().output_text == created.output_text
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_" + "1" * 48)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model=MODEL, input="Go on.", previous_response_id="resp_" + "1" * 48)
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(created.id)
