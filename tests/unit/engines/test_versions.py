"""Which keys are refused, and which version is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pymotor.engines.versions import installed_version, refused_keys, version_numbers


@pytest.mark.parametrize(
    ("engine", "version", "refused"),
    [
        ("vllm", "0.32.0+cpu", True),
        ("vllm", "1.0", True),
        ("vllm", "", True),
        ("vllm", "0.11.0rc1", False),
        ("sim", "", True),
        ("sglang", "0.5", False),
    ],
)
def test_keys_are_refused_by_version(engine: str, version: str, refused: bool) -> None:
    assert ("kv_rank" in refused_keys(engine, version, "kv_transfer_config")) is refused
    assert ("ec_rank" in refused_keys(engine, version, "ec_transfer_config")) is refused


def test_version_numbers() -> None:
    assert version_numbers("0.32.0+cpu") == (0, 32, 0)
    assert version_numbers("dev") == ()


async def test_the_version_is_asked_of_the_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "vllm-0.99.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.99.1\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert await installed_version(sys.executable, "vllm") == "0.99.1"


async def test_no_version_is_known_of_what_is_not_there() -> None:
    assert await installed_version(sys.executable, "sglang") == ""
    assert await installed_version("/no/such/python", "vllm") == ""
    assert await installed_version(sys.executable, "sim") == ""


async def test_an_interpreter_that_hangs_is_given_up(tmp_path: Path) -> None:
    hanging = tmp_path / "python"
    hanging.write_text("#!/bin/sh\nexec sleep 1000\n")
    hanging.chmod(0o755)
    assert await installed_version(str(hanging), "vllm", deadline=0.2) == ""
