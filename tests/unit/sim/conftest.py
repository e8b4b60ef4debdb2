"""Simulated engines for the tests of this directory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sim_legs import Engines


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    """Starts engines; all of them are gone when the module's tests are over."""
    running = Engines()
    try:
        yield running
    finally:
        running.stop()
