"""Verbs run by a user who is not root, in a process of their own, and a directory that such a user can reach."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "infer_engines" / "sim" / "epd"
# What is imported while it still may: Python itself may be where only root can read.
_PROGRAM = """
import contextlib, io, os, sys
import pymotor.coordinator.keys.command, pymotor.deployer.command
import tokenizers
from pymotor.cli import main
from pymotor.coordinator.prompts.chat_template import ChatTemplate
ChatTemplate("{{ 'some text' }}", {})
with contextlib.redirect_stdout(io.StringIO()):
    main(["validate", "--config_dir", sys.argv[1]])
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
sys.exit(main(sys.argv[2:]))
"""


def run_unprivileged(*words: object) -> subprocess.CompletedProcess[str]:
    """`pymotor` with these words, by nobody where the tests are root's, else by who runs them."""
    command = [sys.executable, "-c", _PROGRAM, str(EXAMPLE), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@contextmanager
def reachable_directory() -> Iterator[Path]:
    """An empty one that everybody may enter and write; those of pytest are their user's alone."""
    directory = Path(tempfile.mkdtemp(prefix="pymotor-test-"))
    try:
        directory.chmod(0o777)
        yield directory
    finally:
        for locked in directory.rglob("*"):
            if locked.is_dir():
                os.chmod(locked, 0o700)
        shutil.rmtree(directory)
