"""What the gateway reads of a body; what it writes for a stage is the same JSON but for what it meant to change."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymotor.coordinator.api.errors import ApiError
from pymotor.coordinator.api.request_view import RequestView, assemble, body_of
from pymotor.coordinator.api.surface import CHAT, COMPLETIONS

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
READ = {
    "model", "messages", "prompt", "stream", "n", "max_tokens", "max_completion_tokens", "vllm_xargs",
    "kv_transfer_params", "ec_transfer_params", "request_id", "prompt_embeds", "data_parallel_rank", "bootstrap_host",
    "bootstrap_port", "bootstrap_room",
}  # fmt: skip
OTHER_FIELDS = st.dictionaries(st.text(max_size=12).filter(lambda name: name not in READ), JSON_VALUES, max_size=5)


def read(body: object, *, chat: bool = True, trusted: bool = False) -> RequestView:
    """The view of a body given as JSON."""
    surface = CHAT if chat else COMPLETIONS
    return surface.read(surface, json.dumps(body).encode(), trusted)


def joined(pieces: list[bytes | memoryview]) -> object:
    """The JSON that the pieces are."""
    return json.loads(b"".join(pieces))


@given(OTHER_FIELDS, st.text(max_size=40), st.booleans(), st.integers(1, 5), st.integers(0, 10**6))
def test_fields_that_mean_nothing_to_the_gateway_go_on_unchanged(
    others: dict[str, object], text: str, stream: bool, n: int, most: int
) -> None:
    body = {
        **others,
        "model": "m",
        "messages": [{"role": "user", "content": text}],
        "stream": stream,
        "n": n,
        "max_tokens": most,
    }
    view = read(body)
    assert (view.model, view.stream, view.n) == ("m", stream, n)
    assert joined(body_of(view.fields)) == body
    for size in (0, 10**6):
        changed = assemble(
            view.fields, b'"stream":false,"max_tokens":1', frozenset(("stream", "max_tokens", "n")), size
        )
        assert joined(changed) == {**{k: v for k, v in body.items() if k != "n"}, "stream": False, "max_tokens": 1}


@given(st.integers(30_000, 40_000), st.integers(0, 3))
def test_large_values_are_not_copied_but_say_the_same(size: int, others: int) -> None:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "x" * size}],
        **{f"f{n}": "y" * size for n in range(others)},
    }
    view = read(body)
    assert joined(assemble(view.fields, b'"a":1', frozenset(), view.size)) == {**body, "a": 1}


@given(st.lists(st.text(max_size=20), min_size=1, max_size=4))
def test_text_counts_for_its_length(texts: list[str]) -> None:
    messages = [{"role": "user", "content": text, "name": "n"} for text in texts]
    view = read({"model": "m", "messages": messages})
    assert view.prompt_tokens >= sum(len(text) for text in texts) // 4


def test_media_are_found_where_they_stand() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://a/x"}}
    audio = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
    content = [{"type": "text", "text": "x"}, image, "bare text", audio]
    view = read({"model": "m", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": content}]})
    assert [(item.message, item.position, item.modality) for item in view.media] == [
        (1, 1, "image"),
        (1, 3, "audio"),
    ]
    assert view.prompt_tokens > 1024, "an image of unknown size weighs what a usual one does"


@pytest.mark.parametrize(("prompt", "several"), [
    ("text", 0), (["one"], 0), (["one", "two"], 2), ([1, 2, 3], 0), ([[1, 2], [3]], 2), ([[1, 2]], 0),
])  # fmt: skip
def test_prompts_of_completions(prompt: object, several: int) -> None:
    assert len(read({"model": "m", "prompt": prompt}, chat=False).prompts) == several


@pytest.mark.parametrize("name", [
    "kv_transfer_params", "ec_transfer_params", "request_id", "prompt_embeds", "data_parallel_rank", "bootstrap_room",
])  # fmt: skip
def test_barred_fields_unless_trusted(name: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], name: None}
    with pytest.raises(ApiError) as caught:
        read(body)
    assert (caught.value.status, caught.value.detail.param) == (400, name)
    assert read(body, trusted=True).model == "m"


def assert_read_or_refused(data: bytes, chat: bool) -> None:
    """Nothing but a 400 is raised."""
    try:
        surface = CHAT if chat else COMPLETIONS
        view = surface.read(surface, data, False)
    except ApiError as error:
        assert error.status == 400  # noqa: PT017  anything else must not be raised
    else:
        assert 1 <= view.n <= 128
        assert view.prompt_tokens >= 0


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_read_or_refused(data: bytes, chat: bool) -> None:
    assert_read_or_refused(data, chat)


@given(st.dictionaries(st.sampled_from(sorted(READ)), JSON_VALUES), st.booleans())
def test_any_values_are_read_or_refused(fields: dict[str, object], chat: bool) -> None:
    assert_read_or_refused(json.dumps({"model": "m", **fields}).encode(), chat)
