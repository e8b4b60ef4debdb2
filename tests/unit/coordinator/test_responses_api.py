"""OpenAI's Responses: what is read of a body, what counts in a stream, what an id says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymotor.coordinator.api.errors import ApiError
from pymotor.coordinator.api.events import ErrorEvent
from pymotor.coordinator.api.media import check_source
from pymotor.coordinator.api.request_view import RequestView, assemble
from pymotor.coordinator.api.responses import RESPONSES, holder_mark, mark_in, response_id

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PARTS = st.text(max_size=5) | st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(("input_text", "input_image", "image_url", "input_audio", "video_url", 1, None)),
        "image_url": st.sampled_from(("https://a/b", "file:///x", "data:image/png;base64,aGk=", "", None, 1))
        | JSON_VALUES,
        "text": JSON_VALUES,
        "input_audio": JSON_VALUES,
    },
)
ITEMS = st.fixed_dictionaries(
    {}, optional={"content": st.lists(PARTS, max_size=3) | JSON_VALUES, "output": st.lists(PARTS) | JSON_VALUES}
)
DATA_URL = "data:image/png;base64,aGk="


def read(body: object, *, trusted: bool = False) -> RequestView:
    """The view of a body given as JSON."""
    return RESPONSES.read(RESPONSES, json.dumps(body).encode(), trusted)


def of(*parts: object, **fields: object) -> dict[str, Any]:
    """A body with one message of these parts."""
    return {"model": "m", "input": [{"role": "user", "content": list(parts)}], **fields}


def test_images_are_found_where_an_engine_takes_them() -> None:
    picture = {"type": "input_image", "image_url": DATA_URL, "detail": "auto"}
    output = {"type": "function_call_output", "call_id": "c", "output": [picture]}
    body = {
        "model": "m",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}, picture]}, output],
    }
    view = read(body)
    assert [(item.message, item.position, item.modality) for item in view.media] == [(0, 1, "image"), (1, 0, "image")]
    assert view.media[0].same_as(view.media[1])
    found = {name: json.loads(bytes(raw)) for name, raw in view.media[0].chat_part.items()}
    assert found == {"type": "image_url", "image_url": {"url": DATA_URL}}


@pytest.mark.parametrize("part", [
    {"type": "input_image", "image_url": DATA_URL, "uuid": "x"}, {"type": "image_embeds", "image_embeds": "x"},
    {"type": "prompt_embeds", "data": "x"}, {"image_pil": "x"},
])  # fmt: skip
def test_barred_parts_in_messages_and_outputs(part: dict[str, Any]) -> None:
    for body in (
        of(part),
        {"model": "m", "input": [{"type": "function_call_output", "call_id": "c", "output": [part]}]},
    ):
        with pytest.raises(ApiError) as caught:
            read(body)
        assert (caught.value.status, caught.value.detail.code) == (400, "field_not_allowed")


@pytest.mark.parametrize("name", ["kv_transfer_params", "ec_transfer_params", "request_id", "previous_input_messages"])
def test_barred_fields_unless_trusted(name: str) -> None:
    body = {"model": "m", "input": "x", name: None}
    with pytest.raises(ApiError) as caught:
        read(body)
    assert (caught.value.status, caught.value.detail.param) == (400, name)
    assert read(body, trusted=True).model == "m"


def test_prefills_body_is_one_token_of_the_same_prompt() -> None:
    body = {
        "model": "m", "input": "x", "instructions": "i", "tools": [], "stream": True, "store": True, "background": True,
        "max_output_tokens": 70, "stop": ["a"], "include": ["message.output_text.logprobs"], "top_logprobs": 2,
    }  # fmt: skip
    view = read(body)
    assert (view.stream, view.answer_limit, view.previous) == (True, 70, "")
    found = json.loads(b"".join(assemble(view.fields, RESPONSES.one_token, RESPONSES.prefill_without, view.size)))
    assert found == {
        "model": "m", "input": "x", "instructions": "i", "tools": [], "stream": False, "store": False,
        "background": False, "ignore_eos": True, "max_output_tokens": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("tools", "alone"), [
    (None, False), ([], False), ([{"type": "function", "name": "f"}, {"type": "custom"}], False),
    ([{"type": "function"}, {"type": "web_search_preview"}], True), ([{"type": "mcp", "server_label": "x"}], True),
    ([{}], True),
])  # fmt: skip
def test_tools_that_an_engine_runs_keep_it_at_one_engine(tools: object, alone: bool) -> None:
    assert read({"model": "m", "input": "x", "tools": tools}).alone is alone


@given(st.sampled_from((b"", b" \n\t")), st.integers(0, 100_000))
def test_a_leg_names_its_answer(before: bytes, size: int) -> None:
    body = {"input": "x" * size, "model": "m"}
    view = RESPONSES.read(RESPONSES, before + json.dumps(body).encode(), False)
    assembled = assemble(view.fields, b'"max_output_tokens":1', frozenset(), view.size)
    for pieces, more in ((view.body, {}), (assembled, {"max_output_tokens": 1})):
        named = json.loads(b"".join(RESPONSES.named(view, pieces, b"0" * 32, "decode-0/0")))
        assert named == {**body, **more, "request_id": response_id(b"0" * 32, "decode-0/0").decode()}


def test_a_trusted_client_may_name_it() -> None:
    view = read({"model": "m", "input": "x", "request_id": "mine"}, trusted=True)
    assert RESPONSES.named(view, view.body, b"0" * 32, "e") is view.body


@given(st.text(), st.binary(min_size=16, max_size=16))
def test_an_id_says_who_holds_the_response(endpoint_id: str, chance: bytes) -> None:
    found = response_id(chance.hex().encode(), endpoint_id).decode()
    assert mark_in(found) == holder_mark(endpoint_id)
    assert mark_in(found + "0") is None
    assert mark_in(found.upper()) is None
    assert mark_in(found + "\n") is None


@given(st.text(max_size=60))
def test_any_text_is_an_id_or_none(found: str) -> None:
    assert mark_in(found) is None


def assert_read_or_refused(data: bytes) -> None:
    """Nothing but a 400 is raised, by reading or by what is asked of the media."""
    try:
        view = RESPONSES.read(RESPONSES, data, False)
        for item in view.media:
            assert item.chat_part
            check_source(item, "")
    except ApiError as error:
        assert error.status == 400  # noqa: PT017  anything else must not be raised
    else:
        assert view.prompt_tokens >= 0


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    assert_read_or_refused(data)


@given(
    st.fixed_dictionaries(
        {"input": st.lists(ITEMS | JSON_VALUES, max_size=3) | JSON_VALUES},
        optional={
            "previous_response_id": JSON_VALUES,
            "stream": JSON_VALUES,
            "max_output_tokens": JSON_VALUES,
            "instructions": JSON_VALUES,
            "vllm_xargs": JSON_VALUES,
            "tools": JSON_VALUES,
        },
    )
)
def test_any_items_are_read_or_refused(fields: dict[str, object]) -> None:
    assert_read_or_refused(json.dumps({"model": "m", **fields}).encode())


def event(kind: str, **fields: object) -> bytes:
    """One event as an engine sends it, its type last."""
    data = json.dumps({**fields, "type": kind}, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()


CREATED = event("response.created", response={"id": "r", "output": [], "error": None}, sequence_number=0)
ADDED = event("response.output_item.added", item={"id": "m", "type": "message", "content": []}, output_index=0)
DELTA = event("response.output_text.delta", delta="x", item_id="m", logprobs=[])
COMPLETED = event("response.completed", response={"id": "r", "output": [{"x": "y" * 500}]}, sequence_number=9)


@pytest.mark.parametrize("silent", [
    CREATED, CREATED + event("response.in_progress", response={}), event("response.queued", response={}), ADDED,
    event("response.content_part.added", part={"text": ""}), event("response.output_text.delta", delta=""),
    event("response.output_item.added", item={"type": "reasoning"}), b": waiting\n\n",
])  # fmt: skip
def test_what_nobody_waits_for(silent: bytes) -> None:
    assert not RESPONSES.has_content(silent)
    assert not RESPONSES.has_content(silent.replace(b"\n", b"\r\n"))


@pytest.mark.parametrize("content", [
    DELTA, COMPLETED, event("response.incomplete", response={}), event("response.reasoning_text.delta", delta="hm"),
    event("response.output_item.added", item={"type": "function_call", "name": "f"}), event("something.new"),
    b"data: not json\n\n", b"data: [DONE]\n\n",
])  # fmt: skip
def test_what_a_client_waits_for(content: bytes) -> None:
    assert RESPONSES.has_content(content)
    assert RESPONSES.has_content(CREATED + ADDED + content)


@pytest.mark.parametrize(("failed", "words"), [
    (event("error", code="server_error", message="words", param=None), "words"),
    (event("response.failed", response={"error": {"code": "server_error", "message": "words"}}), "words"),
])  # fmt: skip
def test_an_error_before_content(failed: bytes, words: str) -> None:
    with pytest.raises(ErrorEvent) as caught:
        RESPONSES.has_content(CREATED + failed)
    assert json.loads(caught.value.error)["message"] == words


@pytest.mark.parametrize("end", [
    COMPLETED, event("response.incomplete", response={}), event("response.failed", response={}), DELTA + COMPLETED,
    COMPLETED.replace(b"\n", b"\r\n"), COMPLETED.partition(b"\n")[2], COMPLETED + b"data: [DONE]\n\n",
])  # fmt: skip
def test_a_stream_ends_with_the_whole_response(end: bytes) -> None:
    assert RESPONSES.ends(end)
    assert RESPONSES.ends(DELTA + end)
    assert not RESPONSES.ends(end + DELTA)


@given(st.sampled_from(("response.completed", "[DONE]", "event: response.completed\n", "data: [DONE]\n\n")))
def test_words_of_a_model_end_no_stream(words: str) -> None:
    assert not RESPONSES.ends(event("response.output_text.delta", delta=words))
    assert not RESPONSES.ends(event("response.output_text.delta", delta=words).partition(b"\n")[2])
    assert not RESPONSES.ends(event("error", message="x"))


def test_a_broken_stream_is_told_in_both_forms() -> None:
    broken = RESPONSES.broken_off(ApiError(502, "two\nlines", code="stream_interrupted"))
    told = json.loads(broken.decode().removeprefix("event: error\ndata: "))
    assert (told["type"], told["code"], told["message"]) == ("error", "stream_interrupted", "two\nlines")
    assert told["error"]["message"] == "two\nlines", "the SDKs look for this"
