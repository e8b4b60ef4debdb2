"""`pymotor up` on a disk that is full."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from local_shell import SECONDS, Shell, write_config

MOUNTS = (("unshare", "--mount"), ("unshare", "--mount", "--user", "--map-root-user"))


@pytest.fixture(scope="module")
def unshare(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """What a command is begun with that mounts for itself alone."""
    place = shlex.quote(str(tmp_path_factory.mktemp("mounted")))
    if shutil.which("unshare") is not None:
        for words in MOUNTS:
            tried = [*words, "sh", "-c", f"mount -t tmpfs tmpfs {place}"]
            if subprocess.run(tried, capture_output=True, timeout=60).returncode == 0:
                return words
    pytest.skip("file systems cannot be mounted here")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", [(), ("--detach",)], ids=["in the foreground", "detached"])
def test_an_up_whose_output_finds_no_room_ends_and_says_so(
    shell: Shell, tmp_path: Path, words: tuple[str, ...]
) -> None:
    config = write_config(tmp_path / "config", e=0)
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "pymotor", "up", "--config_dir", str(config), "--port", str(shell.port), *words],
            env=shell.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=SECONDS,
        )
    assert ended.returncode == 1
    (line,) = [line for line in ended.stderr.splitlines() if "cannot be written" in line]
    assert line.startswith("pymotor up: ")
    assert "No space left on device" in line
    assert "Traceback" not in ended.stderr
    assert shell.processes() == []


@pytest.mark.parametrize("kilobytes", [16, 32], ids=lambda size: f"{size} KiB")
def test_a_full_disk_is_told_instead_of_waited_for(
    shell: Shell, tmp_path: Path, unshare: tuple[str, ...], kilobytes: int
) -> None:
    """With the least some processes do not start; with more they do, and wait for what others could not write."""
    config = write_config(tmp_path / "config")
    shell.home.mkdir(exist_ok=True)
    up = [sys.executable, "-m", "pymotor", "up", "--config_dir", str(config), "--port", str(shell.port)]
    script = f"mount -t tmpfs -o size={kilobytes}k tmpfs {shlex.quote(str(shell.home))} && exec {shlex.join(up)}"
    ended = subprocess.run(
        [*unshare, "sh", "-c", script],
        env=shell.environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode == 1, said
    assert f"error: no space is left on the disk of {shell.home / str(shell.port)}: make room there" in said
    assert "set PYMOTOR_HOME to a directory on another disk" in said
    assert "Traceback" not in said
    assert said.count("error: ") == 1
    assert shell.processes() == []
