"""Placement by session, of requests that name none too."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pymotor.coordinator.affinity.choices import Choice
from pymotor.coordinator.affinity.placement import KeyedPlacement, several_by_load
from pymotor.coordinator.api.request_view import RequestView
from pymotor.coordinator.routing import Routes


class SessionPlacement(KeyedPlacement):
    """A request that names no session goes by load; it is among the recent ones all the same, so that it can be
    explained."""

    async def choice(
        self,
        view: RequestView,
        headers: Mapping[bytes, bytes],
        routes: Callable[[], Routes],
        *,
        kept: bool = True,
    ) -> Choice | None:
        """See `Placement`."""
        made: Choice | None = await super().choice(view, headers, routes, kept=kept)
        if made is not None or not view.surface.staged or view.previous:
            return made
        if view.prompts:
            if kept:
                self.recent.keep(several_by_load(view, self._ledger, self._base), headers)
            return None
        made = Choice(self._ledger, self._base, view.prompt_tokens, "no_session")
        if kept:
            self.recent.keep(made, headers)
        return made
