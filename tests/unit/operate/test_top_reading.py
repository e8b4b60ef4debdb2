"""Quantiles out of cumulative counts, and a screen that is never too long."""

from __future__ import annotations

import pytest

from pymotor.operate.top_reading import InstanceRow, Snapshot
from pymotor.operate.top_screen import screen
from pymotor.telemetry.quantiles import quantile

INFINITE = float("inf")


@pytest.mark.parametrize(
    ("part", "counts", "expected"),
    [
        (0.5, {}, None),
        (0.5, {1.0: 0.0, INFINITE: 0.0}, None),
        (0.5, {1.0: 10.0, 2.0: 10.0, INFINITE: 10.0}, 0.5),
        (0.95, {1.0: 0.0, 2.0: 10.0, INFINITE: 10.0}, 1.95),
        (0.5, {1.0: 2.0, 3.0: 6.0, INFINITE: 8.0}, 2.0),
        (0.95, {1.0: 2.0, 3.0: 6.0, INFINITE: 8.0}, 3.0),
        (0.5, {INFINITE: 8.0}, 0.0),
    ],
)
def test_quantiles_are_those_of_promql(part: float, counts: dict[float, float], expected: float | None) -> None:
    assert quantile(part, counts) == (None if expected is None else pytest.approx(expected))


def snapshot(instances: int) -> Snapshot:
    rows = [
        InstanceRow(
            name=f"decode-{number}", role="decode", state="active", in_flight=1, load_tokens=10.0, running=None,
            waiting=None, kv_usage=None,
        )
        for number in range(instances)
    ]  # fmt: skip
    return Snapshot(
        ready=False, missing=["no prefill"], workers=1, workers_listening=1, in_flight=0, queued=0,
        requests_per_second=0.0, failed_per_second=0.0, tokens_per_second=0.0, first_token_p50=None,
        first_token_p95=None, instances=rows,
    )  # fmt: skip


@pytest.mark.parametrize("rows", [1, 2, 5, 8, 24])
def test_what_does_not_fit_is_counted(rows: int) -> None:
    lines = screen(snapshot(500), colour=False, rows=rows)
    assert len(lines) < max(rows, 2)
    assert lines[-1].startswith("…")
    shown = sum(line.startswith("decode-") for line in lines)
    assert rows < 8 or lines[-1] == f"… {500 - shown} more"


def test_all_is_shown_where_there_is_room() -> None:
    lines = screen(snapshot(3), colour=False, rows=24)
    assert lines[0].startswith("does not serve")
    assert "no prefill" in lines[2]
    assert [line.split()[0] for line in lines[-3:]] == ["decode-0", "decode-1", "decode-2"]
