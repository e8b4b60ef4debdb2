"""A private machine for each test that takes commands word for word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from host_machine import HostMachine
from private_machine import PrivateMachine, obstacle, private_machine, skip_without_namespaces


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[PrivateMachine]:
    """One machine with loopback: a private one where there can be one, else this one with substitutions."""
    with HostMachine(tmp_path) if obstacle() else private_machine(tmp_path) as machine:
        yield machine


@pytest.fixture
def three_nodes(tmp_path: Path) -> Iterator[PrivateMachine]:
    """Three nodes, 192.0.0.1 to 192.0.0.3, as the guide of LLMDataDist has them."""
    skip_without_namespaces()
    with private_machine(tmp_path, ["192.0.0.1", "192.0.0.2", "192.0.0.3"]) as machine:
        yield machine
