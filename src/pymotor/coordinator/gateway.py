"""What a client finds at the inference port. Requests that engines answer go on to the flows."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from time import monotonic
from typing import Any

import msgspec

from pymotor.coordinator.api.errors import ApiError, invalid
from pymotor.coordinator.api.forwarding import Forwarding
from pymotor.coordinator.api.media import barred
from pymotor.coordinator.api.paths import SURFACES
from pymotor.coordinator.api.request_view import RequestView
from pymotor.coordinator.api.responses import RESPONSES, mark_in
from pymotor.coordinator.api.surface import CHAT, Surface
from pymotor.coordinator.callbacks import CALLBACK_PATH
from pymotor.coordinator.fitting import Fitting
from pymotor.coordinator.flows.context import Context
from pymotor.coordinator.flows.dispatch import dispatch, passed_on
from pymotor.coordinator.flows.keepalive import Keepalive
from pymotor.coordinator.flows.leg_failures import LegFailed
from pymotor.coordinator.flows.responses import JSON
from pymotor.coordinator.flows.services import Services
from pymotor.coordinator.flows.stored import ask_holder
from pymotor.coordinator.following import FollowedRequest, Following, UnfollowedRequest
from pymotor.coordinator.http.client_request import ClientRequest
from pymotor.coordinator.http.server import ClientConnection
from pymotor.coordinator.limits.meter import Meter
from pymotor.coordinator.metaserver import Metaserver
from pymotor.coordinator.operators import OperatorLine
from pymotor.coordinator.plain_answers import PlainAnswers, not_allowed, retry_after
from pymotor.coordinator.request_log import RequestLog
from pymotor.coordinator.routing import FleetView, Routes, Single
from pymotor.coordinator.trail import Trail

logger = logging.getLogger(__name__)

CLIENT_WENT_AWAY = 499
_BARRED_HEADER = b"x-data-parallel-rank"
_STORED_PATH = b"/v1/responses/"
_STORED_LABEL = "/v1/responses/{id}"
_STORED = re.compile(rb"/v1/responses/([0-9A-Za-z_-]{1,256})(/cancel)?")


class StoredRequest(msgspec.Struct, frozen=True):
    """A request for a response that an engine keeps."""

    method: bytes
    path: bytes
    """With the query."""
    response_id: str


class Gateway:
    """Handles the requests of one worker."""

    def __init__(
        self,
        services: Services,
        metaserver: Metaserver,
        operators: OperatorLine,
        environment: Mapping[str, str] = os.environ,
        request_log: RequestLog | None = None,
        meter: Meter | None = None,
    ) -> None:
        """`request_log`: None where nobody wants one. `meter` counts what requests cost, where anybody wants to know.
        `environment` has the engines' key, where there is one. Raises `ValueError` when it cannot be one."""
        self._services = services
        self._metaserver = metaserver
        self._operators = operators
        self._request_log = request_log
        self._meter = meter
        self.following: Following | None = None
        """Who wants to know what happens to requests; None: nobody."""
        self._plain = PlainAnswers()
        self._fitting: Fitting | None = None
        settings = services.settings
        self._forwarding = Forwarding(
            settings.forward_headers,
            authorization=settings.forward_authorization,
            engine_key=environment.get(settings.engine_api_key_env, "") if settings.engine_api_key_env else "",
            traces=not settings.tracing.endpoint,
        )

    def set_fleet(self, fleet: FleetView) -> None:
        """Requests from now on go through this fleet."""
        self._plain.fleet = fleet
        self._fitting = Fitting(fleet)

    def handle(self, client: ClientConnection, request: ClientRequest) -> Coroutine[Any, Any, None]:
        """What answers one request, whatever happens; not a coroutine itself, since a layer more costs each request."""
        surface = SURFACES.get(request.path)
        if surface is not None and request.method == b"POST":
            return self._generate(client, request, surface)
        return self._handle_other(client, request)

    async def _handle_other(self, client: ClientConnection, request: ClientRequest) -> None:
        if request.path.startswith(_STORED_PATH) and request.method != b"OPTIONS":
            await self._answer_stored(client, request)
        elif request.path.startswith(CALLBACK_PATH):
            await self._metaserver.handle_shared(client, request)
        elif request.path in self._operators.paths:
            await self._ask_supervisor(client, request)
        else:
            self._answer_plain(client, request)

    async def _generate(
        self, client: ClientConnection, request: ClientRequest, surface: Surface, stored: StoredRequest | None = None
    ) -> None:
        services = self._services
        status = CLIENT_WENT_AWAY
        reason = ""
        trail: Trail | None = None
        trace_lines = b""
        if self.following is not None:
            trail, trace_lines = self.following.begin(request)
        context: Context | None = None
        keepalive: Keepalive | None = None
        try:
            if stored is not None:
                context = self._stored_context(client, request, trace_lines, trail)
                holder = self._holder(stored.response_id, None)
                await ask_holder(context, holder.targets.targets[0], stored.method, stored.path)
            else:
                view = self._read(request, surface)
                if self._meter is not None:
                    self._meter.admit(request, view)
                forwarded = self._forwarding.lines(request.headers) + trace_lines
                context = Context.begin(services, client, request, view, forwarded, trail)
                if view.stream and context.settings.stream_keepalive:
                    keepalive = Keepalive(context, context.settings.stream_keepalive)
                await dispatch(context, self.routes(view))
            status = context.status
        except ApiError as error:
            reason = error.detail.code or ""
            status = self._refuse(client, request, surface, context, error)
        except LegFailed as failure:
            reason = failure.reason
            status, body = passed_on(failure)
            if context is not None and context.opened:
                self._refuse(client, request, surface, context, failure.as_api_error())
            else:
                body = surface.engines_refusal(status, body)
                client.respond(services.heads.whole(request, status, JSON, len(body)), body)
        except asyncio.CancelledError:
            if not client.closed:
                raise
        except Exception:
            logger.exception("a request failed for no reason foreseen")
            reason = "internal_error"
            told = ApiError(500, "the gateway failed on this request; its log says why", code="internal_error")
            status = self._refuse(client, request, surface, context, told)
        finally:
            if keepalive is not None:
                keepalive.stop()
            label = surface.label if stored is None else _STORED_LABEL
            seconds = monotonic() - request.received_at
            if context is not None:
                context.count(status)
            else:
                services.instruments.request(label, status, seconds)
            if self._meter is not None:
                self._meter.settle(request, context, status)
            if self._request_log is not None:
                self._request_log.note(client, request, label, status, seconds, context, reason)
            if self.following is not None:
                ended = request.received_at + seconds
                if trail is not None:
                    self.following.over(FollowedRequest(trail, request, label, context, status, reason, ended))
                elif status >= 500 or (reason and status < 400):
                    self.following.failed(UnfollowedRequest(request, label, context, status, reason, ended))

    def _read(self, request: ClientRequest, surface: Surface) -> RequestView:
        """What the request asks for. Raises `ApiError` (400)."""
        trusted = self._services.settings.trust_client_fields
        if request.headers.get(_BARRED_HEADER) is not None and not trusted:
            raise barred("X-data-parallel-rank")
        if not request.headers.get(b"content-type", b"").lower().startswith(JSON):
            # Also keeps web pages from calling without a CORS preflight.
            raise invalid("the Content-Type must be application/json")
        view = surface.read(surface, request.body, trusted)
        most = self._services.settings.limits.max_media_items
        if len(view.media) > most:
            raise invalid(f"the request has {len(view.media)} media items; {most} are allowed", "messages")
        return view

    def routes(self, view: RequestView) -> Callable[[], Routes]:
        """What tells the ways of a request through the fleet as it is when it is called; that raises `ApiError`."""
        narrow = view.alone or view.previous or not view.surface.staged
        return partial(self._narrowed, view) if narrow else partial(self._plain.routes, view.model)

    # -- what goes to one endpoint

    def _narrowed(self, view: RequestView) -> Routes:
        """The routes of a request that one endpoint answers. Raises `ApiError`."""
        model = view.model or self._only_model()
        routes = self._plain.routes(model)
        if view.previous:
            holder = self._holder(view.previous, "previous_response_id")
            return Routes((), (holder,), (), routes.max_model_len)
        assert self._fitting is not None
        return self._fitting.answering(model) if view.alone else self._fitting.rendering(model)

    def _only_model(self) -> str:
        """The model of a request that names none. Raises `ApiError`."""
        models = self._plain.serving().routes
        if len(models) > 1:
            raise invalid("you must provide a model parameter", "model")
        return next(iter(models))

    def _holder(self, response_id: str, param: str | None) -> Single:
        """The endpoint that holds a response. Raises `ApiError` (404, 503)."""
        self._plain.serving()
        mark = mark_in(response_id)
        holder = self._fitting.holder(mark) if mark is not None and self._fitting is not None else None
        if holder is None:
            raise ApiError(404, f"there is no response with the id {response_id[:100]!r}", param=param)
        return holder

    # -- responses that engines keep

    async def _answer_stored(self, client: ClientConnection, request: ClientRequest) -> None:
        match = _STORED.fullmatch(request.path)
        if match is None:
            self._answer_plain(client, request)
            return
        method = request.method
        allowed = (b"POST",) if match[2] else (b"GET", b"DELETE")
        if method not in allowed:
            self._respond(client, request, _STORED_LABEL, not_allowed(method, request.path, b", ".join(allowed)))
            return
        path = request.path + b"?" + request.query if request.query and method == b"GET" else request.path
        await self._generate(client, request, RESPONSES, StoredRequest(method, path, match[1].decode()))

    def _stored_context(
        self, client: ClientConnection, request: ClientRequest, trace_lines: bytes, trail: Trail | None
    ) -> Context:
        view = RequestView({}, (), 0, RESPONSES)
        view.stream = True
        forwarded = self._forwarding.lines(request.headers) + trace_lines
        context = Context.begin(self._services, client, request, view, forwarded, trail)
        context.label = _STORED_LABEL
        return context

    def _refuse(
        self,
        client: ClientConnection,
        request: ClientRequest,
        surface: Surface,
        context: Context | None,
        error: ApiError,
    ) -> int:
        if context is not None and context.committed:
            # The head is out: the connection breaks off, which no client takes for the end.
            return error.status
        if context is not None and context.opened:
            context.end_stream(context.view.surface.broken_off(error))
            return error.status
        body = surface.refusal(error)
        extra = retry_after(error)
        client.respond(self._services.heads.whole(request, error.status, JSON, len(body), (), extra), body)
        return error.status

    # -- requests that the supervisor answers

    async def _ask_supervisor(self, client: ClientConnection, request: ClientRequest) -> None:
        peer, own = (client.transport.get_extra_info(name) for name in ("peername", "sockname"))
        reply = await self._operators.ask(request, peer[0] if peer else "", own[0] if own else "")
        self._count(client, request, request.path.decode("latin-1"), reply.status)
        kind, extra = reply.content_type.encode(), reply.header_lines
        head = self._services.heads.whole(request, reply.status, kind, len(reply.body), (), extra)
        client.respond(head, b"" if request.method == b"HEAD" else reply.body)

    # -- requests that need no engine

    def _answer_plain(self, client: ClientConnection, request: ClientRequest) -> None:
        if request.method == b"OPTIONS":
            preflight = self._services.heads.preflight(request)
            if preflight is not None:
                client.respond(preflight)
                return
        found = self._plain.answer(request.method, request.path)
        self._respond(client, request, self._plain.label(request.path), found)

    def _respond(
        self, client: ClientConnection, request: ClientRequest, label: str, found: tuple[int, bytes, bytes]
    ) -> None:
        """`found`: status, body and more header lines."""
        status, body, extra = found
        self._count(client, request, label, status)
        head = self._services.heads.whole(request, status, JSON, len(body), (), extra)
        client.respond(head, b"" if request.method == b"HEAD" else body)

    def _count(self, client: ClientConnection | None, request: ClientRequest, label: str, status: int) -> None:
        """A request that no engine answers is over; one without `client` was not read whole."""
        seconds = 0.0 if client is None else monotonic() - request.received_at
        self._services.instruments.request(label, status, seconds)
        if self._request_log is not None:
            self._request_log.note(client, request, label, status, seconds)

    def refusal(self, request: ClientRequest, status: int, message: str) -> bytes:
        """The response to a request that cannot be read to its end; see `http.server.Refusal`."""
        request.keep_alive = False
        error = ApiError(status, message, code="bad_request" if status == 400 else None)
        body = SURFACES.get(request.path, CHAT).refusal(error)
        self._count(None, request, "other", status)
        return self._services.heads.whole(request, status, JSON, len(body)) + body
