"""Engines that all tests of a session share: started when the first test asks for them, ended with the session."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from engines_under_test import EnginesUnderTest


def pytest_configure() -> None:
    """No property is judged by the time that an example takes: machines differ, and other tests run beside it. Each run
    tries the same examples; `--hypothesis-profile=exploring` tries others each time.

    A shell without job control starts what runs in the background with SIGINT ignored, and processes inherit that:
    those that a test starts would not hear of Ctrl-C.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # All servers of the tests are here, whatever proxy the machine has for others.
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1,localhost,::1")))
    untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("exploring", untimed)
    settings.register_profile("repeatable", untimed, derandomize=True)
    settings.load_profile("repeatable")


_IN_PARTS = {"test_failure_table.py": "fleet"}
"""Files that would keep one process busy long after the others have ended, and the parameter that divides them: their
tests share engines only with tests of the same value."""
_OUT_OF_TURN = {"test_fleet_heals_with_vllm.py": -1, "test_handoffs.py": 1}


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


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Real vLLM last and in one process: its four engines need most of the machine (`make test` runs it by itself). Of
    its tests those with a fleet of their own first, before the four are started, and those of bad handoffs at the very
    end: an engine whose peer died can keep a processor busy until it is restarted. All else a file at a time, since
    the tests of a file share engines; a few files in parts. The groups are set before all other such functions, since
    one of them reads them; the order after them, since pytest's own puts tests with one fixture beside each other."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    yield
    items.sort(key=_turn)


def _group(item: pytest.Item) -> str:
    """What runs in one process."""
    if item.get_closest_marker("vllm") is not None:
        return "vllm"
    parts = _IN_PARTS.get(item.path.name)
    found = item.callspec.params[parts] if parts is not None and isinstance(item, pytest.Function) else ""
    return f"{item.path}[{found}]"


def _turn(item: pytest.Item) -> tuple[bool, int]:
    """By which tests are sorted."""
    return item.get_closest_marker("vllm") is not None, _OUT_OF_TURN.get(item.path.name, 0)
