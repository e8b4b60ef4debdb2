"""What a worker keeps of requests that are over is bounded, and the right ones stay."""

from __future__ import annotations

import json
from time import monotonic

import pytest

from pymotor.coordinator.control import FinishedQuestion
from pymotor.coordinator.dashboard import finished_requests
from pymotor.coordinator.dashboard.finished_answers import answer_finished
from pymotor.coordinator.dashboard.finished_requests import FAILURES, NEWEST, SLOWEST, FinishedRequests
from pymotor.coordinator.following import FollowedRequest, UnfollowedRequest
from pymotor.coordinator.http.client_request import ClientRequest
from pymotor.coordinator.trail import Trail

PATH = "/v1/chat/completions"


def request(name: str = "") -> ClientRequest:
    made = ClientRequest()
    made.received_at = monotonic()
    made.headers = {b"x-request-id": name.encode()} if name else {}
    return made


def over(kept: FinishedRequests, seconds: float, status: int = 200, name: str = "", reason: str = "") -> None:
    made = request(name)
    kept.over(FollowedRequest(Trail(), made, PATH, None, status, reason, made.received_at + seconds))


def names(kept: FinishedRequests) -> set[str]:
    return {one.request_id.decode() for one in kept.newer(0.0)}


def test_rings_never_grow() -> None:
    kept = FinishedRequests(0, 20.0)
    for number in range(3000):
        over(kept, number % 97 / 10, status=503 if number % 3 else 200)
        made = request()
        kept.failed(UnfollowedRequest(made, PATH, None, 503, "no_room", made.received_at + 1))
    assert len(kept.newer(0.0)) <= NEWEST + FAILURES + SLOWEST


def test_failures_and_the_slow_outlive_the_newest() -> None:
    kept = FinishedRequests(0, 20.0)
    over(kept, 0.1, status=502, name="failed")
    over(kept, 0.1, reason="engine_failed", name="broken off")
    over(kept, 60.0, name="slow")
    over(kept, 0.05, name="usual")
    for _ in range(NEWEST + SLOWEST):
        over(kept, 1.0)
    assert names(kept) >= {"failed", "broken off", "slow"}
    assert "usual" not in names(kept)
    assert {one.outcome for one in kept.newer(0.0) if one.request_id == b"broken off"} == {"failed"}


def test_who_knows_the_newest_is_told_nothing_again() -> None:
    """Whatever part of a microsecond it ended at."""
    kept = FinishedRequests(0, 20.0)
    for _ in range(200):
        over(kept, 0.1)
        newest = json.loads(answer_finished(kept, FinishedQuestion(number=1, after=0.0)).body)[0]["ended"]
        assert answer_finished(kept, FinishedQuestion(number=2, after=newest)).body == b"[]"


def test_the_slow_of_long_ago_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(finished_requests.time, "time", lambda: now[0])
    kept = FinishedRequests(0, 20.0)
    for _ in range(SLOWEST):
        over(kept, 100.0, name="long ago")
    now[0] += 301
    for _ in range(NEWEST):
        over(kept, 1.0)
    over(kept, 2.0, name="today")
    for _ in range(NEWEST):
        over(kept, 1.0)
    assert "long ago" not in names(kept)
    assert "today" in names(kept)


def test_ids_are_of_one_life_of_one_worker() -> None:
    first, second = FinishedRequests(0, 20.0), FinishedRequests(0, 20.0)
    over(first, 1.0)
    over(second, 1.0)
    (one,), (other,) = first.newer(0.0), second.newer(0.0)
    assert one.id != other.id
    assert first.find(other.id) is None
    assert answer_finished(first, FinishedQuestion(number=3, id=other.id)).status == 404
    assert answer_finished(first, FinishedQuestion(number=3, id=one.id)).status == 200


def test_only_newer_ones_are_told() -> None:
    kept = FinishedRequests(0, 20.0)
    over(kept, 1.0, name="old")
    (old,) = kept.newer(0.0)
    over(kept, 1.0, name="new")
    assert [one.request_id for one in kept.newer(old.ended)] == [b"new"]
