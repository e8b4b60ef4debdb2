"""`pymotor top` shows what the Coordinator says, in a terminal, in a pipe and as JSON."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from answers import ask_one
from fleet_under_test import Engines, Gateway
from images import text_chat
from processes import wait_until


@pytest.fixture(scope="module")
def watched(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(engines, label="watched", config={"prometheus_metrics_config": {"reuse_time": 0.001}}) as gateway:
        yield gateway


def command(gateway: Gateway, *words: str) -> list[str]:
    where = ["--management", gateway.management_url, "--observability", gateway.observability_url]
    return [sys.executable, "-m", "pymotor", "top", *where, *words]


def test_once_in_a_pipe_is_plain_text(watched: Gateway) -> None:
    done = subprocess.run(
        command(watched, "--once", "--interval", "0.1"), capture_output=True, text=True, timeout=60, check=True
    )
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert lines[0].startswith("serves   workers 1/1   in flight 0")
    rows = [line.split() for line in lines if "KV CACHE" not in line and "active" in line]
    assert [row[0] for row in rows] == [
        "encode-0", "encode-1", "prefill-0", "prefill-1", "decode-0", "decode-1", "union-0",
    ]  # fmt: skip
    assert all(row[2] == "active" and row[-1].endswith("%") for row in rows)


def test_json_goes_on_with_rates_and_first_token_times(watched: Gateway) -> None:
    with subprocess.Popen(
        command(watched, "--json", "--interval", "0.05"), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert first["ready"]
        assert {one["name"] for one in first["instances"]} == set(watched.names)
        for _ in range(3):
            assert ask_one(watched.url, text_chat(max_tokens=4)).status == 200
        seen = first
        while not (seen["requests_per_second"] and seen["first_token_p95"]):
            seen = json.loads(process.stdout.readline())
        assert 0 < seen["first_token_p50"] <= seen["first_token_p95"]
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(60) == 0


def test_in_a_terminal_the_screen_is_given_back(watched: Gateway) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(watched, "--interval", "0.05"), stdout=theirs, stdin=subprocess.DEVNULL,
        env=os.environ | {"COLUMNS": "100", "LINES": "9", "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while shown.count(b"\x1b[H") < 3:
        shown += os.read(ours, 65536)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    try:
        while data := os.read(ours, 65536):
            shown += data
    except OSError:
        pass  # a terminal nobody writes to any more
    os.close(ours)
    text = shown.decode()
    assert text.startswith("\x1b[?1049h")
    assert text.endswith("\x1b[?1049l")
    frame = text.split("\x1b[H")[2].split("\x1b[J")[0]
    assert frame.count("\n") <= 8, "it fits on the screen"
    assert "more" in frame
    assert "\x1b[32mserves" in frame


def test_nobody_there_is_an_error_in_words(tmp_path: pytest.TempPathFactory) -> None:
    nobody = ["--management", "http://127.0.0.1:1", "--observability", "http://127.0.0.1:1"]
    done = subprocess.run(
        [sys.executable, "-m", "pymotor", "top", "--once", *nobody], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith("pymotor top: the Coordinator does not answer")
    half = subprocess.run(
        [sys.executable, "-m", "pymotor", "top", "--management", "http://127.0.0.1:1"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert half.returncode == 1
    assert "go together" in half.stderr


def test_one_that_stops_is_told(engines: Engines) -> None:
    with (
        Gateway(engines, ["union-0"], label="stopping") as gateway,
        subprocess.Popen(
            command(gateway, "--json", "--interval", "0.05"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["ready"]
        gateway.close()
        wait_until(lambda: process.poll() is not None, "it ends", seconds=60)
        assert process.returncode == 1
