"""Engines and Gateways that the flow tests share: started when the first test asks, ended with the run."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fleet_under_test import Engines, Gateway, Role
from local_shell import Shell, wait_for

MakeGateway = Callable[..., Gateway]


@pytest.fixture(scope="session", autouse=True)
def end_on_sigterm() -> Iterator[None]:
    """A run that is told to end takes its processes with it."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell whose fleets have all ended, and left nothing, when the test is over."""
    shell = Shell(tmp_path / "home")
    yield shell
    left = shell.run("down", "--all")
    assert left.returncode == 0, left.stderr
    wait_for(lambda: not shell.processes(), f"{shell.processes()} still run")
    shell.close()


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Two encode, two prefill, two decode, one union and the plain engine. Nobody breaks these."""
    roles = {Role.ENCODE: 2, Role.PREFILL: 2, Role.DECODE: 2, Role.UNION: 1}
    with Engines(tmp_path_factory.mktemp("engines"), roles) as running:
        yield running


@pytest.fixture(scope="session")
def gateway(engines: Engines) -> Iterator[Gateway]:
    """Two workers before two encode, two prefill and two decode engines; all settings as they are by default."""
    names = [name for name in engines.fleet if not name.startswith("union")]
    with Gateway(engines, names, workers=2) as running:
        yield running


@pytest.fixture(scope="session")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Two engines of each role, for tests that break them; a test leaves them as it likes."""
    roles = {Role.ENCODE: 2, Role.PREFILL: 2, Role.DECODE: 2}
    with Engines(tmp_path_factory.mktemp("fragile"), roles) as running:
        yield running


@pytest.fixture
def mended(fragile: Engines) -> Iterator[Engines]:
    """The fragile engines, all running and without faults, before and after the test."""
    fragile.restore()
    yield fragile
    fragile.restore()


@pytest.fixture
def make_gateway(tmp_path: Path) -> Iterator[MakeGateway]:
    """Start Gateways that end with the test."""
    with ExitStack() as opened:

        def make(engines: Engines, *names: str, **options: object) -> Gateway:
            return opened.enter_context(Gateway(engines, list(names) or None, **options))  # type: ignore[arg-type]

        yield make
