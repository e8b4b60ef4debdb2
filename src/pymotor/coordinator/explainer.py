"""Answers, in a worker, why a request goes where it goes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from time import monotonic

import msgspec

from pymotor.coordinator.affinity.choices import Choice
from pymotor.coordinator.affinity.explanation import FULL, WITHOUT_KV, Candidates, explain, explain_now
from pymotor.coordinator.affinity.placement import several_by_load
from pymotor.coordinator.api.errors import ApiError
from pymotor.coordinator.api.paths import SURFACES
from pymotor.coordinator.api.request_view import RequestView
from pymotor.coordinator.control import ExplainReply, ExplainRequest
from pymotor.coordinator.explained_items import explain_items
from pymotor.coordinator.flows.services import Services
from pymotor.coordinator.flows.ways import is_several
from pymotor.coordinator.routing import Routes
from pymotor.coordinator.scheduling.target import Group

logger = logging.getLogger(__name__)
_NOBODY: frozenset[str] = frozenset()


class Explainer:
    """One worker's."""

    def __init__(self, services: Services, routes: Callable[[RequestView], Callable[[], Routes]]) -> None:
        """`routes` gives what tells a request's ways."""
        self._services = services
        self._routes = routes

    async def answer(self, request: ExplainRequest) -> ExplainReply:
        """The explanation; 404 where the request is not known, the error that a client would get where it is none."""
        try:
            body = await self._of_new(request) if request.path else self._of_recent(request.request_id)
        except ApiError as error:
            return ExplainReply(number=request.number, status=error.status, body=error.body())
        except Exception:
            logger.exception("a request could not be explained for no reason foreseen")
            told = ApiError(500, "the gateway failed on this; its log says why", code="internal_error")
            return ExplainReply(number=request.number, status=told.status, body=told.body())
        return ExplainReply(number=request.number, status=200, body=body)

    def _of_recent(self, request_id: str) -> bytes:
        placement = self._services.placement
        if placement is None:
            raise ApiError(
                404,
                "load, or a turn, decides alone here, and such choices are not kept: set scheduler_type to "
                "kv_cache_affinity, prefix_hash or session_affinity, or ask about a request with --body FILE",
            )
        choice = placement.recent.find(request_id.encode("utf-8", "surrogatepass"))
        if choice is None and not request_id:
            raise ApiError(404, "no request has been placed yet")
        if choice is None:
            raise ApiError(404, f"no recent request is called {request_id[:100]!r}")
        found = explain(choice)
        if not found.request_id and choice.leg_ids:
            # An answer's id contains its last leg's, so it is found by this as well.
            found = msgspec.structs.replace(found, request_id=choice.leg_ids[-1].decode("latin-1"))
        return msgspec.json.encode(found)

    async def _of_new(self, request: ExplainRequest) -> bytes:
        surface = SURFACES.get(request.path.encode("utf-8", "surrogatepass"))
        if surface is None or not surface.staged:
            raise ApiError(404, f"requests to {request.path[:100]!r} are not placed")
        services = self._services
        view = surface.read(surface, request.body, services.settings.trust_client_fields)
        routes = self._routes(view)
        headers = {name.encode(): value.encode() for name, value in request.headers.items()}
        choice = None
        if services.placement is not None:
            choice = await services.placement.choice(view, headers, routes, kept=False)
        elif services.tokenizer is not None:
            await services.tokenizer.count(view)
        by_load = (
            several_by_load(view, services.ledger, services.policy)
            if view.prompts and services.placement is not None
            else Choice(services.ledger, services.policy, view.prompt_tokens, "load")
        )
        choice = choice or by_load
        now = routes()
        items = explain_items(services, view, now, headers.get(b"authorization", b""))
        groups = _groups(services, view, now, choice, by_load)
        return msgspec.json.encode(explain_now(choice, groups, services.look_by, items))


def _groups(
    services: Services, view: RequestView, routes: Routes, choice: Choice, by_load: Choice
) -> Iterable[Candidates]:
    """All that the request could go to, with whom decides there: prompts that a pair gets one by one go by load."""
    room = services.admission.room
    for pair in routes.pairs:
        decides = by_load if view.prompts and is_several(view, pair) else choice
        yield _candidates(services, view, pair.prefills, decides)
        # As `reserve_decode` has it: where load alone decides, texts do not look for room.
        needs_room = view.media or decides is not by_load
        yield _candidates(
            services, view, pair.decodes, decides, room.without_kv(pair.decodes, view) if needs_room else _NOBODY
        )
    for single in (*routes.singles, *routes.leftovers):
        yield _candidates(services, view, single.targets, choice)


def _candidates(
    services: Services, view: RequestView, group: Group, decides: Choice, without_kv: frozenset[str] = _NOBODY
) -> Candidates:
    """Who of the group would be avoided, as a leg avoids them, and whether the request would wait, as it is admitted.
    `without_kv` have no room for its KV cache."""
    full = services.admission.room.full(group)
    everybody = frozenset(group.endpoint_ids)
    able = everybody - services.circuits.barred(monotonic()) or everybody
    return Candidates(
        group,
        decides,
        dict.fromkeys(without_kv, WITHOUT_KV) | dict.fromkeys(full, FULL),
        # A text goes to decode whether its KV cache has room there or not.
        waits=able <= (full | without_kv if view.media else full),
    )
