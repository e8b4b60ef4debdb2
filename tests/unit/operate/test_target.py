"""Which Controller a verb of operators asks."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from pymotor.local.processes import identify
from pymotor.local.state import FleetDirectory, FleetState, Phase, make_private
from pymotor.operate.target import TargetError, add_controller_options, controller_of

SECRET = "a-secret-of-the-fleet"
OTHER = "a-secret-of-another-cluster"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYMOTOR_HOME", str(tmp_path))
    return tmp_path


def add_fleet(home: Path, name: str, port: int, phase: Phase = Phase.READY) -> FleetDirectory:
    fleet = FleetDirectory(home, name)
    make_private(fleet.path)
    fleet.token_file.write_text(f"{SECRET}-{name}\n")
    fleet.write_state(
        FleetState(
            name=name,
            phase=phase,
            supervisor=identify(os.getpid()),
            started_at=0.0,
            url=f"http://127.0.0.1:{port}",
            management_url=f"http://127.0.0.1:{port + 1}",
            observability_url=f"http://127.0.0.1:{port + 2}",
            controller_url=f"http://127.0.0.1:{port + 3}",
        )
    )
    return fleet


def target(*words: str, **variables: str) -> tuple[str, str | None]:
    """Where, and the secret that is shown."""
    parser = argparse.ArgumentParser()
    add_controller_options(parser)
    found = controller_of(parser.parse_args(words), variables)
    return found.url, found.token.header["Authorization"].removeprefix("Bearer ") if found.token is not None else None


def test_the_fleet_that_runs_is_meant(home: Path) -> None:
    add_fleet(home, "old", 4000, Phase.STOPPED)
    add_fleet(home, "new", 5000)
    assert target() == ("http://127.0.0.1:5003", f"{SECRET}-new")
    assert target("--name", "new") == target("--port", "5000") == target()
    assert target(PYMOTOR_CLUSTER_TOKEN=OTHER) == target()


def test_what_is_named_is_meant(home: Path) -> None:
    add_fleet(home, "new", 5000)
    variables = {"PYMOTOR_CONTROLLER": "http://far:1026/", "PYMOTOR_CLUSTER_TOKEN": OTHER}
    assert target(**variables) == ("http://far:1026", OTHER)
    assert target("--controller", "http://further:1", **variables) == ("http://further:1", OTHER)
    assert target("--controller", "http://further:1") == ("http://further:1", None)
    assert target("--name", "new", **variables) == ("http://127.0.0.1:5003", f"{SECRET}-new")


@pytest.mark.parametrize("words", [[], ["--name", "old"], ["--name", "nobody"], ["--port", "4000"]])
def test_without_a_fleet_it_says_what_to_do(home: Path, words: list[str]) -> None:
    add_fleet(home, "old", 4000, Phase.STOPPED)
    with pytest.raises(TargetError, match="Start one with `pymotor up`, or say where the Controller is"):
        target(*words)


def test_several_fleets_are_named(home: Path) -> None:
    add_fleet(home, "one", 4000)
    add_fleet(home, "two", 5000)
    with pytest.raises(TargetError, match="several fleets run: one, two"):
        target()
    assert target("--port", "4000")[0] == "http://127.0.0.1:4003"


def test_a_token_that_cannot_be_used_is_told(home: Path) -> None:
    fleet = add_fleet(home, "one", 4000)
    fleet.token_file.write_text("short")
    with pytest.raises(TargetError, match="at least 16"):
        target()
    fleet.token_file.unlink()
    with pytest.raises(TargetError, match="the token of fleet one cannot be read"):
        target()
