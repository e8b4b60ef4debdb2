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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Real vLLM last: its four engines need most of the machine, and nothing else should run beside them. Of its tests
    those of bad handoffs at the very end: an engine whose peer died can keep a processor busy until it is restarted."""
    items.sort(key=lambda item: (item.get_closest_marker("vllm") is not None, "test_handoffs" in item.nodeid))
