"""What `pymotor explain` does not take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ASKED = [sys.executable, "-m", "pymotor", "explain", "--management", "http://127.0.0.1:1", "--body"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--body", "request.json", "my-request"], "not both"),
        (["--path", "/v1/completions"], "--path goes with --body"),
        (["--path", "/v1/completions", "my-request"], "--path goes with --body"),
        (["--header", "X-Session-ID: one"], "--header goes with --body"),
        (["--body", "request.json", "--header", "X-Session-ID"], "no colon"),
    ],
)
def test_words_that_do_not_go_together_are_wrong_usage(words: list[str], said: str) -> None:
    argv = [sys.executable, "-m", "pymotor", "explain", "--management", "http://127.0.0.1:1", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("pymotor explain: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("written", [None, b"", b"{", b'{"model": "m",}', b"{} {}"])
def test_what_is_no_request_is_wrong_usage(tmp_path: Path, written: bytes | None) -> None:
    if written is not None:
        (tmp_path / "request.json").write_bytes(written)
    done = subprocess.run([*ASKED, "request.json"], capture_output=True, timeout=60, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert b"request.json is no request" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_file_without_a_name_is_no_request(tmp_path: Path) -> None:
    done = subprocess.run([*ASKED, ""], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "is no request" in done.stderr
