"""What one process counted is read by another, whatever becomes of the first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from pymotor.telemetry import shared_figures
from pymotor.telemetry.metrics import MetricsDump, Registry, Sample
from pymotor.telemetry.shared_figures import FiguresReader, SharedFigures

COUNTS_FOR_EVER = """
import sys
from pymotor.telemetry.metrics import Registry
from pymotor.telemetry.shared_figures import SharedFigures

registry = Registry(SharedFigures(int(sys.argv[1])))
counter = registry.counter("some_total", "Some.", ("of",))
for number in range(100_000_000):
    counter.child(str(number % 1000)).add()
    # A pipe says what was counted, one byte each.
    sys.stdout.buffer.raw.write(b".")
"""


def values(dump: MetricsDump) -> dict[str, dict[tuple[str, ...], Sample]]:
    return {family.name: {sample.labels: sample for sample in family.samples} for family in dump.families}


def test_the_reader_sees_what_was_counted_at_once() -> None:
    with shared_figures.memory() as descriptor:
        reader = FiguresReader(descriptor)
        assert reader.dump() == MetricsDump()
        registry = Registry(SharedFigures(descriptor))
        counter = registry.counter("some_total", "Some.", ("of",))
        histogram = registry.histogram("some_seconds", "Some.", bounds=(1.0, 2.0))
        gauge = registry.gauge("some", "Some.")
        assert [(family.name, family.samples) for family in reader.dump().families] == [
            ("some_total", ()), ("some_seconds", ()), ("some", ()),
        ]  # fmt: skip
        counter.child("a").add(2.5)
        histogram.child().observe(0.5)
        histogram.child().observe(9.0)
        counter.child("b\n").add()
        gauge.child().add(-3.0)
        assert reader.dump() == registry.dump()
        assert values(reader.dump())["some_seconds"][()] == Sample((), 9.5, (1, 0, 1))
        counter.child("a").add()
        assert values(reader.dump())["some_total"]["a",].value == 3.5
        reader.close()


def test_all_that_a_killed_process_counted_is_there() -> None:
    with shared_figures.memory() as descriptor:
        reader = FiguresReader(descriptor)
        process = subprocess.Popen(
            [sys.executable, "-c", COUNTS_FOR_EVER, str(descriptor)], stdout=subprocess.PIPE, pass_fds=(descriptor,)
        )
        assert process.stdout is not None
        told = len(process.stdout.read(2500))
        os.kill(process.pid, signal.SIGKILL)
        told += len(process.stdout.read())
        process.wait()
        process.stdout.close()
        counted = sum(sample.value for sample in values(reader.dump())["some_total"].values())
        assert counted in (told, told + 1), "the last one may have been counted and not told"
        reader.close()


def test_a_record_that_is_not_whole_is_read_later() -> None:
    with shared_figures.memory() as descriptor:
        reader = FiguresReader(descriptor)
        writer = SharedFigures(descriptor)
        Registry(writer).counter("some_total", "Some.").child().add()
        whole = bytes(writer._mapping[:200])
        writer._mapping[30:34] = b"\0\0\0\0"
        assert reader.dump() == MetricsDump()
        writer._mapping[30:34] = whole[30:34]
        assert values(reader.dump())["some_total"][()].value == 1.0
        reader.close()


def test_what_does_not_fit_is_not_shown_and_harms_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shared_figures, "DIRECTORY_BYTES", 4096)
    monkeypatch.setattr(shared_figures, "_SIZE", 4096 + 8 * shared_figures.CELLS)
    with shared_figures.memory() as descriptor:
        reader = FiguresReader(descriptor)
        counter = Registry(SharedFigures(descriptor)).counter("some_total", "Some.", ("of",))
        for number in range(1000):
            counter.child(f"number {number}").add()
        found = values(reader.dump())["some_total"]
        assert 10 < len(found) < 200
        assert {sample.value for sample in found.values()} == {1.0}
        assert "no room for the figures" in caplog.text
        reader.close()
