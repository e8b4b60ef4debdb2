"""Lines are written by another thread, in order; files rotate; what finds no room is counted, not waited for."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pymotor.telemetry import line_writer
from pymotor.telemetry.line_writer import LineWriter, RotatingFiles


class Counts:
    """What was not written."""

    def __init__(self) -> None:
        self.overflowed = 0
        self.failed = 0

    def overflow(self) -> None:
        self.overflowed += 1

    def fail(self, lines: int) -> None:
        self.failed += lines


def writer(
    path: Path, counts: Counts, form: Callable[[str], str] = str, *, size: int = 1 << 20, level: int | None = None
) -> LineWriter[str]:
    files = RotatingFiles(path=str(path), size=size, kept=2, compress_level=level)
    return LineWriter(files, form, overflowed=counts.overflow, failed=counts.fail)


def test_all_lines_are_there_after_the_end(tmp_path: Path) -> None:
    counts = Counts()
    lines = writer(tmp_path / "new" / "some.log", counts)
    for number in range(3000):
        lines.put(f"line {number} é")
    lines.close()
    written = (tmp_path / "new" / "some.log").read_text("utf-8")
    assert written == "".join(f"line {number} é\n" for number in range(3000))
    assert (counts.overflowed, counts.failed) == (0, 0)


@pytest.mark.parametrize("level", [None, 6])
def test_files_rotate_and_only_some_are_kept(
    tmp_path: Path, level: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_writer, "_AT_ONCE", 1)
    lines = writer(tmp_path / "some.log", Counts(), size=1000, level=level)
    for number in range(500):
        lines.put(f"{number:09}")
    lines.close()
    ending = "" if level is None else ".gz"
    assert {path.name for path in tmp_path.iterdir()} == {"some.log", f"some.log.1{ending}", f"some.log.2{ending}"}
    newest = (tmp_path / "some.log").read_text()
    former = (tmp_path / f"some.log.1{ending}").read_bytes()
    former_text = (former if level is None else gzip.decompress(former)).decode()
    assert len(former_text) <= 1000
    together = (former_text + newest).split()
    assert together == [f"{number:09}" for number in range(500 - len(together), 500)]


def test_who_writes_more_than_fits_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_writer, "QUEUED", 10)
    counts = Counts()
    begun, may_go_on = threading.Event(), threading.Event()

    def slowly(line: str) -> str:
        begun.set()
        assert may_go_on.wait(30)
        return line

    lines = writer(tmp_path / "some.log", counts, slowly)
    lines.put("first")
    assert begun.wait(30)
    for number in range(25):
        lines.put(str(number))
    assert counts.overflowed == 15
    may_go_on.set()
    lines.close()
    assert (tmp_path / "some.log").read_text().split() == ["first", *map(str, range(10))]


def test_a_disk_that_takes_nothing_is_told_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    counts = Counts()
    lines = writer(Path("/dev/full"), counts)
    for number in range(20):
        lines.put(str(number))
    lines.close()
    assert counts.failed == 20
    assert caplog.text.count("dropped until they can") == 1
