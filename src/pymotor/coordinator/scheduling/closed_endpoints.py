"""Endpoints that get no new legs any more, for requests that were on their way when the fleet changed."""

from __future__ import annotations

from pymotor.coordinator.scheduling.target import Group


class ClosedEndpoints:
    """One worker's. A request keeps the groups of endpoints that it chose its way by; whoever chooses from one of them
    after the request has waited for something leaves out what was closed meanwhile."""

    __slots__ = ("_serving", "ids")

    def __init__(self) -> None:
        self.ids: frozenset[str] = frozenset()
        """Those that served once and do not any more; usually none, so that one test is the whole cost."""
        self._serving: frozenset[str] = frozenset()

    def fleet_changed(self, serving: frozenset[str]) -> None:
        """Only the endpoints with these ids get new legs from now on."""
        self.ids = (self.ids | self._serving) - serving
        self._serving = serving

    def open_part(self, group: Group) -> Group | None:
        """The group without what is closed; None when nobody is left."""
        if not self.ids or self.ids.isdisjoint(target.endpoint_id for target in group.targets):
            return group
        found = [target for target in group.targets if target.endpoint_id not in self.ids]
        return Group(found) if found else None
