"""tools/vllm_cpu_nixl_polling.py before a package that is laid out as NIXL is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[3] / "tools"
BINDINGS = """
class nixlAgentConfig:
    def __init__(self):
        self._delay = -1

    pthrDelay = property(lambda self: self._delay, lambda self, delay: setattr(self, "_delay", delay))
"""
API = """
from . import _bindings

def delay(asked):
    config = _bindings.nixlAgentConfig()
    config.pthrDelay = asked
    return config.pthrDelay
"""
QUESTION = "from nixl_cu12._api import delay; print(delay(0), delay(7))"


def delays(directory: Path, before: str) -> list[int]:
    """What progress threads get that are asked to wait for 0 and for 7 microseconds."""
    package = directory / "nixl_cu12"
    package.mkdir(exist_ok=True)
    for name, content in {"__init__.py": "", "_bindings.py": BINDINGS, "_api.py": API}.items():
        (package / name).write_text(content)
    said = subprocess.run(
        [sys.executable, "-c", before + QUESTION],
        env={**os.environ, "PYTHONPATH": f"{directory}{os.pathsep}{TOOLS}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [int(word) for word in said.stdout.split()]


def test_a_progress_thread_that_would_never_wait_waits(tmp_path: Path) -> None:
    arm = "import vllm_cpu_nixl_polling as hook; hook.wait_between_polls(); "
    assert delays(tmp_path, "") == [0, 7]
    assert delays(tmp_path, arm) == [1000, 7]
    assert delays(tmp_path, arm + arm) == [1000, 7]
