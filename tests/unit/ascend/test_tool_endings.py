"""SIGTERM while a tool is started, runs or is ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("tool_ended_at_each_moment.py")


def test_a_tool_is_ended_at_whatever_moment_the_signal_comes() -> None:
    """Python's own handlers raise between any two instructions, also where `subprocess` holds a lock."""
    path = os.pathsep.join([str(TESTS), *sys.path])
    tried = subprocess.run(
        [sys.executable, str(SCRIPT)], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    lines = [line.rpartition(": ") for line in tried.stdout.splitlines()]
    assert [line for line in lines if line[2] != "ended"] == [], tried.stderr
    assert {"fork_exec", "_fork_exec"} & {line[0] for line in lines}, "it was started at one of them"
    assert "waitpid" in {line[0] for line in lines}, "and waited for"
