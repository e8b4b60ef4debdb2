"""Where the gateway cuts a stream of events and what it reads in them, compared with a parser of the HTML standard.

One difference: a line that ends in CR alone is none here. No engine writes such, and a CR at the end of what has come
so far would have to wait for the next byte.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest
from request_bytes import cuts

from pymotor.coordinator.api.events import ErrorEvent, data_of, ends_with_done, events_of, has_content, whole_events
from server_sent_events import events_in

_CHUNKS = (
    '{"choices":[{"delta":{"content":"x"}}]}', '{"choices":[{"delta":{"role":"assistant","content":""}}]}',
    '{"choices":[],"usage":{"prompt_tokens":1}}', '{"choices":[{"text":"\\u00e9","finish_reason":"stop"}]}',
    '{"error":{"message":"no","code":500}}', "[DONE]", "{}", "null", "{", "", "[]", "data: x", "\u00e9", "\U0001f600",
    '{"choices":[{"delta":{"content":"\\n\\n"}}]}', '{"choices":3}', "[DONE] ", " [DONE]",
    '{"error":null,"choices":null}',
)  # fmt: skip
_OTHER_LINES = (
    ": ping",
    ":",
    "event: message_start",
    "event:data: x",
    "id: 7",
    "retry: 10",
    "x",
    "data2: y",
    ": data: z",
    " data: w",
)
_LINE_ENDS = ("\n", "\n", "\r\n")


def stream(chance: random.Random) -> bytes:
    """A few events, whole or not."""
    mixed = chance.random() < 0.3
    end = chance.choice(_LINE_ENDS)

    def line_end() -> str:
        return chance.choice(_LINE_ENDS) if mixed else end

    text = ""
    for _ in range(chance.randint(0, 6)):
        for _ in range(chance.choice((0, 0, 0, 1, 2))):
            text += chance.choice(_OTHER_LINES) + line_end()
        for _ in range(chance.choice((1, 1, 1, 1, 0, 2))):
            text += chance.choice(("data: ", "data: ", "data:", "data:  ")) + chance.choice(_CHUNKS) + line_end()
        if chance.random() < 0.95:
            text += line_end()
    data = text.encode()
    if chance.random() < 0.1:
        at = chance.randint(0, len(data))
        data = data[:at] + chance.choice((b"\n", b"\xff", b"\0", b"\n\n", b"")) + data[at + chance.randint(0, 2) :]
    lone_return = b"\r" in data.replace(b"\r\n", b"")
    return data.replace(b"\r", b"") if lone_return else data


def check(data: bytes, pieces: list[bytes]) -> str:
    """Relay the pieces as a `Relay` does and compare; returns what was met. Raises `AssertionError`."""
    out = tail = b""
    for piece in pieces:
        waiting = tail + piece
        end = whole_events(waiting)
        out, tail = out + waiting[:end], waiting[end:]
    assert out + tail == data, "nothing is lost or changed"
    expected = events_in(data)
    assert events_in(out) == expected, "all whole events went on"
    assert not events_in(tail), "none is held back"
    read = [data_of(event).decode("utf-8", "replace") for event in events_of(out)]
    assert [found for found in read if found] == [event.data.strip() for event in expected if event.data.strip()]
    if ends_with_done(out):
        assert expected[-1].data.strip() == "[DONE]"
    else:
        assert not out.endswith((b"\n\ndata: [DONE]\n\n", b"\r\n\r\ndata:[DONE]\r\n\r\n")), "the end was not seen"
    try:
        return "content" if has_content(out) else "nothing yet"
    except ErrorEvent:
        return "error"


@pytest.mark.parametrize("inputs", [4000, pytest.param(200_000, marks=pytest.mark.soak)])
def test_events_are_cut_and_read_as_the_standard_says(inputs: int) -> None:
    met: Counter[str] = Counter()
    for seed in range(inputs):
        chance = random.Random(seed)
        data = stream(chance)
        try:
            met[check(data, cuts(chance, data))] += 1
        except Exception as error:  # noqa: BLE001  whatever it is, the input belongs to it
            pytest.fail(f"seed {seed}: {error!r}\n{data!r}")
    assert min(met[what] for what in ("content", "nothing yet", "error")) > inputs // 50, met
