"""The OpenAI Python SDK as the client: answers in its types, errors as its own exceptions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from engine_failures import ENGINE_FAILURES, break_engine
from fleet_under_test import MODEL, Engines, Gateway
from images import image, vision_chat
from openai import AsyncOpenAI, OpenAI

MakeGateway = Callable[..., Gateway]
MESSAGES: Any = [{"role": "user", "content": "Say something."}]


def client_of(gateway: Gateway) -> OpenAI:
    """An SDK client that does not try again by itself."""
    return OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> OpenAI:
    return client_of(gateway)


def test_models_list(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


def test_chat_and_its_stream_say_the_same(client: OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=9, temperature=0)
    assert whole.object == "chat.completion"
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=MESSAGES,
            max_tokens=9,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == (
        whole.choices[0].message.content
    )
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == [
        whole.choices[0].finish_reason
    ]
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_completions(client: OpenAI) -> None:
    reply = client.completions.create(model=MODEL, prompt=["one", "two"], max_tokens=5, temperature=0)
    assert [choice.index for choice in reply.choices] == [0, 1]
    chunks = client.completions.create(model=MODEL, prompt="one", max_tokens=5, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == reply.choices[0].text


def test_an_image_goes_through_encode_prefill_and_decode(client: OpenAI) -> None:
    parts: Any = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": image(905)}}]
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=[{"role": "user", "content": parts}], max_tokens=4, temperature=0
    )
    assert raw.parse().choices[0].message.content
    timing = raw.headers["server-timing"]
    assert [entry.split(";")[0].strip() for entry in timing.split(",")] == ["encode", "prefill", "decode"]


async def test_the_asynchronous_client_many_at_once(gateway: Gateway) -> None:
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0) as client:

        async def one(number: int) -> str:
            stream = await client.chat.completions.create(**vision_and_stream(number))
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

        answers = await asyncio.gather(*(one(number % 4) for number in range(16)))
    assert answers[:4] * 4 == answers


def vision_and_stream(number: int) -> dict[str, Any]:
    """Arguments of `create` for one of a few streamed requests with an image."""
    body = vision_chat(number, stream=True)
    del body["return_token_ids"]
    return body


def test_a_stream_that_is_left_early_frees_everything(client: OpenAI, gateway: Gateway) -> None:
    with client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=2000, stream=True, extra_body={"ignore_eos": True}
    ) as stream:
        next(iter(stream))
    gateway.wait_until_idle()


def test_mistakes_are_bad_request_errors(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=[])
    assert caught.value.status_code == 400
    assert caught.value.param == "messages"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, extra_body={"kv_transfer_params": {}})
    assert caught.value.param == "kv_transfer_params"


def test_mistakes_only_an_engine_can_see_are_bad_request_errors(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=-1)
    assert "temperature" in caught.value.message
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=10**6, stream=True)


def test_an_unknown_model_is_a_not_found_error(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody-has-this", messages=MESSAGES)
    assert caught.value.code == "model_not_found"


def test_a_body_too_large_is_an_api_status_error(engines: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(engines, "union-0", config={"http_config": {"body_limit_bytes": 20000}})
    with pytest.raises(openai.APIStatusError) as caught:
        client_of(gateway).chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x" * 30000}])
    assert caught.value.status_code == 413


def test_nobody_to_serve_is_503(engines: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(engines, "encode-0")
    with pytest.raises(openai.InternalServerError) as caught:
        client_of(gateway).chat.completions.create(model=MODEL, messages=MESSAGES)
    assert caught.value.status_code == 503
    assert caught.value.response.json()["detail"] == "Service is not available"


def test_a_stream_that_breaks_in_the_middle_is_an_api_error(mended: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(mended, "prefill-0", "decode-0")
    mended["decode-0"].fail("cut:after=4")
    stream = client_of(gateway).chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=50, stream=True, extra_body={"ignore_eos": True}
    )
    seen: list[Any] = []
    with pytest.raises(openai.APIError) as caught:
        seen.extend(stream)
    assert seen, "content came before the break"
    assert not any(chunk.choices[0].finish_reason for chunk in seen)
    assert caught.value.code == "stream_interrupted"


def test_an_engine_that_fails_is_an_internal_server_error(mended: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(mended, "prefill-0", "decode-0", config={"exception_config": {"retry_delay": 0.05}})
    mended["prefill-0"].fail("error:code=500")
    with pytest.raises(openai.InternalServerError) as caught:
        client_of(gateway).chat.completions.create(model=MODEL, messages=MESSAGES)
    assert caught.value.status_code == 502
    assert "127.0.0.1" not in caught.value.response.text


def test_an_overloaded_engine_is_a_rate_limit_error(mended: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(mended, "prefill-0", "decode-0", config={"exception_config": {"retry_delay": 0.05}})
    mended["prefill-0"].fail("error:code=429")
    with pytest.raises(openai.RateLimitError):
        client_of(gateway).chat.completions.create(model=MODEL, messages=MESSAGES)


@pytest.fixture(scope="module")
def failing(fragile: Engines) -> Iterator[Gateway]:
    """Soon gives up, and carries nothing on."""
    exceptions = {"retry_delay": 0.05, "max_retry": 1, "first_token_timeout": 3, "recompute_enabled": False}
    with Gateway(fragile, ["prefill-0", "decode-0"], config={"exception_config": exceptions}) as running:
        yield running


def respond(client: OpenAI, **fields: Any) -> Any:
    """A response of at most nine tokens."""
    asked = {"model": MODEL, "input": "Say something, and then some more.", "max_output_tokens": 9, "temperature": 0}
    return client.responses.create(**{**asked, **fields})


def test_a_response_and_its_stream_say_the_same(client: OpenAI) -> None:
    whole = respond(client)
    events = list(respond(client, stream=True))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert said == whole.output_text == events[-1].response.output_text
    assert whole.usage.total_tokens == events[-1].response.usage.total_tokens


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("fault", "raised", "status"), ENGINE_FAILURES)
def test_engines_that_fail_in_a_response(
    mended: Engines, failing: Gateway, fault: str, raised: str, status: int, stream: bool
) -> None:
    break_engine(mended["prefill-0"], fault)
    with pytest.raises(getattr(openai, raised)) as caught:
        respond(client_of(failing), stream=stream)
    assert caught.value.status_code == status
    assert isinstance(caught.value.code, str)
    assert "127.0.0.1" not in caught.value.response.text


@pytest.mark.parametrize("fault", ["cut:after=6", "exit:after=6"])
def test_a_response_that_breaks_in_the_middle(mended: Engines, failing: Gateway, fault: str) -> None:
    mended["decode-0"].fail(fault)
    seen: list[Any] = []
    with pytest.raises(openai.APIError) as caught:
        seen.extend(respond(client_of(failing), max_output_tokens=200, stream=True, extra_body={"ignore_eos": True}))
    assert any(event.type == "response.output_text.delta" for event in seen), "content came before the break"
    assert not any(event.type in ("response.completed", "error") for event in seen)
    assert caught.value.code == "stream_interrupted"


def test_an_error_before_any_content_of_a_response_is_a_failed_leg(mended: Engines, failing: Gateway) -> None:
    whole = respond(client_of(failing)).output_text
    mended["decode-0"].fail("late_error:count=1")
    events = respond(client_of(failing), stream=True)
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole
    mended["decode-0"].fail("late_error")
    with pytest.raises(openai.InternalServerError):
        list(respond(client_of(failing), stream=True))


@pytest.mark.parametrize(("fields", "raised"), [
    ({"input": []}, openai.BadRequestError),
    ({"temperature": -1}, openai.BadRequestError),
    ({"extra_body": {"kv_transfer_params": {}}}, openai.BadRequestError),
    ({"model": "nobody-has-this"}, openai.NotFoundError),
])  # fmt: skip
def test_mistakes_in_a_response(client: OpenAI, fields: dict[str, Any], raised: type[openai.APIStatusError]) -> None:
    with pytest.raises(raised) as caught:
        respond(client, **fields)
    assert caught.value.body is not None
