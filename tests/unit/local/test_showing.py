"""What `pymotor up` shows, and the ends of logs."""

from __future__ import annotations

import base64
import io
import json
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymotor.local.console import JsonConsole, PlainConsole, TerminalConsole
from pymotor.local.events import (
    Answered,
    Event,
    Failed,
    Note,
    ProcessChanged,
    ProcessState,
    Ready,
    Replaced,
    Stopped,
    Stopping,
    decode_event,
)
from pymotor.local.greeting import curl_command, first_request, sample_image_url
from pymotor.local.log_tail import last_lines

EVENTS: list[Event] = [
    Replaced("$.a", "old", "new"),
    Note("look", severity="warning"),
    ProcessChanged("decode-0", ProcessState.STARTING, 0.1),
    ProcessChanged("decode-0", ProcessState.READY, 2.5, "http://127.0.0.1:1"),
    Ready(
        name="n", url="http://u", management_url="http://m", dashboard_url="http://m/dashboard",
        observability_url="http://o", models=("a", "b"), seconds=3.0, curl="curl x",
    ),
    Answered("text", "decode;dur=1", 0.5),
    Stopping("Ctrl-C"),
    Stopped(1.0),
    Failed("broken"),
]  # fmt: skip


def test_json_events_come_back_as_they_were() -> None:
    output = io.StringIO()
    console = JsonConsole(output)
    for event in EVENTS:
        console.show(event)
        console.tick()
    assert [decode_event(line) for line in output.getvalue().splitlines()] == EVENTS


def test_failures_and_warnings_go_to_the_error_output() -> None:
    output, errors = io.StringIO(), io.StringIO()
    console = PlainConsole(output, errors)
    for event in EVENTS:
        console.show(event)
        console.tick()
    assert errors.getvalue() == "warning: look\nerror: broken\n"
    assert "decode-0" in output.getvalue()
    assert "dashboard http://m/dashboard " in output.getvalue()
    assert "curl x" in output.getvalue()
    assert "\x1b" not in output.getvalue()


def test_a_terminal_shows_each_process_once_with_its_seconds() -> None:
    output = io.StringIO()
    now = 0.0
    console = TerminalConsole(output, PlainConsole(output, output), clock=lambda: now)
    for name in ("a", "b"):
        console.show(ProcessChanged(name, ProcessState.STARTING, 0.0))
    now = 1.5
    console.tick()
    console.show(ProcessChanged("a", ProcessState.READY, 2.0))
    console.show(Note("something"))
    screen = screen_after(output.getvalue())
    assert [line.split() for line in screen] == [
        ["✔", "a", "ready", "2.0", "s"],
        ["something"],
        ["…", "b", "starting", "1.5", "s"],
    ]


def screen_after(text: str) -> list[str]:
    """Lines as a terminal has them, for the two sequences the console uses and its colours."""
    lines: list[str] = [""]
    position = 0
    while position < len(text):
        if text.startswith("\x1b[", position):
            end = position + 2
            while not text[end].isalpha():
                end += 1
            argument, command = text[position + 2 : end], text[end]
            if command == "F":
                del lines[-1]
                lines = [*lines[: len(lines) - int(argument)], ""]
            assert command in "FJm"
            position = end + 1
        elif text[position] == "\n":
            lines.append("")
            position += 1
        else:
            lines[-1] += text[position]
            position += 1
    return lines[:-1] if not lines[-1] else lines


def test_the_sample_image_is_a_png_of_its_size() -> None:
    content = base64.b64decode(sample_image_url(64).removeprefix("data:image/png;base64,"))
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", content[16:24]) == (64, 64)
    start = content.index(b"IDAT")
    (length,) = struct.unpack(">I", content[start - 4 : start])
    assert len(zlib.decompress(content[start + 4 : start + 4 + length])) == 64 * 65


@given(st.text(min_size=1, max_size=20).filter(lambda name: "\0" not in name and name.isprintable()))
def test_the_printed_request_survives_the_shell(model: str) -> None:
    command = curl_command("http://127.0.0.1:1", first_request(model, with_image=False))
    words = (
        subprocess.run(["sh", "-c", command.replace("curl", "printf '%s\\0'", 1)], capture_output=True, check=True)
        .stdout.decode()
        .split("\0")
    )
    assert json.loads(words[words.index("-d") + 1])["model"] == model


@given(
    lines=st.lists(st.text(alphabet="abä ", max_size=40), max_size=60),
    number=st.integers(0, 70),
    ends=st.booleans(),
)
def test_last_lines_are_the_last_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], number: int, ends: bool
) -> None:
    file = tmp_path_factory.getbasetemp() / "log"
    text = "\n".join(lines) + ("\n" if ends and lines else "")
    file.write_text(text)
    expected = text.splitlines()
    assert last_lines(file, number) == (expected[-number:] if number else [])


def test_a_log_larger_than_a_block_is_read_from_its_end(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("".join(f"line {number} {'x' * 100}\n" for number in range(5000)))
    assert [line.split()[1] for line in last_lines(file, 2000)] == [str(number) for number in range(3000, 5000)]
    assert last_lines(tmp_path / "none", 5) == []
