"""Memory in which a process counts and another one reads, also after the first has died.

A figure is a 64-bit float in a cell, which a process writes in one store. What the cells mean is told by a directory
beside them that only grows: records of a family and of each combination of its labels, each with its length and
checksum, so that a record of which the reader sees a part only is taken for one that is not there yet.

| bytes | content |
|---|---|
| 0 to 7 | bytes of the directory that are written |
| up to `DIRECTORY_BYTES` | the directory |
| the rest | cells; records say which are whose |
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import struct
import tempfile
import zlib
from collections.abc import Iterator

import msgspec

from pymotor.telemetry.metrics import Cells, Family, MetricsDump, Sample

logger = logging.getLogger(__name__)

DIRECTORY_BYTES = 4 * 1024 * 1024
CELLS = 1024 * 1024
"""For some fifty thousand histograms. Pages that nobody writes cost nothing."""
_CELL_BYTES = 8
_SIZE = DIRECTORY_BYTES + CELLS * _CELL_BYTES
_END = struct.Struct("=Q")
_HEAD = struct.Struct("=II")


class _Labelled(msgspec.Struct, tag="labelled", frozen=True):
    """Where the cells of one combination of labels are."""

    family: int
    labels: tuple[str, ...]
    first: int
    count: int


class _Declared(msgspec.Struct, tag="family", frozen=True):
    """A family without samples; families are numbered as they come."""

    family: Family


_decoder = msgspec.msgpack.Decoder(_Labelled | _Declared)


def allocate() -> int:
    """Make zeroed memory; returns a descriptor that a child process may inherit. Its owner closes it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pymotor-figures")
    else:
        descriptor, path = tempfile.mkstemp(prefix="pymotor-figures")
        os.unlink(path)
    os.ftruncate(descriptor, _SIZE)
    return descriptor


class SharedFigures:
    """The side that counts; one for each memory."""

    def __init__(self, descriptor: int) -> None:
        """Map the memory behind `descriptor`, which may be closed afterwards."""
        self._mapping = mmap.mmap(descriptor, _SIZE)
        self._cells = memoryview(self._mapping)[DIRECTORY_BYTES:].cast("d")
        self._end = _END.size
        self._families = 0
        self._taken = 0

    def declare(self, family: Family) -> int:
        """A new family, its samples left out; returns its number."""
        self._write(_Declared(msgspec.structs.replace(family, samples=())))
        self._families += 1
        return self._families - 1

    def cells(self, family: int, labels: tuple[str, ...], count: int) -> Cells:
        """Cells for one more combination of labels; when the memory is full, cells that nobody reads."""
        first = self._taken
        if first + count > CELLS or not self._write(_Labelled(family, labels, first, count)):
            logger.error("no room for the figures of %s: they are not shown; restart the process", labels)
            return [0.0] * count
        self._taken += count
        return self._cells[first : first + count]

    def _write(self, record: _Labelled | _Declared) -> bool:
        body = msgspec.msgpack.encode(record)
        whole = _HEAD.pack(len(body), zlib.crc32(body)) + body
        if self._end + len(whole) > DIRECTORY_BYTES:
            return False
        self._mapping[self._end : self._end + len(whole)] = whole
        self._end += len(whole)
        # Last, so that whoever reads it finds the record.
        _END.pack_into(self._mapping, 0, self._end)
        return True


class FiguresReader:
    """The side that reads, while the other process counts and after it has ended; `close` it."""

    def __init__(self, descriptor: int) -> None:
        """Map the memory behind `descriptor`, which may be closed afterwards."""
        self._mapping = mmap.mmap(descriptor, _SIZE)
        self._memory = memoryview(self._mapping)
        self._cells = self._memory[DIRECTORY_BYTES:].cast("d")
        self._position = _END.size
        self._families: list[Family] = []
        self._labelled: list[list[_Labelled]] = []

    def dump(self, names: frozenset[str] | None = None) -> MetricsDump:
        """The figures as they are now: all, or those of these names only."""
        for record in self._new_records():
            if isinstance(record, _Declared):
                self._families.append(record.family)
                self._labelled.append([])
            else:
                self._labelled[record.family].append(record)
        return MetricsDump(
            tuple(
                msgspec.structs.replace(family, samples=tuple(map(self._sample, labelled)))
                for family, labelled in zip(self._families, self._labelled, strict=True)
                if names is None or family.name in names
            )
        )

    def close(self) -> None:
        """Give the memory back."""
        self._cells.release()
        self._memory.release()
        self._mapping.close()

    def _sample(self, record: _Labelled) -> Sample:
        # The total is read last: it may lack what the counts have, and is never ahead of them.
        *counts, total = self._cells[record.first : record.first + record.count]
        return Sample(record.labels, total, tuple(map(int, counts)))

    def _new_records(self) -> Iterator[_Labelled | _Declared]:
        (end,) = _END.unpack_from(self._mapping, 0)
        while self._position + _HEAD.size <= end:
            length, checksum = _HEAD.unpack_from(self._mapping, self._position)
            first = self._position + _HEAD.size
            body = self._mapping[first : first + length]
            if zlib.crc32(body) != checksum:
                return  # not all of it has come to this processor yet; it will be here next time
            self._position = first + length
            yield _decoder.decode(body)


@contextlib.contextmanager
def memory() -> Iterator[int]:
    """`allocate`d memory as long as the block runs."""
    descriptor = allocate()
    try:
        yield descriptor
    finally:
        os.close(descriptor)
