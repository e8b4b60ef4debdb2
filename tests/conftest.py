"""Engines that all tests of a session share: started when the first test asks for them, ended with the session."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from engines_under_test import EnginesUnderTest


@pytest.fixture(scope="session")
def simulated_engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnginesUnderTest]:
    """Encode, prefill, decode and a plain union: the simulated engine."""
    from engines_under_test import running_engines

    with running_engines("sim", tmp_path_factory.mktemp("sim")) as engines:
        yield engines


@pytest.fixture(scope="session")
def vllm_engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnginesUnderTest]:
    """The same four with real vLLM on the CPU; skipped, or failed, where it is not installed."""
    from engines_under_test import running_engines, vllm_python_or_skip

    with running_engines("vllm", tmp_path_factory.mktemp("vllm"), vllm_python_or_skip()) as engines:
        yield engines
