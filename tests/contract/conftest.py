"""Each test of this directory asks the simulated engine and real vLLM the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from engines_under_test import EnginesUnderTest


@pytest.fixture(scope="session", params=["sim", pytest.param("vllm", marks=pytest.mark.vllm)])
def engines(request: pytest.FixtureRequest) -> EnginesUnderTest:
    """Four ready engines of one kind."""
    name = {"sim": "simulated_engines", "vllm": "vllm_engines"}[request.param]
    found: EnginesUnderTest = request.getfixturevalue(name)
    return found
