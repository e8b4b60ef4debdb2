"""Routes narrowed to what can answer a request alone: any endpoint that fits, or the one that holds a response."""

from __future__ import annotations

from collections.abc import Iterator

from pymotor.coordinator.api.responses import holder_mark
from pymotor.coordinator.routing import FleetView, Routes, Single
from pymotor.coordinator.scheduling.target import Group, Target
from pymotor.fleet import Role


class Fitting:
    """The narrowed routes of one fleet; made when they are first asked for."""

    __slots__ = ("_fleet", "_holders", "_of_models")

    def __init__(self, fleet: FleetView) -> None:
        self._fleet = fleet
        self._of_models: dict[str, Routes] = {}
        self._holders: dict[str, Single] | None = None

    def any_of(self, model: str) -> Routes:
        """The endpoints of a model in the fleet that render a prompt as those do that answer: union, else prefill,
        else decode."""
        found = self._of_models.get(model)
        if found is None:
            routes = self._fleet.routes[model]
            singles = routes.singles or tuple(Single(pair.prefills, Role.PREFILL, None) for pair in routes.pairs)
            found = Routes((), singles or routes.leftovers, (), routes.max_model_len)
            self._of_models[model] = found
        return found

    def holder(self, mark: str) -> Single | None:
        """The endpoint with this mark (see `api.responses`), if it can be asked now."""
        if self._holders is None:
            self._holders = {
                holder_mark(target.endpoint_id): Single(Group([target]), role, None) for target, role in self._targets()
            }
        return self._holders.get(mark)

    def _targets(self) -> Iterator[tuple[Target, Role]]:
        for routes in self._fleet.routes.values():
            for pair in routes.pairs:
                yield from ((target, Role.PREFILL) for target in pair.prefills.targets)
                yield from ((target, Role.DECODE) for target in pair.decodes.targets)
            for single in (*routes.singles, *routes.leftovers):
                yield from ((target, single.role) for target in single.targets.targets)
