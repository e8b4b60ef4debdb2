"""Streams that break off in their midst: carried on elsewhere without a token lost or doubled, or ended by an error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import plain_http
import pytest
from answers import CHAT, COMPLETIONS, Answer, ask_one, events_of, read_stream
from fleet_under_test import PLAIN, Engines, Gateway
from images import text_chat, vision_chat
from processes import wait_until

TOKENS = 40
CONFIG: dict[str, Any] = {
    "exception_config": {"retry_delay": 0.02, "circuit_failures": 0},
    "http_config": {"stream_idle_timeout": 3},
}
PAIRS = ("prefill-0", "prefill-1", "decode-0", "decode-1")
BREAKS = ["exit:after=9", "cut:after=9", "stall:after=9", "recomputed:after=9"]


@pytest.fixture(scope="module")
def before_all(fragile: Engines) -> Iterator[Gateway]:
    """One Gateway for all of these tests; what they do to the engines is mended in between."""
    fragile.restore()
    with Gateway(fragile, PAIRS, config=CONFIG, label="carrying") as running:
        yield running


@pytest.fixture
def gateway(before_all: Gateway, mended: Engines) -> Iterator[Gateway]:
    """The same, with nothing in hand after the test."""
    assert mended is before_all.engines
    before_all.use(*PAIRS)
    yield before_all
    before_all.wait_until_idle()


def chat(**fields: object) -> dict[str, Any]:
    """A greedy streamed chat that does not ask for token ids."""
    body = text_chat(stream=True, max_tokens=TOKENS, ignore_eos=True, stream_options={"include_usage": True})
    del body["return_token_ids"]
    return {**body, **fields}


def completion(**fields: object) -> dict[str, Any]:
    """The same as a completion."""
    body = {**chat(), "prompt": "Tell me a story."}
    del body["messages"]
    return {**body, **fields}


def stream_of(url: str, body: dict[str, Any], path: str = CHAT) -> str:
    """The stream that answers the request, whole."""
    reply = plain_http.post(url + path, json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply.text


def answer_of(stream: str) -> Answer:
    """The answer in a stream."""
    return read_stream(stream, httpx.Headers())


def carried_on(gateway: Gateway, outcome: str = "carried_on") -> float:
    """How many streams that broke off went this way."""
    return gateway.count("pymotor_broken_streams_total", outcome=outcome)


def assert_one_answer(stream: str, plain: str) -> None:
    """The stream is whole, as the plain engine's, and looks like one engine's."""
    found, expected = answer_of(stream), answer_of(plain)
    assert found.error is None
    assert found.done
    assert found.comparable == expected.comparable
    shapes = []
    for text in (stream, plain):
        events = [json.loads(event) for event in events_of(text) if event != "[DONE]"]
        for name in ("id", "created", "model", "object"):
            assert len({event[name] for event in events}) == 1, name
        shapes.append([_shape(event) for event in events])
    assert shapes[0] == shapes[1], "each event has the members it has without a break"


def _shape(event: dict[str, Any]) -> tuple[object, ...]:
    choices = event["choices"]
    inner = [(sorted(choice), sorted(choice.get("delta", {}))) for choice in choices]
    return (sorted(set(event) - {"prompt_token_ids", "prompt_text"}), inner)


def assert_ends_in_error(stream: str, plain: str) -> None:
    """The stream is the beginning of the plain engine's and then says that it broke off."""
    found, expected = answer_of(stream), answer_of(plain)
    assert found.error is not None
    assert found.error["code"] == "stream_interrupted"
    assert found.done
    for index, choice in found.choices.items():
        assert choice.finish_reason is None, "never a false finish"
        assert expected.choices[index].text.startswith(choice.text)
    assert json.loads(events_of(stream)[-2])["error"] == found.error, "the error is the last event before the end"
    assert "127.0.0.1" not in stream


def assert_ends_in_error_or_fails(gateway: Gateway, body: dict[str, Any], plain: str) -> None:
    """The same; or a true status, where the end was read together with the first content."""
    reply = plain_http.post(gateway.url + CHAT, json=body, timeout=60)
    if reply.status_code == 200:
        assert_ends_in_error(reply.text, plain)
    else:
        assert reply.status_code in (502, 503)
        assert reply.json()["error"]["code"] in ("recompute_retry_exhausted", "engine_unreachable")


@pytest.mark.parametrize("fault", BREAKS)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_broken_stream_is_carried_on(gateway: Gateway, mended: Engines, fault: str, path: str) -> None:
    before = carried_on(gateway)
    for name in ("decode-0", "decode-1"):
        if name == "decode-0" or not fault.startswith("exit"):
            mended[name].fail(f"{fault},count=1")
    body = chat() if path == CHAT else completion()
    plain = stream_of(mended[PLAIN].url, body, path)
    while carried_on(gateway) == before:
        stream = stream_of(gateway.url, body, path)
        assert_one_answer(stream, plain)
        assert '_ids":[' not in stream


def test_an_engine_killed_in_mid_stream(gateway: Gateway, mended: Engines) -> None:
    body = chat(max_tokens=2500)
    before = carried_on(gateway)
    with plain_http.stream("POST", gateway.url + CHAT, json=body, timeout=60) as reply:
        pieces = reply.iter_text()
        text = next(pieces)
        last = Answer(200, headers=reply.headers).legs[-1][1]
        mended[last].kill()
        text += "".join(pieces)
    assert_one_answer(text, stream_of(mended[PLAIN].url, body))
    assert carried_on(gateway) == before + 1


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_several_breaks_in_a_row(gateway: Gateway, mended: Engines, path: str) -> None:
    before = carried_on(gateway)
    mended["decode-0"].fail("cut:after=5,count=2")
    mended["decode-1"].fail("recomputed:after=4,count=2")
    body = chat() if path == CHAT else completion()
    assert_one_answer(stream_of(gateway.url, body, path), stream_of(mended[PLAIN].url, body, path))
    assert carried_on(gateway) - before >= 2


def test_breaks_without_end_end_in_an_error(gateway: Gateway, mended: Engines) -> None:
    given_up = carried_on(gateway, "given_up")
    for name in ("decode-0", "decode-1"):
        mended[name].fail("recomputed:after=3")
    stream = stream_of(gateway.url, chat())
    assert_ends_in_error(stream, stream_of(mended[PLAIN].url, chat()))
    assert len(answer_of(stream).choices[0].text) > 6, "each of them brought something"
    assert carried_on(gateway, "given_up") == given_up + 1


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("fault", ["cut:after=7", "recomputed:after=7"])
def test_who_asks_for_token_ids_gets_all(gateway: Gateway, mended: Engines, path: str, fault: str) -> None:
    for name in ("decode-0", "decode-1"):
        mended[name].fail(f"{fault},count=1")
    body = {**(chat() if path == CHAT else completion()), "return_token_ids": True}
    plain = stream_of(mended[PLAIN].url, body, path)
    for _ in range(3):
        stream = stream_of(gateway.url, body, path)
        assert_one_answer(stream, plain)
        assert len(answer_of(stream).choices[0].token_ids) == TOKENS


@pytest.mark.parametrize("bytes_or_events", ["split:bytes=3", "split:bytes=50", "merge:events=4", "merge:events=1000"])
@pytest.mark.parametrize("fault", ["cut:after=11,count=1", "recomputed:after=11,count=1", None])
def test_events_split_and_merged(gateway: Gateway, mended: Engines, bytes_or_events: str, fault: str | None) -> None:
    for name in ("decode-0", "decode-1"):
        mended[name].fail(*([fault] if fault else []), bytes_or_events)
    plain = stream_of(mended[PLAIN].url, chat())
    for _ in range(2):
        stream = stream_of(gateway.url, chat())
        assert_one_answer(stream, plain)
        assert '_ids":[' not in stream


def test_a_union_engine_carries_on(gateway: Gateway, mended: Engines) -> None:
    plain = stream_of(mended[PLAIN].url, chat())
    gateway.use(PLAIN)
    wait_until(lambda: ask_one(gateway.url, text_chat()).legs == [("union", PLAIN)], "the union engine serves")
    mended[PLAIN].fail("cut:after=9,count=1")
    before = carried_on(gateway)
    assert_one_answer(stream_of(gateway.url, chat()), plain)
    assert carried_on(gateway) == before + 1


def test_a_chat_without_a_limit_is_carried_on(gateway: Gateway, mended: Engines) -> None:
    """The model's length says how long the answer may get."""
    for name in ("decode-0", "decode-1"):
        mended[name].fail("cut:after=5,count=1")
    body = chat(ignore_eos=False)
    del body["max_tokens"]
    plain = stream_of(mended[PLAIN].url, body)
    for _ in range(2):
        assert_one_answer(stream_of(gateway.url, body), plain)


def test_an_answer_left_to_chance_is_carried_on_from_tokens_only(gateway: Gateway, mended: Engines) -> None:
    """With logprobs it would have to be given again, and it would be another one."""
    for name in ("decode-0", "decode-1"):
        mended[name].fail("cut:after=5,count=1")
    text = stream_of(gateway.url, chat(temperature=0.8, logprobs=True))
    found = answer_of(text)
    assert found.error is not None
    assert found.error["code"] == "stream_interrupted"
    assert found.choices[0].finish_reason is None


INELIGIBLE: list[dict[str, object]] = [
    {"logprobs": True},
    {"stop": ["###"]},
    {"presence_penalty": 0.5},
    {"min_tokens": 3},
    {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    {"some_extension": 1},
    {"response_format": {"type": "json_object"}},
]


@pytest.mark.parametrize("fields", INELIGIBLE, ids=lambda fields: next(iter(fields)))
def test_what_cannot_be_exact_ends_in_an_error(gateway: Gateway, mended: Engines, fields: dict[str, object]) -> None:
    body = chat(**fields)
    plain = stream_of(mended[PLAIN].url, body)
    for fault in ("cut:after=9", "recomputed:after=9"):
        for name in ("decode-0", "decode-1"):
            mended[name].fail(fault)
        assert_ends_in_error_or_fails(gateway, body, plain)


REPEATED: list[dict[str, object]] = [
    *(fields for fields in INELIGIBLE if "stream_options" not in fields),
    {"seed": 7, "temperature": 0.8},
]


@pytest.mark.parametrize("fault", BREAKS)
@pytest.mark.parametrize("fields", REPEATED, ids=lambda fields: next(iter(fields)))
def test_what_comes_out_the_same_is_asked_for_again(
    gateway: Gateway, mended: Engines, fields: dict[str, object], fault: str
) -> None:
    body = chat(**fields)
    plain = stream_of(mended[PLAIN].url, body)
    before = carried_on(gateway)
    mended["decode-0"].fail(f"{fault},count=1")
    for _ in range(2):
        assert_one_answer(stream_of(gateway.url, body), plain)
    assert carried_on(gateway) == before + 1


@pytest.mark.parametrize("fault", BREAKS)
def test_with_media_it_is_asked_for_again(gateway: Gateway, mended: Engines, fault: str) -> None:
    body = {**vision_chat(77), "stream": True, "max_tokens": TOKENS, "ignore_eos": True, "return_token_ids": False}
    mended["decode-0"].fail(f"{fault},count=1")
    plain = stream_of(mended[PLAIN].url, body)
    for _ in range(2):
        assert_one_answer(stream_of(gateway.url, body), plain)


def test_with_token_ids_and_media_it_is_asked_for_again(gateway: Gateway, mended: Engines) -> None:
    body = {**vision_chat(78), "stream": True, "max_tokens": TOKENS, "ignore_eos": True}
    for name in ("decode-0", "decode-1"):
        mended[name].fail("cut:after=9,count=1")
    plain = stream_of(mended[PLAIN].url, body)
    for _ in range(2):
        assert_one_answer(stream_of(gateway.url, body), plain)


def test_another_answer_does_not_follow_the_beginning_of_the_first(gateway: Gateway, mended: Engines) -> None:
    """The engine that repeats gets wrong KV cache: its answer differs, so the stream ends with an error."""
    body = chat(logprobs=True)
    plain = stream_of(mended[PLAIN].url, body)
    for name in ("decode-0", "decode-1"):
        mended[name].fail("cut:after=9,count=1")
    text = ""
    with plain_http.stream("POST", gateway.url + CHAT, json=body, timeout=60) as reply:
        last = Answer(200, headers=reply.headers).legs[-1][1]
        other = "decode-1" if last == "decode-0" else "decode-0"
        mended[other].fail("kv_drop")
        text = "".join(reply.iter_text())
    if answer_of(text).error is not None:
        assert_ends_in_error(text, plain)
    else:
        assert_one_answer(text, plain)  # It had been repeated before the fault was there.


def test_values_that_change_nothing_do_not_forbid_it(gateway: Gateway, mended: Engines) -> None:
    """As clients send them that name every field."""
    for name in ("decode-0", "decode-1"):
        mended[name].fail("cut:after=9,count=1")
    body = chat(
        n=1, stop=None, frequency_penalty=0, presence_penalty=0.0, logprobs=False, top_logprobs=None, user="me",
        response_format={"type": "text"}, tools=None, seed=None, logit_bias=None, return_token_ids=False,
    )  # fmt: skip
    plain = stream_of(mended[PLAIN].url, body)
    for _ in range(2):
        stream = stream_of(gateway.url, body)
        assert_one_answer(stream, plain)
        assert '_ids":[' not in stream


# Answers given up that are not streams, or before anything was said.


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", [{}, {"logprobs": True}])
def test_an_answer_given_up_at_once_is_tried_again(
    gateway: Gateway, mended: Engines, stream: bool, fields: dict[str, object]
) -> None:
    for name in ("decode-0", "decode-1"):
        mended[name].fail(f"recomputed:after={1 if stream else 5},count=1")
    body = {**text_chat(stream=stream, max_tokens=TOKENS, ignore_eos=True), **fields}
    plain = ask_one(mended[PLAIN].url, body)
    for _ in range(2):
        found = ask_one(gateway.url, body)
        if stream and fields and found.error is not None:
            assert found.error["code"] == "stream_interrupted", "the first token was on its way already"
        else:
            assert found.comparable == plain.comparable


def test_a_whole_answer_given_up_again_and_again_is_503(gateway: Gateway, mended: Engines) -> None:
    for name in ("decode-0", "decode-1"):
        mended[name].fail("recomputed:after=3")
    reply = plain_http.post(gateway.url + CHAT, json=text_chat(max_tokens=TOKENS), timeout=60)
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "recompute_retry_exhausted"
    assert "retry-after" in reply.headers


def test_switched_off(mended: Engines) -> None:
    """Engines are not asked for token ids, nothing is carried on, and no false `stop` gets through."""
    config = {**CONFIG, "exception_config": {**CONFIG["exception_config"], "recompute_enabled": False}}
    with Gateway(mended, ["prefill-0", "decode-0"], config=config) as gateway:
        plain = stream_of(mended[PLAIN].url, chat())
        for fault in ("cut:after=9", "recomputed:after=9"):
            mended["decode-0"].fail(fault)
            assert_ends_in_error_or_fails(gateway, chat(), plain)
        reply = plain_http.post(gateway.url + CHAT, json=text_chat(max_tokens=TOKENS), timeout=60)
        assert reply.status_code == 503
        gateway.wait_until_idle()


def test_several_answers_given_up_are_tried_again_or_end_in_an_error(gateway: Gateway, mended: Engines) -> None:
    for stream in (False, True):
        body = text_chat(stream=stream, max_tokens=TOKENS, ignore_eos=True)
        body |= {"n": 2, "temperature": 1, "seed": 5}
        plain = ask_one(mended[PLAIN].url, body)
        mended["decode-0"].fail("recomputed:after=9,count=1")
        found = ask_one(gateway.url, body)
        if stream and found.error is not None:
            assert found.error["code"] == "stream_interrupted"
        else:
            assert found.comparable == plain.comparable


def test_an_engine_core_that_dies_says_so_in_the_stream(gateway: Gateway, mended: Engines) -> None:
    body = chat(max_tokens=2500)
    before = carried_on(gateway)
    with plain_http.stream("POST", gateway.url + CHAT, json=body, timeout=60) as reply:
        pieces = reply.iter_text()
        text = next(pieces)
        last = mended[Answer(200, headers=reply.headers).legs[-1][1]]
        last.fail("die")
        assert plain_http.post(last.url + CHAT, json=text_chat(), timeout=60).status_code == 500
        text += "".join(pieces)
    assert_one_answer(text, stream_of(mended[PLAIN].url, body))
    assert carried_on(gateway) == before + 1
    assert gateway.count("pymotor_leg_failures_total", instance=last.name, reason="status_500") >= 1


def test_what_is_left_of_a_pair_carries_on(gateway: Gateway, mended: Engines) -> None:
    body = chat(max_tokens=2500)
    with plain_http.stream("POST", gateway.url + CHAT, json=body, timeout=60) as reply:
        pieces = reply.iter_text()
        text = next(pieces)
        last = Answer(200, headers=reply.headers).legs[-1][1]
        gateway.use("prefill-0")
        wait_until(lambda: ask_one(gateway.url, text_chat()).legs == [("prefill", "prefill-0")], "prefill is alone")
        mended[last].kill()
        text += "".join(pieces)
    assert_one_answer(text, stream_of(mended[PLAIN].url, body))


@pytest.mark.parametrize("fault", BREAKS)
def test_several_prompts_of_which_one_breaks_off(gateway: Gateway, mended: Engines, fault: str) -> None:
    body = completion(prompt=["Once upon a time", "There was", "And then"])
    plain = ask_one(mended[PLAIN].url, body, COMPLETIONS)
    before = carried_on(gateway)
    mended["decode-0"].fail(f"{fault},count=1")
    for _ in range(2):
        found = ask_one(gateway.url, body, COMPLETIONS)
        assert found.comparable == plain.comparable, found.error
        assert found.done
    assert carried_on(gateway) >= before


def test_several_answers_left_to_chance_end_in_an_error(gateway: Gateway, mended: Engines) -> None:
    body = completion(prompt=["Once upon a time", "There was"], temperature=1)
    for name in ("decode-0", "decode-1"):
        mended[name].fail("cut:after=9")
    found = ask_one(gateway.url, body, COMPLETIONS)
    assert found.error is not None
    assert found.error["code"] == "stream_interrupted"
