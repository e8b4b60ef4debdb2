"""Routes narrowed to what can answer a request alone: any endpoint that fits, or the one that holds a response."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pymotor.coordinator.api.responses import holder_mark
from pymotor.coordinator.routing import FleetView, Routes, Single
from pymotor.coordinator.scheduling.target import Group, Target
from pymotor.fleet import Role


class Fitting:
    """The narrowed routes of one fleet; made when they are first asked for."""

    __slots__ = ("_answering", "_fleet", "_holders", "_rendering")

    def __init__(self, fleet: FleetView) -> None:
        self._fleet = fleet
        self._rendering: dict[str, Routes] = {}
        self._answering: dict[str, Routes] = {}
        self._holders: dict[str, Single] | None = None

    def rendering(self, model: str) -> Routes:
        """The endpoints of a model in the fleet that render a prompt as those do that answer: union, else prefill,
        else decode."""
        found = self._rendering.get(model)
        if found is None:
            routes = self._fleet.routes[model]
            prefills = [Single(pair.prefills, Role.PREFILL, None) for pair in routes.pairs]
            found = self._rendering[model] = _of_singles(routes, prefills)
        return found

    def answering(self, model: str) -> Routes:
        """The endpoints of a model in the fleet that can answer without another: union, else decode, which takes all
        the answer's tokens, else prefill."""
        found = self._answering.get(model)
        if found is None:
            routes = self._fleet.routes[model]
            decodes = [Single(pair.decodes, Role.DECODE, None) for pair in routes.pairs]
            found = self._answering[model] = _of_singles(routes, decodes)
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


def _of_singles(routes: Routes, of_pairs: Sequence[Single]) -> Routes:
    return Routes((), routes.singles or of_pairs or routes.leftovers, (), routes.max_model_len)
