"""What a client finds at the inference port: paths, errors, CORS. Requests that generate go on to the flows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from time import monotonic, time
from urllib.parse import unquote_to_bytes

import msgspec

from pymotor.coordinator.api.errors import ApiError, ServiceUnavailable, invalid
from pymotor.coordinator.api.media import barred
from pymotor.coordinator.api.surface import GENERATING, Surface
from pymotor.coordinator.flows.context import Context, Services
from pymotor.coordinator.flows.dispatch import dispatch, passed_on
from pymotor.coordinator.flows.keepalive import Keepalive
from pymotor.coordinator.flows.legs import LegFailed
from pymotor.coordinator.flows.responses import JSON
from pymotor.coordinator.http.client_request import ClientRequest
from pymotor.coordinator.http.server import ClientConnection
from pymotor.coordinator.routing import FleetView, Routes

logger = logging.getLogger(__name__)

CLIENT_WENT_AWAY = 499
_RETRY_AFTER = b"Retry-After: 1\r\n"
_MODEL_PATH = b"/v1/models/"
_BARRED_HEADER = b"x-data-parallel-rank"


class Gateway:
    """Handles the requests of one worker."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._fleet: FleetView | None = None
        self._started = int(time())
        self._plain: dict[bytes, Callable[[], tuple[int, bytes]]] = {
            b"/v1/models": self._models,
            b"/health": self._health,
            b"/liveness": self._health,
            b"/startup": self._health,
            b"/readiness": self._readiness,
        }

    def set_fleet(self, fleet: FleetView) -> None:
        """Requests from now on go through this fleet."""
        self._fleet = fleet

    async def handle(self, client: ClientConnection, request: ClientRequest) -> None:
        """Answer one request, whatever happens."""
        surface = GENERATING.get(request.path)
        if surface is None or request.method != b"POST":
            self._answer_plain(client, request)
            return
        await self._generate(client, request, surface)

    async def _generate(self, client: ClientConnection, request: ClientRequest, surface: Surface) -> None:
        services = self._services
        status = CLIENT_WENT_AWAY
        context: Context | None = None
        keepalive: Keepalive | None = None
        try:
            if request.headers.get(_BARRED_HEADER) is not None and not services.settings.trust_client_fields:
                raise barred("X-data-parallel-rank")
            if not request.headers.get(b"content-type", b"").lower().startswith(JSON):
                # Also keeps web pages from calling without a CORS preflight.
                raise invalid("the Content-Type must be application/json")
            view = surface.read(surface, request.body, services.settings.trust_client_fields)
            context = Context(services, client, request, view)
            if view.stream and services.settings.stream_keepalive:
                keepalive = Keepalive(context, services.settings.stream_keepalive)
            await dispatch(context, partial(self._routes, view.model))
            status = context.status
        except ApiError as error:
            status = self._refuse(client, request, surface, context, error)
        except LegFailed as failure:
            status, body = passed_on(failure)
            if context is not None and context.opened:
                self._refuse(client, request, surface, context, failure.as_api_error())
            else:
                client.respond(services.heads.whole(request, status, JSON, len(body)), body)
        except asyncio.CancelledError:
            if not client.closed:
                raise
        except Exception:
            logger.exception("a request failed for no reason foreseen")
            told = ApiError(500, "the gateway failed on this request; its log says why", code="internal_error")
            status = self._refuse(client, request, surface, context, told)
        finally:
            if keepalive is not None:
                keepalive.stop()
            services.instruments.request(surface.label, status, monotonic() - request.received_at)

    def _routes(self, model: str) -> Routes:
        fleet = self._fleet
        if fleet is None or not fleet.routes:
            raise ServiceUnavailable("no engine can take requests yet")
        routes = fleet.routes.get(model)
        if routes is None:
            raise ApiError(
                404,
                f"the model {model[:200]!r} does not exist; GET /v1/models lists those that do",
                param="model",
                code="model_not_found",
            )
        return routes

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
        extra = _RETRY_AFTER if error.status in (429, 503) else b""
        client.respond(self._services.heads.whole(request, error.status, JSON, len(body), (), extra), body)
        return error.status

    # -- requests that need no engine

    def _answer_plain(self, client: ClientConnection, request: ClientRequest) -> None:
        heads = self._services.heads
        method, path = request.method, request.path
        if method == b"OPTIONS":
            preflight = heads.preflight(request)
            if preflight is not None:
                client.respond(preflight)
                return
        answer = self._plain.get(path)
        if answer is None and path.startswith(_MODEL_PATH):
            answer = partial(self._one_model, unquote_to_bytes(path[len(_MODEL_PATH) :]).decode("utf-8", "replace"))
        extra = b""
        if answer is not None and method in (b"GET", b"HEAD"):
            status, body = answer()
            if status == 503:
                extra = _RETRY_AFTER
        else:
            allowed = b"POST" if path in GENERATING else b"GET, HEAD" if answer is not None else None
            status, body, extra = _no_such(method, path, allowed)
        label = path.decode("latin-1") if path in self._plain or path in GENERATING else "other"
        self._services.instruments.request(label, status, monotonic() - request.received_at)
        head = heads.whole(request, status, JSON, len(body), (), extra)
        client.respond(head, b"" if method == b"HEAD" else body)

    def _health(self) -> tuple[int, bytes]:
        return 200, b'{"status":"ok"}'

    def _readiness(self) -> tuple[int, bytes]:
        if self._fleet is not None and self._fleet.routes:
            return 200, b'{"status":"ready"}'
        return 503, ServiceUnavailable("no engine can take requests yet").body()

    def _models(self) -> tuple[int, bytes]:
        routes = self._fleet.routes if self._fleet is not None else {}
        data = [self._model_object(model, found) for model, found in routes.items()]
        return 200, msgspec.json.encode({"object": "list", "data": data})

    def _one_model(self, model: str) -> tuple[int, bytes]:
        try:
            return 200, msgspec.json.encode(self._model_object(model, self._routes(model)))
        except ApiError as error:
            return error.status, error.body()

    def _model_object(self, model: str, routes: Routes) -> dict[str, object]:
        return {
            "id": model,
            "object": "model",
            "created": self._started,
            "owned_by": "pymotor",
            "root": model,
            "parent": None,
            "max_model_len": routes.max_model_len,
        }

    def refusal(self, request: ClientRequest, status: int, message: str) -> bytes:
        """The response to a request that cannot be read to its end; see `http.server.Refusal`."""
        request.keep_alive = False
        body = ApiError(status, message, code="bad_request" if status == 400 else None).body()
        self._services.instruments.request("other", status, 0.0)
        return self._services.heads.whole(request, status, JSON, len(body)) + body


def _no_such(method: bytes, path: bytes, allowed: bytes | None) -> tuple[int, bytes, bytes]:
    """Status, body and header lines for a method or path that nobody serves."""
    if allowed is not None:
        told = ApiError(
            405, f"{method.decode()} is not allowed here; use {allowed.decode()}", code="method_not_allowed"
        )
        return 405, told.body(), b"Allow: %b\r\n" % allowed
    shown = path[:200].decode("latin-1")
    return 404, ApiError(404, f"there is nothing at {shown}", code="not_found").body(), b""
