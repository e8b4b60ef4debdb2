"""Where the supervisor learns of the fleet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Protocol

import msgspec

from pymotor.control_plane.watched_file import WatchedFile
from pymotor.coordinator.control import Age
from pymotor.fleet import FleetSnapshot, decode_snapshot


class Progress(Protocol):
    """How far the workers are with what a source has told; `told_fleet.ToldFleet` in a running Coordinator."""

    @property
    def age(self) -> Age | None:
        """Of the newest snapshot such that no worker routes by an older one; None before the first."""

    @property
    def draining(self) -> bool:
        """Whether an instance is draining in that snapshot."""

    def in_flight(self) -> dict[str, int]:
        """What is under way at the endpoints of draining instances of that snapshot, by endpoint id, without zeros."""

    async def reached(self, age: Age, deadline: float) -> None:
        """Return when no worker routes by a snapshot older than `age`, or `deadline` seconds later."""


class SourceState(msgspec.Struct, frozen=True, kw_only=True):
    """How a source that asks somebody for the fleet stands with it."""

    connected: bool
    """Whether the last question was answered."""
    url: str
    """Who is asked."""
    last_heard_seconds: float | None
    """Seconds since the last answer; None: there was none yet."""


class FleetSource(Protocol):
    """Tells of the fleet for as long as it is listened to. One that asks nobody inherits all but `snapshots`."""

    @property
    def state(self) -> SourceState | None:
        """How it stands with whom it asks; None where it asks nobody."""
        return None

    def follow(self, progress: Progress) -> None:  # noqa: ARG002  most ask nobody
        """Called once, before `snapshots`: whoever it asks may want to know how far the workers are."""
        return

    def snapshots(self) -> AsyncGenerator[FleetSnapshot, None]:
        """Whole snapshots, as they come; one may be older than another or the same.

        Never ends by itself and never raises because its origin is absent or sends nonsense: it says so in the
        log, and tries again.
        """
        ...


class FileFleetSource(FleetSource):
    """Reads snapshots from a file whenever the file changes.

    The file may come later, go and be broken for a while: the last good snapshot has been told and stands. Each
    such state is logged once. Writers should write a temporary file and rename it.
    """

    def __init__(self, path: Path, *, interval: float = 0.15) -> None:
        """`interval`: seconds between two looks at the file's status."""
        self._file = WatchedFile(path, decode_snapshot, "fleet file", "snapshot", "fleet")
        self._interval = interval

    async def snapshots(self) -> AsyncGenerator[FleetSnapshot, None]:
        """The snapshot in the file, again after each change."""
        while True:
            snapshot = self._file.read_if_changed()
            if snapshot is not None:
                yield snapshot
            await asyncio.sleep(self._interval)
