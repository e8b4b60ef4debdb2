"""The Controller's HTTP server: what nodes and Coordinators send, the token, probes, refusals.

The two messages are plain routes decoded by msgspec: every node and every Coordinator sends them all the time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from pymotor.control_plane import ClusterToken
from pymotor.controller.leadership import NotLeadingError
from pymotor.controller.lease import LeaseError
from pymotor.controller.nodes import ReportRefused
from pymotor.controller.operations import OperationRefused, UnknownInstance
from pymotor.controller.operations_api import operations_routes
from pymotor.controller.service import ControllerService
from pymotor.fleet import ControllerRefusal, FleetWatch, NodeReport, decode_message, encode_message

LONGEST_BODY = 8 << 20
"""Bytes of one message."""

_PROBLEMS_TOLD = 5
"""Of a body that is not as it should be."""

_PROBES = ("/startup", "/readiness", "/liveness")


class TokenGate:
    """Lets nobody in who does not show the token; probes need none."""

    def __init__(self, app: ASGIApp, token: ClusterToken | None) -> None:
        """Without a token everybody is let in: then only this machine may reach the port."""
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http" and self._token is not None and scope["path"] not in _PROBES:
            shown = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            if not self._token.accepts(shown.decode("latin-1")):
                await refusal(401, "this needs the cluster token")(scope, receive, send)
                return
        await self._app(scope, receive, send)


def controller_app(service: ControllerService, token: ClusterToken | None) -> FastAPI:
    """Everything that the Controller answers."""
    app = FastAPI(title="PyMotor Controller", openapi_url=None)
    app.add_middleware(TokenGate, token=token)
    app.add_route("/nodes/report", _reports(service), methods=["POST"])
    app.add_route("/fleet/watch", _watches(service), methods=["POST"])
    app.include_router(operations_routes(service))
    _add_probes(app, service)
    _add_refusals(app)
    return app


def refusal(status: int, error: str, leader: str = "") -> Response:
    """An answer that is not 2xx."""
    body = encode_message(ControllerRefusal(error=error, leader=leader))
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return Response(body, status, headers=headers, media_type="application/json")


def _reports(service: ControllerService) -> Callable[[Request], Awaitable[Response]]:
    async def report(request: Request) -> Response:
        message = decode_message(await _body(request), NodeReport)
        reply = await service.report(message, _broken(request))
        return Response(encode_message(reply), media_type="application/json")

    return report


def _watches(service: ControllerService) -> Callable[[Request], Awaitable[Response]]:
    async def watch(request: Request) -> Response:
        message = decode_message(await _body(request), FleetWatch)
        snapshot = await service.watch(message, _broken(request))
        return Response(status_code=204) if snapshot is None else Response(snapshot, media_type="application/json")

    return watch


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > LONGEST_BODY:
            raise HTTPException(413, f"a message has at most {LONGEST_BODY} bytes")
        parts.append(part)
    return b"".join(parts)


def _broken(request: Request) -> Callable[[], Awaitable[None]]:
    async def broken() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return broken


def _add_probes(app: FastAPI, service: ControllerService) -> None:
    @app.get("/startup")
    @app.get("/liveness")
    async def alive() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readiness")
    async def ready() -> Response:
        # Also while it listens: only those that can reach it are heard, and a Service passes on to who is ready.
        if service.leads:
            return JSONResponse({"ready": True, "leader": service.leadership.url, "complete": service.ready})
        return refusal(503, "it does not lead", service.leadership.other)


def _in_words(problem: dict[str, Any]) -> str:
    where = ".".join(map(str, problem["loc"]))
    if problem["loc"] == ("body",):
        return "the body is to be a JSON object, sent with the header Content-Type: application/json"
    return f"{where}: {problem['msg']}"


def _add_refusals(app: FastAPI) -> None:
    def refuse(kind: type[Exception], status: int) -> None:
        async def handler(_: Request, error: Exception) -> Response:
            return refusal(status, str(error))

        app.add_exception_handler(kind, handler)

    refuse(ReportRefused, 409)
    refuse(OperationRefused, 409)
    refuse(UnknownInstance, 404)
    refuse(msgspec.DecodeError, 400)
    refuse(LeaseError, 503)

    @app.exception_handler(RequestValidationError)
    async def not_valid(_: Request, error: RequestValidationError) -> Response:
        # Not its text: that repeats the whole body, and names our files.
        return refusal(422, "; ".join(map(_in_words, error.errors()[:_PROBLEMS_TOLD])))

    @app.exception_handler(NotLeadingError)
    async def not_leading(_: Request, error: NotLeadingError) -> Response:
        return refusal(503, str(error), error.leader)

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        return refusal(error.status_code, str(error.detail))
