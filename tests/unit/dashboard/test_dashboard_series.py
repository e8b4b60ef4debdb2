"""Points of the last quarter of an hour: rates, quantiles, and never more than fit."""

from __future__ import annotations

import pytest

from pymotor.coordinator.dashboard.series import INTERVAL, KEPT_SECONDS, NAMES, Series
from pymotor.coordinator.instruments import Instruments
from pymotor.telemetry.metrics import MetricsDump

PATH = "/v1/chat/completions"


def take(series: Series, dump: MetricsDump, now: float) -> None:
    series.take(dump, now, 1000.0 + now, queued=1, in_flight=2, tokens=None)


def test_a_point_is_of_the_time_since_the_one_before() -> None:
    instruments = Instruments()
    series = Series()
    instruments.request(PATH, 200, 0.1)
    take(series, instruments.registry.dump(), 0.0)
    assert series.newest is None
    for status in (200, 200, 404, 503):
        instruments.request(PATH, status, 0.1)
    instruments.first_token(PATH, 0.15)
    take(series, instruments.registry.dump(), 2.0)
    point = series.newest
    assert point is not None
    assert (point.requests_per_second, point.failed_per_second) == (2.0, 0.5)
    assert point.first_token_p50 == pytest.approx(0.15)
    assert (point.queued, point.in_flight, point.tokens_per_second) == (1, 2, None)
    take(series, instruments.registry.dump(), 4.0)
    assert series.newest is not None
    assert series.newest.first_token_p50 is None, "nothing came in that time"
    assert [one.time for one in series.newer(1002.0)] == [1004.0]


def test_the_ring_never_grows() -> None:
    series = Series()
    dump = Instruments().registry.dump()
    for number in range(5000):
        take(series, dump, number * INTERVAL)
    assert len(series.newer(0.0)) == KEPT_SECONDS / INTERVAL


def test_the_metrics_that_points_are_made_of_exist() -> None:
    assert {family.name for family in Instruments().registry.dump().families} >= NAMES
