"""Which Controller is asked next, how long nobody is asked, and how Controllers are named."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running_coordinator import MINIMAL_CONFIG

from pymotor.cli import main
from pymotor.control_plane.controllers import Candidates, ControllerURLError, Pause, controller_urls

A, B, C = "http://a:1026", "http://b:1026", "http://c:1026"


def test_urls_come_one_by_one_and_each_once() -> None:
    assert controller_urls(f"{A}/, https://[::1]:7,{A}") == (A, "https://[::1]:7")


@pytest.mark.parametrize(
    "text",
    ["", " , ", "controller:1026", "ftp://a", "http://", "http://a:port", "http://a:0", "http://me:key@a", "//a"],
)
def test_what_is_no_url_of_a_controller_is_refused(text: str) -> None:
    with pytest.raises(ControllerURLError, match="http://controller:1026"):
        controller_urls(text)


def test_the_named_leader_is_next_but_nobody_is_asked_twice_in_a_round() -> None:
    candidates = Candidates((A, B, C))
    assert not candidates.go_on(C + "/")
    assert candidates.current == C
    assert not candidates.go_on(A), "it was asked before it named another"
    assert candidates.current == B
    assert candidates.go_on("http://elsewhere:1026"), "all were asked"


@given(st.integers(1, 5), st.lists(st.sampled_from([A, B, C, "http://elsewhere:1026", ""]), max_size=40))
def test_each_round_asks_everybody(count: int, leaders: list[str]) -> None:
    urls = [A, B, C, "http://d:1026", "http://e:1026"][:count]
    candidates = Candidates(urls)
    asked: list[str] = []
    for leader in leaders:
        asked.append(candidates.current)
        if candidates.go_on(leader):
            assert sorted(asked) == urls
            asked = []


def test_one_that_answered_begins_the_next_round() -> None:
    candidates = Candidates((A, B))
    assert not candidates.go_on()
    candidates.answered()
    assert not candidates.go_on()
    assert candidates.current == A
    assert candidates.go_on()


@given(st.integers())
def test_pauses_grow_to_two_seconds_and_begin_anew(seed: int) -> None:
    pause = Pause(random.Random(seed))
    longest = [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    taken = [pause.take() for _ in longest]
    assert all(whole / 2 <= found <= whole for found, whole in zip(taken, longest, strict=True))
    pause.reset()
    assert pause.take() <= 0.1


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., int]:
    """`pymotor coordinator` with these options; none of them lets it run."""
    import json

    config = tmp_path / "user_config.json"
    config.write_text(json.dumps(MINIMAL_CONFIG))
    return lambda *options: main(["coordinator", "--user_config_path", str(config), *options])


def test_somebody_must_tell_of_the_fleet(
    start: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CONTROLLER_SERVICE", raising=False)
    assert start() == 2
    assert "--controller URL or --fleet FILE" in capsys.readouterr().err
    monkeypatch.setenv("CONTROLLER_SERVICE", "not a host/")
    assert start() == 2
    assert "'http://not a host/:1026'" in capsys.readouterr().err


def test_one_of_both_tells_of_the_fleet(start: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--controller", A, "--fleet", "fleet.json"], ["--controller", "a:1026"]):
        with pytest.raises(SystemExit) as ended:
            start(*wrong)
        assert ended.value.code == 2
    assert "looks like http://controller:1026" in capsys.readouterr().err


def test_a_token_that_cannot_be_one_is_not_shown(
    start: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYMOTOR_CLUSTER_TOKEN", "too-short")
    assert start("--controller", A) == 1
    error = capsys.readouterr().err
    assert "the cluster token needs at least" in error
    assert "too-short" not in error
