"""The metrics of one engine server over its restarts, and of those that are gone: counters never go backwards."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from pymotor.engines.metrics_merging import Families, Key, cumulative, merge_families, unchanged
from pymotor.fleet import Endpoint, Instance, Role


class Scraped(msgspec.Struct, frozen=True):
    """One engine server: where it belongs, and what is known of it."""

    instance: Instance
    endpoint: Endpoint
    answered: bool | None
    """Whether it answered when it was asked last; None: it is not ready and was not asked."""
    families: Families
    """Of one that did not answer only what it counted until it did."""


class EngineFigures:
    """What one engine server has counted, over its restarts, and its newest gauges."""

    def __init__(self) -> None:
        self._newest: Families = {}
        self._before: Families = {}
        """What it had counted whenever it was started anew."""
        self._answered = False

    def take(self, families: Families) -> None:
        """It has answered. A figure that fell means that it was started anew."""
        now = dict(_counts(families))
        if any(now.get(key, value) < value for key, value in _counts(self._newest)):
            self._before = _added(self._before, cumulative(self._newest))
        self._newest = families
        self._answered = True

    def miss(self) -> None:
        """It has not answered, or was not asked: nobody knows its gauges now."""
        self._answered = False

    def families(self) -> Families:
        """The figures, those of former lives included."""
        newest = self._newest if self._answered else cumulative(self._newest)
        if not self._before:
            return newest
        return {**newest, **_added(self._before, cumulative(newest))}


class Departed:
    """What engine servers that are not in the fleet any more had counted, by role."""

    def __init__(self) -> None:
        self._by_role: dict[Role, Families] = {}

    def add(self, role: Role, figures: EngineFigures) -> None:
        """One has gone."""
        self._by_role[role] = _added(self._by_role.get(role, {}), cumulative(figures.families()))

    def families(self) -> Iterable[tuple[Role, Families]]:
        """The figures of each role."""
        return self._by_role.items()


def _added(one: Families, other: Families) -> Families:
    return merge_families([(one, unchanged), (other, unchanged)])


def _counts(families: Families) -> Iterable[tuple[Key, float]]:
    for family in families.values():
        if family.cumulative:
            yield from family.series.items()
