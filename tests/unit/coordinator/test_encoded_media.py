"""Messages with some of their media replaced: all else is what the client wrote."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pymotor.coordinator.api.place import offset_in
from pymotor.coordinator.api.surface import CHAT
from pymotor.coordinator.flows.encoded_media import EncodedMedia
from pymotor.coordinator.scheduling.encodings import Encoding

IMAGES = st.builds(
    lambda text, size: {"type": "image_url", "image_url": {"url": "data:image/png;base64," + text * size}},
    st.sampled_from(["QUJD", "RA==", 'a"b\\']),
    st.sampled_from([1, 40, 3000]),
)
SOUNDS = st.builds(
    lambda size: {"type": "input_audio", "input_audio": {"data": "UklG" * size, "format": "wav"}},
    st.sampled_from([1, 3000]),
)
TEXTS = st.one_of(st.just("plain"), st.builds(lambda text: {"type": "text", "text": text}, st.text(max_size=20)))
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "system"]),
            "content": st.one_of(st.text(max_size=20), st.lists(st.one_of(IMAGES, SOUNDS, TEXTS), max_size=4)),
        },
        optional={"name": st.text(max_size=8)},
    ),
    min_size=1,
    max_size=4,
)


def expected(messages: list[Any], replaced: str) -> list[Any]:
    """The messages with an image or sound of this kind as its metadata."""

    def part_of(part: Any) -> Any:
        if not isinstance(part, dict) or part.get("type") != replaced:
            return part
        kind = "image_embeds" if replaced == "image_url" else "audio_embeds"
        return {"type": kind, kind: {"grid": 1}, "uuid": "item"}

    return [
        {**message, "content": [part_of(part) for part in message["content"]]}
        if isinstance(message["content"], list)
        else message
        for message in messages
    ]


@given(MESSAGES, st.sampled_from(["image_url", "input_audio"]), st.booleans())
def test_all_else_is_as_the_client_wrote_it(messages: list[Any], replaced: str, spaced: bool) -> None:
    body = json.dumps({"messages": messages, "model": "m"}, indent=1 if spaced else None).encode()
    view = CHAT.read(CHAT, body, False)
    said = {"grid": msgspec.Raw(b"1")}
    results = [
        Encoding("encode-0", "item", msgspec.Raw(msgspec.json.encode(said))) if item.kind == replaced else None
        for item in view.media
    ]
    fields = EncodedMedia(view, results, reader_with_media=False).reader_fields()
    assert json.loads(bytes(fields["messages"])) == expected(messages, replaced)


@given(st.binary(max_size=40), st.integers(0, 3))
def test_a_part_is_found_where_it_stands(padding: bytes, number: int) -> None:
    text = json.dumps({"a": [padding.hex()] * 4}).encode()
    parts = msgspec.json.decode(msgspec.json.decode(text, type=dict[str, msgspec.Raw])["a"], type=list[msgspec.Raw])
    part = parts[number]
    at = offset_in(text, part)
    assert text[at : at + len(memoryview(part))] == bytes(part)
    assert text[:at].count(b",") == number
    assert offset_in(text, msgspec.Raw(b"something else")) == -1
