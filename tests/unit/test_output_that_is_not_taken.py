"""Standard output that takes no more, or that nobody reads any more: one line or none, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "infer_engines" / "sim" / "epd"
VERBS = {
    "more than a buffer": ("schema",),
    "less than a buffer": ("validate", "--config_dir", str(EXAMPLE)),
    "of a verb that failed": ("validate", "--config_dir", "/nowhere"),
    "as JSON": ("status", "--json"),
    "help": ("--help",),
    "the version": ("--version",),
}


def run(home: Path, words: tuple[str, ...], output: int) -> subprocess.CompletedProcess[str]:
    """With a buffer before `output`, as for users."""
    return subprocess.run(
        [sys.executable, "-m", "pymotor", *words],
        env={**os.environ, "PYMOTOR_HOME": str(home), "PYTHONUNBUFFERED": ""},
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", VERBS.values(), ids=VERBS)
def test_a_full_disk_is_told_in_one_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        ended = run(tmp_path, words, full.fileno())
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stderr.startswith(f"pymotor {words[0]}: ")
    assert "cannot be written: No space left on device; make room" in ended.stderr


@pytest.mark.parametrize("words", VERBS.values(), ids=VERBS)
def test_a_reader_that_went_away_is_no_failure_to_tell(tmp_path: Path, words: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = run(tmp_path, words, writing)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_without_standard_output_verbs_go_on(tmp_path: Path) -> None:
    ended = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} -m pymotor validate --config_dir {EXAMPLE} >&-"],
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
