"""Which Controller is asked, and whom the token is shown to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymotor.node_manager.controllers import FIRST_PAUSE, LONGEST_PAUSE, ControllerList, Pauses

A, B = "http://one:1026", "http://two:1026"


def test_each_gets_its_turn() -> None:
    controllers = ControllerList([A, B + "/"])
    seen = []
    for _ in range(4):
        seen.append(controllers.current)
        controllers.failed(controllers.current)
    assert seen == [A, B, A, B]
    controllers.failed(B)
    assert controllers.current == A, "that was another one's failure"


@pytest.mark.parametrize(
    ("leader", "followed"),
    [
        (B, True),
        ("http://two:9000", True),
        ("http://evil:1026", False),
        ("https://two:1026", False),
        ("http://two:1026/elsewhere", False),
        ("http://one@evil:1026", False),
        ("http://user@two:1026", False),
        ("http://two:99999", False),
        ("ftp://two:1026", False),
        ("http://[", False),
        ("", False),
        (A, False),
    ],
)
def test_hints_lead_to_known_hosts_only(leader: str, followed: bool) -> None:
    controllers = ControllerList([A, B])
    assert controllers.not_leader(A, leader) is followed
    assert controllers.current == (leader if followed else B)


@given(st.lists(st.text() | st.sampled_from([A, B, "http://two:7", "http://one.evil:1026"])))
def test_nobody_else_is_ever_asked(hints: list[str]) -> None:
    controllers = ControllerList([A, B])
    for hint in hints:
        controllers.not_leader(controllers.current, hint)
        assert controllers.current.startswith(("http://one:", "http://two:"))


def test_a_leader_that_was_hinted_at_and_fails_is_left() -> None:
    controllers = ControllerList([A, B])
    controllers.not_leader(A, "http://two:9000")
    controllers.failed("http://two:9000")
    assert controllers.current in (A, B)


@pytest.mark.parametrize("url", ["", "one:1026", "http://", "http://one/path", "http://user:word@one", "http://one:x"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="no URL"):
        ControllerList([url])
    with pytest.raises(ValueError, match="no Controller"):
        ControllerList([])


@given(st.lists(st.floats(0, 1), min_size=1))
def test_pauses_grow_to_their_limit(chances: list[float]) -> None:
    pauses = Pauses(chance=iter(chances).__next__)
    for failures in range(len(chances)):
        most = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**failures)
        assert most / 2 <= pauses.next() <= most
    pauses.reset()
    assert pauses.failures == 0
