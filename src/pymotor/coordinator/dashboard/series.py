"""What the last quarter of an hour was like: a bounded ring of points that the supervisor keeps."""

from __future__ import annotations

from collections import deque

import msgspec

from pymotor.telemetry.metrics import MetricsDump
from pymotor.telemetry.quantiles import quantile

KEPT_SECONDS = 900.0
INTERVAL = 2.0
"""Seconds between two points."""
_REQUESTS = "pymotor_requests_total"
_FIRST_TOKEN = "pymotor_time_to_first_token_seconds"  # noqa: S105  a metric's name
NAMES = frozenset((_REQUESTS, _FIRST_TOKEN))
"""The metrics that points are made of."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """The time since the point before; rates in 1/s, times in seconds."""

    time: float
    """Seconds since 1970."""
    requests_per_second: float
    failed_per_second: float
    """Of these, answers with a status of 500 and above."""
    first_token_p50: float | None
    """None where no request came to its first content in that time."""
    first_token_p95: float | None
    tokens_per_second: float | None
    """Written by decode and union engines; None while nobody looks, since engines are not asked then."""
    queued: int
    in_flight: int


class _Counted(msgspec.Struct, frozen=True):
    at: float
    requests: float
    failed: float
    first_token: dict[float, float]


class Series:
    """The points; `take` makes them."""

    def __init__(self) -> None:
        self._points: deque[Point] = deque(maxlen=int(KEPT_SECONDS / INTERVAL))
        self._before: _Counted | None = None

    def take(
        self, dump: MetricsDump, now: float, wall: float, *, queued: int, in_flight: int, tokens: float | None
    ) -> None:
        """Another point, from the sums of all workers at `now`, as `monotonic()` says; `wall` as `time()` does."""
        before, counted = self._before, _counted(dump, now)
        self._before = counted
        if before is None or now <= before.at:
            return
        seconds = now - before.at
        seen = {bound: count - before.first_token.get(bound, 0.0) for bound, count in counted.first_token.items()}
        self._points.append(
            Point(
                time=round(wall, 3),
                requests_per_second=max(0.0, counted.requests - before.requests) / seconds,
                failed_per_second=max(0.0, counted.failed - before.failed) / seconds,
                first_token_p50=quantile(0.5, seen),
                first_token_p95=quantile(0.95, seen),
                tokens_per_second=tokens,
                queued=queued,
                in_flight=in_flight,
            )
        )

    @property
    def newest(self) -> Point | None:
        """The last point; None before there is one."""
        return self._points[-1] if self._points else None

    def newer(self, after: float) -> list[Point]:
        """Those after `after`, seconds since 1970, the oldest first."""
        return [point for point in self._points if point.time > after]


def _counted(dump: MetricsDump, now: float) -> _Counted:
    requests = failed = 0.0
    first_token: dict[float, float] = {}
    for family in dump.families:
        if family.name == _REQUESTS:
            status = family.labels.index("status")
            requests += sum(sample.value for sample in family.samples)
            failed += sum(sample.value for sample in family.samples if sample.labels[status] >= "500")
        elif family.name == _FIRST_TOKEN:
            for sample in family.samples:
                seen = 0
                for bound, count in zip((*family.bounds, float("inf")), sample.counts, strict=True):
                    seen += count
                    first_token[bound] = first_token.get(bound, 0.0) + seen
    return _Counted(now, requests, failed, first_token)
