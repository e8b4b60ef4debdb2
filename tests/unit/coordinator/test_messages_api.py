"""Anthropic's Messages: what is read of a body, what counts in a stream, how errors look."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymotor.coordinator.api.errors import ApiError
from pymotor.coordinator.api.events import ErrorEvent
from pymotor.coordinator.api.media import check_source
from pymotor.coordinator.api.messages import COUNT_TOKENS, MESSAGES
from pymotor.coordinator.api.request_view import RequestView, assemble
from pymotor.coordinator.api.surface import Surface

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KINDS = st.sampled_from(("text", "image", "tool_use", "tool_result", "thinking", "document", 5, None))
SOURCES = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(("base64", "url", "file", None, 3)),
        "media_type": st.sampled_from(("image/png", "image/jpeg;base64,", "", None, 1)),
        "data": st.sampled_from(("", "iVBORw0KGgo=", 'a"b', "é", None, 7)),
        "url": st.sampled_from(("https://a/b", "file:///etc/passwd", "", None, 2)),
    },
)
BLOCKS = st.recursive(
    st.fixed_dictionaries({}, optional={"type": KINDS, "text": st.text(max_size=5), "source": SOURCES | JSON_VALUES}),
    lambda inner: st.fixed_dictionaries({"type": KINDS, "content": st.lists(inner, max_size=3) | st.text(max_size=5)}),
    max_leaves=4,
)


def png(width: int, height: int) -> str:
    """The base64 text of an image's first bytes."""
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes(40)
    return base64.b64encode(head).decode()


def image(data: str, **source: object) -> dict[str, Any]:
    """An image block."""
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data, **source}}


def read(body: object, *, trusted: bool = False) -> RequestView:
    """The view of a body given as JSON."""
    return MESSAGES.read(MESSAGES, json.dumps(body).encode(), trusted)


def of(*blocks: object, **fields: object) -> dict[str, Any]:
    """A body with one message of these blocks."""
    return {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": list(blocks)}], **fields}


def test_images_are_found_where_an_engine_takes_them() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "x"}, image(png(64, 32))]}
    link = {"type": "image", "source": {"type": "url", "url": "https://a/b.png"}}
    view = read(of({"type": "text", "text": "x"}, image(png(320, 64)), result, link))
    assert [(item.message, item.position, item.modality, item.tokens) for item in view.media] == [
        (0, 1, "image", 20), (0, 2, "image", 2), (0, 3, "image", 1024),
    ]  # fmt: skip
    assert view.prompt_tokens < 1200, "media are counted by their pixels, not by their bytes"


@given(st.binary(max_size=200), st.sampled_from(("image/png", "image/webp", None)))
def test_the_chat_part_is_the_url_an_engine_makes_of_the_block(data: bytes, media_type: str | None) -> None:
    text = base64.b64encode(data).decode()
    block = image(text, media_type=media_type)
    if media_type is None:
        del block["source"]["media_type"]
    (item,) = read(of(block)).media
    found = {name: json.loads(bytes(raw)) for name, raw in item.chat_part.items()}
    assert found == {
        "type": "image_url",
        "image_url": {"url": f"data:{media_type or 'image/jpeg'};base64,{text}"},
    }


def test_escapes_in_base64_text_change_nothing() -> None:
    plain = json.dumps(of(image(png(64, 64).replace("A", "/"))))
    escaped = plain.replace("/", "\\/")
    one, other = (MESSAGES.read(MESSAGES, body.encode(), False).media[0] for body in (plain, escaped))
    assert one.url == other.url
    assert json.loads(bytes(one.chat_part["image_url"])) == json.loads(bytes(other.chat_part["image_url"]))


def test_equal_images_are_one() -> None:
    same, again, other = read(of(image(png(8, 8)), image(png(8, 8)), image(png(8, 9)))).media
    assert same.same_as(again)
    assert not same.same_as(other)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a/b", "gopher://x", "/etc/passwd"])
@pytest.mark.parametrize("kind", ["url", "\\u0075rl"])
def test_sources_that_no_engine_should_follow(url: str, kind: str) -> None:
    body = json.dumps(of({"type": "image", "source": {"type": "KIND", "url": url}})).replace("KIND", kind)
    (item,) = MESSAGES.read(MESSAGES, body.encode(), False).media
    with pytest.raises(ApiError) as caught:
        check_source(item, "")
    assert caught.value.status == 400


def test_prefills_body_is_one_token_of_the_same_prompt() -> None:
    body = of({"type": "text", "text": "x"}, stream=True, stop_sequences=["a"], system="s", n=7)
    view = read(body)
    assert (view.stream, view.n, view.answer_limit) == (True, 1, 5)
    found = json.loads(b"".join(assemble(view.fields, MESSAGES.one_token, MESSAGES.prefill_without, view.size)))
    expected = {**body, "stream": False, "max_tokens": 1}
    del expected["stop_sequences"]
    assert found == expected


def test_a_prefill_that_thinks_is_known_as_one() -> None:
    assert MESSAGES.prefill_alone(read(of()).fields) == b""
    members = MESSAGES.prefill_alone(read(of(thinking={"type": "enabled", "budget_tokens": 1024})).fields)
    assert json.loads(b"{" + members.rstrip(b",") + b"}") == {"kv_transfer_params": {"do_remote_decode": True}}


@pytest.mark.parametrize("name", ["kv_transfer_params", "ec_transfer_params", "request_id", "vllm_xargs"])
def test_barred_fields_unless_trusted(name: str) -> None:
    body = of({"type": "text", "text": "x"}, **{name: {"kv_transfer_params": {}}})
    with pytest.raises(ApiError) as caught:
        read(body)
    assert caught.value.status == 400
    assert read(body, trusted=True).model == "m"


def assert_read_or_refused(data: bytes, surface: Surface = MESSAGES) -> None:
    """Nothing but a 400 is raised, by reading or by what is asked of the media."""
    try:
        view = surface.read(surface, data, False)
        for item in view.media:
            assert json.loads(bytes(item.chat_part["image_url"]))["url"] is not None
            check_source(item, "")
    except ApiError as error:
        assert error.status == 400  # noqa: PT017  anything else must not be raised
    else:
        assert view.prompt_tokens >= 0


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    assert_read_or_refused(data)
    assert_read_or_refused(data, COUNT_TOKENS)


@given(
    st.fixed_dictionaries(
        {
            "messages": st.lists(
                st.fixed_dictionaries({"content": st.lists(BLOCKS, max_size=3) | JSON_VALUES}), max_size=3
            )
        },
        optional={"stream": JSON_VALUES, "max_tokens": JSON_VALUES, "system": JSON_VALUES, "vllm_xargs": JSON_VALUES},
    )
)
def test_any_blocks_are_read_or_refused(fields: dict[str, object]) -> None:
    assert_read_or_refused(json.dumps({"model": "m", **fields}).encode())


@given(st.dictionaries(st.sampled_from(("messages", "system", "tools", "stream", "model")), JSON_VALUES))
def test_any_values_are_read_or_refused(fields: dict[str, object]) -> None:
    assert_read_or_refused(json.dumps({"model": "m", **fields}).encode())


def event(kind: str, **fields: object) -> bytes:
    """One event as an engine sends it."""
    data = json.dumps({"type": kind, **fields}, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()


START = event("message_start", message={"id": "x", "content": [], "stop_reason": None})
OPENING = event("content_block_start", content_block={"type": "text", "text": ""}, index=0)
DELTA = event("content_block_delta", delta={"type": "text_delta", "text": "x"}, index=0)
STOPPED = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 1})
STOP = event("message_stop")


@pytest.mark.parametrize("silent", [
    START, START + OPENING, event("ping"), b": waiting\n\n", START + event("ping"),
    event("content_block_delta", delta={"type": "text_delta", "text": ""}, index=0),
])  # fmt: skip
def test_what_nobody_waits_for(silent: bytes) -> None:
    assert not MESSAGES.has_content(silent)
    assert not MESSAGES.has_content(silent.replace(b"\n", b"\r\n"))


@pytest.mark.parametrize("content", [
    DELTA, STOPPED, STOP, event("content_block_start", content_block={"type": "tool_use", "name": "f"}, index=0),
    event("content_block_delta", delta={"type": "thinking_delta", "thinking": "hm"}, index=0),
    event("content_block_delta", delta={"type": "input_json_delta", "partial_json": "{"}, index=0),
    event("something_new"), b"data: not json\n\n", b"data: [DONE]\n\n",
])  # fmt: skip
def test_what_a_client_waits_for(content: bytes) -> None:
    assert MESSAGES.has_content(content)
    assert MESSAGES.has_content(START + OPENING + content)


def test_an_error_before_content() -> None:
    told = {"type": "internal_error", "message": "words"}
    with pytest.raises(ErrorEvent) as caught:
        MESSAGES.has_content(START + event("error", error=told))
    assert json.loads(caught.value.error) == told


@pytest.mark.parametrize("end", [
    STOP, STOPPED + STOP, STOP.replace(b"\n", b"\r\n"), STOP.replace(b":", b": ", 3), STOP + b"data: [DONE]\n\n",
    b"data: [DONE]\n\n", b'data:{"type": "message_stop"}\n\n',
])  # fmt: skip
def test_a_stream_ends_with_message_stop(end: bytes) -> None:
    assert MESSAGES.ends(end)
    assert MESSAGES.ends(DELTA + end)
    assert not MESSAGES.ends(end + DELTA)


@given(st.sampled_from(("message_stop", "[DONE]", '"message_stop"', '"type":"message_stop"', "data: [DONE]\n\n")))
def test_words_of_a_model_end_no_stream(words: str) -> None:
    assert not MESSAGES.ends(event("content_block_delta", delta={"type": "text_delta", "text": words}, index=0))
    assert not MESSAGES.ends(event("content_block_delta", index=0, delta={"type": "text_delta", "text": words}))


@pytest.mark.parametrize(("body", "message"), [
    (b'{"error":{"message":"too long","type":"Bad Request","param":"body","code":400}}', "too long"),
    (b'{"type":"error","error":{"type":"BadRequestError","message":"too long"}}', "too long"),
    (b'{"detail":"Not Found"}', "Not Found"), (b'{"error":"Unauthorized"}', "Unauthorized"),
    (b"no json", "the engine refused the request"), (b"", "the engine refused the request"), (b"[]", None),
    (b'{"detail":[{"loc":["body"]}]}', None),
])  # fmt: skip
def test_an_engines_refusal_in_anthropics_form(body: bytes, message: str | None) -> None:
    told = json.loads(MESSAGES.engines_refusal(404, body))
    assert told == {
        "type": "error",
        "error": {"type": "not_found_error", "message": message or "the engine refused the request"},
    }


@pytest.mark.parametrize(("status", "kind"), [
    (400, "invalid_request_error"), (401, "authentication_error"), (403, "permission_error"), (404, "not_found_error"),
    (405, "invalid_request_error"), (408, "timeout_error"), (413, "request_too_large"), (422, "invalid_request_error"),
    (429, "rate_limit_error"), (500, "api_error"), (502, "api_error"), (503, "overloaded_error"),
    (504, "timeout_error"),
])  # fmt: skip
def test_the_type_of_each_status(status: int, kind: str) -> None:
    assert json.loads(MESSAGES.refusal(ApiError(status, "words")))["error"] == {"type": kind, "message": "words"}
    broken = MESSAGES.broken_off(ApiError(status, "two\nlines")).decode()
    assert broken.startswith("event: error\ndata: {")
    assert broken.endswith("}\n\n")
    assert broken.count("\n") == 3
