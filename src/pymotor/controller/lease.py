"""A lease: who leads, since which epoch, and the numbers that must outlive it."""

from __future__ import annotations

from typing import Protocol

import msgspec


class LeaseError(Exception):
    """The lease could not be read or written; the message says why."""


class LeaseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept."""

    holder: str = ""
    """Of one run of one Controller; empty: it was handed back."""
    epoch: int = 0
    """Grows with each change of holder."""
    duration: float = 10.0
    """Seconds after which others may take it when it is not renewed."""
    renewals: str = ""
    """Another with each renewal; others see by it that the holder lives."""
    url: str = ""
    """Where the holder answers."""
    numbers: dict[str, int] = {}
    """The greatest instance number given, by role."""
    machine: str = ""
    """On which the holder runs, where that says whether it lives."""
    pid: int = 0
    started: int = 0
    """The start time of that process as the system counts it: a pid is given again."""


class Lease(Protocol):
    """Where a record is kept with compare-and-swap."""

    async def read(self) -> tuple[LeaseRecord | None, str]:
        """The record and its version; None where there is none yet. Raises `LeaseError`."""

    async def swap(self, record: LeaseRecord, version: str) -> str | None:
        """Write the record if the version is still the one that was read; returns the new version, or None where
        somebody else was faster. Raises `LeaseError`; then it may have been written or not."""

    def holder_is_dead(self, record: LeaseRecord) -> bool:
        """Whether it is certain that the holder runs no more."""

    def identify(self, record: LeaseRecord) -> LeaseRecord:
        """The record with what tells others whether this process lives."""
