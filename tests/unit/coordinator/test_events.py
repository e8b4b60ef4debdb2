"""When the first content has come, and where whole events end."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymotor.coordinator.api.events import DONE, ErrorEvent, has_content, whole_events


def event(**fields: object) -> bytes:
    """One event."""
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def chat_event(delta: dict[str, object], finish: str | None = None, **more: object) -> bytes:
    """A chat chunk."""
    return event(choices=[{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, **more}])


ROLE = chat_event({"role": "assistant", "content": ""})


@pytest.mark.parametrize("silent", [ROLE, ROLE * 2, b": keep-alive\n\n", chat_event({"content": None}), chat_event({})])
def test_what_nobody_waits_for(silent: bytes) -> None:
    assert not has_content(silent)


@pytest.mark.parametrize("content", [
    chat_event({"content": "x"}), chat_event({}, "stop"), chat_event({"tool_calls": [{"index": 0}]}),
    chat_event({"reasoning": "hm"}), chat_event({"content": ""}, None, token_ids=[5]), DONE,
    event(choices=[], usage={"prompt_tokens": 1}), event(choices=[{"index": 0, "text": "x"}]), b"data: not json\n\n",
])  # fmt: skip
def test_what_a_client_waits_for(content: bytes) -> None:
    assert has_content(content)
    assert has_content(ROLE + content)
    assert has_content(content.replace(b"data: ", b"data:"))


@pytest.mark.parametrize("error", [{"message": "x", "code": 500}, "words", []])
def test_an_error_before_content(error: object) -> None:
    for stream in (event(error=error) + DONE, ROLE + event(error=error) + DONE):
        with pytest.raises(ErrorEvent) as caught:
            has_content(stream)
        assert json.loads(caught.value.error) == error
    assert has_content(chat_event({"content": "x"}) + event(error=error)), "after content it is the stream's own end"


@given(
    st.lists(
        st.sampled_from((b"data: a\n\n", b"data: b\n\n", b"\n\n", b"data: c", b"\n", b"\r\n\r\n", b"x")), max_size=8
    )
)
def test_whole_events_end_where_the_last_one_does(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    end = whole_events(data)
    assert 0 <= end <= len(data)
    assert end == 0 or data[:end].endswith((b"\n\n", b"\r\n\r\n"))
    assert b"\n\n" not in data[end:]
    assert b"\r\n\r\n" not in data[end:]
