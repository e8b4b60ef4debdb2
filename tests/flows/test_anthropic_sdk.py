"""The Anthropic Python SDK as the client: answers in its types, errors as its own exceptions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from engine_failures import ENGINE_FAILURES, break_engine
from fleet_under_test import MODEL, Engines, Gateway
from images import image

MakeGateway = Callable[..., Gateway]
MESSAGES: Any = [{"role": "user", "content": "Say something about the weather, and then some more."}]
GREEDY: Any = {"extra_body": {"temperature": 0}}


def client_of(gateway: Gateway) -> Anthropic:
    """An SDK client that does not try again by itself."""
    return Anthropic(base_url=gateway.url, api_key="unused", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Anthropic:
    return client_of(gateway)


def ask(client: Anthropic, **fields: Any) -> Any:
    """A message of at most nine tokens."""
    return client.messages.create(**{"model": MODEL, "messages": MESSAGES, "max_tokens": 9, **GREEDY, **fields})


def test_a_message_and_its_stream_say_the_same(client: Anthropic) -> None:
    whole = ask(client)
    assert (whole.type, whole.role) == ("message", "assistant")
    assert whole.stop_reason in ("max_tokens", "end_turn")
    with client.messages.stream(model=MODEL, messages=MESSAGES, max_tokens=9, **GREEDY) as stream:
        text = "".join(stream.text_stream)
        final: Any = stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


def test_an_image_and_the_tokens_it_counts(client: Anthropic) -> None:
    data = image(5).partition("base64,")[2]
    source = {"type": "base64", "media_type": "image/png", "data": data}
    content: Any = [{"type": "image", "source": source}, {"type": "text", "text": "What is it?"}]
    asked: Any = [{"role": "user", "content": content}]
    counted = client.messages.count_tokens(model=MODEL, messages=asked)
    assert ask(client, messages=asked).usage.input_tokens == counted.input_tokens


async def test_the_asynchronous_client(gateway: Gateway, client: Anthropic) -> None:
    async with (
        AsyncAnthropic(base_url=gateway.url, api_key="unused", max_retries=0) as other,
        other.messages.stream(model=MODEL, messages=MESSAGES, max_tokens=9, **GREEDY) as stream,
    ):
        text = "".join([piece async for piece in stream.text_stream])
    assert text == ask(client).content[0].text


def test_a_stream_that_is_left_early_frees_everything(client: Anthropic, gateway: Gateway) -> None:
    with client.messages.stream(model=MODEL, messages=MESSAGES, max_tokens=2000) as stream:
        next(iter(stream))
    gateway.wait_until_idle()


def test_models_list(client: Anthropic) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


@pytest.mark.parametrize(("fields", "raised"), [
    ({"messages": []}, anthropic.BadRequestError),
    ({"extra_body": {"temperature": -1}}, anthropic.BadRequestError),
    ({"max_tokens": 10**6}, anthropic.BadRequestError),
    ({"max_tokens": 10**6, "stream": True}, anthropic.BadRequestError),
    ({"extra_body": {"kv_transfer_params": {}}}, anthropic.BadRequestError),
    ({"model": "nobody-has-this"}, anthropic.NotFoundError),
])  # fmt: skip
def test_mistakes_of_the_client(client: Anthropic, fields: dict[str, Any], raised: type[Exception]) -> None:
    with pytest.raises(raised) as caught:
        ask(client, **fields)
    assert isinstance(caught.value, anthropic.APIStatusError)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"].keys() == {"type", "message"}


def test_a_body_too_large(engines: Engines, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(engines, "union-0", config={"http_config": {"body_limit_bytes": 20000}})
    with pytest.raises(anthropic.APIStatusError) as caught:
        ask(client_of(gateway), messages=[{"role": "user", "content": "x" * 30000}])
    assert caught.value.status_code == 413
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "request_too_large"


def test_nobody_to_serve(engines: Engines, make_gateway: MakeGateway) -> None:
    with pytest.raises(anthropic.InternalServerError) as caught:
        ask(client_of(make_gateway(engines, "encode-0")))
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"]
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "overloaded_error"


@pytest.fixture(scope="module")
def failing(fragile: Engines) -> Iterator[Gateway]:
    """Soon gives up, and carries nothing on."""
    exceptions = {"retry_delay": 0.05, "max_retry": 1, "first_token_timeout": 3, "recompute_enabled": False}
    with Gateway(fragile, ["prefill-0", "decode-0"], config={"exception_config": exceptions}) as running:
        yield running


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("fault", "raised", "status"), ENGINE_FAILURES)
def test_engines_that_fail(
    mended: Engines, failing: Gateway, fault: str, raised: str, status: int, stream: bool
) -> None:
    break_engine(mended["prefill-0"], fault)
    with pytest.raises(getattr(anthropic, raised)) as caught:
        ask(client_of(failing), stream=stream)
    assert caught.value.status_code == status
    assert "127.0.0.1" not in caught.value.response.text


@pytest.mark.parametrize("fault", ["cut:after=4", "exit:after=4"])
def test_a_stream_that_breaks_in_the_middle(mended: Engines, failing: Gateway, fault: str) -> None:
    mended["decode-0"].fail(fault)
    seen: list[Any] = []
    with pytest.raises(anthropic.APIStatusError) as caught:
        seen.extend(ask(client_of(failing), max_tokens=200, stream=True))
    assert any(event.type == "content_block_delta" for event in seen), "content came before the break"
    assert not any(event.type in ("message_delta", "message_stop") for event in seen)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "api_error"


def test_an_error_event_before_any_content_is_a_failed_leg(mended: Engines, failing: Gateway) -> None:
    def streamed() -> str:
        events = ask(client_of(failing), stream=True)
        return "".join(event.delta.text for event in events if event.type == "content_block_delta")

    whole = streamed()
    mended["decode-0"].fail("late_error:count=1")
    assert streamed() == whole
    mended["decode-0"].fail("late_error")
    with pytest.raises(anthropic.InternalServerError) as caught:
        streamed()
    assert caught.value.status_code == 502
