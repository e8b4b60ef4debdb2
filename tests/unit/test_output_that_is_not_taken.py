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


DEPLOY = str(ROOT / "examples" / "deployer" / "deploy.py")
PROGRAMS = {
    "deploy.py": ((DEPLOY, "--help"), "deploy.py"),
    "delete.sh": (("-m", "pymotor.deployer.removal", "--help"), "delete.sh"),
    "an action of a verb": (("-m", "pymotor", "api-key", "create", "--help"), "pymotor api-key"),
}


def run(home: Path, words: tuple[str, ...], output: int, unbuffered: str = "") -> subprocess.CompletedProcess[str]:
    """By default with a buffer before `output`, as for users."""
    return started(home, ("-m", "pymotor", *words), output, unbuffered)


def started(home: Path, words: tuple[str, ...], output: int, unbuffered: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYMOTOR_HOME": str(home), "PYTHONUNBUFFERED": unbuffered},
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("words", VERBS.values(), ids=VERBS)
def test_a_full_disk_is_told_in_one_line(tmp_path: Path, words: tuple[str, ...], unbuffered: str) -> None:
    with open("/dev/full", "wb") as full:
        ended = run(tmp_path, words, full.fileno(), unbuffered)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stderr.startswith(f"pymotor {words[0]}: ")
    assert "cannot be written: No space left on device; make room" in ended.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(("words", "name"), PROGRAMS.values(), ids=PROGRAMS)
def test_so_do_other_programs(tmp_path: Path, words: tuple[str, ...], name: str, unbuffered: str) -> None:
    with open("/dev/full", "wb") as full:
        ended = started(tmp_path, words, full.fileno(), unbuffered)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1), ended.stderr
    assert ended.stderr.startswith(f"{name}: ")
    assert "cannot be written: No space left on device; make room" in ended.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_deploy_that_cannot_say_what_it_wrote(tmp_path: Path) -> None:
    script = tmp_path / "deployer" / "deploy.py"
    script.parent.mkdir()
    script.write_text(Path(DEPLOY).read_text())
    with open("/dev/full", "wb") as full:
        ended = started(tmp_path, (str(script), "--config_dir", str(EXAMPLE), "--dry-run"), full.fileno())
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("deploy.py: ")
    assert "Traceback" not in ended.stderr


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
